"""Python's isolated mode for a process that holds keys: nothing in the environment or the current folder adds code."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

import kes


def isolate(arguments: list[str]) -> Path | None:
    """Start the process anew as `python -I -m kes` with `arguments`, unless that is what it is.

    Returns only if it is, with None; or if the program would not be found in that way, with the folder that it is in.
    """
    folder = None
    if not sys.flags.isolated:
        folder = next(filter(Path(kes.__file__).resolve().is_relative_to, _left_out()), None)
        if folder is None:
            os.execv(sys.executable, [sys.executable, "-I", "-m", "kes", *arguments])  # noqa: S606
    return folder


def _left_out() -> list[Path]:
    """Where isolated mode does not look for code: whoever starts the program may put some there."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    users = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [Path(folder).resolve() for folder in (*named, *users) if folder]
