"""Which names of keys, policies and identities are valid, and which list patterns (contract section 4); and what
identities look like (section 2).

Pure functions of text. What passes `is_valid_name` is at most 80 characters of a spelled-out ASCII alphabet: it holds
no separator, dot, blank or control character, so that it may stand in a path, a file name or a log line as it is.
"""

from __future__ import annotations

import re

MAX_NAME = 80  # characters of a name, and of a list pattern before its `*`

# The alphabet is spelled out: `\w` and `str.isalnum` let in letters and digits of every script.
_name = re.compile(r"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,78}[0-9A-Za-z_])?").fullmatch
_prefix = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_-]{0,79}").fullmatch
_identity = re.compile(r"[0-9a-f]{64}").fullmatch


def is_valid_name(text: str) -> bool:
    """Whether `text` can be a name: 1 to 80 of `[0-9A-Za-z_-]`, no hyphen first or last, not `_` alone."""
    return _name(text) is not None and text != "_"


def list_prefix(pattern: str) -> str | None:
    """Return the prefix that a list pattern asks for, `""` for all names; None if the pattern is invalid.

    A pattern is what a name may be, but may also be empty, end in a hyphen, or end in one `*`, which means the same as
    the prefix without it. `_` alone stays invalid, with and without `*`.
    """
    prefix = pattern.removesuffix("*")
    if not prefix or (_prefix(prefix) is not None and prefix != "_"):
        return prefix
    return None


def is_identity(text: str) -> bool:
    """Whether a client's certificate can have the identity `text`: 64 lower-case hex digits (contract section 2)."""
    return _identity(text) is not None
