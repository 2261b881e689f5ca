"""What is read of a frame's payload, whatever its bytes are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from kes.server.http import frames
from kes.server.http.frames import Code, ConnectionFault

BOUNDS = {
    frames.ENABLE_PUSH: (0, 1, Code.PROTOCOL_ERROR),
    frames.INITIAL_WINDOW_SIZE: (0, 2**31 - 1, Code.FLOW_CONTROL_ERROR),
    frames.MAX_FRAME_SIZE: (2**14, 2**24 - 1, Code.PROTOCOL_ERROR),
}
VALUES = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([edge + step for low, high, _ in BOUNDS.values() for edge in (low, high) for step in (0, 1)]),
)


def outcome(read: Callable[[bytes], Any], payload: bytes) -> Any:
    """What is read, or the code of the fault that is found."""
    try:
        return read(payload)
    except ConnectionFault as fault:
        return fault.code


@given(st.lists(st.tuples(st.integers(0, 8), VALUES), max_size=6))
def test_settings(pairs: list[tuple[int, int]]) -> None:
    """Settings are read as they were written, the last of each name, unless one is out of its bounds (6.5.2)."""
    payload = b"".join(frames.settings({name: value})[frames.HEADER_SIZE :] for name, value in pairs)
    faults = [
        code
        for name, value in pairs
        for low, high, code in [BOUNDS.get(name, (0, 2**32, None))]
        if not low <= value <= high
    ]
    assert outcome(frames.read_settings, payload) == (faults[0] if faults else dict(pairs))


@given(st.binary(max_size=20))
def test_settings_in_part(payload: bytes) -> None:
    """A payload that is not whole settings is of the wrong size (6.5)."""
    assert (outcome(frames.read_settings, payload) == Code.FRAME_SIZE_ERROR) == bool(len(payload) % 6)


@given(st.binary(max_size=20), st.integers(0, 255))
def test_padding(content: bytes, size: int) -> None:
    """Padding is taken off, whatever it is."""
    assert frames.without_padding(bytes((size,)) + content + b"x" * size) == content


@given(st.binary(max_size=300))
@example(b"")
@example(b"\0")
@example(b"\1")
def test_any_padding(payload: bytes) -> None:
    """A padded frame has a pad length, and that much behind it; what is no padding comes out as it went in (6.1)."""
    read = outcome(frames.without_padding, payload)
    if not payload:
        assert read == Code.FRAME_SIZE_ERROR
    elif payload[0] >= len(payload):
        assert read == Code.PROTOCOL_ERROR
    else:
        assert read == payload[1 : len(payload) - payload[0]]


@given(st.binary(max_size=8))
def test_words(payload: bytes) -> None:
    """A number has exactly four bytes."""
    expected = int.from_bytes(payload, "big") if len(payload) == 4 else Code.FRAME_SIZE_ERROR
    assert outcome(frames.read_word, payload) == expected


@given(st.booleans(), st.integers(0, 2**31 - 1), st.integers(0, 255))
def test_dependencies(exclusive: bool, stream: int, weight: int) -> None:
    """A dependency is a stream's number, less the bit that makes it exclusive."""
    payload = (exclusive << 31 | stream).to_bytes(4, "big") + bytes((weight,))
    assert frames.read_dependency(payload) == stream
