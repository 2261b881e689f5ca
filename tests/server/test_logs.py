"""The logs: lines on the console, and streams to subscribers that cost nobody else anything."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from kes.config import level
from kes.server.http import limits
from kes.server.logs import MAX_MESSAGE, AuditLog, ErrorLog, Feed, quoted
from tests.server.memory import ADMIN, HIGH_WATER, STRANGER, House, Reactor, Transport, get, put

KES = Logger("kes.test")
OTHER = Logger("twisted.test")
CLOSED = "log stream closed: too many events were not read in time"


@pytest.fixture
def house() -> House:
    return House()


def subscribe(house: House, log: str = "audit", **options: Any) -> Transport:
    """A client that streams a log, and has read the answer's head."""
    connection = house.connect()
    connection.send(get(f"/v1/log/{log}", **options))
    head = connection.read()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Type: application/x-ndjson\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    house.reactor.turn()
    return connection


def events(data: bytes, *, ended: bool = False) -> list[Any]:
    """The events in a chunked stream, which has to end where `ended` says."""
    lines = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        part, end, data = data[:length], data[length : length + 2], data[length + 2 :]
        assert end == b"\r\n"
        if not length:
            assert not data
            assert ended
            ended = False
        lines += part
    assert not ended
    assert not lines or lines.endswith(b"\n")
    return [json.loads(line) for line in lines.splitlines()]


# Streams


@pytest.mark.parametrize("log", ["audit", "error"])
def test_the_head_comes_at_once(house: House, log: str) -> None:
    """A subscriber gets the answer's head before there is any event."""
    connection = house.connect()
    connection.send(get(f"/v1/log/{log}"))
    assert b"\r\nTransfer-Encoding: chunked\r\n" in connection.read()


def test_audit_events_are_delivered(house: House) -> None:
    """A subscriber gets each event when it happens, its own subscription first, whatever the console's level."""
    house.audit_log.level = level.OFF
    connection = subscribe(house)
    assert [e["request"]["path"] for e in events(connection.read())] == ["/v1/log/audit"]
    house.ask(get("/version") + get("/nowhere"))
    house.reactor.turn()
    assert [e["response"]["code"] for e in events(connection.read())] == [200, 404]
    assert house.audit == []


def test_events_of_one_turn_are_one_write(house: House) -> None:
    """Events that come together are written together."""
    connection = subscribe(house)
    writes = connection.writes
    house.ask(get("/version") * 50)
    house.reactor.turn()
    assert connection.writes == writes + 1


def test_many_events_of_one_turn(house: House) -> None:
    """Events do not gather without bound until the turn ends, nor are they pushed at a client that does not read."""
    connection = subscribe(house)
    connection.read()
    house.ask(get("/" + "x" * 7000) * 30)
    written = connection.unread
    assert HIGH_WATER <= written < 2 * HIGH_WATER
    house.reactor.turn()
    assert connection.unread == written
    assert len(events(connection.read_all())) == 30


def test_error_events_are_delivered(house: House) -> None:
    """A subscriber gets every event of the error log as a message, also those below the console's level."""
    house.error_log.level = level.ERROR
    connection = subscribe(house, "error")
    with house.logging():
        KES.warn("no {what}\n", what="room")
        KES.debug("a detail")
    house.reactor.turn()
    assert events(connection.read()) == [{"message": "no room\n"}, {"message": "a detail"}]
    assert house.lines == []


def test_each_subscriber_gets_each_event(house: House) -> None:
    """Subscribers do not take events from each other."""
    first, second = subscribe(house), subscribe(house)
    house.reactor.turn()
    first.read()
    second.read()
    house.ask(get("/version"))
    house.reactor.turn()
    assert events(first.read()) == events(second.read()) != []


def test_a_stream_for_http10(house: House) -> None:
    """A 1.0 client gets the bare lines, and their end is the connection's."""
    connection = house.connect()
    connection.send(get("/v1/log/audit", "Connection: keep-alive", version="HTTP/1.0"))
    house.reactor.turn()
    head, _, body = connection.read().partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head
    assert json.loads(body)["response"]["code"] == 200
    connection.wrappedProtocol.stop()
    assert connection.read() == b""
    assert connection.closed


def test_subscribing_needs_permission(house: House) -> None:
    """Without a policy that allows it nobody reads the logs."""
    assert house.ask(get("/v1/log/audit"), STRANGER)[0].status == 403
    assert not house.audit_feed.subscribers


def test_head_of_a_stream_subscribes_nobody(house: House) -> None:
    """HEAD asks for no events."""
    connection = house.connect()
    connection.send(get("/v1/log/audit", method="HEAD"))
    assert not house.audit_feed.subscribers
    house.reactor.turn()
    assert connection.read().endswith(b"\r\n\r\n")


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_subscriber_that_leaves(house: House, how: str) -> None:
    """A client that goes, in order or not, is forgotten, with events on their way to it too."""
    connection = subscribe(house)
    house.ask(get("/version"))
    getattr(connection, how)()
    assert not house.audit_feed.subscribers
    house.ask(get("/version"))
    house.reactor.turn()
    assert house.at_rest()


