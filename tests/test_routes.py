"""The table of routes against the contract's transcript."""

from __future__ import annotations

import json
from pathlib import Path

from kes.routes import MAX_BODY, ROUTES, Auth

TRANSCRIPT = Path(__file__).parent / "contract" / "transcript.json"


def test_matches_the_recorded_list() -> None:
    """Methods, paths and timeouts are those that the reference server lists; a body may have 1 MiB instead of 1 MB."""
    exchanges = json.loads(TRANSCRIPT.read_text())["exchanges"]
    (recorded,) = (json.loads(e["body"]) for e in exchanges if e["path"] == "/v1/api" and e["status"] == 200)
    expected = {(r["method"], r["path"], MAX_BODY if r["max_body"] else 0, r["timeout"]) for r in recorded}
    assert {(r.method, r.path, r.max_body, r.timeout) for r in ROUTES} == expected
    assert len(ROUTES) == len(recorded) == 22


def test_body_limit() -> None:
    """Routes with a body allow 1 MiB (contract section 4)."""
    assert MAX_BODY == 1024 * 1024
    with_body = {r.path for r in ROUTES if r.max_body}
    assert with_body == {f"/v1/key/{verb}/" for verb in ("import", "generate", "encrypt", "decrypt", "hmac")}


def test_authentication() -> None:
    """One route needs nothing, one only a certificate; four may be opened to clients without one."""
    assert {r.path for r in ROUTES if r.auth is Auth.NONE} == {"/version"}
    assert {r.path for r in ROUTES if r.auth is Auth.CERTIFICATE} == {"/v1/identity/self/describe"}
    assert {r.path for r in ROUTES if r.may_skip_auth} == {"/v1/ready", "/v1/status", "/v1/metrics", "/v1/api"}


def test_paths() -> None:
    """Every path is there once, and a slash at its end says that it takes an argument."""
    by_path = {route.path: route for route in ROUTES}
    assert len(by_path) == len(ROUTES)
    assert by_path["/v1/key/list/"].takes_argument
    assert not by_path["/v1/log/error"].takes_argument
