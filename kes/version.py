"""Which program this is: its version and commit, and what it runs on, in words that clients of the original know."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Final

from kes import __version__

VERSION: Final = __version__

try:
    # Written when a wheel is built from a git checkout (setup.py).
    COMMIT: Final[str] = import_module("kes._build").COMMIT
except ImportError:
    COMMIT = "<unknown>"  # type: ignore[misc]

OS: Final = sys.platform
ARCH: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
RUNTIME: Final = f"{platform.python_implementation()} {platform.python_version()}"
COMPILER: Final = platform.python_compiler()
LICENSE: Final = ("AGPLv3", "https://www.gnu.org/licenses/agpl-3.0.html")


def program_rows() -> Iterator[tuple[str, str, str]]:
    """Label, value and note of the lines that `kes --version` and the start-up output of a server begin with."""
    yield "Version", VERSION, f"commit={COMMIT}"
    yield "Runtime", f"{RUNTIME} {OS}/{ARCH}", f"compiler={COMPILER}"
    yield "License", *LICENSE
    yield "Copyright", "The kes authors  2026", ""
