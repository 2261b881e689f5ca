"""Packaging that pyproject.toml cannot say: where the twistd plugin goes, which commit a package is built from, and
which files it has besides the code.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from distutils.command.install_data import install_data
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent
SHARED = ("etc", "systemd")  # folders that `share/kes` has as they are


def write_commit(folder: str) -> None:
    """Write `kes/_build.py` below `folder`, which kes.version reads; nothing if this is not a git checkout."""
    if not (ROOT / ".git").exists():
        return
    try:
        commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return
    package = Path(folder, "kes")
    package.mkdir(parents=True, exist_ok=True)
    (package / "_build.py").write_text(f'"""Made by setup.py."""\n\nCOMMIT = "{commit}"\n')


def write_generated(folder: str) -> list[str]:
    """Write manual pages and completion scripts into `share` below `folder`; their paths."""
    sys.path.insert(0, str(ROOT))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a build leaves nothing in the source tree
    try:
        from kes.cli.share import generated  # needs nothing but the standard library
    finally:
        sys.path.remove(str(ROOT))
        sys.dont_write_bytecode = before
    written = []
    for name, text in generated():
        path = Path(folder, "share", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(str(path))
    return written


def data_files() -> Iterator[tuple[str, list[str]]]:
    """Folders of an environment, and the files of the source tree that are copied there."""
    files = [path.relative_to(ROOT) for name in SHARED for path in (ROOT / name).rglob("*") if path.is_file()]
    for file in sorted(files):
        yield f"share/kes/{file.parent.as_posix()}", [str(file)]
    documents = [Path("README.md"), Path("CHANGELOG.md"), *(p.relative_to(ROOT) for p in (ROOT / "docs").rglob("*.md"))]
    for document in sorted(documents):
        yield f"share/doc/kes/{document.parent.as_posix()}", [str(document)]


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_commit(self.build_lib)


class InstallData(install_data):
    def run(self) -> None:
        # An editable install runs from the source tree, and copies would soon differ from it.
        if not self.get_finalized_command("build_py").editable_mode:
            super().run()
            self.outfiles += write_generated(self.install_dir)


class Sdist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(base_dir)
        write_generated(base_dir)


setup(
    # A folder of Twisted's, without an __init__.py: the plugin must lie where Twisted looks for it.
    packages=[*find_packages(include=["kes", "kes.*"]), "twisted.plugins"],
    package_data={"kes": ["py.typed"]},
    data_files=list(data_files()),
    cmdclass={"build_py": BuildPy, "install_data": InstallData, "sdist": Sdist},
)
