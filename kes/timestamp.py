"""Times as they travel: RFC 3339 text in UTC, to and from integer nanoseconds since the Unix epoch.

Python's datetime ends at microseconds; keys carry nanoseconds, and have to give back the very text they were stored
with.
"""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

ZERO: Final = -62_135_596_800 * 10**9  # 0001-01-01T00:00:00Z, which stands for "not known" on the wire

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


@lru_cache(maxsize=8)
def _format_seconds(seconds: int) -> str:
    # Logs ask for the same second over and over.
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


def format_rfc3339(ns: int) -> str:
    """`ns` nanoseconds since the epoch as text, with up to nine fraction digits and no trailing zeros.

    OverflowError outside the years 1 to 9999.
    """
    seconds, fraction = divmod(ns, 10**9)
    text = _format_seconds(seconds)
    return f"{text}.{fraction:09}".rstrip("0") + "Z" if fraction else f"{text}Z"


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch. Digits past the ninth of a fraction are dropped. ValueError for anything else."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = match.groups()
    moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second))
    offset = 0
    if sign is not None:
        if int(off_hours) > 23 or int(off_minutes) > 59:
            raise ValueError("not an RFC 3339 time")
        offset = (int(off_hours) * 60 + int(off_minutes)) * 60 * (1 if sign == "+" else -1)
    return (timegm(moment.timetuple()) - offset) * 10**9 + int((fraction or "").ljust(9, "0"))
