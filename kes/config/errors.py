"""The ways in which a configuration can be wrong, and how their messages quote what was written.

Messages begin in lower case and say what would be right. Text that looks like an API key or a private key is never
quoted, wherever it stands: people paste them into the wrong field.
"""

from __future__ import annotations

_MAX_QUOTED = 64  # characters of the user's own text that a message repeats


def quote(text: str) -> str:
    """Return `text` as a message may show it: quoted, escaped and cut, or a placeholder if it looks like a secret."""
    if "kes:v1:" in text or "PRIVATE KEY" in text:
        return "<a secret, not shown>"
    return repr(text[:_MAX_QUOTED]) + ("…" if len(text) > _MAX_QUOTED else "")


class InvalidTextError(ValueError):
    """A text that does not mean what its place asks for. `problem` is the message without the text, `is not …`."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(f"{quote(text)} {problem}")
        self.problem = problem


class ConfigError(Exception):
    """A configuration that cannot be used: `file:line: path: problem`, as far as line and path are known.

    `line` counts from 1. `path` is the field's, such as `policy.my-app.identities[0]`. The text never holds a secret
    or the value of an environment variable.
    """

    def __init__(self, file: str, line: int | None, path: str, problem: str) -> None:
        where = file if line is None else f"{file}:{line}"
        super().__init__(": ".join(part for part in (where, path, problem) if part))
        self.file = file
        self.line = line
        self.path = path
        self.problem = problem
