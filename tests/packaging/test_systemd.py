"""The systemd unit: it starts a command that exists, with options that the server has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from kes.tap import Options

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "kes.service"


def settings() -> dict[str, dict[str, str]]:
    """The unit's sections. A line that is no section, comment or assignment is an error."""
    sections: dict[str, dict[str, str]] = {}
    for line in UNIT.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = sections[header[1]] = {}
        elif line and not line.startswith("#"):
            name, text = re.fullmatch(r"(\w+)=(.*)", line).groups()
            assert name not in section, f"{name} twice"
            section[name] = text
    return sections


def test_command() -> None:
    """ExecStart is `kes server` with options that are understood, and the paths of the sample config."""
    program, command, *options = shlex.split(settings()["Service"]["ExecStart"])
    assert Path(program).is_absolute()
    assert (Path(program).name, command) == ("kes", "server")
    parsed = Options()
    parsed.parseOptions(options)
    assert parsed.arguments.config == "/etc/kes/config.yml"


def test_reload_and_user() -> None:
    """A reload is SIGHUP; the server is not root; the sample config's variables have a place to come from."""
    service = settings()["Service"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["User"] == service["Group"] == "kes"
    assert service["EnvironmentFile"] == "-/etc/kes/environment"
    sample = yaml.safe_load((ROOT / "etc" / "kes" / "config.yml").read_text())
    assert Path(sample["keystore"]["fs"]["path"]).parent == Path("/var/lib") / service["StateDirectory"]


def test_no_core_files_and_locked_memory() -> None:
    """Memory may be locked, and core files are not written."""
    service = settings()["Service"]
    assert (service["LimitMEMLOCK"], service["LimitCORE"]) == ("infinity", "0")
