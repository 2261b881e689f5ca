"""Log levels as text and number (contract section 6).

Levels are integers on the scale of Go's slog, so that what operators write, such as `WARN+2`, means the same here. OFF
is an integer above all that can be written: an event is logged if its level is at least the configured one.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from kes.config.errors import InvalidTextError

DEBUG: Final = -4
INFO: Final = 0
WARN: Final = 4
ERROR: Final = 8
OFF: Final = sys.maxsize

_NAMES = {"DEBUG": DEBUG, "INFO": INFO, "WARN": WARN, "ERROR": ERROR}
_NAMED = re.compile(r"(?P<name>DEBUG|INFO|WARN|ERROR)(?P<offset>[+-][0-9]{1,9})?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


def parse(text: str) -> int:
    """Return the level that `text` names: `on` (INFO), `off`, a name with an optional offset, or an integer.

    Letter case is ignored. Raises InvalidTextError.
    """
    if match := _NAMED.fullmatch(text):
        return _NAMES[match["name"].upper()] + int(match["offset"] or 0)
    if _NUMBER.fullmatch(text):
        return int(text)
    match text.lower():
        case "on":
            return INFO
        case "off":
            return OFF
    raise InvalidTextError(
        text,
        "is not a log level: write on, off, DEBUG, INFO, WARN or ERROR, one of these names with +n, or an integer",
    )


def render(level: int) -> str:
    """Return `level` as text: `off`, or the nearest name below with the distance to it: `INFO`, `WARN+2`, `DEBUG-1`."""
    if level == OFF:
        return "off"
    name, base = max(
        ((name, base) for name, base in _NAMES.items() if base <= level),
        key=lambda named: named[1],
        default=("DEBUG", DEBUG),
    )
    return name if level == base else f"{name}{level - base:+d}"
