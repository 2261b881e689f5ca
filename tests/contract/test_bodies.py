"""Replays the recorded request bodies against a real server: they are read as the reference server reads them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kes.crypto import Algorithm, SecretKey
from kes.crypto.storedkey import decode
from tests.support import Client, Server, start

FOLDER = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((FOLDER / "json-bodies.json").read_bytes())["cases"]
KEY = "vec-hmac"
IMPORTED = base64.b64decode("qBzLDZkThbkjkV/DD1slWYfVOTAhQ898ARZficDRHUI=")  # by all imports that succeed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "keys").mkdir()
    stored = json.loads((FOLDER / "vectors.json").read_bytes())["stored_keys"][KEY]["stored"]
    (folder / "keys" / KEY).write_text(stored)
    with start(folder) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return server.client()


def sent(case: dict[str, Any]) -> bytes:
    """The body as it was sent; see `about` in the file."""
    if "body_base64" in case:
        return base64.b64decode(case["body_base64"])
    body = case["body"].encode()
    if "nested" in case:
        return body.replace(b"@", b"[" * case["nested"] + b"]" * case["nested"])
    return body.replace(b"@", b"[" * case["opened"]) if "opened" in case else body


def test_the_recording_is_there() -> None:
    """A replay of nothing would pass: the recording has its 263 bodies."""
    assert Counter(case["route"] for case in CASES) == {
        "encrypt": 55,
        "import": 55,
        "generate": 51,
        "hmac": 51,
        "decrypt": 51,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['route']}: {case['case']}")
def test_body(server: Server, client: Client, case: dict[str, Any]) -> None:
    """A body gets the recorded status and message, or is taken to hold what was recorded."""
    route = case["route"]
    name = f"imported-{CASES.index(case)}" if route == "import" else KEY
    answer = client.request("PUT", f"/v1/key/{route}/{name}", sent(case))
    assert answer.status == case["status"], answer.body
    if answer.status != 200:
        assert answer.message == case["message"]
    elif route == "import":
        assert decode((server.folder / "keys" / name).read_bytes()).secret == SecretKey(Algorithm.AES256, IMPORTED)
    elif route == "hmac":
        assert answer.json == {"hmac": case["hmac"]}
    elif route == "decrypt":
        assert answer.json == {"plaintext": case["plaintext"]}
    else:
        made = {"ciphertext": answer.json["ciphertext"], "context": case["context"]}
        plaintext = case["plaintext"] if route == "encrypt" else answer.json["plaintext"]
        assert client.request("PUT", f"/v1/key/decrypt/{KEY}", made).json == {"plaintext": plaintext}
