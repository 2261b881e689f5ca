"""The console's writer, on pipes: in order, never blocking, bounded, and counting what is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from kes.server.writer import MAX_BACKLOG, LineWriter, to_descriptor

TIMEOUT = 20  # seconds; far more than anything here takes


@dataclass
class Lost:
    """What the writer has told of lines that were not written."""

    calls: list[tuple[int, OSError | None]] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)

    def __call__(self, lines: int, error: OSError | None) -> None:
        self.calls.append((lines, error))
        self.told.set()


class Gate:
    """An output that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, data: bytes) -> None:
        self.reached.set()
        assert self.opened.wait(TIMEOUT)
        self.written.append(data)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # the test has closed it
            os.close(end)


def read(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, size - len(data))
    return data


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    """Lines come out whole and in the order in which they went in."""
    lines = [b"%d\n" % i for i in range(2000)]
    lost = Lost()
    output = LineWriter(to_descriptor(pipe[1]), lost)
    for line in lines:
        output.line(line)
    output.flush(TIMEOUT)
    assert read(pipe[0], sum(map(len, lines))) == b"".join(lines)
    assert lost.calls == []


def test_lines_of_several_threads_stay_whole(pipe: tuple[int, int]) -> None:
    """Lines may come from any thread; none is torn, and each thread's keep their order."""
    output = LineWriter(to_descriptor(pipe[1]), Lost())

    def write(name: int) -> None:
        for i in range(500):
            output.line(b"%d %d\n" % (name, i))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    output.flush(TIMEOUT)
    os.close(pipe[1])
    with open(pipe[0], "rb", closefd=False) as stream:
        heard = [tuple(map(int, line.split())) for line in stream]
    assert len(heard) == 2000
    for name in range(4):
        assert [i for n, i in heard if n == name] == list(range(500))


def test_a_descriptor_takes_all(pipe: tuple[int, int]) -> None:
    """More than a pipe takes at once is written to its end."""
    data = os.urandom(1 << 20)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(read(pipe[0], len(data))))
    reader.start()
    to_descriptor(pipe[1])(data)
    reader.join(TIMEOUT)
    assert heard == [data]


def test_a_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    """A descriptor that another process has made non-blocking is waited for, not given up."""
    os.set_blocking(pipe[1], False)
    test_a_descriptor_takes_all(pipe)


def test_a_stalled_reader_blocks_nobody() -> None:
    """While nothing is taken, lines are queued up to the bound; those beyond are dropped, counted and told later."""
    gate, lost = Gate(), Lost()
    output = LineWriter(gate, lost)
    output.line(b"first\n")
    assert gate.reached.wait(TIMEOUT)
    line = b"x" * (MAX_BACKLOG // 16 - 1) + b"\n"
    for _ in range(19):
        output.line(line)
    output.line(b"")  # there is room for nothing but this
    assert lost.calls == []
    gate.opened.set()
    output.flush(TIMEOUT)
    assert lost.told.wait(TIMEOUT)
    assert b"".join(gate.written) == b"first\n" + line * 16
    assert lost.calls == [(3, None)]
    assert output.lost == 3
    output.line(b"again\n")
    output.flush(TIMEOUT)
    assert gate.written[-1] == b"again\n"
    assert lost.calls == [(3, None)]


def test_flush_gives_up() -> None:
    """Waiting for a reader that has stalled ends after the time that was given."""
    gate = Gate()
    output = LineWriter(gate, Lost())
    output.line(b"first\n")
    output.flush(0.01)
    assert gate.written == []
    gate.opened.set()
    output.flush(TIMEOUT)
    assert gate.written == [b"first\n"]


def test_a_thread_that_cannot_start(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for which no thread can be started waits for the next one, which tries again."""
    reader, writer = pipe
    lines = LineWriter(to_descriptor(writer), Lost())

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        lines.line(b"first\n")
    lines.line(b"second\n")
    assert read(reader, 13) == b"first\nsecond\n"


def test_a_thread_that_starts_at_the_flush(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What no thread could write before is written at the flush."""
    reader, writer = pipe
    lines = LineWriter(to_descriptor(writer), Lost())

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        lines.line(b"line\n")
    lines.flush(TIMEOUT)
    assert read(reader, 5) == b"line\n"


def test_flush_of_nothing() -> None:
    """With nothing to write there is no thread, and nothing to wait for."""
    before = threading.active_count()
    LineWriter(Gate(), Lost()).flush(TIMEOUT)
    assert threading.active_count() == before


def test_a_broken_pipe(pipe: tuple[int, int]) -> None:
    """When the output is gone, that is told once with what was lost; later lines are dropped and nothing waits."""
    os.close(pipe[0])
    lost = Lost()
    output = LineWriter(to_descriptor(pipe[1]), lost)
    output.line(b"first\n")
    assert lost.told.wait(TIMEOUT)
    ((count, error),) = lost.calls
    assert count == 1
    assert isinstance(error, BrokenPipeError)
    output.line(b"second\n")
    output.flush(TIMEOUT)
    assert len(lost.calls) == 1
    assert output.lost == 2


def test_lines_queued_when_the_output_breaks_are_counted() -> None:
    """Lines that waited behind a write that failed are lost with it, and held no longer."""
    gate, lost = Gate(), Lost()

    def fail(data: bytes) -> None:
        gate(data)
        raise OSError(28, "No space left on device")

    output = LineWriter(fail, lost)
    output.line(b"first\n")
    assert gate.reached.wait(TIMEOUT)
    output.line(b"second\n")
    output.line(b"third\n")
    gate.opened.set()
    assert lost.told.wait(TIMEOUT)
    assert [count for count, _ in lost.calls] == [3]
    assert output.lost == 3
    assert output._lines == []
