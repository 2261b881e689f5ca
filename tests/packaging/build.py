"""The package, built of a copy of the source tree: building leaves files behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.support import require_tool, run

ROOT = Path(__file__).parents[2]


def python(folder: Path, *arguments: str) -> str:
    """The output of the Python of the tests, run in `folder`; it must end well."""
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def copy_checkout(folder: Path) -> None:
    """Copy what git would hand over into `folder`, as a repository with one commit."""
    git = require_tool("git")
    listed = run(git, "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode == 0:
        names = listed.stdout.rstrip("\0").split("\0")
    else:  # an unpacked source archive
        files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        names = [str(path) for path in files if path.parts[0] != ".venv"]
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "--no-verify", "-m", "all")):
        subprocess.run([git, *command], cwd=folder, check=True)


def build(checkout: Path, out: Path) -> tuple[Path, Path]:
    """Build, in `out`, the source archive and the wheel made of it, as a build front end makes them."""
    backend = "import sys; from setuptools import build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    sdist = out / python(checkout, "-c", backend, "build_sdist", str(out)).splitlines()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    source = out / sdist.name.removesuffix(".tar.gz")
    wheel = out / python(source, "-c", backend, "build_wheel", str(out)).splitlines()[-1]
    return sdist, wheel
