"""RFC 3339 in UTC, to and from nanoseconds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.timestamp import ZERO, format_rfc3339, parse_rfc3339

LAST = 253_402_300_799 * 10**9 + 999_999_999  # the last nanosecond of the year 9999


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (500_000_000, "1970-01-01T00:00:00.5Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (1_795_452_794_477_497_313, "2026-11-23T16:53:14.477497313Z"),
        (951_782_400 * 10**9, "2000-02-29T00:00:00Z"),
        (ZERO, "0001-01-01T00:00:00Z"),
        (LAST, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_known_times(ns: int, text: str) -> None:
    """A time has up to nine fraction digits, no trailing zeros and no fraction at all if it is 0; years have four."""
    assert format_rfc3339(ns) == text
    assert parse_rfc3339(text) == ns


@given(st.integers(ZERO, LAST))
def test_round_trip(ns: int) -> None:
    """What is written is read back to the nanosecond."""
    assert parse_rfc3339(format_rfc3339(ns)) == ns


@given(st.datetimes(timezones=st.just(UTC)))
def test_agrees_with_datetime(moment: datetime) -> None:
    """The library's own reader finds the same moment."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    ns = (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000
    assert parse_rfc3339(moment.isoformat()) == ns


@pytest.mark.parametrize("ns", [ZERO - 1, LAST + 1])
def test_no_year_out_of_range(ns: int) -> None:
    """Years before 1 and after 9999 have no RFC 3339 text."""
    with pytest.raises(OverflowError):
        format_rfc3339(ns)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2009-11-10T23:00:00+00:00", "2009-11-10T23:00:00Z"),
        ("2009-11-11T00:30:00+01:30", "2009-11-10T23:00:00Z"),
        ("2009-11-10T18:00:00.25-05:00", "2009-11-10T23:00:00.25Z"),
        ("2009-11-10T23:00:00.500000000Z", "2009-11-10T23:00:00.5Z"),
        ("2009-11-10T23:00:00.1234567899Z", "2009-11-10T23:00:00.123456789Z"),
        ("2009-11-10t23:00:00z", "2009-11-10T23:00:00Z"),
    ],
)
def test_other_spellings(text: str, same: str) -> None:
    """Offsets count, digits past the ninth do not, and the letters may be small (RFC 3339, section 5.6)."""
    assert format_rfc3339(parse_rfc3339(text)) == same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2009-11-10",
        "2009-11-10T23:00:00",
        "2009-11-10 23:00:00Z",
        "2009-11-10T23:00:00Z\n",
        " 2009-11-10T23:00:00Z",
        "2009-11-10T23:00:00.Z",
        "2009-11-10T23:00Z",
        "2009-02-29T23:00:00Z",
        "2009-13-10T23:00:00Z",
        "2009-11-10T24:00:00Z",
        "2009-11-10T23:00:60Z",
        "0000-11-10T23:00:00Z",
        "2009-11-10T23:00:00+24:00",
        "2009-11-10T23:00:00+00:60",
        "2009-11-10T23:00:00+0000",
        "٢٠٠٩-11-10T23:00:00Z",
    ],
)
def test_not_a_time(text: str) -> None:
    """Anything but RFC 3339 is a ValueError, impossible dates and foreign digits among it."""
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are datetime's and our own
        parse_rfc3339(text)
