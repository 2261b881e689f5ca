"""Values as people read them (cli.md 1.8): times, sizes. Durations are written by `kes.config.duration.render`."""

from __future__ import annotations

UNKNOWN = "<unknown>"

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")


def timestamp(time: int | None) -> str:
    """A time in nanoseconds since the epoch as `YYYY-MM-DD HH:MM:SS` in UTC; UNKNOWN for None."""
    from kes.timestamp import format_rfc3339

    return UNKNOWN if time is None else format_rfc3339(time)[:19].replace("T", " ")


def rfc3339(time: int | None) -> str:
    """A time in nanoseconds since the epoch as JSON has it; the zero time for None."""
    from kes.timestamp import ZERO, format_rfc3339

    return format_rfc3339(ZERO if time is None else time)


def size(count: float) -> str:
    """A number of bytes in decimal units with one decimal: `868.0KB`, `1.1MB`, `0B`."""
    unit = 0
    # What would be rounded to 1000.0 of a unit is 1.0 of the next.
    while unit + 1 < len(_UNITS) and round(count, 1) >= 1000:
        count /= 1000
        unit += 1
    return f"{count:.0f}B" if unit == 0 else f"{count:.1f}{_UNITS[unit]}"
