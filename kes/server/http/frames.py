"""The frames of HTTP/2 (RFC 9113, sections 4, 6 and 7): their layout, and nothing of what they mean to a connection."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADER_SIZE: Final = 9  # bytes in front of each frame's payload
MAX_PAYLOAD: Final = 16_384  # bytes, SETTINGS_MAX_FRAME_SIZE of both sides: the least that a peer may set
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
MAX_STREAM: Final = 2**31 - 1

# Frame types.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

# Settings.
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

# A frame's header: its length in the upper 24 bits and its type in the lower 8; its flags; its stream.
_header = Struct(">IBI")
read_header = _header.unpack_from
_write_header = _header.pack
_setting = Struct(">HI")
_word = Struct(">I")
_pair = Struct(">II")


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The peer breaks the protocol in a way that ends the connection; `message` is for the GOAWAY frame."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StreamFault(Exception):
    """The peer breaks the protocol in a way that ends the stream."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


def header(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The header of a frame with a payload of `size` bytes."""
    return _write_header(size << 8 | kind, flags, stream)


def rst_stream(stream: int, code: Code) -> bytes:
    return header(4, RST_STREAM, 0, stream) + _word.pack(code)


def goaway(last_stream: int, code: Code, message: str = "") -> bytes:
    payload = _pair.pack(last_stream, code) + message.encode()
    return header(len(payload), GOAWAY, 0, 0) + payload


def window_update(stream: int, size: int) -> bytes:
    return header(4, WINDOW_UPDATE, 0, stream) + _word.pack(size)


def settings(values: dict[int, int]) -> bytes:
    payload = b"".join(_setting.pack(*value) for value in values.items())
    return header(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = header(0, SETTINGS, ACK, 0)


def ping_ack(payload: bytes) -> bytes:
    return header(8, PING, ACK, 0) + payload


def read_word(payload: bytes) -> int:
    """The number in a payload of exactly 4 bytes: an error code, or a window's increment."""
    if len(payload) != 4:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "expected a payload of 4 bytes")
    return int.from_bytes(payload, "big")


def read_settings(payload: bytes) -> dict[int, int]:
    """The settings of a SETTINGS frame, checked; of one that is there more than once, the last (section 6.5.3)."""
    if len(payload) % _setting.size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "expected settings of 6 bytes each")
    values: dict[int, int] = {}
    pairs: Iterator[tuple[int, int]] = _setting.iter_unpack(payload)
    for name, value in pairs:
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
        if (name == ENABLE_PUSH and value > 1) or (
            name == MAX_FRAME_SIZE and not MAX_PAYLOAD <= value < 1 << 24  # section 6.5.2
        ):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a setting is out of its bounds")
        values[name] = value
    return values


def without_padding(payload: bytes) -> bytes:
    """The content of a padded frame."""
    if not payload:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a padded frame without a pad length")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1 : len(payload) - padding]


def read_dependency(payload: bytes) -> int:
    """The stream that a priority makes another depend on, which is all that is looked at; `payload` has 5 bytes."""
    return int.from_bytes(payload[:4], "big") & MAX_STREAM
