"""The package as users get it: built, installed into an environment of its own, and removed again."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from kes.cli import man
from kes.cli.completion import SCRIPTS
from tests.machine import own_machine
from tests.packaging.build import build, copy_checkout, python
from tests.support import Server, run

ROOT = Path(__file__).parents[2]
PLUGIN = "twisted/plugins/kes_plugin.py"
DOCUMENT = ROOT / "docs" / "install.md"

# Stands for systemd: knows the one service, and runs it as root, as Python may lie where no other user may look.
FAKE_SYSTEMCTL = """\
#!/bin/sh
stop() {
    kill "$(cat /run/kes.pid)"
    until grep -q Goodbye /run/kes.log; do sleep 0.1; done
}
start() {
    sh /run/dependencies
    rm -f /run/kes.log
    (set -a; . /etc/kes/environment; cd /; exec $(sed -n s/^ExecStart=//p /usr/local/lib/systemd/system/kes.service)) \\
        > /run/kes.log 2>&1 &
    echo $! > /run/kes.pid
    until grep -q "up and running" /run/kes.log; do sleep 0.1; ! grep Error /run/kes.log >&2 || exit 1; done
}
case "$*" in
    "enable --now kes.socket kes.service") start ;;
    "restart kes.service") stop; start ;;
    "disable --now kes.socket kes.service") stop ;;
    "daemon-reload") ;;
    *) echo "the fake systemctl does not know: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would hand over, as a repository with one commit."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_checkout(folder)
    return folder


@pytest.fixture(scope="module")
def commit(checkout: Path) -> str:
    return run("git", "rev-parse", "HEAD", cwd=checkout).stdout.strip()


@pytest.fixture(scope="module")
def built(checkout: Path, commit: str) -> tuple[Path, Path]:
    """The source archive, and the wheel made of it, as a build front end makes them."""
    out = checkout.parent / "built"
    out.mkdir(exist_ok=True)
    return build(checkout, out)