def flood(house: House, size: int, *readers: Transport) -> int:
    """Make so many bytes of audit events, while `readers` read; how many events that is."""
    path = "/" + "x" * 7000
    count = size // 7000 + 1
    for _ in range(count):
        house.ask(get(path))
        house.reactor.turn()
        for reader in readers:
            reader.read()
    return count


def test_a_slow_subscriber_catches_up(house: House) -> None:
    """What a subscriber has not read waits for it, up to the bound, and nothing is lost."""
    connection = subscribe(house)
    connection.read()
    count = flood(house, limits.MAX_LOG_BACKLOG - 100_000)
    assert connection.unread < 2 * HIGH_WATER
    assert len(events(connection.read_all())) == count
    house.ask(get("/version"))
    house.reactor.turn()
    assert len(events(connection.read())) == 1


def test_a_subscriber_that_is_too_slow(house: House) -> None:
    """A subscriber that does not keep up is dropped at the bound, counted, and told so at its end; others go on."""
    slow, other = subscribe(house), subscribe(house)
    slow.read()
    count = flood(house, limits.MAX_LOG_BACKLOG + 2 * HIGH_WATER, other)
    assert len(house.audit_feed.subscribers) == 1
    assert house.audit_feed.dropped == 1
    assert slow.unread < 2 * HIGH_WATER
    house.ask(get("/version"))
    house.reactor.turn()
    assert len(events(other.read())) == 1
    heard = events(slow.read_all(), ended=True)
    assert heard[-1] == {"message": CLOSED}
    assert 0 < len(heard) - 1 < count + 2
    assert limits.MAX_LOG_BACKLOG < sum(len(json.dumps(e)) for e in heard) < limits.MAX_LOG_BACKLOG + 2 * HIGH_WATER
    # The stream has ended, the connection has not.
    slow.send(get("/nowhere"))
    assert slow.read().startswith(b"HTTP/1.1 404")


def test_a_subscriber_that_never_reads(house: House) -> None:
    """A subscriber that does not read at all is cut off."""
    connection = subscribe(house)
    flood(house, 2 * HIGH_WATER)
    house.reactor.advance(limits.IDLE_TIMEOUT)
    assert connection.aborted
    house.reactor.turn()
    assert not house.audit_feed.subscribers
    assert house.at_rest()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_stop_ends_streams(house: House, version: str) -> None:
    """When the server stops, a stream ends in order, with the events that there are, and the connection closes."""
    connection = subscribe(house, version=version)
    connection.read()
    house.ask(get("/version"))
    connection.wrappedProtocol.stop()
    heard = connection.read()
    if version == "HTTP/1.1":
        (event,) = events(heard, ended=True)
    else:
        event = json.loads(heard)
    assert event["request"]["path"] == "/version"
    assert connection.closed
    connection.close()
    house.reactor.turn()
    assert not house.audit_feed.subscribers
    assert house.at_rest()


def test_stop_ends_the_stream_of_a_slow_subscriber(house: House) -> None:
    """A stream that waits for its client ends too when the server stops."""
    connection = subscribe(house)
    connection.read()
    count = flood(house, 4 * HIGH_WATER)
    connection.wrappedProtocol.stop()
    assert not house.audit_feed.subscribers
    assert len(events(connection.read_all(), ended=True)) == count
    assert connection.closed


def test_requests_behind_a_stream_wait(house: House) -> None:
    """Nothing is answered on a connection that streams, however much is sent there."""
    connection = subscribe(house)
    connection.read()
    connection.send(get("/nowhere", "X: " + "x" * 1000) * 100)
    assert connection.reading_paused
    assert house.codes == [200]


def test_a_log_event_from_a_thread(house: House) -> None:
    """The error log may be written from any thread: subscribers are served in the reactor's turn."""
    connection = subscribe(house, "error")
    with house.logging():
        KES.error("in a thread")
        assert connection.unread == 0
        assert house.reactor.getDelayedCalls()
    house.reactor.turn()
    house.reactor.turn()
    assert events(connection.read()) == [{"message": "in a thread"}]


# The error log


def logged(emit: Any, at: int = level.DEBUG) -> list[str]:
    """The console lines of what `emit` logs."""
    house = House()
    house.error_log.level = at
    with house.logging():
        emit()
    return house.lines


