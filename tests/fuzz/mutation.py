"""Inputs made of others, with their structure kept, for fuzzers and tests alike."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from kes.server.http import frames
from tests.fuzz.targets import Frame, join_blocks, join_frames, split_blocks, split_frames

Mutate = Callable[[bytes, Random], bytes]

_FLAGS = (0, frames.END_STREAM, frames.END_HEADERS, frames.PADDED, frames.PRIORITISED)
_BITS = (
    b"",
    b"\0",
    b"\xff",
    b"\r\n",
    b"\n",
    b" ",
    b":",
    b",",
    b";",
    b"\t",
    b"0",
    b"/",
    b"\x80",
    b"\x20",
    b"\x40",
    b"\x82",
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b"\\",
    b"null",
)


def splice(data: bytes, random: Random) -> bytes:
    """`data` with a few bytes replaced, put in or left out."""
    at = random.randrange(len(data) + 1)
    new = random.choice((*_BITS, random.randbytes(random.randrange(1, 5)), data[at : at + random.randrange(20)]))
    to = random.choice((at, at + 1, at + len(new), at + random.randrange(20)))
    return data[:at] + new + data[to:]


def _mutate_list(parts: list[Any], random: Random, mutate: Callable[[Any], Any]) -> list[Any]:
    """`parts` with one changed, repeated, moved or left out."""
    at, to = random.randrange(len(parts)), random.randrange(len(parts))
    part, rest = parts[at], parts[:at] + parts[at + 1 :]
    match random.randrange(6):
        case 0:
            return rest
        case 1:
            return [*parts[:to], part, *parts[to:]]
        case 2:
            return [*rest[:to], part, *rest[to:]]
        case _:
            return [*parts[:at], mutate(part), *parts[at + 1 :]]


def mutate_bytes(data: bytes, random: Random, mutate: Mutate = splice) -> bytes:
    return mutate(data, random)


def mutate_frames(data: bytes, random: Random, mutate: Mutate = splice) -> bytes:
    def change(frame: Frame) -> Frame:
        kind, flags, stream_id, payload = frame
        match random.randrange(6):
            case 0:
                kind = random.randrange(11)
            case 1:
                flags ^= random.choice(_FLAGS)
            case 2:
                stream_id = random.choice((0, 1, 2, 3, 5, (stream_id + 2) % 2**32, 2**31 - 1))
            case _:
                payload = mutate(payload, random)
        return kind, flags, stream_id, payload

    return join_frames(_mutate_list(split_frames(data) or [(-1, 0, 0, b"")], random, change))


def mutate_blocks(data: bytes, random: Random, mutate: Mutate = splice) -> bytes:
    return join_blocks(_mutate_list(split_blocks(data) or [b""], random, lambda block: mutate(block, random)))


# By target. What changes the bytes of a part is left to the caller.
MUTATORS: dict[str, Callable[..., bytes]] = {
    "h1": mutate_bytes,
    "h2": mutate_frames,
    "hpack": mutate_blocks,
    "body": mutate_bytes,
}
