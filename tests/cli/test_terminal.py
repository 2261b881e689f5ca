"""Where output goes and how, and how the process ends: cli.md 1.3, 1.5 to 1.9."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kes.cli.terminal import Style, Terminal, one_line
from kes.cli.text import UNKNOWN, rfc3339, size, timestamp
from tests.cli.run import environment, kes, on_terminal
from tests.support import KES, TIMEOUT, run

ESCAPE = "\x1b"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(out: io.StringIO, err: io.StringIO, environ: Mapping[str, str] = {}, color: str = "auto") -> Terminal:
    return Terminal(out, err, environ, color)


class TestColor:
    @pytest.mark.parametrize(
        ("environ", "color", "on_screen", "in_pipe"),
        [
            ({}, "auto", True, False),
            ({"NO_COLOR": "1"}, "auto", False, False),
            ({"NO_COLOR": ""}, "auto", True, False),
            ({"CLICOLOR_FORCE": "1"}, "auto", True, True),
            ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, "auto", False, False),
            ({"CLICOLOR_FORCE": "1", "TERM": "dumb"}, "auto", True, True),
            ({"TERM": "dumb"}, "auto", False, False),
            ({"NO_COLOR": "1", "TERM": "dumb"}, "always", True, True),
            ({"CLICOLOR_FORCE": "1"}, "never", False, False),
        ],
    )
    def test_decision(self, environ: dict[str, str], color: str, on_screen: bool, in_pipe: bool) -> None:
        """--color beats NO_COLOR, which beats CLICOLOR_FORCE, which beats what kind of terminal it is."""
        there = terminal(Screen(), io.StringIO(), environ, color)
        assert (there.style.enabled, there.error_style.enabled) == (on_screen, in_pipe)

    def test_each_stream_for_itself(self) -> None:
        """Standard output in a pipe is plain while errors on a terminal are coloured, and the other way round."""
        err = Screen()
        there = terminal(io.StringIO(), err)
        there.error("no")
        assert not there.interactive
        assert (there.style.bold("x"), err.getvalue()) == ("x", "\x1b[38;2;172;0;0mError:\x1b[0m no\n")
        err = io.StringIO()
        terminal(Screen(), err).warning("beware")
        assert err.getvalue() == "WARNING: beware\n"

    def test_nothing_is_styled_without_color(self) -> None:
        """Without colour there is no escape sequence in anything; with it each style has one, and ends it."""
        names = [name for name in vars(Style) if not name.startswith("_") and name != "enabled"]
        assert len(names) > 10
        for name in names:
            assert getattr(Style(enabled=False), name)("x") == "x"
            assert getattr(Style(enabled=True), name)("x").startswith(ESCAPE)
            assert getattr(Style(enabled=True), name)("x").endswith("x\x1b[0m")
            assert getattr(Style(enabled=True), name)("") == ""

    def test_captured_in_a_shell(self, tmp_path: Path) -> None:
        """`X=$(kes identity)` holds the key only, though standard error is a terminal (D2)."""
        script = 'X=$("$0" identity); echo "${#X}"'
        assert on_terminal("/bin/sh", "-c", script, KES, cwd=tmp_path) == (0, "51\n")

    def test_bad_value(self, tmp_path: Path) -> None:
        """Other values of --color are an error, an empty one is auto, and letter case does not count."""
        assert kes("identity", "--color", "red", cwd=tmp_path).error.startswith(
            'invalid argument "red" for "--color" flag: '
        )
        for value in ("", "NEVER", "Always"):
            assert kes("identity", f"--color={value}", cwd=tmp_path).status == 0


class TestText:
    def test_one_line(self) -> None:
        """Errors are one line without control characters, and hold no API key, whoever put it there."""
        key = "kes:v1:AKqwms5wRWf0p94XmeD0FYJkeVnFeA9uW/tyX6nT8HRk"
        assert one_line("a\nb\x1b[31m\r\n") == "a\\nb\\x1b[31m"
        assert one_line(f"no {key}!") == "no kes:v1:<not shown>!"

    def test_json(self) -> None:
        """JSON is one line in a pipe, and indented where a person reads and the command wants it."""
        for out, indent, expected in (
            (io.StringIO(), True, '{"a":["ü"]}\n'),
            (Screen(), False, '{"a":["ü"]}\n'),
            (Screen(), True, '{\n  "a": [\n    "ü"\n  ]\n}\n'),
        ):
            terminal(out, io.StringIO()).json({"a": ["ü"]}, indent=indent)
            assert out.getvalue() == expected

    @pytest.mark.parametrize(
        ("count", "text"),
        [
            (0, "0B"), (999, "999B"), (1000, "1.0KB"), (868_000, "868.0KB"), (999_949, "999.9KB"), (999_950, "1.0MB"),
            (1_100_000, "1.1MB"), (10**9, "1.0GB"), (10**12, "1.0TB"), (10**15, "1.0PB"), (10**18, "1000.0PB"),
        ],
    )  # fmt: skip
    def test_sizes(self, count: int, text: str) -> None:
        """Decimal units with one decimal, which never reach 1000 of a unit (cli.md 1.8)."""
        assert size(count) == text

    def test_times(self) -> None:
        """Times are in UTC; the zero time stands for one that nobody knows."""
        assert timestamp(1_700_000_000_123_456_789) == "2023-11-14 22:13:20"
        assert rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
        assert (timestamp(None), rfc3339(None)) == (UNKNOWN, "0001-01-01T00:00:00Z")

    @pytest.mark.parametrize(("environ", "width"), [({"COLUMNS": "33"}, 33), ({"COLUMNS": "wide"}, 80), ({}, 80)])
    def test_width(self, environ: dict[str, str], width: int) -> None:
        """COLUMNS says how wide output is; 80 where nobody knows."""
        assert terminal(io.StringIO(), io.StringIO(), environ).width == width

    def test_narrow_locale(self, tmp_path: Path) -> None:
        """What the locale cannot write is escaped, and no reason to fail."""
        script = "from kes.cli.main import main; raise SystemExit(main())"
        command = [sys.executable, "-c", script, "identity", "new", "--key", "ü", "--cert", "c", "--dns", "a"]
        env = environment({"PYTHONIOENCODING": "ascii"})
        result = run(*command, cwd=tmp_path, env=env)
        assert (result.returncode, result.stderr) == (0, "")
        assert "The private key is in  \\xfc\n" in result.stdout


class TestEnd:
    def test_closed_pipe(self, tmp_path: Path) -> None:
        """Where nobody reads the output any more the program ends without a word."""
        read, write = os.pipe()
        os.close(read)
        result = subprocess.run(
            [KES, "--help"], stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, timeout=TIMEOUT, check=False
        )
        os.close(write)
        assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")

    def test_closed_error_pipe(self, tmp_path: Path) -> None:
        """Where nobody reads the errors the status still says it."""
        read, write = os.pipe()
        os.close(read)
        result = subprocess.run(
            [KES, "ls", "--foo"], stderr=write, stdout=subprocess.PIPE, cwd=tmp_path, timeout=TIMEOUT, check=False
        )
        os.close(write)
        assert (result.returncode, result.stdout) == (1, b"")

    @pytest.mark.parametrize(
        ("redirection", "reason"),
        [(">/dev/full", "No space left on device"), (">&-", "it is closed")],
    )
    def test_output_fails(self, tmp_path: Path, redirection: str, reason: str) -> None:
        """Output that cannot be written is an error: a script must not take a lost key for one it has."""
        result = run("/bin/sh", "-c", f'"$0" identity {redirection}', KES, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (1, f"Error: cannot write to standard output: {reason}\n")

    def test_all_streams_closed(self, tmp_path: Path) -> None:
        """Without any stream there is the exit status."""
        assert run("/bin/sh", "-c", '"$0" --help <&- >&- 2>&-', KES, cwd=tmp_path).returncode == 1

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signals(self, tmp_path: Path, number: signal.Signals) -> None:
        """SIGINT and SIGTERM end a command that waits with 130 and 143, and without a traceback."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)  # nobody writes: reading it takes until the signal
        process = subprocess.Popen(
            [KES, "identity", "of", "pipe"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with pipe.open("wb"):  # returns when the program has opened its end
            process.send_signal(number)
            out, errors = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, out, errors) == (128 + number, b"", b"")

    def test_unforeseen_os_error(self, tmp_path: Path) -> None:
        """An error of the system that no command foresees is one line: here the working directory has gone."""
        script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" identity new --key k --cert c'
        result = run("/bin/sh", "-c", script, KES, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (1, "Error: No such file or directory\n")

    def test_usage_is_styled_for_its_stream(self, tmp_path: Path) -> None:
        """Usage on standard error is plain there, whatever standard output is."""
        ours, theirs = pty.openpty()
        result = subprocess.run(
            [KES, "key"], stdout=theirs, stderr=subprocess.PIPE, cwd=tmp_path, env=environment({}), check=False
        )
        os.close(ours)
        os.close(theirs)
        assert result.returncode == 2
        assert ESCAPE.encode() not in result.stderr
