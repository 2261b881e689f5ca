"""The `kes` command itself: its help, its version, and words that are no commands."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from kes import __version__
from tests.support import KES, error_line, run


def test_version(tmp_path: Path) -> None:
    """`kes --version` and `-v`: four labels in order, values in one column and notes in another (cli.md 5.1)."""
    result = run(KES, "--version", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line[:11].rstrip() for line in lines] == ["Version", "Runtime", "License", "Copyright"]
    assert lines[0][11:].split()[0] == __version__
    assert lines[1][11:].startswith(f"CPython {platform.python_version()} linux/")
    notes = [re.search(r"(commit=|compiler=|https://)", line) for line in lines[:3]]
    assert len({note.start() for note in notes}) == 1
    assert run(KES, "-v", cwd=tmp_path).stdout == result.stdout


@pytest.mark.parametrize("option", ["-h", "--help", "help"])
def test_help(tmp_path: Path, option: str) -> None:
    """Help that was asked for goes to standard output with status 0."""
    result = run(KES, option, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "server" in result.stdout


def test_nothing_to_do(tmp_path: Path) -> None:
    """Help for want of a command goes to standard error with status 2."""
    result = run(KES, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == run(KES, "--help", cwd=tmp_path).stdout


def test_unknown_command(tmp_path: Path) -> None:
    """A word that is no command is refused, with the nearest that is one."""
    line = error_line(run(KES, "serve", cwd=tmp_path))
    assert line.startswith('"serve" is not a kes command.')
    assert "server" in line
