"""What is repeated, where, and what is not (cli.md 3.4 and 3.5)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kes.client import (
    ConnectionFailed,
    KeyExists,
    KeyNotFound,
    KeyStoreUnreachable,
    OutcomeUnknown,
    ServerError,
)
from kes.client.balancer import REST
from tests.client.conftest import Sleeps
from tests.client.fake import DROP, FakeServer, Handler, Request, fail, reply

Make = Callable[..., Any]
Fake = Callable[..., FakeServer]


@pytest.fixture
def to(connect: Make, certificate: Path) -> Make:
    """Makes clients of fake servers, given those or addresses."""

    def make(*servers: FakeServer | str, **options: Any) -> Any:
        addresses = (server if isinstance(server, str) else server.address for server in servers)
        return connect(",".join(addresses), ca_file=str(certificate), **options)

    return make


def sequence(*answers: bytes) -> Handler:
    """A handler that gives one answer after another, and the last one from then on."""
    left = list(answers)

    def handler(request: Request) -> bytes:
        return left.pop(0) if len(left) > 1 else left[0]

    return handler


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


CIPHERTEXT = reply(body={"ciphertext": "AAAA"})
EXISTS = fail(400, "key already exists")
MISSING = fail(404, "key does not exist")
OK = reply()


@pytest.mark.parametrize("failure", [DROP, fail(503, "busy")], ids=["lost", "503"])
def test_repeats_on_one_endpoint(to: Make, fake: Fake, sleeps: Sleeps, failure: bytes) -> None:
    """A lost answer and a 503 are worth three attempts, after a pause, with the body each time."""
    server = fake(sequence(failure, failure, CIPHERTEXT))
    assert to(server).encrypt("k", b"text") == bytes(3)
    assert [request.json for request in server.requests] == [{"plaintext": "dGV4dA=="}] * 3
    assert sleeps.slept == pytest.approx([0.6, 0.6])


def test_gives_up_after_three_attempts(to: Make, fake: Fake) -> None:
    """The fourth attempt is not made; the last outcome is reported."""
    server = fake(sequence(DROP))
    with pytest.raises(ConnectionFailed) as caught:
        to(server).encrypt("k", b"text")
    assert str(caught.value) == f"kes: connection error: {server.address}: the server closed the connection"
    assert (caught.value.sent, len(server.requests)) == (True, 3)


@pytest.mark.parametrize("status", [400, 404, 500, 501, 502, 504])
def test_other_failures_are_not_repeated(to: Make, fake: Fake, status: int) -> None:
    """Any status but 503 is an answer."""
    server = fake(sequence(fail(status, "no")))
    with pytest.raises(ServerError) as caught:
        to(server).version()
    assert (caught.value.status, len(server.requests)) == (status, 1)


def test_nobody_listens(to: Make, nobody: str, sleeps: Sleeps) -> None:
    """A refused connection is tried three times, also for what may not be done twice: nothing was sent."""
    with pytest.raises(ConnectionFailed, match=f"^kes: connection error: {nobody}: Connection refused$") as caught:
        to(nobody).create_key("k")
    assert (caught.value.sent, len(sleeps.slept)) == (False, 2)


@pytest.mark.parametrize(
    ("call", "arguments"), [("create_key", ("k",)), ("delete_key", ("k",)), ("import_key", ("k", bytes(32)))]
)
def test_a_lost_answer_to_a_change(to: Make, fake: Fake, call: str, arguments: tuple[Any, ...]) -> None:
    """A change whose answer was lost is not made again on that endpoint: its outcome is unknown, and that is said."""
    server = fake(sequence(DROP, OK))
    with pytest.raises(OutcomeUnknown, match="whether the request was carried out is not known"):
        getattr(to(server), call)(*arguments)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("call", "arguments"), [("create_key", ("k",)), ("delete_key", ("k",)), ("import_key", ("k", bytes(32)))]
)
def test_changes_are_repeated_after_503(to: Make, fake: Fake, call: str, arguments: tuple[Any, ...]) -> None:
    """A 503 says that nothing was done."""
    server = fake(sequence(fail(503, "busy"), OK))
    getattr(to(server), call)(*arguments)
    assert len(server.requests) == 2


@pytest.mark.parametrize("lost", [DROP, fail(504, "request timed out")], ids=["lost", "504"])
@pytest.mark.parametrize(("call", "answer"), [("create_key", EXISTS), ("delete_key", MISSING)])
def test_done_by_the_earlier_attempt(to: Make, fake: Fake, call: str, answer: bytes, lost: bytes) -> None:
    """If another endpoint finds a change done whose outcome was unknown, that is success, with a warning."""
    warnings: list[str] = []
    first, second = fake(sequence(lost)), fake(sequence(answer))
    getattr(to(first, second, warn=warnings.append), call)("k")
    assert len(warnings) == 1
    assert "key 'k'" in warnings[0]


@pytest.mark.parametrize(
    ("call", "answer", "error"), [("create_key", EXISTS, KeyExists), ("delete_key", MISSING, KeyNotFound)]
)
def test_done_by_someone_else(to: Make, fake: Fake, nobody: str, call: str, answer: bytes, error: type) -> None:
    """If no earlier attempt can have done it, "exists" is an error, after another endpoint failed as well."""
    with pytest.raises(error):
        getattr(to(nobody, fake(sequence(answer))), call)("k")


def test_import_found_done(to: Make, fake: Fake) -> None:
    """An import that finds the key there after a lost answer fails: the key may be another."""
    with pytest.raises(OutcomeUnknown, match="key 'k' exists"):
        to(fake(sequence(DROP)), fake(sequence(EXISTS))).import_key("k", bytes(32))


def test_doubt_outlasts_a_refused_connection(to: Make, fake: Fake, nobody: str) -> None:
    """When all endpoints fail, a lost answer of an earlier one still leaves the outcome unknown."""
    with pytest.raises(OutcomeUnknown):
        to(fake(sequence(DROP)), nobody).create_key("k")


@pytest.mark.parametrize("status", [500, 502, 504])
def test_the_next_endpoint_gets_the_body_anew(to: Make, fake: Fake, status: int) -> None:
    """After a 5xx the next endpoint gets the same request, body and all (D11)."""
    first, second = fake(sequence(fail(status, "no"))), fake(sequence(CIPHERTEXT))
    assert to(first, second).encrypt("k", b"text", b"ctx") == bytes(3)
    assert [request.json for request in second.requests] == [{"plaintext": "dGV4dA==", "context": "Y3R4"}]


@pytest.mark.parametrize("status", [400, 403, 404, 501])
def test_final_answers(to: Make, fake: Fake, status: int) -> None:
    """A status below 500, or 501, is final."""
    first, second = fake(sequence(fail(status, "no"))), fake(sequence(OK))
    with pytest.raises(ServerError):
        to(first, second).ready()
    assert second.requests == []


def test_a_failed_endpoint_rests(to: Make, fake: Fake, sleeps: Sleeps) -> None:
    """A failed endpoint is left alone for 30 s; then one request tries it, and success ends the rest."""
    answers = [fail(500, "no")]
    first, second = fake(lambda _: answers[0]), fake(sequence(OK))
    client = to(first, second)
    client.ready()
    client.ready()
    assert (len(first.requests), len(second.requests)) == (1, 2)
    sleeps(REST - 1)
    client.ready()
    assert len(first.requests) == 1
    answers[0] = OK
    sleeps(1)
    client.ready()
    client.ready()
    assert (len(first.requests), len(second.requests)) == (3, 3)


def test_all_endpoints_fail(to: Make, fake: Fake) -> None:
    """The last outcome is reported; when all rest, all are asked all the same."""
    first, second = fake(sequence(fail(500, "first"))), fake(sequence(fail(504, "second")))
    client = to(first, second)
    for attempts in (1, 2):
        with pytest.raises(KeyStoreUnreachable, match=r"^second$"):
            client.ready()
        assert (len(first.requests), len(second.requests)) == (attempts, attempts)


def test_the_endpoint_that_answered_is_told(to: Make, fake: Fake) -> None:
    """Status and errors name the endpoint that gave the answer."""
    first, second = fake(sequence(fail(500, "no"))), fake(sequence(reply(body={"version": "x"}), MISSING))
    client = to(first, second)
    assert client.status().endpoint == second.address
    with pytest.raises(KeyNotFound) as caught:
        client.describe_key("k")
    assert caught.value.endpoint == second.address


def test_connections_are_kept(to: Make, fake: Fake) -> None:
    """Requests share a connection; one that the server has closed is not used again."""
    server = fake(sequence(OK, OK, fail(404, "no"), OK))
    client = to(server)
    client.ready()
    client.ready()
    with pytest.raises(ServerError):
        client.ready()
    client.ready()
    assert server.connections == 1


def test_idle_connections_are_not_kept_for_ever(to: Make, fake: Fake, sleeps: Sleeps) -> None:
    """A connection that the server may be about to close is not used."""
    server = fake(sequence(OK))
    client = to(server)
    client.ready()
    sleeps(61)
    client.ready()
    assert server.connections == 2


def test_closed_connections_are_not_used(to: Make, fake: Fake) -> None:
    """A connection that the server has closed meanwhile is noticed before a request is sent on it."""
    server = fake(sequence(OK))
    client = to(server)
    client.create_key("a")
    server.stop()
    with pytest.raises(ConnectionFailed) as caught:
        client.create_key("b")
    assert not caught.value.sent


def test_close_announced(to: Make, fake: Fake) -> None:
    """A connection whose answer says `Connection: close` is not used again."""
    server = fake(sequence(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK))
    client = to(server)
    client.create_key("a")
    client.create_key("b")
    assert server.connections == 2


def test_base_path(to: Make, fake: Fake) -> None:
    """The path of an endpoint is in front of every request's."""
    server = fake(sequence(OK))
    to(f"https://{server.address}/behind/proxy/").ready()
    assert server.requests[0].path == "/behind/proxy/v1/ready"
