"""The routes about the server, and what the config's `api` section changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kes.routes import ROUTES
from tests.support import ADMIN, APP, OPS, STRANGER, Server, start


def test_apis_are_all_routes(server: Server) -> None:
    """/v1/api tells every route that the server has."""
    told = {(r["method"], r["path"]) for r in server.client().request("GET", "/v1/api").json}
    assert told == {(r.method, r.path) for r in ROUTES}


def test_timeouts_of_the_config_are_told(tmp_path: Path) -> None:
    """A time limit that the config sets for a route is in /v1/api."""
    with start(tmp_path, api={"/v1/status": {"timeout": "7s"}}) as server:
        told = {r["path"]: r["timeout"] for r in server.client().request("GET", "/v1/api").json}
    assert told["/v1/status"] == 7
    assert told["/v1/ready"] == 15


def test_skip_auth(tmp_path: Path) -> None:
    """With skip_auth a client without a certificate gets the route's answer and the version, and 400 on any other."""
    with start(tmp_path, api={"/v1/ready": {"skip_auth": "true"}, "/v1/metrics": {"skip_auth": "true"}}) as server:
        client = server.client(None)
        assert client.request("GET", "/v1/ready").status == 200
        assert client.request("GET", "/v1/metrics").status == 200
        assert client.request("GET", "/version").status == 200
        for path in ("/v1/status", "/v1/key/list/"):
            answer = client.request("GET", path)
            assert (answer.status, answer.message) == (400, "tls: client certificate is required")
        assert server.client(STRANGER).request("GET", "/v1/ready").status == 200
        assert server.client(STRANGER).request("GET", "/v1/status").status == 403


def test_metrics_count_what_the_contract_says(tmp_path: Path) -> None:
    """Requests to key, policy and identity routes are counted by code, refused ones too; others are not."""
    with start(tmp_path) as server:
        admin = server.client()
        admin.request("PUT", "/v1/key/create/k")
        admin.request("PUT", "/v1/key/create/k")
        server.client(STRANGER).request("PUT", "/v1/key/create/k")
        admin.request("GET", "/v1/policy/list/")
        admin.request("GET", "/v1/status")
        admin.request("GET", "/nowhere")
        text = server.client(OPS).request("GET", "/v1/metrics").body.decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['kes_http_request_success{code="200"}'] == "2"
    assert samples['kes_http_request_error{code="400"}'] == "1"
    assert samples['kes_http_request_error{code="403"}'] == "1"
    assert samples["kes_http_response_time_count"] == "4"
    assert samples["kes_http_request_active"] == "0"


def test_audit_on_the_console(tmp_path: Path) -> None:
    """Each request but those for metrics is one JSON line on standard output: who, what, and what came of it."""
    with start(tmp_path, log={"audit": "on"}) as server:
        server.client().request("PUT", "/v1/key/create/my%2Dapp-1")
        server.client(APP).request("GET", "/v1/metrics")
        server.client(STRANGER).request("DELETE", "/v1/key/delete/my-app-1")
        server.client().request("GET", "/nowhere")
        server.wait_for("nowhere")
        events = [json.loads(line) for line in server.out if line.startswith("{")]
    assert [(e["request"]["path"], e["request"]["identity"], e["response"]["code"]) for e in events] == [
        ("/v1/key/create/my-app-1", ADMIN.identity, 200),
        ("/v1/key/delete/my-app-1", STRANGER.identity, 403),
        ("/nowhere", ADMIN.identity, 404),
    ]
    assert all(
        e["request"]["ip"] == "127.0.0.1" and e["response"]["time"] > 0 and e["time"].endswith("Z") for e in events
    )


@pytest.mark.parametrize("log", ["error", "audit"])
def test_a_log_stream_begins_at_once(server: Server, log: str) -> None:
    """The answer's head comes before any event, so that a client on an idle server sees that it is connected."""
    client = server.client()
    client.connection.request("GET", f"/v1/log/{log}")
    response = client.connection.getresponse()
    assert response.status == 200
    assert response.getheader("content-type") == "application/x-ndjson"
    response.close()


def test_the_audit_stream(server: Server) -> None:
    """A subscriber gets the events of requests, whatever goes to the console."""
    client = server.client()
    client.connection.request("GET", "/v1/log/audit")
    response = client.connection.getresponse()
    server.client(STRANGER).request("GET", "/v1/key/describe/some-key")
    while True:
        event = json.loads(response.readline())
        if event["request"]["path"].startswith("/v1/key/describe/"):
            break
    assert event["request"]["identity"] == STRANGER.identity
    assert event["response"]["code"] == 403
    response.close()


@pytest.mark.parametrize(("kind", "what"), [("key", "key name"), ("policy", "policy name"), ("identity", "identity")])
def test_invalid_names(server: Server, kind: str, what: str) -> None:
    """A name that can be no key's, policy's or identity's is quoted in the original's words."""
    answer = server.client().request("GET", f"/v1/{kind}/describe/a.b")
    assert (answer.status, answer.message) == (400, f"{what} 'a.b' is empty, too long or contains invalid characters")
