"""docs/monitoring.md: its table is what a running server shows."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.monitoring.prometheus import ROOT
from tests.support import start

GUIDE = (ROOT / "docs" / "monitoring.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\| [^|]+ \|$", re.MULTILINE)


def test_the_table_is_what_a_server_shows(tmp_path: Path) -> None:
    """Every family of a server that has seen everything is in the table, with its type and labels, and no other is."""
    table = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(GUIDE)}
    with start(tmp_path) as server:
        client = server.client()
        assert client.request("GET", "/v1/key/list/").status == 200
        assert client.request("PUT", "/v1/key/generate/none").status == 404
        (tmp_path / "keys").rename(tmp_path / "away")
        assert client.request("PUT", "/v1/key/create/k").status == 504
        (tmp_path / "away").rename(tmp_path / "keys")
        text = client.request("GET", "/v1/metrics", headers={"Accept": "text/plain"}).body.decode()
    found: dict[str, tuple[str, set[str]]] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found[name] = kind, set()
        elif not line.startswith("#"):
            found[name][1].update(set(re.findall(r'(\w+)="', line)) - {"le"})
    assert table == found


def test_the_policy_is_the_samples() -> None:
    """The policy in the guide is that of the sample config file, with an identity in it."""
    block = re.search(r"^```yaml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert block is not None
    shown = yaml.safe_load(block[1])["policy"]["monitoring"]
    sample = yaml.safe_load((ROOT / "etc" / "kes" / "config.yml").read_text())["policy"]["monitoring"]
    assert re.fullmatch("[0-9a-f]{64}", shown.pop("identities")[0])
    assert {name: sample[name] for name in shown} == shown
