"""Durations as Go writes them: `5m0s`, `1h30m`, `300ms`, `1.5h` (contract sections 1.2 and 1.8 of cli.md, and 6).

Both ways, and exact: what `render` writes, `parse` reads back to the same number of nanoseconds.
"""

from __future__ import annotations

import re

from kes.config.errors import InvalidTextError

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # the micro sign
    "\u03bcs": 1_000,  # the Greek letter; Go takes both
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_SECOND = 1_000_000_000
_LONGEST = 2**63 - 1  # nanoseconds, about 292 years: Go's limit
_MAX_TEXT = 128  # characters; the longest that anyone needs is a fraction of that

_WRONG = "is not a duration: write numbers with units, such as 1h30m, 20s or 300ms"
_PART = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


def parse(text: str) -> float:
    """Return the seconds that `text` stands for, negative if it begins with `-`. A bare `0` is the only bare number.

    Raises InvalidTextError if `text` is anything else, or longer than 292 years.
    """
    if text in ("0", "+0", "-0"):
        return 0.0
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if not unsigned or len(text) > _MAX_TEXT:
        raise InvalidTextError(text, _WRONG)
    nanoseconds, position = 0, 0
    while position < len(unsigned):
        part = _PART.match(unsigned, position)
        if part is None or not (part["whole"] or part["fraction"]):
            raise InvalidTextError(text, _WRONG)
        unit, fraction = _NANOSECONDS[part["unit"]], part["fraction"] or ""
        nanoseconds += int(part["whole"] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        position = part.end()
    if nanoseconds > _LONGEST:
        raise InvalidTextError(text, "is too long for a duration: write less than 2562047h")
    seconds = nanoseconds / _SECOND
    return -seconds if text[0] == "-" else seconds


def render(seconds: float) -> str:
    """Return `seconds`, rounded to nanoseconds, as text: `0s`, `142µs`, `1.5s`, `2m55s`, `1h0m0s`.

    The largest unit comes first; below one second there is a single unit; fractions have no trailing zeros.
    """
    nanoseconds = round(abs(seconds) * _SECOND)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < _SECOND:
        unit = next(unit for unit in ("ms", "\u00b5s", "ns") if nanoseconds >= _NANOSECONDS[unit])
        return f"{sign}{_decimal(nanoseconds, _NANOSECONDS[unit])}{unit}"
    minutes, rest = divmod(nanoseconds, _NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    larger = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{larger}{_decimal(rest, _SECOND)}s"


def _decimal(count: int, scale: int) -> str:
    """Return `count / scale` in decimal; `scale` is a power of ten."""
    whole, rest = divmod(count, scale)
    fraction = str(scale + rest)[1:].rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
