"""The interoperability program: builds it, and runs its checks. README.md says what it needs of the server."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import ADMIN, APP, STRANGER, make_config, require_tool


def build(folder: Path, package: str = ".") -> Path:
    """The program, or that of another package in this folder, built in `folder`."""
    program = folder / "program"
    command = [require_tool("go"), "build", "-o", program, package]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=300)
    return program


def needs(folder: Path) -> dict[str, Any]:
    """The sections of a config in `folder` that the checks need, beside `tls.auth: off`; makes the corrupt key."""
    keys = folder / "keys"
    keys.mkdir()
    (keys / "corrupt").write_text("not a key")
    my_app = make_config(folder)["policy"]["my-app"]
    return {"policy": {"my-app": my_app, "empty": {}, "ops": {"allow": ["/v1/metrics"]}}, "log": {"audit": "on"}}


def check(program: Path, port: int, ca: Path, protocol: str, without: Sequence[str] = ()) -> None:
    """All checks pass but those `without`, over one protocol, with what listens on `port`."""
    arguments = {
        "-server": f"https://127.0.0.1:{port}",
        "-ca": str(ca),
        "-admin-key": str(ADMIN),
        "-app-key": str(APP),
        "-stranger-key": str(STRANGER),
        "-protocol": protocol,
        "-timeout": "110s",
    }
    command = [program, *(word for pair in arguments.items() for word in pair)]
    for name in without:
        command += ["-without", name]
    if protocol == "HTTP/1.1":
        command.append("-only")  # the SDK would take HTTP/2
    checks = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    failed = [line for line in checks.stdout.splitlines() if not line.startswith("ok ")]
    assert checks.returncode == 0, "\n".join([*failed, checks.stderr])
    assert failed[0].endswith(" checks passed")
    assert int(failed[0].split()[0]) >= 69 - len(without)
