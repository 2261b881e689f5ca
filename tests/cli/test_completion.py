"""Completion: what is offered, how the shells ask for it, and how it is installed (cli.md 5.12)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.cli.completion import candidates
from kes.cli.table import ROOT
from tests.cli.run import Result, kes, on_terminal
from tests.support import KES, STRANGER, require_tool, run

COMMANDS = {command.name for command in ROOT.commands}


def offered(line: str) -> list[str]:
    """What is offered for the last word of `line`."""
    *words, word = line.split(" ")
    return candidates(words, word)


def asked(folder: Path, line: str, *arguments: str, **variables: str) -> Result:
    """What the program answers to a shell."""
    return kes(*arguments, cwd=folder, env={"COMP_LINE": line, **variables})


class TestCandidates:
    def test_commands(self) -> None:
        """Every command of the table is offered, and only those that begin as typed."""
        assert offered("") == sorted(COMMANDS)
        assert {"ls", "migrate", "server", "identity"} <= COMMANDS
        assert offered("st") == ["status"]
        assert offered("identity ") == ["info", "ls", "new", "of"]
        assert offered("-k st") == ["status"]

    def test_options(self) -> None:
        """Every option of the command is offered, from the part that is typed on."""
        assert offered("identity new --e") == ["--encrypt", "--expiry"]
        assert {"-f", "--force", "-h", "--help", "--json"} <= set(offered("identity new -"))
        assert offered("identity new --encrypt app --fo") == ["--force"]
        assert "--short" in offered("status --")

    @pytest.mark.parametrize("line", ["ls --color {}", "--color {}", "ls --color={}"])
    def test_fixed_values(self, line: str) -> None:
        """The values of an option are offered after it and after its `=`."""
        prefix = "--color=" if "=" in line else ""
        assert offered(line.format("")) == [f"{prefix}{value}" for value in ("always", "auto", "never")]
        assert offered(line.format("n")) == [f"{prefix}never"]

    @pytest.mark.parametrize(
        "line", ["identity new --key ", "identity new --dns -", "identity of ", "ls -- -", "ls -s "]
    )
    def test_files(self, line: str) -> None:
        """Where a file name or a free text belongs nothing is offered, and the shell completes files."""
        assert offered(line) == []

    def test_arguments(self) -> None:
        """Fixed arguments are offered, and commands after `help`."""
        assert offered("completion ") == ["bash", "fish", "zsh"]
        assert offered("help identity n") == ["new"]
        assert offered("help nothing ") == []

    def test_after_arguments(self) -> None:
        """Behind an argument there is no command any more, and no second of what is wanted once."""
        assert offered("identity file n") == []
        assert offered("completion bash ") == []

    @given(
        st.lists(st.one_of(st.sampled_from([*COMMANDS, "--color", "-s", "--", "-kf"]), st.text(max_size=4)), min_size=1)
    )
    def test_anything(self, words: list[str]) -> None:
        """Whatever is typed, what is offered begins with it."""
        *before, word = words
        assert all(candidate.startswith(word) for candidate in candidates(before, word))


class TestProtocol:
    def test_line(self, tmp_path: Path) -> None:
        """With COMP_LINE there are candidates, one a line, and nothing else is done."""
        result = asked(tmp_path, "kes identity n", "--version")
        assert (result.status, result.text, result.err) == (0, "new\n", "")
        assert asked(tmp_path, "kes identity new --fo").text == "--force\n"
        assert asked(tmp_path, "kes nothing ").text == ""

    def test_point(self, tmp_path: Path) -> None:
        """What stands behind the cursor does not count."""
        assert asked(tmp_path, "kes identity new", COMP_POINT="6").text == "identity\n"

    @pytest.mark.parametrize("line", ["kes identity of 'a b' --js", 'kes identity of "a b" --js', "kes ls a\\ b --js"])
    def test_quotes(self, tmp_path: Path, line: str) -> None:
        """Words are the shell's words."""
        assert asked(tmp_path, line).text == "--json\n"

    @pytest.mark.parametrize("line", ["kes identity of 'a ", 'kes identity of "', "kes ls a\\", "", " ", "kes"])
    def test_unfinished(self, tmp_path: Path, line: str) -> None:
        """An unfinished line is none to complain about."""
        result = asked(tmp_path, line)
        assert (result.status, result.err) == (0, "")

    def test_word_breaks(self, tmp_path: Path) -> None:
        """bash takes the part behind `=` for the word, and gets only what it puts there."""
        assert asked(tmp_path, "kes ls --color=a", "kes", "a", "=").text == "always\nauto\n"
        assert asked(tmp_path, "kes ls --color=", "kes", "", "=").text == "always\nauto\nnever\n"
        assert asked(tmp_path, "kes ls --color=a").text == "--color=always\n--color=auto\n"


