"""The README's quick start, word for word."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from tests.documents import ROOT, blocks
from tests.support import require_tool, run, start_dev


def quick_start() -> list[str]:
    section = (ROOT / "README.md").read_text().split("\n## Quick start\n")[1].split("\n## ")[0]
    return blocks(section, "sh")


def test_quick_start(tmp_path: Path) -> None:
    """Who types what the README says creates keys, gets data keys, and decrypts one, by `kes` and by curl."""
    require_tool("curl")
    start, environment, by_kes, by_curl = quick_start()
    assert start == "make dev\n"
    names = re.findall(r"^export (\w+)=", environment, re.M)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    server, key = start_dev(tmp_path)
    with server:
        values = {"KES_SERVER": f"https://127.0.0.1:{server.port}", "KES_API_KEY": str(key)}
        assert names == list(values)
        shell = ("bash", "-eu", "-o", "pipefail", "-c")
        told = run(*shell, by_kes, cwd=tmp_path, env={**os.environ, **values})
        result = run(*shell, by_curl, cwd=tmp_path, env={**os.environ, **values})
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("Key\nfirst-key\n{")
    assert (result.returncode, result.stderr) == (0, "")
    listed, generated, decrypted = (json.loads(line) for line in result.stdout.splitlines())
    assert listed["names"] == ["first-key", "my-key"]
    assert decrypted["plaintext"] == generated["plaintext"]
    assert (tmp_path / "client.pem").stat().st_mode & 0o077 == 0


def test_development_address() -> None:
    """The address in the README is the one that `make dev` listens on."""
    assert "KES_SERVER=https://127.0.0.1:7373\n" in quick_start()[1]
    assert re.search(r"^dev: install\n\texec \S+/kes server --dev$", (ROOT / "Makefile").read_text(), re.M)


def test_links() -> None:
    """Every file that the README and the documents link to is there."""
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
