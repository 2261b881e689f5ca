"""Policies: which request paths an identity may use (contract section 3).

A `Policy` is immutable and decides from the path alone, without I/O. Deny wins over allow, and what no pattern matches
is refused. It does not normalise: whoever asks passes the decoded path in the form of the matched route.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Policy:
    """A named pair of pattern lists, as written in the config file.

    A `*` counts only as a pattern's last character and then stands for any rest, the empty one included; any other
    pattern matches the path that equals it.
    """

    name: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    # Every request asks, so the patterns are sorted once into what one set lookup and one startswith can answer.
    _allow_exact: frozenset[str] = field(init=False, repr=False, compare=False)
    _allow_prefixes: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _deny_exact: frozenset[str] = field(init=False, repr=False, compare=False)
    _deny_prefixes: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for kind, patterns in (("allow", self.allow), ("deny", self.deny)):
            exact = frozenset(p for p in patterns if not p.endswith("*"))
            prefixes = tuple(p[:-1] for p in patterns if p.endswith("*"))
            object.__setattr__(self, f"_{kind}_exact", exact)
            object.__setattr__(self, f"_{kind}_prefixes", prefixes)

    def allows(self, path: str) -> bool:
        """Whether a request for `path` (percent-decoded, in the route's form) is allowed."""
        if path in self._deny_exact or path.startswith(self._deny_prefixes):
            return False
        return path in self._allow_exact or path.startswith(self._allow_prefixes)
