"""JSON answers that several routes share, and how each is written: one line."""

from __future__ import annotations

import msgspec

_encode = msgspec.json.Encoder().encode


class PageAnswer(msgspec.Struct):
    names: list[str]
    continue_at: str


def encode(value: object) -> bytes:
    """The body of an answer: JSON and a newline. Byte strings become standard base64 with padding."""
    return _encode(value) + b"\n"
