"""Replays the recorded exchanges, in their order, against a real server: the drop-in promise."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kes.identity import APIKey
from tests.support import Answer, Client, Server, start

TRANSCRIPT = json.loads((Path(__file__).parent / "transcript.json").read_text())
EXCHANGES = TRANSCRIPT["exchanges"]
STRANGER = APIKey.parse(TRANSCRIPT["identities"]["stranger"]["api_key"])

# What the recording says of the key store itself, before the exchanges that use it.
LEGACY_KEY = '{"bytes":"XGWDLo9T1X3z+M/r4S/C6cJ76TSjxanh/xZlDSvRvEY="}'
CORRUPT_KEY = "this is no key"

# Members whose values are random or times, or belong to the machine.
VARIES = {
    "ciphertext", "commit", "created_at", "hmac", "keystore_latency", "mem_heap_used", "mem_stack_used", "num_cpu",
    "num_cpu_used", "plaintext", "uptime", "version", "arch", "os",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("transcript")
    policies = {
        name: {"allow": p["Allow"], "deny": p["Deny"], "identities": p["Identities"]}
        for name, p in TRANSCRIPT["policies"].items()
    }
    admin = TRANSCRIPT["identities"]["admin"]["identity"]
    keys = folder / "keys"
    keys.mkdir()
    (keys / "legacy-json").write_text(LEGACY_KEY)
    (keys / "corrupt").write_text(CORRUPT_KEY)
    with start(folder, policy=policies, admin={"identity": admin}) as server:
        yield server


class Replay:
    """Remembers what this server answered, as ciphertexts of the recording belong to its keys, not to these."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clients: dict[str | None, Client] = {}

    def client(self, name: str | None) -> Client:
        if name not in self._clients:
            key = None if name is None else APIKey.parse(TRANSCRIPT["identities"][name]["api_key"])
            self._clients[name] = self._server.client(key)
        return self._clients[name]

    def send(self, exchange: dict[str, Any]) -> Answer:
        body = exchange["request_body"]
        if body is not None:
            omitted = re.fullmatch(r"<(\d+) bytes>", body)
            body = _long_body(int(omitted[1])) if omitted else body.encode()
        client = self.client(exchange["identity"])
        return client.request(exchange["method"], exchange["path"], body, chunked=exchange["chunked"])


@pytest.fixture(scope="module")
def replay(server: Server) -> Replay:
    return Replay(server)


def _long_body(size: int) -> bytes:
    """A JSON body of `size` bytes that encrypts a long plaintext, as the recording left it out."""
    empty = b'{"plaintext":""}'
    filler = (size - len(empty)) // 4 * 4
    body = b'{"plaintext":"' + b"A" * filler + b'"}'
    return body + b" " * (size - len(body))


def _comparable(value: Any) -> Any:
    """`value` with its varying members reduced to their types."""
    if isinstance(value, dict):
        return {k: type(v).__name__ if k in VARIES else _comparable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return value


def _name(exchange: dict[str, Any]) -> str:
    return f"{EXCHANGES.index(exchange)}: {exchange['note'][:60]}"


def test_the_recording_is_there() -> None:
    """A replay of nothing would pass: the recording has its 133 exchanges."""
    assert len(EXCHANGES) == 133


@pytest.mark.xdist_group("transcript")
@pytest.mark.parametrize("exchange", EXCHANGES, ids=_name)
def test_exchange(replay: Replay, exchange: dict[str, Any]) -> None:
    """Each recorded request gets the recorded status and JSON body, or what `beyond` says instead."""
    if exchange["status"] == "ERR":
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            replay.send(exchange)
        return
    answer = replay.send(exchange)
    if exchange["note"] in BEYOND:
        BEYOND[exchange["note"]](answer)
        return
    assert answer.status == exchange["status"], answer.body
    if exchange["note"] in ("metrics", "metrics after the above"):
        recorded = set(re.findall(r"# TYPE (\S+ \S+)", exchange["body"]))
        assert recorded <= set(re.findall(r"# TYPE (\S+ \S+)", answer.body.decode()))
    elif exchange["note"] == "list of APIs":
        recorded_routes = {r["path"]: r for r in json.loads(exchange["body"])}
        for route in recorded_routes.values():
            route["max_body"] = 1048576 if route["max_body"] else 0  # see README.md
        assert {r["path"]: r for r in answer.json} == recorded_routes
    elif exchange["body"]:
        if not exchange["body"].endswith("..."):
            assert _comparable(answer.json) == _comparable(json.loads(exchange["body"]))
        assert answer.body.endswith(b"\n")
        assert answer.headers["content-type"] == exchange["headers"]["content-type"]
    else:
        assert answer.body == b""


def _not_found(answer: Answer) -> None:
    assert (answer.status, answer.message) == (404, "not found")


def _method_not_allowed(allow: str) -> Any:
    def check(answer: Answer) -> None:
        assert (answer.status, answer.headers["allow"]) == (405, allow)

    return check


def _names(*names: str) -> Any:
    def check(answer: Answer) -> None:
        assert (answer.status, answer.json) == (200, {"names": list(names)})

    return check


def _own_policy(name: str) -> Any:
    def check(answer: Answer) -> None:
        assert answer.status == 200
        assert answer.json["policy"] == name
        assert set(answer.json["allow"]) == set(TRANSCRIPT["policies"][name]["Allow"])
        assert set(answer.json.get("deny", {})) == set(TRANSCRIPT["policies"][name]["Deny"])

    return check


def _status(status: int) -> Any:
    def check(answer: Answer) -> None:
        assert answer.status == status

    return check


def _empty_name(answer: Answer) -> None:
    assert (answer.status, answer.message) == (400, "key name '' is empty, too long or contains invalid characters")


def _head_as_get(answer: Answer) -> None:
    assert (answer.status, answer.body) == (200, b"")


def _lists_all(answer: Answer) -> None:
    assert answer.status == 200
    assert "my-key" in answer.json["names"]


def _lists_from_a(answer: Answer) -> None:
    assert answer.status == 200
    assert answer.json["names"][0] == "a_"


BEYOND = {
    "unknown path": _not_found,
    "root path": _not_found,
    "unknown path, stranger": _not_found,
    "wrong method": _method_not_allowed("PUT, POST"),
    "wrong method 2": _method_not_allowed("GET, HEAD"),
    "HEAD on GET route": _head_as_get,
    "no trailing slash": _empty_name,
    "double slash": _not_found,
    "dot dot": _not_found,
    "generate: trailing data": _status(200),
    "encrypt: body over 1 MB": _status(413),
    "list keys 'my*'": _names("my-key", "my-key-b"),
    "list keys 'imp*'": _names("imp", "imp-cc", "imp-l", "imp-lc"),
    "list keys '*a'": _lists_from_a,
    "list keys, no trailing slash": _lists_all,
    "self: app": _own_policy("my-app"),
    "policy: list": _names("my-app-1"),
    "policy: list, no slash": _status(403),
    "policy: self needs none": _own_policy("ops"),
}


def test_every_exchange_beyond_is_checked() -> None:
    """An entry with `beyond` has a check of its own, and so has the one that README.md names; no other."""
    assert {e["note"] for e in EXCHANGES if "beyond" in e} | {"list keys '*a'"} == set(BEYOND)
