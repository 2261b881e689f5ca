"""The fuzz targets without a fuzzer: on the corpus, and on what is made of it and of frames at random."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kes.server.http import frames
from kes.server.http.headers import encode_fields
from tests.fuzz.mutation import MUTATORS
from tests.fuzz.targets import TARGETS, Frame, h1, h2, hpack, join_blocks, join_frames

CORPUS = {target: sorted(Path(__file__).parent.joinpath("corpus", target).iterdir()) for target in TARGETS}

REQUEST = [(b":method", b"PUT"), (b":scheme", b"https"), (b":path", b"/v1/key/hmac/k")]
FIELDS = [(b"x", b"y"), (b"content-length", b"2"), (b"expect", b"100-continue"), (b"host", b"kes"), (b"te", b"gzip")]

BLOCKS = st.one_of(
    st.lists(st.sampled_from(FIELDS), max_size=3).map(lambda fields: encode_fields(*REQUEST, *fields)),
    st.lists(st.sampled_from([*REQUEST, *FIELDS]), max_size=6).map(lambda fields: encode_fields(*fields)),
    st.binary(max_size=30),
)
STREAMS = st.sampled_from([1, 1, 3, 5, 0, 2, 2**31 - 1, 2**31 + 1])
FLAGS = st.sets(st.sampled_from([frames.END_STREAM, frames.END_HEADERS, frames.PADDED, frames.PRIORITISED])).map(sum)
NUMBERS = st.sampled_from([0, 1, 2, 3, 100, 4096, 16_384, 2**31 - 1, 2**31, 2**32 - 1])
WORDS = NUMBERS.map(lambda number: number.to_bytes(4, "big"))
SETTINGS = st.lists(st.builds(lambda name, value: bytes((0, name)) + value, st.integers(0, 7), WORDS), max_size=3)


def frame(kinds: tuple[int, ...], payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[Frame]:
    return st.tuples(st.sampled_from(kinds), FLAGS, STREAMS, payloads)


FRAMES = st.one_of(
    frame((frames.HEADERS, frames.CONTINUATION), BLOCKS),
    frame((frames.HEADERS, frames.CONTINUATION), BLOCKS),
    frame((frames.DATA,), st.sampled_from([b"", b"{}", b"\x00{}", b"\x01{}\x00", b"\xff", b"{"])),
    frame((frames.WINDOW_UPDATE, frames.RST_STREAM), WORDS),
    st.tuples(st.just(frames.SETTINGS), st.integers(0, 1), st.just(0), SETTINGS.map(b"".join)),
    frame(tuple(range(12)), st.binary(max_size=9)),
)


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_a_corpus(target: str) -> None:
    """A few dozen inputs are kept for each target, small enough to be looked at."""
    assert len(CORPUS[target]) >= 20
    assert all(file.stat().st_size <= 8192 for file in CORPUS[target])


@pytest.mark.parametrize(
    ("target", "file"),
    [(target, file) for target, files in CORPUS.items() for file in files],
    ids=lambda of: of.name if isinstance(of, Path) else of,
)
def test_corpus(target: str, file: Path) -> None:
    """What a target asks for holds for every input in its corpus."""
    TARGETS[target](file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data(), seed=st.integers(0, 2**32), times=st.integers(1, 6))
@settings(max_examples=300)
def test_mutations(target: str, data: st.DataObject, seed: int, times: int) -> None:
    """What a target asks for holds for what is a few changes away from the inputs in its corpus."""
    content = data.draw(st.sampled_from(CORPUS[target])).read_bytes()
    random = Random(seed)
    for _ in range(times):
        content = MUTATORS[target](content, random)
    TARGETS[target](content)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_bytes_to_http1(data: bytes) -> None:
    """No bytes make HTTP/1.1 fail, or depend on how they come."""
    h1(data)


@given(st.lists(FRAMES, max_size=12), st.binary(max_size=12))
@settings(max_examples=600)
def test_frames_to_http2(parts: list[Frame], rest: bytes) -> None:
    """No frames, and no bytes after them, make HTTP/2 fail, or depend on how they come."""
    h2(join_frames(parts) + rest)


@given(st.lists(BLOCKS, max_size=6))
@settings(max_examples=300)
def test_header_blocks(blocks: list[bytes]) -> None:
    """Header blocks mean what they mean to a decoder without a memory, or are refused as they have to be."""
    hpack(join_blocks(blocks))
