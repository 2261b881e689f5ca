"""What libraries log with Python's own `logging` is in the error log, in its form, as far as it is worth a line."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher

from kes.server.librarylog import LibraryLog, install
from kes.server.logs import ErrorLog, Feed

SDK = logging.getLogger("botocore.somewhere")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The error log's lines, without their time."""
    lines: list[str] = []
    log = ErrorLog(Feed(MemoryReactorClock()), lambda line: lines.append(line.decode().split(" ", 1)[1]))
    root = logging.getLogger()
    before = [*root.handlers]
    globalLogPublisher.addObserver(log)
    install()
    install()
    yield lines
    root.handlers[:] = before
    globalLogPublisher.removeObserver(log)


@pytest.fixture(autouse=True)
def everything() -> Iterator[None]:
    """Someone has turned the SDK's debugging on."""
    SDK.setLevel(logging.DEBUG)
    yield
    SDK.setLevel(logging.NOTSET)


def test_warnings_and_errors(lines: list[str]) -> None:
    """A record is one line with the library's name, of the level that the error log has for it."""
    SDK.warning("refresh of %s failed\nagain", "credentials")
    SDK.error("broken {braces}")
    SDK.critical("gone")
    assert lines == [
        'level=WARN msg="botocore.somewhere: refresh of credentials failed\\nagain"\n',
        'level=ERROR msg="botocore.somewhere: broken {braces}"\n',
        'level=ERROR msg="botocore.somewhere: gone"\n',
    ]


def test_nothing_below(lines: list[str]) -> None:
    """What is less than a warning never gets there, however much the library logs."""
    SDK.debug("signed with hunter2secret")
    SDK.info("found credentials hunter2secret")
    assert lines == []


def test_exceptions(lines: list[str]) -> None:
    """Of an exception the type is told, and neither its text nor a traceback."""
    try:
        raise ValueError("signed hunter2secret")
    except ValueError:
        SDK.warning("refresh failed", exc_info=True)
    SDK.warning("no exception", exc_info=True)
    assert lines == [
        'level=WARN msg="botocore.somewhere: refresh failed (ValueError)"\n',
        'level=WARN msg="botocore.somewhere: no exception"\n',
    ]


def test_bad_records(lines: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Arguments that do not fit are a line all the same, and no traceback on standard error."""
    # Not through the logger: under pytest others listen there as well.
    LibraryLog().handle(SDK.makeRecord(SDK.name, logging.WARNING, "", 0, "%d connections", ("many",), None))
    SDK.warning("x" * 10_000)
    assert lines[0] == 'level=WARN msg="botocore.somewhere: %d connections"\n'
    assert len(lines[1]) < 9000
    assert capfd.readouterr().err == ""
