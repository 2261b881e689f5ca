"""Shell-style patterns of key names: `*`, `?`, `[a-z]` and `\\` before a character that is to mean itself.

A pattern is matched against a whole name, case counts, and matching takes time in proportion to the name, whatever the
pattern is. One that is not well-formed is an error, and never a pattern that matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


class PatternError(ValueError):
    """A text that is no pattern; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """`literal` is the only name that the pattern matches, None if it has a wildcard."""

    text: str
    literal: str | None
    _expression: re.Pattern[str]

    def matches(self, name: str) -> bool:
        return self._expression.fullmatch(name) is not None


def parse(text: str) -> Pattern:
    """Return the pattern that `text` is. Raises PatternError.

    In a set, `^` or `!` at the start means every other character, and a hyphen that is first or last means itself.
    """
    if not text:
        raise PatternError("empty; write * for all keys")
    runs: list[list[str]] = [[]]  # what stands between the stars, as expressions that match one character each
    literal: list[str] | None = []
    rest = iter(text)
    for character in rest:
        one = character
        match character:
            case "*":
                runs.append([])
            case "?":
                runs[-1].append(".")
            case "[":
                runs[-1].append(_set(rest))
            case "\\":
                one = _next(rest, "ends in a backslash, which stands before the character that is to mean itself")
                runs[-1].append(re.escape(one))
            case _:
                runs[-1].append(re.escape(one))
        if character in "*?[":
            literal = None
        elif literal is not None:
            literal.append(one)
    first, *others = map("".join, runs)
    if others:
        # A run is taken where it first occurs and never elsewhere, so that many stars do not multiply the work.
        *inner, last = others
        first += "".join(f"(?>.*?{run})" for run in inner) + ".*" + last
    return Pattern(text, None if literal is None else "".join(literal), re.compile(first, re.DOTALL))


def _set(rest: Iterator[str]) -> str:
    """Read a set, whose `[` has been read, and return the expression that matches its characters."""
    unclosed = "has a [ without its ]"
    members: list[tuple[str, bool]] = []  # characters, and whether a backslash stood before
    while (character := _next(rest, unclosed)) != "]":
        escaped = character == "\\"
        members.append((_next(rest, unclosed) if escaped else character, escaped))
    negated = members[:1] in ([("^", False)], [("!", False)])
    if negated:
        del members[0]
    if not members:
        raise PatternError("has an empty set of characters, []")
    parts = []
    while members:
        low, _ = members.pop(0)
        if len(members) >= 2 and members[0] == ("-", False):
            high, _ = members[1]
            del members[:2]
            if low > high:
                raise PatternError(f"has the range {low}-{high}, which runs backwards")
            parts.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            parts.append(re.escape(low))
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def _next(rest: Iterator[str], problem: str) -> str:
    for character in rest:
        return character
    raise PatternError(problem)
