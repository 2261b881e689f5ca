"""Packaging that pyproject.toml cannot say: where the twistd plugin goes, and which commit a package is built from."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent


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


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_commit(self.build_lib)


class Sdist(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_commit(base_dir)


setup(
    # A folder of Twisted's, without an __init__.py: the plugin must lie where Twisted looks for it.
    packages=[*find_packages(include=["kes", "kes.*"]), "twisted.plugins"],
    package_data={"kes": ["py.typed"]},
    cmdclass={"build_py": BuildPy, "sdist": Sdist},
)