def test_bash(tmp_path: Path) -> None:
    """bash takes the script, and completes a word and a value at the press of a key."""
    identity = STRANGER.identity
    status, shown = on_terminal(
        *(require_tool("bash"), "--norc", "--noprofile", "-i"),
        cwd=tmp_path,
        env={"PATH": f"{Path(KES).parent}:{os.environ['PATH']}", "PS1": "first> ", "HOME": str(tmp_path)},
        answers={
            "first> ": "source <(kes completion bash); PS1=sec'ond> '\n",
            "second> ": f"kes ident\to\t--color=alw\t{STRANGER}\n",
            f"{identity}": "exit\n",
        },
    )
    assert status == 0, shown
    assert f"kes identity of --color=always {STRANGER}" in shown
    assert f"\x1b[1m{identity}\x1b[0m" in shown


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_parse(tmp_path: Path, shell: str) -> None:
    """The scripts of zsh and fish are in their languages."""
    (tmp_path / "script").write_text(kes("completion", shell, cwd=tmp_path).text)
    result = run(require_tool(shell), "-n", "script", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


def test_unknown_shell(tmp_path: Path) -> None:
    """There is no script for other shells."""
    assert kes("completion", "tcsh", cwd=tmp_path).error == 'there is no completion for "tcsh": write bash, zsh or fish'


class TestInstall:
    def install(self, folder: Path, shell: str) -> Result:
        return kes("--auto-completion", cwd=folder, env={"SHELL": shell, "HOME": str(folder), "XDG_CONFIG_HOME": ""})

    @pytest.mark.parametrize(
        ("shell", "file", "first"),
        [
            ("/bin/bash", ".bashrc", "complete "),
            ("/usr/bin/zsh", ".zshrc", "autoload -U +X bashcompinit && bashcompinit\ncomplete "),
            ("/usr/bin/fish", ".config/fish/completions/kes.fish", "function "),
        ],
    )
    def test_once(self, tmp_path: Path, shell: str, file: str, first: str) -> None:
        """The first time the file is made or added to, the second time it is left; each time it says what to delete."""
        path = tmp_path / file
        if shell.endswith("bash"):
            path.write_text("alias ll='ls -l'")  # without a newline
            path.chmod(0o600)
            first = f"alias ll='ls -l'\n{first}"
        result = self.install(tmp_path, shell)
        assert (result.status, result.err) == (0, "")
        text = path.read_text()
        assert text.startswith(first)
        assert path.stat().st_mode & 0o777 in (0o600, 0o644)
        if not shell.endswith("fish"):
            assert text.splitlines()[-1] == f"complete -o default -C {KES} kes"
        assert f"    {text.splitlines()[-1]}" in result.text.splitlines()
        again = self.install(tmp_path, shell)
        assert again.text.startswith("Completion is already installed.\n")
        assert path.read_text() == text

    @pytest.mark.parametrize("shell", ["/bin/tcsh", ""])
    def test_other_shell(self, tmp_path: Path, shell: str) -> None:
        """Another shell is an error, and nothing is written."""
        assert (
            self.install(tmp_path, shell).error == f'there is completion for bash, zsh and fish, but SHELL is "{shell}"'
        )
        assert list(tmp_path.iterdir()) == []

    def test_path_with_blanks(self, tmp_path: Path) -> None:
        """bash runs what follows -C as a command line: a path with blanks is quoted for that as well."""
        folder = tmp_path / "a b"
        folder.mkdir()
        (folder / "kes").symlink_to(KES)
        run(str(folder / "kes"), "--auto-completion", cwd=tmp_path, env={"SHELL": "bash", "HOME": str(tmp_path)})
        script = "source .bashrc; complete -p kes"
        result = run(require_tool("bash"), "--norc", "-c", script, cwd=tmp_path)
        assert result.stdout.startswith("complete -o default -C ")
        assert f"{folder}/kes" in result.stdout
