"""The grammar of what a request is made of, the same in every version of HTTP (RFC 9110)."""

from __future__ import annotations

import re
from typing import Final

import msgspec

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TARGET: Final = re.compile(rb"[\x21-\x22\x24-\x7e]+")  # visible ASCII less the fragment's '#'
CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # what no field's value may hold
LENGTH: Final = re.compile(rb"[0-9]{1,19}")  # of a body


class ProtocolError(Exception):
    """The peer's bytes are no request that this server takes; answered with `status` without asking the site.

    `head_only` tells that it was a HEAD request, whose answer has no body.
    """

    def __init__(self, status: int, message: str, head_only: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.head_only = head_only

    def body(self) -> bytes:
        """The answer's body: `{"message":"…"}` and a newline."""
        return msgspec.json.encode({"message": self.message}) + b"\n"
