"""`kes install`: what is put where, what is left alone, what is run; below a folder, and on a machine of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kes.cli import man
from kes.cli.completion import SCRIPTS
from kes.cli.main import main
from tests.cli.run import Result, kes
from tests.machine import Machine, own_machine
from tests.support import KES, TIMEOUT

SOURCE = Path(__file__).parents[2]
PYTHON = f"{sys.prefix}/bin/python"
UNITS = ("kes.service", "kes.socket", "kes@.service")
COMMANDS = (
    "systemd-sysusers {}/lib/sysusers.d/kes.conf",
    "systemd-tmpfiles --create {}/lib/tmpfiles.d/kes.conf",
    "systemctl daemon-reload",
)


def expected(prefix: str) -> dict[str, str]:
    """Every file that is to be there, below the root, and its text."""
    systemd = SOURCE / "systemd"
    files = {"etc/kes/config.yml": (SOURCE / "etc" / "kes" / "config.yml").read_text()}
    for unit in UNITS:
        text = (systemd / unit).read_text()
        files[f"{prefix}/lib/systemd/system/{unit}"] = text.replace("=/opt/kes/bin/python ", f"={PYTHON} ")
    for snippet in ("sysusers.d/kes.conf", "tmpfiles.d/kes.conf"):
        files[f"{prefix}/lib/{snippet}"] = (systemd / snippet).read_text()
    files |= {f"{prefix}/share/man/man1/{name}.1": text for name, text in man.pages()}
    files[f"{prefix}/share/bash-completion/completions/kes"] = SCRIPTS["bash"]
    files[f"{prefix}/share/zsh/site-functions/_kes"] = SCRIPTS["zsh"]
    fish = "etc/fish/completions" if prefix == "usr/local" else f"{prefix}/share/fish/vendor_completions.d"
    files[f"{fish}/kes.fish"] = SCRIPTS["fish"]
    return files


def held(root: Path) -> dict[str, str]:
    """Every file below `root`, and its text."""
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def stamps(root: Path) -> dict[str, tuple[int, ...]]:
    """What shows whether anything below `root` was written or changed."""
    found = {str(path): path.lstat() for path in root.rglob("*")}
    return {path: (info.st_ino, info.st_mtime_ns, info.st_ctime_ns) for path, info in found.items()}


def installed(folder: Path, *options: str) -> Result:
    result = kes("install", "--root", "root", *options, cwd=folder)
    assert (result.status, result.err) == (0, ""), result
    return result


@pytest.fixture
def root(tmp_path: Path) -> Path:
    installed(tmp_path)
    return tmp_path / "root"


class TestBelowAFolder:
    def test_files(self, root: Path) -> None:
        """Everything is where a package has it, for all to read; the configuration is for the server alone."""
        assert held(root) == expected("usr")
        assert f"ExecStart={PYTHON} -I -m kes server" in held(root)["usr/lib/systemd/system/kes.service"]
        for path in root.rglob("*"):
            mode = 0o750 if path.name == "kes" and path.parent.name == "etc" else 0o755 if path.is_dir() else 0o644
            assert path.stat().st_mode & 0o7777 == mode, path

    def test_umask(self, tmp_path: Path) -> None:
        """Modes do not depend on the umask of whoever installs."""
        before = os.umask(0o077)
        try:
            installed(tmp_path)
        finally:
            os.umask(before)
        assert (tmp_path / "root" / "usr").stat().st_mode & 0o777 == 0o755
        self.test_files(tmp_path / "root")

    def test_report(self, tmp_path: Path) -> None:
        """A line says what was made, and what is left to be run by the package's own scripts."""
        lines = installed(tmp_path).text.splitlines()
        made = {line.split()[1] for line in lines if line.startswith("created ")}
        folder = tmp_path / "root"
        assert made == {str(folder / "etc" / "kes"), *(str(folder / name) for name in expected("usr"))}
        assert [line.strip() for line in lines if line.startswith("    ")] == [
            command.format("/usr") for command in COMMANDS
        ]

    def test_again(self, root: Path) -> None:
        """A second run writes nothing, and says so."""
        before = stamps(root)
        again = installed(root.parent)
        assert "Everything is in place: nothing was changed.\n" in again.text
        assert "created" not in again.text
        assert "updated" not in again.text
        assert stamps(root) == before

    def test_dry_run(self, tmp_path: Path) -> None:
        """A dry run names what would be made, and writes nothing."""
        shown = installed(tmp_path, "--dry-run").text
        assert not (tmp_path / "root").exists()
        assert shown.endswith("systemctl daemon-reload\n")
        would = [line.replace("would create", "created     ") for line in shown.splitlines()]
        assert set(installed(tmp_path).text.splitlines()) == set(would) - {
            "This was a dry run: nothing was changed.",
        }

    def test_dry_run_of_an_update(self, root: Path) -> None:
        """Nor does one where there is something to update."""
        unit = root / "usr" / "lib" / "systemd" / "system" / "kes.service"
        unit.write_text("old")
        before = stamps(root)
        assert f"would update {unit}\n" in installed(root.parent, "--dry-run").text
        assert stamps(root) == before

    def test_update(self, root: Path) -> None:
        """What belongs to the program is replaced, also where a link or a lax mode was put in its place."""
        units = root / "usr" / "lib" / "systemd" / "system"
        (units / "kes.service").write_text("old")
        (units / "kes@.service").chmod(0o666)
        (root / "elsewhere").write_text((SOURCE / "systemd" / "kes.socket").read_text())
        (units / "kes.socket").unlink()
        (units / "kes.socket").symlink_to(root / "elsewhere")
        shown = installed(root.parent).text
        assert shown.count("updated ") == 3
        assert all(f"updated      {units / name}\n" in shown for name in UNITS)
        (root / "elsewhere").unlink()
        self.test_files(root)

    @pytest.mark.parametrize("kind", ["edited", "link", "dangling"])
    def test_config_is_kept(self, tmp_path: Path, kind: str) -> None:
        """What is in /etc/kes is never written to, whatever it is, nor is its mode changed."""
        folder = tmp_path / "root" / "etc" / "kes"
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        (folder / "environment").write_text("KES_ADMIN_IDENTITY=mine\n")
        if kind == "edited":
            (folder / "config.yml").write_text("mine")
            (folder / "config.yml").chmod(0o600)
        else:
            (folder / "config.yml").symlink_to("environment" if kind == "link" else "nothing")
        before = stamps(folder)
        shown = installed(tmp_path).text
        assert f"kept         {folder / 'config.yml'}\n" in shown
        assert stamps(folder) == before
        assert folder.stat().st_mode & 0o777 == 0o700

    def test_json(self, tmp_path: Path) -> None:
        """With --json there is one document with every file and command."""
        first, second = (json.loads(installed(tmp_path, "--json").text) for _ in range(2))
        assert (first["changed"], second["changed"]) == (True, False)
        files = {"etc/kes", *expected("usr")}
        for document, states in ((first, {"created"}), (second, {"unchanged", "kept"})):
            assert {file["path"] for file in document["files"]} == {str(tmp_path / "root" / name) for name in files}
            assert {file["state"] for file in document["files"]} == states
            assert document["commands"] == [
                {"command": command.format("/usr"), "state": "not run"} for command in COMMANDS
            ]

    def test_unit_of_the_administrator(self, root: Path) -> None:
        """A unit that hides the one of this version is left, and warned of."""
        theirs = root / "etc" / "systemd" / "system" / "kes.service"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("mine")
        result = kes("install", "--root", "root", cwd=root.parent)
        assert result.status == 0
        assert result.err == f"WARNING: {theirs} wins over the unit of this version: remove it, unless it is meant to\n"
        assert theirs.read_text() == "mine"


