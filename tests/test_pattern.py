"""Shell-style patterns of key names (cli.md 5.10)."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.pattern import PatternError, parse


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*", ["a", "_a-9", "x" * 80], []),
        ("my-key", ["my-key"], ["my-key2", "amy-key", "MY-KEY", "my-ke", ""]),
        ("my-*", ["my-", "my-key"], ["my", "amy-key"]),
        ("*-key", ["-key", "my-key"], ["my-key2"]),
        ("a*b*c", ["abc", "aXbXc", "abcbc"], ["ab", "acb", "abcX"]),
        ("**", ["", "ab"], []),
        ("k?", ["k1", "kk"], ["k", "k12"]),
        ("?*", ["a", "ab"], [""]),
        ("k[0-9]", ["k0", "k5", "k9"], ["k", "ka", "k10"]),
        ("[abX-Z]", ["a", "b", "X", "Y", "Z"], ["c", "W", "x", "-"]),
        ("[^a-c]", ["d", "-", "^"], ["a", "b", "c"]),
        ("[!a-c]", ["d", "-", "!"], ["a", "b", "c"]),
        ("[a^!]", ["a", "^", "!"], ["b"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[-a]", ["a", "-"], ["b"]),
        ("[_-]", ["_", "-"], ["a"]),
        (r"[a\-c]", ["a", "-", "c"], ["b", "\\"]),
        (r"[\^a]", ["^", "a"], ["b"]),
        (r"[\]]", ["]"], ["\\", "a"]),
        (r"\*", ["*"], ["a", r"\*"]),
        (r"\a\[", ["a["], ["a", r"\a\["]),
        ("a.c", ["a.c"], ["abc"]),
        ("a|b", ["a|b"], ["a", "b"]),
        ("]", ["]"], ["a"]),
    ],
)
def test_matching(pattern: str, matching: list[str], other: list[str]) -> None:
    """A pattern matches whole names, case counts, and nothing but *, ?, [] and the backslash means more than itself."""
    parsed = parse(pattern)
    assert [name for name in matching + other if parsed.matches(name)] == matching


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "empty; write * for all keys"),
        ("a[", "has a [ without its ]"),
        ("[a-", "has a [ without its ]"),
        ("[^", "has a [ without its ]"),
        ("[a\\", "has a [ without its ]"),
        ("[a\\]", "has a [ without its ]"),
        ("[]", "has an empty set of characters, []"),
        ("[]a]", "has an empty set of characters, []"),
        ("[!]", "has an empty set of characters, []"),
        ("[z-a]", "has the range z-a, which runs backwards"),
        ("a\\", "ends in a backslash, which stands before the character that is to mean itself"),
    ],
)
def test_malformed(pattern: str, problem: str) -> None:
    """A malformed pattern is an error that says why, and no pattern that matches nothing."""
    with pytest.raises(PatternError) as caught:
        parse(pattern)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("pattern", "literal"),
    [("my-key", "my-key"), (r"\m\*", "m*"), ("a*", None), ("?", None), ("[a]", None), (r"a\\", "a\\"), ("]", "]")],
)
def test_literal(pattern: str, literal: str | None) -> None:
    """A pattern without a wildcard knows the one name that it stands for."""
    assert parse(pattern).literal == literal


def test_many_stars() -> None:
    """Matching stays quick for the patterns on which backtracking takes ages; this would not end in a lifetime."""
    assert not parse("*a" * 30 + "*b").matches("a" * 80)


@given(st.text("ab-*?[]!", min_size=1, max_size=12), st.text("ab-", max_size=8))
def test_as_the_shell(pattern: str, name: str) -> None:
    """What is well-formed here matches as it does for fnmatch, which follows the shell."""
    try:
        parsed = parse(pattern)
    except PatternError:
        return
    assert parsed.matches(name) == fnmatch.fnmatchcase(name, pattern)
