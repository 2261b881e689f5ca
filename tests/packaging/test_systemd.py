"""The systemd units: what systemd says of them, and that they fit the program, the sample config and one another.

Under a booted systemd: tests/boot.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from kes.config.address import DEFAULT
from kes.server.systemd import REFUSED
from kes.tap import Options
from tests.support import require_tool, run

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "systemd"
SERVICES = ["kes.service", "kes@.service"]
SYSTEMS_OWN = {"203", "217", "243"}  # systemd.exec(5): EXEC, USER, CREDENTIALS


def settings(name: str) -> dict[str, list[tuple[str, str]]]:
    """The sections of a unit: names and values in their order. Another kind of line is an error."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in (SYSTEMD / name).read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = sections[header[1]] = []
        elif line and not line.startswith("#"):
            section.append(re.fullmatch(r"(\w+)=(.*)", line).groups())
    return sections


def service(name: str = "kes.service") -> dict[str, str]:
    return dict(settings(name)["Service"])


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as an installation has them: with the path of a Python that is there."""
    for name in (*SERVICES, "kes.socket"):
        text = (SYSTEMD / name).read_text()
        assert text.count("/opt/kes/bin/python") == (name != "kes.socket")
        (tmp_path / name).write_text(text.replace("/opt/kes/bin/python", sys.executable))
    return tmp_path


def test_verify(units: Path) -> None:
    """systemd finds nothing to complain about."""
    names = [str(units / name) for name in (*SERVICES, "kes.socket")]
    # The manual pages come with the package, not with the unit.
    result = run(require_tool("systemd-analyze"), "verify", "--man=no", *names, cwd=units)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verify_can_fail(units: Path) -> None:
    """It would complain."""
    unit = units / "kes.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=30s", "WatchdogSecs=30s"))
    assert "WatchdogSecs" in run(require_tool("systemd-analyze"), "verify", "--man=no", str(unit), cwd=units).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_exposure(units: Path, name: str) -> None:
    """systemd's own score of what the service could still do, 0 (nothing) to 10 (all), is 1.5 or better."""
    tool = require_tool("systemd-analyze")
    command = [tool, "security", "--offline=true", "--no-pager", "--threshold=15", str(units / name)]
    result = run(*command, cwd=units)
    score = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)[1])
    assert score <= 1.5
    assert result.returncode == 0, "the threshold is in tenths"


@pytest.mark.parametrize(("name", "config"), [("kes.service", "config"), ("kes@.service", "%i")])
def test_command(name: str, config: str) -> None:
    """ExecStart is `kes server` with options that are understood, and no code comes from the environment."""
    program, *flags, command = shlex.split(service(name)["ExecStart"])[:5]
    assert (Path(program).name, flags, command) == ("python", ["-I", "-m", "kes"], "server")
    parsed = Options()
    parsed.parseOptions(shlex.split(service(name)["ExecStart"])[5:])
    assert parsed.arguments.config == f"/etc/kes/{config}.yml"


def test_instances_are_the_same() -> None:
    """A server of several differs from a single one in its files and its name, and in nothing else."""
    single, several = settings("kes.service"), settings("kes@.service")
    assert single.keys() == several.keys()
    different = [
        (mine[0], mine[1], theirs[1])
        for section in single
        for mine, theirs in zip(single[section], several[section], strict=True)
        if mine != theirs
    ]
    assert different == [
        ("Description", "Key-encryption server", "Key-encryption server %i"),
        (
            "ExecStart",
            "/opt/kes/bin/python -I -m kes server --config /etc/kes/config.yml",
            "/opt/kes/bin/python -I -m kes server --config /etc/kes/%i.yml",
        ),
        ("SyslogIdentifier", "kes", "kes@%i"),
        ("EnvironmentFile", "-/etc/kes/environment", "-/etc/kes/%i.environment"),
        ("StateDirectory", "kes", "kes/%i"),
    ]


def test_files_of_the_sample_config() -> None:
    """The unit has the folders that the sample config names, and a place for the variables in it."""
    sample = yaml.safe_load((ROOT / "etc" / "kes" / "config.yml").read_text())
    assert Path(sample["keystore"]["fs"]["path"]).parent == Path("/var/lib") / service()["StateDirectory"]
    assert service()["EnvironmentFile"] == "-/etc/kes/environment"
    folders = [line.split() for line in (SYSTEMD / "tmpfiles.d" / "kes.conf").read_text().splitlines()]
    assert [tuple(words) for words in folders if words[0] != "#"] == [
        ("d", "/etc/kes", "0750", "root", "kes"),
        ("d", "/var/lib/kes", service()["StateDirectoryMode"], "kes", "kes"),
    ]


def test_restart() -> None:
    """What ends with the status of a wrong configuration, or cannot even be set up, is not tried again; the rest is."""
    assert service()["Type"] == "notify"
    assert service()["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service()["Restart"] == "on-failure"
    assert set(service()["RestartPreventExitStatus"].split()) == {str(REFUSED), *SYSTEMS_OWN}
    assert "WatchdogSec" in service()


def test_socket() -> None:
    """The socket has the port of a server that is not told another one."""
    assert dict(settings("kes.socket")["Socket"])["ListenStream"] == str(DEFAULT.port)


def test_memory_and_core_files() -> None:
    """Memory may be locked, which a filter of system calls could forbid, and core files are not written."""
    assert (service()["LimitMEMLOCK"], service()["LimitCORE"]) == ("infinity", "0")
    filters = [value for name, value in settings("kes.service")["Service"] if name == "SystemCallFilter"]
    assert "mlockall" in filters[-1].split()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_user_and_folders(tmp_path: Path) -> None:
    """systemd's own tools make the user that the units name, and the folders, as an installation needs them."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    sysusers, tmpfiles = require_tool("systemd-sysusers"), require_tool("systemd-tmpfiles")
    made = run(sysusers, f"--root={root}", str(SYSTEMD / "sysusers.d" / "kes.conf"), cwd=tmp_path)
    assert made.returncode == 0, made
    user = (root / "etc" / "passwd").read_text().splitlines()[-1].split(":")
    assert (user[0], user[4:]) == (service()["User"], ["Key-encryption server", "/var/lib/kes", "/usr/sbin/nologin"])
    made = run(tmpfiles, "--create", f"--root={root}", str(SYSTEMD / "tmpfiles.d" / "kes.conf"), cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, ""), made
    assert [(root / path).stat().st_mode & 0o7777 for path in ("etc/kes", "var/lib/kes")] == [0o750, 0o700]
    assert (root / "var/lib/kes").stat().st_uid == int(user[2])