class TestInterpreter:
    def unit(self, folder: Path, python: Path) -> str:
        """ExecStart of a unit that is installed by `python`."""
        command = [python, "-I", "-m", "kes", "install", "--root", folder / "root"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=TIMEOUT)
        text = (folder / "root" / "usr" / "lib" / "systemd" / "system" / "kes.service").read_text()
        return next(line for line in text.splitlines() if line.startswith("ExecStart="))

    def linked(self, place: Path) -> Path:
        """The Python of this environment, by way of a link at `place` to the environment."""
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(sys.prefix)
        return place / "bin" / "python3"

    def test_by_a_link(self, tmp_path: Path) -> None:
        """A link to a versioned environment, as /opt/kes may be, is what the unit goes by: it can be switched."""
        line = self.unit(tmp_path, self.linked(tmp_path / "opt" / "kes"))
        assert line == f"ExecStart={tmp_path}/opt/kes/bin/python -I -m kes server --config /etc/kes/config.yml"

    def test_below_the_root(self, tmp_path: Path) -> None:
        """An environment that is itself part of the package is named as it will be on the machine."""
        line = self.unit(tmp_path, self.linked(tmp_path / "root" / "opt" / "kes"))
        assert line == "ExecStart=/opt/kes/bin/python -I -m kes server --config /etc/kes/config.yml"

    def test_unusable(self, tmp_path: Path) -> None:
        """A path that a unit would have to quote is refused, and nothing is written."""
        python = self.linked(tmp_path / "a b%")
        command = [python, "-I", "-m", "kes", "install", "--root", tmp_path / "root"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=TIMEOUT, check=False)
        assert Result(result.returncode, result.stdout, result.stderr.decode()).error == (
            f"a unit cannot run '{tmp_path}/a b%/bin/python': install kes into a folder without blanks, as /opt/kes"
        )
        assert not (tmp_path / "root").exists()


