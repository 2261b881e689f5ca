"""What holds for every row of the table of commands, and for what is made of it: help, manual, reference, imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from kes.cli import man, reference
from kes.cli.command import HELP, Command, line_of
from kes.cli.table import ROOT
from kes.cli.terminal import Style
from kes.cli.usage import render, synopsis
from kes.tap import Options
from tests.cli.run import kes, on_terminal
from tests.support import KES, require_tool, run

ROOT_FOLDER = Path(__file__).parents[2]


def rows(path: tuple[Command, ...] = (ROOT,)) -> Iterator[tuple[Command, ...]]:
    yield path
    for child in path[-1].commands:
        yield from rows((*path, child))


ROWS = [pytest.param(path, id=line_of(path)) for path in rows()]


@pytest.mark.parametrize("path", ROWS)
class TestRow:
    def test_is_sound(self, path: tuple[Command, ...]) -> None:
        """A row runs something that exists, no name in it is there twice, and its texts are whole sentences."""
        command = path[-1]
        assert command.run or command.commands
        if command.run:
            module, _, function = command.run.partition(":")
            assert callable(getattr(import_module(module), function))
        options = (*command.options, HELP)
        names = [name for option in options for name in (option.name, *option.aliases)]
        shorts = [option.short for option in options if option.short]
        words = [word for child in command.commands for word in (child.name, *child.aliases)]
        for given in (names, shorts, words):
            assert len(given) == len(set(given))
        texts = [command.summary, *command.description]
        texts += [item.help for item in (*options, *command.arguments)]
        assert [text for text in texts if not text.endswith(".")] == []

    def test_optional_arguments_come_last(self, path: tuple[Command, ...]) -> None:
        """Otherwise nobody could tell which argument is missing."""
        arguments = path[-1].arguments
        assert [a.optional for a in arguments] == sorted(a.optional for a in arguments)
        assert not any(a.many for a in arguments[:-1])

    def test_common_options(self, path: tuple[Command, ...]) -> None:
        """Every command takes --json and --color (cli.md 8); of the server's output there is no JSON form."""
        command = path[-1]
        if command.run:
            assert command.option("color")
            assert command.option("json") or command.name == "server"

    def test_examples_are_accepted(self, path: tuple[Command, ...]) -> None:
        """An example is a command line of the very command."""
        for _, line in path[-1].examples:
            assert line_of(path) in line

    @pytest.mark.parametrize("width", [1, 40, 79, 500])
    def test_help(self, path: tuple[Command, ...], width: int) -> None:
        """Help names everything that the command takes, and fits the terminal unless a word or example does not."""
        text = render(path, Style(enabled=False), width)
        command = path[-1]
        for form in synopsis(path):
            assert f"    {form}\n" in text
        for option in (*command.options, HELP):
            assert f"--{option.name}" in text
        wide = {*synopsis(path), *(line for _, line in command.examples)}
        limit = max(40, min(width, 100))
        labels = [f"--{option.name}" for option in command.options]
        for line in text.splitlines():
            fits = len(line) <= limit or line.strip() in wide or any(label in line for label in labels)
            assert fits, line

    def test_help_runs(self, path: tuple[Command, ...], capfd: pytest.CaptureFixture[str]) -> None:
        """`--help`, `-h` and `kes help` print the same on standard output, with status 0."""
        from kes.cli.main import main

        words = [command.name for command in path[1:]]
        outputs = []
        for arguments in ([*words, "--help"], [*words, "-h"], ["help", *words]):
            assert main(arguments) == 0
            outputs.append(capfd.readouterr())
        assert len(set(outputs)) == 1
        assert outputs[0].out.startswith(path[-1].summary.split()[0])
        assert outputs[0].err == ""


def test_server_takes_what_twistd_takes() -> None:
    """`kes server` and `twistd kes` have the same options, but for --color, which is the terminal's."""
    server = ROOT.child("server")
    ours = {option.name: bool(option.value) for option in server.options}
    ours.pop("color")
    options = Options()
    theirs = {name: True for name, *_ in options.optParameters} | {name: False for name, *_ in options.optFlags}
    assert ours == theirs


def test_reference_is_current() -> None:
    """docs/cli.md has the table as it is. If this fails: python -m kes.cli.reference docs/cli.md"""
    page = (ROOT_FOLDER / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference.render(page)


def test_reference_needs_its_mark() -> None:
    """A page without the mark is not written over."""
    with pytest.raises(ValueError, match="no mark"):
        reference.render("# A page\n")


class TestManual:
    def test_pages(self, tmp_path: Path) -> None:
        """There is a page for kes and each of its commands, and the same bytes each time."""
        written = man.write(tmp_path / "new" / "man1")
        assert {path.name for path in written} == {"kes.1", *(f"kes-{command.name}.1" for command in ROOT.commands)}
        before = [path.read_bytes() for path in written]
        assert [path.read_bytes() for path in man.write(tmp_path / "new" / "man1")] == before

    def test_roff(self, tmp_path: Path) -> None:
        """groff has nothing to complain about, and shows options as they are typed."""
        groff = require_tool("groff")
        pages = [str(path) for path in man.write(tmp_path)]
        for page in pages:
            result = run(groff, "-man", "-Tascii", "-ww", "-z", page, cwd=tmp_path)
            assert (result.returncode, result.stderr) == (0, ""), page
        shown = run(groff, "-man", "-Tascii", "-P-c", "-P-b", "-P-u", str(tmp_path / "kes-identity.1"), cwd=tmp_path)
        assert "--password-file FILE" in shown.stdout
        assert "API-KEY|FILE" in shown.stdout


def test_light_start(tmp_path: Path) -> None:
    """Neither the version nor completion nor help loads what only servers and keys need: they are instant."""
    heavy = {"twisted", "cryptography", "OpenSSL", "yaml", "msgspec", "ifaddr", "zope", "asyncio", "ssl", "google"}
    for line in ("main(['--version'])", "main(['help', 'key'])", "os.environ['COMP_LINE'] = 'kes '; main([])"):
        script = f"import os, sys; from kes.cli.main import main; {line}; print(*sys.modules, file=sys.stderr)"
        result = run(sys.executable, "-c", script, cwd=tmp_path)
        assert heavy & set(result.stderr.split()) == set()
        assert "kes.cli.main" in result.stderr


def test_version(tmp_path: Path) -> None:
    """`kes --version --json` has the fields of cli.md 5.1; on a terminal the labels are coloured."""
    result = kes("--version", "--json", cwd=tmp_path)
    assert result.text.startswith('{"version":"')
    assert result.text.count("\n") == 1
    _, shown = on_terminal(KES, "--version", cwd=tmp_path)
    assert shown.startswith("\x1b[38;2;38;139;210mVersion\x1b[0m    ")


def test_update(tmp_path: Path) -> None:
    """`kes update` says how to upgrade, with status 1, and takes what scripts gave it."""
    assert "pip install --upgrade kes" in kes("update", "-d", "-k", "-o", "f", "v1", cwd=tmp_path).error


def test_narrow_terminal(tmp_path: Path) -> None:
    """Help is as wide as the terminal."""
    status, shown = on_terminal(KES, "identity", "new", "--help", cwd=tmp_path, columns=50, env={"NO_COLOR": "1"})
    assert status == 0
    body = shown[shown.index("Options:") : shown.index("Examples:")]
    assert max(map(len, body.splitlines())) <= 50
