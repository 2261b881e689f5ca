"""`kes server`: the service of kes.tap, run in the foreground."""

from __future__ import annotations

import os
import sys

from kes.cli.command import Given
from kes.cli.errors import CommandError
from kes.cli.isolation import isolate
from kes.cli.terminal import Terminal


def run(given: Given, terminal: Terminal) -> int:
    """Serve until a signal says stop; the exit status. Raises CommandError for bad options."""
    if folder := isolate(sys.argv[1:]):
        terminal.warning(
            f"kes is installed in {folder}, where the current user or the environment can change what runs; install it "
            "into an environment of its own"
        )
    _choose_color(given)
    from twisted.internet import reactor
    from twisted.internet.interfaces import IReactorCore
    from twisted.logger import globalLogBeginner
    from twisted.python import usage

    from kes.tap import Options, makeService

    arguments = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in given.values.items()
        if name != "color"
    ]
    options = Options()  # type: ignore[no-untyped-call]
    try:
        options.parseOptions(arguments)
    except usage.UsageError as error:
        raise CommandError(str(error)) from None
    service = makeService(options)
    # The service adds its own observer: nothing else is to write to the terminal.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    service.startService()
    core = IReactorCore(reactor)
    core.addSystemEventTrigger("before", "shutdown", service.stopService)
    core.run()
    return 0


def _choose_color(given: Given) -> None:
    """Hand --color on to the start-up output, which reads the environment."""
    if given.text("color") == "never":
        os.environ["NO_COLOR"] = "1"
    elif given.text("color") == "always":
        os.environ.pop("NO_COLOR", None)
        os.environ["CLICOLOR_FORCE"] = "1"
