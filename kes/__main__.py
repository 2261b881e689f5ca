"""`python -m kes`: the `kes` command. With `python -I` before it nothing in the environment can change what runs."""

import sys

from kes.cli.main import main

sys.exit(main())
