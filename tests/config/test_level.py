"""Log levels (contract section 6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.config import level
from kes.config.errors import InvalidTextError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("on", 0),
        ("ON", 0),
        ("off", level.OFF),
        ("Off", level.OFF),
        ("DEBUG", -4),
        ("INFO", 0),
        ("WARN", 4),
        ("ERROR", 8),
        ("warn", 4),
        ("INFO+2", 2),
        ("ERROR-8", 0),
        ("0", 0),
        ("-4", -4),
        ("+12", 12),
    ],
)
def test_parse(text: str, number: int) -> None:
    """`on` is INFO; names are numbers four apart, with an optional offset; a number stands for itself."""
    assert level.parse(text) == number


@pytest.mark.parametrize(
    "text", ["", "yes", "true", "INFO+", "INFO 2", "INFO2", "WARNING", "1.5", "1_0", "\u0661", "9" * 10]
)
def test_refused(text: str) -> None:
    """Anything else is refused with what would be right."""
    with pytest.raises(InvalidTextError) as caught:
        level.parse(text)
    assert str(caught.value) == (
        f"{text!r} is not a log level: write on, off, DEBUG, INFO, WARN or ERROR, one of these names with +n, "
        "or an integer"
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "INFO"),
        (2, "INFO+2"),
        (4, "WARN"),
        (-4, "DEBUG"),
        (-1, "DEBUG+3"),
        (-6, "DEBUG-2"),
        (8, "ERROR"),
        (20, "ERROR+12"),
        (level.OFF, "off"),
    ],
)
def test_render(number: int, text: str) -> None:
    """A level is shown as the nearest name below it and the distance."""
    assert level.render(number) == text


@given(st.integers(min_value=-(10**6), max_value=10**6))
def test_round_trip(number: int) -> None:
    """What is rendered parses back, and is below OFF."""
    assert level.parse(level.render(number)) == number < level.OFF
