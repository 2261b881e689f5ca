"""Names and list patterns, as contract section 4 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.names import MAX_NAME, is_identity, is_valid_name, list_prefix

ALPHABET = set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-")


@pytest.mark.parametrize("name", ["a", "Z", "0", "_a", "a_", "__", "a-b", "A-1_z", "a" * MAX_NAME])
def test_valid(name: str) -> None:
    """1 to 80 characters of the alphabet are a name."""
    assert is_valid_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "_",
        "-",
        "-a",
        "a-",
        "a.b",
        "a/b",
        "a b",
        "a*",
        "*",
        "a\n",
        "\na",
        "a\0",
        "ä",
        "é",
        "\u0661",
        "a" * (MAX_NAME + 1),
    ],
)
def test_invalid(name: str) -> None:
    """Empty, too long, a hyphen at either end, `_` alone and anything outside the ASCII alphabet are no names."""
    assert not is_valid_name(name)


@given(st.text(alphabet=st.one_of(st.sampled_from("aZ0_-*./\n"), st.characters()), max_size=82))
def test_rule(text: str) -> None:
    """The pattern accepts what the rule, written out, accepts."""
    ends_right = text[:1] != "-" and text[-1:] != "-"
    assert is_valid_name(text) == (1 <= len(text) <= 80 and set(text) <= ALPHABET and ends_right and text != "_")


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("", ""),
        ("*", ""),
        ("my", "my"),
        ("my*", "my"),
        ("my-", "my-"),
        ("my-*", "my-"),
        ("_a", "_a"),
        ("a" * MAX_NAME, "a" * MAX_NAME),
        ("a" * MAX_NAME + "*", "a" * MAX_NAME),
    ],
)
def test_list_prefix(pattern: str, prefix: str) -> None:
    """A pattern may be empty, end in a hyphen, or end in one `*`, which stands for the prefix without it."""
    assert list_prefix(pattern) == prefix


@pytest.mark.parametrize(
    "pattern", ["-", "-a", "-*", "a**", "**", "*a", "a*b", "_", "_*", "a.b", "a/", "a\n", "a" * 81, "a" * 81 + "*"]
)
def test_invalid_pattern(pattern: str) -> None:
    """Everything else is refused, as the transcript has it for `-`, `a**` and `*a`."""
    assert list_prefix(pattern) is None


@given(st.text(alphabet="a_-*.", max_size=5))
def test_every_name_is_a_pattern(text: str) -> None:
    """A name lists itself, with and without `*`."""
    if is_valid_name(text):
        assert list_prefix(text) == list_prefix(text + "*") == text


def test_is_identity() -> None:
    """An identity is exactly 64 lower-case hex digits."""
    assert is_identity("0123456789abcdef" * 4)
    for text in ("", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "\u0660" * 64):
        assert not is_identity(text)