def test_source_archive(built: tuple[Path, Path], checkout: Path) -> None:
    """The source archive holds everything that is in the repository, but for what git alone needs."""
    with tarfile.open(built[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
        page = archive.extractfile(f"{archive.getnames()[0]}/share/man/man1/kes.1").read().decode()
    assert page == dict(man.pages())["kes"]
    tracked = set(run("git", "ls-files", cwd=checkout).stdout.splitlines())
    assert tracked - held <= {".gitignore"}
    assert not [name for name in held if name.endswith((".pyc", "dropin.cache"))]


def test_wheel(built: tuple[Path, Path], commit: str) -> None:
    """The wheel holds the package, its type marker, the plugin and the commit, and nothing else at the top."""
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
        assert f'COMMIT = "{commit}"' in wheel.read("kes/_build.py").decode()
    assert {PLUGIN, "kes/py.typed", "kes/cli/main.py"} <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"kes", "twisted"}
    assert [name for name in names if name.startswith("twisted/")] == [PLUGIN]


def test_wheel_data(built: tuple[Path, Path], checkout: Path) -> None:
    """The wheel brings units, samples and documents as they are, and the manual and completion of this very version."""
    with zipfile.ZipFile(built[1]) as wheel:
        data = {name.partition(".data/data/")[2]: wheel.read(name).decode() for name in wheel.namelist()}
    data.pop("")  # what is no data
    expected = {}
    for name in run("git", "ls-files", cwd=checkout).stdout.splitlines():
        if name.startswith(("etc/", "systemd/")):
            expected[f"share/kes/{name}"] = (checkout / name).read_text()
        elif name in ("README.md", "CHANGELOG.md") or (name.startswith("docs/") and name.endswith(".md")):
            expected[f"share/doc/kes/{name}"] = (checkout / name).read_text()
    assert {"share/doc/kes/docs/config.md", "share/kes/systemd/kes.service"} <= set(expected)
    expected |= {f"share/man/man1/{name}.1": text for name, text in man.pages()}
    expected |= {
        "share/bash-completion/completions/kes": SCRIPTS["bash"],
        "share/zsh/site-functions/_kes": SCRIPTS["zsh"],
        "share/fish/vendor_completions.d/kes.fish": SCRIPTS["fish"],
    }
    assert data == expected


def test_build_needs_no_dependency(checkout: Path) -> None:
    """What a build imports of kes is there where nothing is installed, as where a build front end builds."""
    script = "import sys; sys.path.insert(0, '.'); from kes.cli.share import generated; print(len(list(generated())))"
    count = len(list(man.pages())) + len(SCRIPTS)
    assert python(checkout, "-I", "-S", "-B", "-c", script) == f"{count}\n"


def test_source_tree_is_not_written_to(built: tuple[Path, Path], checkout: Path) -> None:
    """A build leaves nothing in the source tree, where it would soon be wrong, but what setuptools itself makes."""
    left = run("git", "status", "--porcelain", "--ignored", cwd=checkout).stdout.splitlines()
    assert set(left) <= {"!! kes.egg-info/", "!! build/"}


def test_install_and_remove(built: tuple[Path, Path], commit: str, tmp_path: Path) -> None:
    """Installed, `kes` and `twistd kes` work from any folder; removed, twistd works without it and says nothing."""
    venv = tmp_path / "venv"
    python(tmp_path, "-m", "venv", str(venv))
    site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    # What kes depends on comes from here, by links: nothing is fetched, and Twisted's plugin folder is a real one.
    own = Path(sysconfig.get_path("purelib"))
    for entry in own.iterdir():
        hidden = entry.name.startswith(("kes", "__editable__", "twisted"))
        if not hidden and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    shutil.copytree(own / "twisted", site / "twisted", ignore=shutil.ignore_patterns("test", "dropin.cache"))
    for metadata in own.glob("twisted-*.dist-info"):
        (site / metadata.name).symlink_to(metadata)
    pip = (str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_twistd = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    twistd = (str(venv / "bin" / "python"), "-c", run_twistd)

    installed = run(*pip, "install", "--no-index", "--no-deps", str(built[1]), cwd=elsewhere)
    assert installed.returncode == 0, installed.stderr
    kes = str(venv / "bin" / "kes")
    assert f"commit={commit}" in run(kes, "--version", cwd=elsewhere).stdout
    assert re.search(r"^    kes  ", run(*twistd, "--help", cwd=elsewhere).stdout, re.M)
    for command in ([kes, "server"], [*twistd, "-n", "kes"]):
        with Server([*command, "--dev", "--addr", "127.0.0.1:0"], cwd=elsewhere) as server:
            assert f"commit={commit}" in "".join(server.out)

    pages = {f"{name}.1" for name, _ in man.pages()}
    assert {path.name for path in (venv / "share" / "man" / "man1").iterdir()} == pages
    assert run(kes, "install", "--root", "root", cwd=elsewhere).stderr == ""
    unit = (elsewhere / "root" / "usr" / "lib" / "systemd" / "system" / "kes.service").read_text()
    assert f"\nExecStart={venv}/bin/python -I -m kes server " in unit
    assert (elsewhere / "root" / "etc" / "kes" / "config.yml").read_text() == (
        ROOT / "etc" / "kes" / "config.yml"
    ).read_text()

    removed = run(*pip, "uninstall", "--yes", "kes", cwd=elsewhere)
    assert removed.returncode == 0, removed.stderr
    assert not (site / PLUGIN).exists()
    assert not [path for path in (venv / "share").rglob("*") if path.is_file()]
    help_without = run(*twistd, "--help", cwd=elsewhere)
    assert (help_without.returncode, help_without.stderr) == (0, "")
    assert not re.search(r"^    kes  ", help_without.stdout, re.M)


def commands() -> dict[str, list[str]]:
    """The blocks of commands of each section of docs/install.md."""
    sections = DOCUMENT.read_text().split("\n## ")[1:]
    return {part.partition("\n")[0]: re.findall(r"^```sh\n(.*?)^```$", part, re.M | re.S) for part in sections}


def test_document(built: tuple[Path, Path], tmp_path: Path) -> None:
    """docs/install.md, word for word: install, start, upgrade in both ways, go back, remove. Keys outlive all of it.

    systemd is a fake, and what kes depends on is not fetched but that of this environment.
    """
    blocks = commands()
    assert {name: len(found) for name, found in blocks.items() if found} == {
        "Install": 1,
        "First start": 2,
        "Upgrade": 3,
        "Going back": 1,
        "Remove": 1,
        "Without a network": 2,  # needs one
        "In a container": 2,  # needs podman, and an image to begin with
    }
    own = sysconfig.get_path("purelib")
    site = "lib/python$(python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])')/site-packages"
    dependencies = f"for venv in /opt/kes*; do echo {own} > $venv/{site}/dependencies.pth; done\n"
    decrypted = 'kes key decrypt --raw my-key "$ciphertext"; echo; readlink -f /opt/kes\n'
    script = [
        "mkdir -p /run/systemd/system /usr/local/fake",
        f"cat > /usr/local/fake/systemctl <<'END'\n{FAKE_SYSTEMCTL}END\nchmod +x /usr/local/fake/systemctl",
        f"cat > /run/dependencies <<'END'\n{dependencies}END",
        "find /usr/local /opt ! -type d | sort > /run/before",
        *blocks["Install"],
        "sh /run/dependencies",
        *blocks["First start"],
        "ciphertext=$(kes key encrypt --json my-key Hello | sed 's/.*:\"\\(.*\\)\".*/\\1/')",
        f"echo; echo == in place; {blocks['Upgrade'][0]}{decrypted}",
        f"echo == side by side; {blocks['Upgrade'][1]}{blocks['Upgrade'][2]}{decrypted}",
        f"echo == back; {blocks['Going back'][0]}{decrypted}",
        f"echo == removed; {blocks['Remove'][0]}",
        "find /usr/local /opt ! -type d | sort | diff /run/before - && ls /etc/kes /var/lib/kes/keys",
    ]
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(built[1], folder)
    python_folder = Path(sys._base_executable).resolve().parent
    path = f"/usr/local/fake:/usr/local/bin:{python_folder}:{os.environ['PATH']}"
    with own_machine(tmp_path) as machine:
        variables = {"PATH": path, "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        result = machine.run("\n".join(script), cwd=folder, env=variables)
    assert result.status == 0, result.text + result.err
    first, in_place, side_by_side, back, removed = re.split(r"^== .*\n", result.text, flags=re.M)
    assert "created      /usr/local/lib/systemd/system/kes.service\n" in first
    assert "● 127.0.0.1:7373\n" in first
    assert '{"plaintext":"' in first
    assert "Everything is in place: nothing was changed.\n" in in_place
    assert in_place.endswith("Hello\n/opt/kes\n")
    assert side_by_side.endswith("Hello\n/opt/kes-new\n")
    assert back.endswith("Hello\n/opt/kes-old\n")
    assert removed.split() == [
        *("/etc/kes:", "config.yml", "environment", "private.key", "public.crt"),
        *("/var/lib/kes/keys:", "my-app-default", "my-key"),
    ]
