"""SIGKILL at any moment: what a client was told is stored is stored, whole, and nothing half-written is a key."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
from pathlib import Path

import pytest

from kes.crypto.storedkey import decode
from tests.support import ADMIN, Client, Server, client_context, start

CLIENTS = 6


def create_until_it_dies(server: Server, prefix: str, created: list[str], enough: threading.Event, goal: int) -> None:
    """Create keys until the server is gone; `created` holds those that got their 200."""
    client = Client(server.port, client_context(server.folder, ADMIN))
    try:
        for number in range(100_000):
            name = f"{prefix}-{number}"
            answer = client.request("PUT", f"/v1/key/create/{name}")
            assert answer.status == 200, answer
            created.append(name)
            if len(created) >= goal:
                enough.set()
    except (OSError, http.client.HTTPException, ssl.SSLError):
        pass  # killed
    finally:
        enough.set()
        client.close()


@pytest.mark.parametrize("rounds", [5])
def test_created_keys_survive(tmp_path: Path, rounds: int) -> None:
    """After each kill the directory has every key whose creation was confirmed, and a new server serves them all.

    It lists no more than whole keys: those confirmed, and at most one for each client that was not.
    """
    moment = random.Random(20231109)  # the kill falls after so many keys, and a client's next is under way
    confirmed: list[str] = []
    keys = tmp_path / "keys"
    for number in range(rounds):
        server = start(tmp_path)
        created: list[str] = []
        enough = threading.Event()
        goal = moment.randint(1, 60)
        threads = [
            threading.Thread(target=create_until_it_dies, args=(server, f"r{number}-c{index}", created, enough, goal))
            for index in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        assert enough.wait(60)
        server.process.kill()
        for thread in threads:
            thread.join()
        server.stop()
        assert len(created) >= goal
        confirmed += created
        for name in confirmed:
            assert decode((keys / name).read_bytes()).created_by == ADMIN.identity

    with start(tmp_path) as server:
        client = server.client()
        listed: list[str] = []
        at = ""
        while True:
            page = client.request("GET", f"/v1/key/list/{at}").json
            listed += page["names"]
            at = page.get("continue_at", "")
            if not at:
                break
        assert set(confirmed) <= set(listed)
        assert len(listed) <= len(confirmed) + rounds * CLIENTS
        for name in listed:
            answer = client.request("PUT", f"/v1/key/generate/{name}")
            assert answer.status == 200, (name, answer)