def test_the_form_of_a_line() -> None:
    """A line has time, level and message, as `key=value`."""
    (line,) = logged(lambda: KES.info("the {thing} is {state!r}", thing="store", state="up"))
    assert re.fullmatch(
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z level=INFO msg=\"the store is 'up'\"\n", line
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("debug", "DEBUG", level.DEBUG),
        ("info", "INFO", level.INFO),
        ("warn", "WARN", level.WARN),
        ("error", "ERROR", level.ERROR),
        ("critical", "ERROR", level.ERROR),
    ],
)
def test_levels(name: str, text: str, value: int) -> None:
    """An event is on the console if its level is at least the configured one."""

    def emit() -> None:
        KES.emit(LogLevel.lookupByName(name), "m")

    assert logged(emit, value)[0].split()[1] == f"level={text}"
    assert logged(emit, value + 1) == []
    assert logged(emit, level.OFF) == []


def test_only_warnings_of_others() -> None:
    """Twisted's own chatter is no event; its warnings and errors are."""

    def emit() -> None:
        OTHER.info("starting factory")
        OTHER.debug("m")
        OTHER.warn("trouble")

    (line,) = logged(emit)
    assert line.endswith('level=WARN msg="trouble"\n')


def test_a_failure_is_one_line() -> None:
    """An exception's traceback is in the message, on the same line."""

    def emit() -> None:
        try:
            raise ValueError("bad\nvalue")
        except ValueError:
            KES.failure("it broke", Failure())

    (line,) = logged(emit)
    assert line.count("\n") == 1
    assert 'msg="it broke: Traceback' in line
    assert r"builtins.ValueError: bad\nvalue" in line


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("two\nlines\r", r"two\nlines\r"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ('a "quoted" \\ word', r"a \"quoted\" \\ word"),
        ("na\u00efve \u4f60 \U0001f511", "na\u00efve \u4f60 \U0001f511"),
        ("\u2028\u2029\x85\u202e\u200b", r"\u2028\u2029\x85\u202e\u200b"),
        ("file-\udcff", r"file-\\udcff"),
        ("\x00\x7f\t", r"\x00\x7f\t"),
    ],
)
def test_odd_values(house: House, value: str, written: str) -> None:
    """Whatever is in a value, the event is one line that no terminal acts on, and valid JSON."""
    connection = subscribe(house, "error")
    with house.logging():
        KES.error("{value}", value=value)
    house.reactor.turn()
    house.reactor.turn()
    assert house.lines[0].partition("msg=")[2] == f'"{written}"\n'
    (event,) = events(connection.read())
    assert event["message"] == value.replace("\udcff", "\\udcff")


@given(st.text())
def test_quoted_is_one_printable_line(text: str) -> None:
    """Quoted text is printable, and different texts stay different."""
    line = quoted(text)
    assert line.isprintable()
    assert re.fullmatch(r'"([^"\\]|\\.)*"', line)


def test_long_messages_are_cut() -> None:
    """A message has a bounded length."""
    (line,) = logged(lambda: KES.error("{value}", value="x" * (2 * MAX_MESSAGE)))
    assert line.count("x") == MAX_MESSAGE


def test_an_event_that_cannot_be_formatted() -> None:
    """A mistake in logging is an event like any other: it raises nothing."""
    (line,) = logged(lambda: KES.error("{missing}"))
    assert "level=ERROR" in line


def test_events_are_counted(house: House) -> None:
    """The number of events is for the metrics; those that nobody hears of are not counted as audit events."""
    with house.logging():
        KES.info("one")
        OTHER.info("none")
    assert house.error_log.events == 1
    house.ask(get("/version"))
    house.audit_log.level = level.OFF
    house.ask(get("/version"))
    assert house.audit_log.events == 1
    subscribe(house)
    assert house.audit_log.events == 2


def test_an_error_log_without_a_console() -> None:
    """Where something else writes the console, events go to the subscribers alone."""
    log = ErrorLog(Feed(Reactor()), None)
    log({"log_level": LogLevel.error, "log_format": "m", "log_namespace": "kes"})
    assert log.events == 1


# The audit log


def test_audit_levels(house: House) -> None:
    """Audit events are of level INFO: they are on the console up to that setting."""
    for setting, written in ((level.DEBUG, 1), (level.INFO, 1), (level.INFO + 1, 0), (level.WARN, 0), (level.OFF, 0)):
        house.audit.clear()
        house.audit_log.level = setting
        house.ask(get("/version"))
        assert len(house.audit) == written


def test_an_audit_line_is_one_line() -> None:
    """No path can break an audit event out of its line."""
    lines: list[bytes] = []
    house = House()
    house.audit_log = AuditLog(house.audit_feed, lines.append)
    house.audit_log.level = level.INFO
    house.site._recorder._audit = house.audit_log
    house.ask(put("/v1/key/create/a%0Ab%0d%1b%22%00%E2%80%A8%ff"), ADMIN)
    (line,) = lines
    assert line.count(b"\n") == 1
    assert b"\x1b" not in line
    assert json.loads(line)["request"]["path"] == '/v1/key/create/a\nb\r\x1b"\x00\u2028\ufffd'
