"""The official Go SDK against a running server: every call, every result, every error value."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import ADMIN, APP, STRANGER, make_config, require_tool, start

SOURCE = Path(__file__).parent


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2.0"])
def test_the_sdk_gets_what_it_expects(tmp_path: Path, protocol: str) -> None:
    """All checks of the interoperability program pass; README.md says what it needs of the server."""
    program = tmp_path / "interop"
    subprocess.run([require_tool("go"), "build", "-o", program, "."], cwd=SOURCE, check=True, timeout=300)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "corrupt").write_text("not a key")
    policy = {
        "my-app": make_config(tmp_path)["policy"]["my-app"],
        "empty": {},
        "ops": {"allow": ["/v1/metrics"]},
    }
    with start(tmp_path, policy=policy, log={"audit": "on"}) as server:
        arguments = {
            "-server": f"https://127.0.0.1:{server.port}",
            "-ca": str(tmp_path / "server.crt"),
            "-admin-key": str(ADMIN),
            "-app-key": str(APP),
            "-stranger-key": str(STRANGER),
            "-protocol": protocol,
        }
        command = [program, *(word for pair in arguments.items() for word in pair)]
        if protocol == "HTTP/1.1":
            command.append("-only")  # the SDK would take HTTP/2
        checks = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    failed = [line for line in checks.stdout.splitlines() if not line.startswith("ok ")]
    assert checks.returncode == 0, "\n".join([*failed, checks.stderr])
    assert failed[0].endswith(" checks passed")
    assert int(failed[0].split()[0]) >= 69
