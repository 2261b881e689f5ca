"""Header blocks of HTTP/2: HPACK (RFC 7541) by the `hpack` package, a memo in front of it, and what makes a decoded
list a request (RFC 9113, section 8).

Under the same dynamic table the same block means the same headers, and a client sends the same blocks again and again,
so each connection remembers them until its table changes. What comes first on a connection meets an empty table, and is
remembered for all of them. Blocks of our own refer to no dynamic table, so that they are
the same on every connection and in none's memory.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from kes.server.http import limits
from kes.server.http.frames import Code, ConnectionFault, StreamFault
from kes.server.http.syntax import CONTROL, LENGTH, TARGET, TOKEN, ProtocolError

TABLE_SIZE: Final = HeaderTable.DEFAULT_SIZE  # bytes of a connection's dynamic table
NO_TABLE: Final = b"\x20"  # at the start of a block: its sender's table has no room from now on (RFC 7541, 6.3)

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_OVERHEAD = 32  # bytes that a field counts beside its name and value (section 6.5.2)

Field = tuple[bytes, bytes]


class Head(NamedTuple):
    """A request's header list. `length` is its body's, -1 where it is not told; `size` that of the list, in bytes."""

    method: bytes
    target: bytes
    headers: tuple[Field, ...]
    length: int
    expects_continue: bool
    size: int


def _malformed() -> StreamFault:
    return StreamFault(Code.PROTOCOL_ERROR)


def request_head(fields: list[Field]) -> Head:
    """What a decoded header list asks for.

    Raises StreamFault where it is malformed (RFC 9113, sections 8.2 and 8.3), ProtocolError where it is over a limit.
    """
    size = sum(len(name) + len(value) + _OVERHEAD for name, value in fields)
    head_only = (b":method", b"HEAD") in fields
    if size > limits.MAX_HEAD or len(fields) > limits.MAX_HEADERS:
        raise ProtocolError(431, "request header is too long", head_only)
    pseudo: dict[bytes, bytes] = {}
    headers: list[Field] = []
    length = -1
    expects_continue = False
    for name, value in fields:
        if CONTROL.search(value) or value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
            raise _malformed()
        if name in _PSEUDO:
            if headers or name in pseudo:
                raise _malformed()
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or name in _OF_CONNECTIONS:
            raise _malformed()
        if name == b"content-length":
            if length >= 0 or not LENGTH.fullmatch(value):
                raise _malformed()
            length = int(value)
        elif name == b"te":
            if value.lower() != b"trailers":
                raise _malformed()
        elif name == b"host":
            # Whichever of the two somebody in front has looked at, it is what is served.
            if pseudo.setdefault(b":authority", value) != value:
                raise _malformed()
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise ProtocolError(417, "unknown expectation", head_only)
            expects_continue = True
        headers.append((name, value))
    method, target = _method_and_target(pseudo)
    return Head(method, target, tuple(headers), length, expects_continue, size)


def _method_and_target(pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    method = pseudo.get(b":method", b"")
    if method == b"CONNECT":
        # Section 8.5. No resource is of that form, so that it gets the 404 that it gets over HTTP/1.1.
        target = pseudo.get(b":authority", b"")
        if b":scheme" in pseudo or b":path" in pseudo:
            raise _malformed()
    else:
        target = pseudo.get(b":path", b"")
        if not pseudo.get(b":scheme") or not (target.startswith(b"/") or (target, method) == (b"*", b"OPTIONS")):
            raise _malformed()
    if not TOKEN.fullmatch(method) or not TARGET.fullmatch(target):
        raise _malformed()
    if len(target) > limits.MAX_TARGET:
        raise ProtocolError(414, "request target is too long", method == b"HEAD")
    return method, target


def check_trailers(fields: list[Field]) -> None:
    """Trailers mean nothing here, but they have to be fields, and few. Raises StreamFault."""
    if len(fields) > limits.MAX_HEADERS:
        raise _malformed()
    for name, value in fields:
        if not _NAME.fullmatch(name) or CONTROL.search(value):
            raise _malformed()


class HeadDecoder:
    """Decodes the header blocks of one connection, which have to come in their order."""

    __slots__ = ("_decoder", "_first", "_memo")

    def __init__(self) -> None:
        self._first = True  # nothing has been decoded
        # Up to twice what is allowed can still be told so; beyond that, no more is unpacked.
        self._decoder = Decoder(2 * limits.MAX_HEAD)
        self._memo: dict[bytes, Head] = {}

    def request(self, block: bytes) -> Head:
        """The request that a block holds. Raises ConnectionFault, and what `request_head` raises."""
        return self._memo.get(block) or self._request(block)

    def _request(self, block: bytes) -> Head:
        short = len(block) <= limits.MAX_REMEMBERED_BLOCK
        if self._first and short:
            known = _decode_first(block)
            if known is not None:
                head, entries = known
                for entry in entries:
                    self._decoder.header_table.add(*entry)
                self._first = False
                return head
        memo = self._memo
        head = request_head(self.fields(block))
        if short and memo is self._memo and len(memo) < limits.MAX_REMEMBERED_BLOCKS:
            memo[block] = head
        return head

    def fields(self, block: bytes) -> list[Field]:
        """The fields of a block. Raises ConnectionFault: after that the table is not the peer's any more."""
        self._first = False
        entries = self._decoder.header_table.dynamic_entries
        newest, count, size = entries[0] if entries else None, len(entries), self._decoder.header_table_size
        try:
            fields = [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header list is too long") from None
        except HPACKError:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "malformed header block") from None
        # A table changes in two ways only: a new entry comes first, old ones go last.
        stays = len(entries) == count and (not count or entries[0] is newest)
        if not (stays and self._decoder.header_table_size == size):
            self._memo = {}
        return fields


@lru_cache(maxsize=256)
def _decode_first(block: bytes) -> tuple[Head, tuple[Field, ...]] | None:
    """The request of a block under an empty table, and the entries that it puts there, oldest first.

    None for one that is no request, or changes the table's size.
    """
    decoder = Decoder(2 * limits.MAX_HEAD)
    try:
        head = request_head([(name, value) for name, value in decoder.decode(block, raw=True)])
    except (HPACKError, StreamFault, ProtocolError):
        return None
    if decoder.header_table_size != TABLE_SIZE:
        return None
    return head, tuple(reversed(decoder.header_table.dynamic_entries))


def encode_fields(*fields: Field) -> bytes:
    """A header block, or a part of one, that is the same under every dynamic table."""
    return Encoder().encode([(name, value, True) for name, value in fields])


@lru_cache(maxsize=1024)
def encode_head(code: int, content_type: bytes, headers: tuple[Field, ...], size: int | None, date: bytes) -> bytes:
    """The block of an answer with a body of `size` bytes, None where that is not known; no type is empty."""
    fields = [(b":status", b"%d" % code), (b"date", date)]
    if size is not None:
        fields.append((b"content-length", b"%d" % size))
    if content_type:
        fields.append((b"content-type", content_type))
    return encode_fields(*fields, *headers)