class TestErrors:
    def test_empty_root(self, tmp_path: Path) -> None:
        """A script whose variable is empty does not install on the machine that it runs on."""
        assert kes("install", "--root=", cwd=tmp_path).error == (
            "--root needs the path of a folder, and was given none"
        )

    def test_a_folder_in_the_way(self, root: Path) -> None:
        """What cannot be replaced is named, and nothing is left beside it."""
        unit = root / "usr" / "lib" / "systemd" / "system" / "kes.socket"
        unit.unlink()
        unit.mkdir()
        assert kes("install", "--root", "root", cwd=root.parent).error == (f"cannot install '{unit}': Is a directory")
        assert not list(root.rglob(".kes-*"))

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        """So is a folder that cannot be made."""
        (tmp_path / "root").write_text("")
        error = kes("install", "--root", "root", cwd=tmp_path).error
        assert error == f"cannot make the folder '{tmp_path}/root': something else is there"

    def test_no_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A copy of the code alone says what is missing."""
        monkeypatch.setattr("kes.cli.share.__file__", str(tmp_path / "lib" / "python3" / "site-packages" / "kes" / "x"))
        assert main(["install", "--root", str(tmp_path / "root")]) == 1
        assert capsys.readouterr().err == (
            f"Error: the files that come with kes are not in '{sys.prefix}': install it there with pip\n"
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with own_machine(tmp_path) as machine:
        yield machine


class TestOnAMachine:
    def test_install(self, machine: Machine) -> None:
        """Files, user and folders are put in place; a second run changes nothing; nothing is started."""
        result = machine.run("""
            kes install
            echo ==
            stat -c '%n %U:%G %a' /etc/kes /var/lib/kes
            getent passwd kes
            cat /usr/local/lib/systemd/system/kes.service
            echo ==
            kes install
        """)
        assert result.status == 0, result
        first, there, second = result.text.split("==\n")
        assert "created      /usr/local/lib/systemd/system/kes.service\n" in first
        assert "ran          systemd-sysusers /usr/local/lib/sysusers.d/kes.conf\n" in first
        assert "systemctl enable --now kes.socket kes.service" in first
        assert "    systemctl daemon-reload\n" in first  # left to do: no service manager runs here
        made = {line.split()[1] for line in first.splitlines() if line.startswith("created ")}
        assert made == {"/etc/kes", *(f"/{name}" for name in expected("usr/local"))}
        *folders, user, unit = there.split("\n", 3)
        assert folders == ["/etc/kes root:kes 750", "/var/lib/kes kes:kes 700"]
        assert user.endswith(":Key-encryption server:/var/lib/kes:/usr/sbin/nologin")
        assert unit == expected("usr/local")["usr/local/lib/systemd/system/kes.service"]
        assert "Everything is in place: nothing was changed.\n" in second

    def test_folders_of_another_server(self, machine: Machine) -> None:
        """Folders that are there get the owner and mode that the units need; what is in them is as it was."""
        result = machine.run("""
            mkdir -m 0755 /etc/kes /var/lib/kes
            echo mine > /etc/kes/config.yml
            chmod 0604 /etc/kes/config.yml
            kes install > /run/shown
            stat -c '%n %U:%G %a' /etc/kes /etc/kes/config.yml /var/lib/kes
            cat /etc/kes/config.yml
        """)
        assert result.status == 0, result
        assert result.text.splitlines() == [
            "/etc/kes root:kes 750",
            "/etc/kes/config.yml root:root 604",
            "/var/lib/kes kes:kes 700",
            "mine",
        ]

    def test_service_manager_is_told(self, machine: Machine) -> None:
        """Where systemd runs, it is told to read its units; if that fails, one line says so, and nothing is undone."""
        result = machine.run(
            """
            mkdir -p /run/systemd/system /usr/local/fake
            printf '#!/bin/sh\necho "Failed to reload" >&2; exit 3\n' > /usr/local/fake/systemctl
            chmod +x /usr/local/fake/systemctl
            kes install 2>&1 | grep -v ^WARNING || true
            test -f /usr/local/lib/systemd/system/kes.service
            printf '#!/bin/sh\necho "$@" > /run/told\n' > /usr/local/fake/systemctl
            kes install
            cat /run/told
        """,
            env={"PATH": f"/usr/local/fake:{Path(KES).parent}:{os.environ['PATH']}"},
        )
        assert result.status == 0, result
        error, *rest = result.text.splitlines()
        assert error == "Error: 'systemctl daemon-reload' failed: Failed to reload"
        assert "ran          systemctl daemon-reload" in rest
        assert rest[-1] == "daemon-reload"
        assert "Not run" not in result.text

    def test_dry_run(self, machine: Machine) -> None:
        """A dry run on the machine writes and runs nothing, and needs no root."""
        result = machine.run("""
            unshare --user kes install --dry-run
            echo ==
            find /etc /usr/local /var/lib -newer /run ! -type d
            getent passwd kes || echo nobody
        """)
        assert result.status == 0, result
        shown, after = result.text.split("==\n")
        assert "would create /etc/kes\n" in shown
        assert "would run    systemd-sysusers /usr/local/lib/sysusers.d/kes.conf\n" in shown
        assert after == "nobody\n"

    def test_not_root(self, machine: Machine) -> None:
        """Anybody but root is told what is needed, and nothing is written."""
        result = machine.run("unshare --user kes install || test ! -e /usr/local/lib/systemd/system/kes.service")
        assert (result.status, result.text) == (0, "")
        assert result.err == "Error: installing on this machine needs root; --root DIR and --dry-run do not\n"

    def test_hidden_interpreter(self, machine: Machine) -> None:
        """A Python that the unit hides from the server is warned of: the server could not start."""
        result = machine.run(f"""
            mount -t tmpfs none /home
            ln -s {sys.prefix} /home/kes
            /home/kes/bin/python -I -m kes install --dry-run > /run/shown
        """)
        assert result.status == 0, result
        assert "WARNING: the server cannot be started from /home/kes, which its unit hides from it: " in result.err
