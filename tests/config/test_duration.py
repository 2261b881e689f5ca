"""Durations in Go's syntax (contract section 6; cli.md 1.2 and 1.8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.config import duration
from kes.config.errors import InvalidTextError

WRONG = "is not a duration: write numbers with units, such as 1h30m, 20s or 300ms"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("-0", 0.0),
        ("0s", 0.0),
        ("5m0s", 300.0),
        ("1h30m", 5400.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("+5s", 5.0),
        ("-1m30s", -90.0),
        ("1us", 1e-6),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("7ns", 7e-9),
        ("0.1ns", 0.0),
        ("1s1h", 3601.0),
        ("2562047h47m16.854775807s", 9223372036.854775807),
    ],
)
def test_parse(text: str, seconds: float) -> None:
    """Decimal numbers with units add up, in any order; fractions of a nanosecond are cut off."""
    assert duration.parse(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "00",
        "-",
        "+",
        "s",
        ".s",
        ".",
        "1.5",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "1d",
        "1S",
        "--1s",
        "1e3s",
        "1,5s",
        "\uff11s",
    ],
)
def test_refused(text: str) -> None:
    """A bare number is an error except `0`; so is everything else, blanks and other scripts' digits included."""
    with pytest.raises(InvalidTextError) as caught:
        duration.parse(text)
    assert str(caught.value) == f"{text!r} {WRONG}"


def test_too_long() -> None:
    """The limit is Go's 64 bits of nanoseconds, and absurdly long texts are not even computed."""
    with pytest.raises(InvalidTextError, match=r"^'2562048h' is too long for a duration: write less than 2562047h$"):
        duration.parse("2562048h")
    with pytest.raises(InvalidTextError, match="is not a duration"):
        duration.parse("9" * 5000 + "s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-0.0, "0s"),
        (12e-9, "12ns"),
        (142e-6, "142\u00b5s"),
        (0.003, "3ms"),
        (0.0015, "1.5ms"),
        (0.999999999, "999.999999ms"),
        (1.5, "1.5s"),
        (175, "2m55s"),
        (3600, "1h0m0s"),
        (512_583, "142h23m3s"),
        (60.25, "1m0.25s"),
        (-90, "-1m30s"),
        (1e-10, "0s"),
    ],
)
def test_render(seconds: float, text: str) -> None:
    """The largest unit comes first, below one second there is one unit, and no fraction ends in zeros."""
    assert duration.render(seconds) == text


@given(st.integers(min_value=-(2**51), max_value=2**51))
def test_round_trip(nanoseconds: int) -> None:
    """To the nanosecond for 26 days, which is as far as a float of seconds carries, what is rendered parses back."""
    seconds = nanoseconds / 10**9
    assert duration.parse(duration.render(seconds)) == seconds


@given(st.text(alphabet=st.one_of(st.sampled_from("0123456789.hmsnuµ+-"), st.characters()), max_size=30))
def test_only_one_error(text: str) -> None:
    """Whatever the text, there is a number or an InvalidTextError, and the number renders."""
    try:
        seconds = duration.parse(text)
    except InvalidTextError:
        return
    assert duration.render(seconds)
