"""docs/migration-from-go-server.md, step by step, with keys and ciphertexts that the original server made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import environment, kes
from tests.support import ADMIN, KES, TIMEOUT, Server, require_tool, start

VECTORS = json.loads((Path(__file__).parent.parent / "contract" / "vectors.json").read_bytes())
STORED = VECTORS["stored_keys"]
KEYS = {"AES256": "vec-aes", "ChaCha20": "vec-cc"}  # what the vectors' ciphertexts are made with


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    for name, key in STORED.items():
        (keys / name).write_text(key["stored"])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with start(folder) as server:
        yield server


@pytest.fixture
def env(server: Server, folder: Path) -> dict[str, str]:
    return {
        "KES_SERVER": f"127.0.0.1:{server.port}",
        "KES_API_KEY": str(ADMIN),
        "SSL_CERT_FILE": str(folder / "server.crt"),
    }


def test_every_key_is_there(folder: Path, env: dict[str, str]) -> None:
    """The listing is that of the old server, and each key is described as it was, owner and date included."""
    assert json.loads(kes("key", "ls", "--json", cwd=folder, env=env).out) == sorted(STORED)
    for name, key in STORED.items():
        info = json.loads(kes("key", "info", name, "--json", cwd=folder, env=env).out)
        assert info == {"created_by": "", **key["describe"]}


@pytest.mark.parametrize("entry", VECTORS["made_by_reference"], ids=lambda entry: entry["algorithm"])
def test_old_ciphertexts_decrypt(folder: Path, env: dict[str, str], entry: dict[str, Any]) -> None:
    """What the old server has encrypted decrypts with the same key, by the command of the guide."""
    context = [entry["context"]] if entry["context"] else []
    result = kes("key", "decrypt", KEYS[entry["algorithm"]], entry["ciphertext"], *context, cwd=folder, env=env)
    assert json.loads(result.out) == {"plaintext": entry["plaintext"]}


def test_the_guide(folder: Path, env: dict[str, str]) -> None:
    """The lines of the guide work as they stand there."""
    require_tool("jq")
    guide = (Path(__file__).parents[2] / "docs" / "migration-from-go-server.md").read_text()
    verify = guide.split("## Verify")[1].split("```sh\n")[1].split("```")[0].replace("my-key", "vec-aes")
    lines = [line for line in verify.splitlines() if not line.startswith("export ")]
    assert len(lines) == 4
    before = ["kes key ls --json > keys-before.json", "kes key encrypt vec-aes 'before the move' > before.json"]
    script = "set -e\n" + "\n".join([*before, *lines])
    path = {"PATH": f"{Path(KES).parent}:/usr/local/bin:/usr/bin:/bin"}
    result = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment({**env, **path}), capture_output=True, timeout=TIMEOUT
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.endswith(b"before the move")
