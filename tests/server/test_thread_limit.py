"""A server at the system's limit of threads (RLIMIT_NPROC, a unit's TasksMax): what fails works again afterwards."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import KES, Server, require_tool, write_config

_USER = 64_918  # of nobody else, as the limit counts all threads of a user; root has none


def test_no_thread_for_a_cache_miss(tmp_path: Path) -> None:
    """Without a thread for the key store a request is 502; once threads can start, the same key works."""
    if os.geteuid() != 0:
        pytest.skip("this runs a server as another user, which root alone can")
    write_config(tmp_path)
    # The user may read what root may: Python and the test's folder may lie where others cannot look.
    user = [require_tool("setpriv"), f"--reuid={_USER}", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    serve = [KES, "server", "--addr", "127.0.0.1:0", "--config", str(tmp_path / "config.yml")]
    with Server([*user, *serve], cwd=tmp_path) as server:
        client = server.client()
        assert client.request("GET", "/version").status == 200  # starts no thread
        pid = server.process.pid

        def limit(threads: str) -> None:
            subprocess.run([*user, require_tool("prlimit"), f"--pid={pid}", f"--nproc={threads}:"], check=True)

        limit(re.search(r"Threads:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
        refused = client.request("PUT", "/v1/key/generate/my-key")
        assert (refused.status, refused.message) == (502, "failed to read key")
        assert client.request("PUT", "/v1/key/create/my-key").status == 502
        limit("4096")
        assert client.request("PUT", "/v1/key/create/my-key").status == 200
        assert client.request("PUT", "/v1/key/generate/my-key").status == 200
    errors = "".join(server.err)
    assert errors.count("no further thread can be started") == 1
    assert "Traceback" not in errors
