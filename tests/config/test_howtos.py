"""The config files of the how-tos for key stores are whole: they load as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kes.config.keystores import KINDS, PARSERS
from kes.config.loader import load

DOCS = Path(__file__).parents[2] / "docs"
ENVIRON = {"KES_ADMIN_IDENTITY": "a" * 64, "VAULT_APPROLE_ID": "id", "VAULT_APPROLE_SECRET": "secret"}


@pytest.mark.parametrize("name", ["vault", "aws"])
def test_config_of_a_howto(name: str, tmp_path: Path) -> None:
    """The block that begins with the admin is a config file on that key store, without a warning."""
    blocks = re.findall(r"```yaml\n(admin:\n.*?)```", (DOCS / "keystores" / f"{name}.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    file = tmp_path / "config.yml"
    file.write_text(blocks[0])
    config = load(file, ENVIRON)
    assert type(config.keystore).__name__.lower() == f"{name}settings"
    assert config.warnings == ()


def test_which_key_stores_can_be_opened() -> None:
    """docs/config.md says of each kind whether this version can open it, and is right."""
    rows = re.findall(r"^\| `keystore\.([\w.]+)`.*\| (yes|not yet) \|$", (DOCS / "config.md").read_text(), re.MULTILINE)
    said = {kind.removesuffix(".path"): word == "yes" for kind, word in rows}
    assert said == {kind: kind in PARSERS for kind in KINDS}
