"""`kes log` as people and programs meet it, against real servers, and one that sends what a real one would not."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from kes.identity import APIKey
from tests.cli.live import fake_server, in_pipe, in_terminal, screen
from tests.cli.run import environment, kes
from tests.support import ADMIN, APP, KES, STRANGER, TIMEOUT, Server, run, start

HEADER = "Time        Status    Identity                IP                 API                               Latency"
ESCAPE = "\x1b"
MICRO = 1_000
MILLI = 1_000_000
SECOND = 1_000_000_000


def variables(server: Server, key: APIKey = ADMIN) -> dict[str, str]:
    return {"KES_SERVER": f"127.0.0.1:{server.port}", "KES_API_KEY": str(key)}


def event(**fields: Any) -> dict[str, Any]:
    request = {"ip": "10.1.2.3", "path": "/v1/status", "identity": "0123456789abcdef" * 4}
    return {
        "time": fields.get("time", "2024-02-03T04:05:06Z"),
        "request": {name: fields.get(name, value) for name, value in request.items()},
        "response": {"code": fields.get("code", 200), "time": fields.get("latency", 142 * MICRO)},
    }


def ndjson(*events: Any) -> bytes:
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)


def rows(folder: Path, *events: Any) -> list[str]:
    """The rows that `kes log` prints for events."""
    with fake_server(folder, ndjson(*events)) as env:
        result = kes("log", "-k", cwd=folder, env=env)
    assert result.status == 1
    header, *rows = result.text.splitlines()
    assert header == HEADER
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with start(folder) as server:
        yield server


class TestPipe:
    def test_audit(self, server: Server, folder: Path) -> None:
        """The header comes with the connection, a row with each request, in the columns of the contract and in UTC."""
        with in_pipe("log", "-k", cwd=folder, env=variables(server)) as log:
            assert log.wait_for_lines(1)[0] == HEADER
            begun = datetime.now(UTC)
            assert server.client(ADMIN).request("GET", "/v1/key/list/").status == 200
            log.wait_for(lambda log: "/v1/key/list/" in log.out and log.out.endswith("\n"))
            assert server.client(APP).request("GET", "/v1/key/describe/other").status == 403
            log.wait_for(lambda log: "/v1/key/describe/other" in log.out and log.out.endswith("\n"))
            ended = datetime.now(UTC)
            first, second = (line for line in log.lines if "/v1/key/" in line)
        pattern = r"(\d\d:\d\d:\d\d)    {}       {}    127\.0\.0\.1          {}    [0-9.]+(µs|ms|s)"
        found = re.fullmatch(pattern.format(200, ADMIN.identity[:20], re.escape("/v1/key/list/".ljust(30))), first)
        assert found, first
        assert f"{begun:%H:%M:%S}" <= found[1] <= f"{ended:%H:%M:%S}" or begun.day != ended.day
        assert re.fullmatch(pattern.format(403, APP.identity[:20], "/v1/key/describe/other".ljust(30)), second), second
        assert ESCAPE not in log.out

    def test_json(self, server: Server, folder: Path) -> None:
        """With --json there is no header, and each event is one compact line with all that the server sends."""
        with in_pipe("log", "--json", "-k", cwd=folder, env=variables(server)) as log:
            log.wait_for_lines(1)  # its own request
            assert server.client(ADMIN).request("GET", "/v1/key/list/").status == 200
            log.wait_for(lambda log: any("/v1/key/list/" in line for line in log.lines))
            line = next(line for line in log.lines if "/v1/key/list/" in line)
        document = json.loads(line)
        assert line == json.dumps(document, separators=(",", ":"))
        assert document["request"] == {
            "ip": "127.0.0.1",
            "path": "/v1/key/list/",
            "method": "GET",
            "identity": ADMIN.identity,
        }
        assert document["response"]["code"] == 200

    def test_error(self, tmp_path: Path) -> None:
        """With --error each message is a line, without a header."""
        with start(tmp_path) as server, in_pipe("log", "--error", "-k", cwd=tmp_path, env=variables(server)) as log:
            # Nothing tells from outside that the log is connected, so there are events until it has one.
            (tmp_path / "config.yml").write_text("nonsense: true\n")
            count = 0
            while not log.lines:
                count += 1
                server.process.send_signal(signal.SIGHUP)
                server.wait_for("level=ERROR", errors=True, count=count)
            log.wait_for(lambda log: any(f"{tmp_path}/config.yml:1: " in line for line in log.lines))
        assert [line for line in log.lines if line.startswith(("Time", "{"))] == []


class TestRows:
    @pytest.mark.parametrize(
        ("latency", "text"),
        [
            (0, "0s"),
            (9_999, "9.999µs"),
            (10_499, "10µs"),
            (142_400, "142µs"),
            (999_600, "1ms"),
            (1_249_000, "1.2ms"),
            (9_960_000, "10ms"),
            (12_499_999, "12ms"),
            (999_600_000, "1s"),
            (1_249 * MILLI, "1.2s"),
            (61 * SECOND, "1m1s"),
        ],
    )
    def test_latency(self, latency: int, text: str) -> None:
        """A latency has the digits that matter, each step at its own bound."""
        from kes.cli.log import rounded
        from kes.config.duration import render

        assert render(rounded(latency) / SECOND) == text

    def test_latency_is_nanoseconds(self, tmp_path: Path) -> None:
        """What the server sends is nanoseconds."""
        assert rows(tmp_path, event(latency=142_400))[0].endswith("    142µs")

    def test_time(self, tmp_path: Path) -> None:
        """Times of any zone are shown in UTC, and the strangest one is no crash."""
        shown = rows(tmp_path, event(time="2024-02-03T04:05:06.7+05:00"), event(time="0001-01-01T00:00:00+00:01"))
        assert [row[:12] for row in shown] == ["23:05:06    ", "23:59:00    "]

    def test_columns(self, tmp_path: Path) -> None:
        """Short and absent values are padded; long ones keep two spaces, and shift nothing while there is room."""
        shown = rows(
            tmp_path,
            event(identity="", ip=""),
            event(ip="2001:db8::1:2:3:4"),
            event(ip="2001:db8:1111:2222:3333:4444:5555:6666"),
            event(path="/v1/key/create/" + "k" * 80),
        )
        assert shown[0][22:] == f"{'':24}<unknown>          /v1/status                        142µs"
        assert shown[1][46:] == "2001:db8::1:2:3:4  /v1/status                        142µs"
        assert shown[2][46:] == "2001:db8:1111:2222:3333:4444:5555:6666  /v1/status                        142µs"
        assert shown[3][65:] == f"/v1/key/create/{'k' * 80}  142µs"

    @pytest.mark.parametrize("option", [[], ["--json"], ["--color=always"]])
    def test_hostile(self, tmp_path: Path, option: list[str]) -> None:
        """No character of an event that a terminal acts on reaches it, and JSON means what was sent."""
        bad = "\x1b]0;title\x07\x1b[2J\r\n\x7f\x9b31m\u202e\u2028\U000e0001é"
        sent = [event(path=f"/v1/{bad}", identity=bad, ip=bad)]
        with fake_server(tmp_path, ndjson(*sent)) as env:
            result = kes("log", "-k", *option, cwd=tmp_path, env=env)
        text = re.sub(r"\x1b\[[0-9;]*m", "", result.text) if option == ["--color=always"] else result.text
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
        assert "é" in text
        assert len(text.splitlines()) == (1 if option == ["--json"] else 2)
        if option == ["--json"]:
            assert [json.loads(line) for line in text.splitlines()] == sent

    def test_hostile_error(self, tmp_path: Path) -> None:
        """A message of several lines is one, so that no part of it can pass for an event of its own."""
        with fake_server(tmp_path, ndjson({"message": "a\nb\x1b[2Jc"})) as env:
            result = kes("log", "--error", "-k", cwd=tmp_path, env=env)
        assert result.text == "a\\nb\\x1b[2Jc\n"

    def test_unknown_fields(self, tmp_path: Path) -> None:
        """--json keeps what it does not know, numbers digit by digit, and drops white space."""
        line = b'{"time": "2024-02-03T04:05:06Z", "x" : 1.50e3,\t"request":{"new":[1, 2]},"response":{"code":4}}\n'
        with fake_server(tmp_path, line) as env:
            result = kes("log", "--json", "-k", cwd=tmp_path, env=env)
        assert result.out == line.replace(b", ", b",").replace(b": ", b":").replace(b" :", b":").replace(b"\t", b"")


class TestTerminal:
    def test_colors(self, server: Server, folder: Path) -> None:
        """The header's words are bold and underlined; 200 is green, any other status red."""
        with in_terminal("log", "-k", cwd=folder, env=variables(server)) as log:
            log.wait_for_lines(1)
            assert server.client(ADMIN).request("GET", "/v1/key/list/").status == 200
            assert server.client(ADMIN).request("GET", "/v1/key/describe/none").status == 404
            log.wait_for(lambda log: "describe/none" in log.out and log.out.endswith("\r\n"))
        assert screen(log.lines[0]) == [HEADER]
        for word in HEADER.split():
            assert f"\x1b[1;4m{word}\x1b[0m" in log.lines[0]
        assert "\x1b[38;2;0;215;0m200\x1b[0m       " in next(line for line in log.lines if "key/list" in line)
        assert "\x1b[38;2;215;0;0m404\x1b[0m       " in next(line for line in log.lines if "describe/none" in line)

    def test_no_color(self, server: Server, folder: Path) -> None:
        """With --color never there is no escape sequence."""
        with in_terminal("log", "-k", "--color", "never", cwd=folder, env=variables(server)) as log:
            log.wait_for_lines(1)
            assert server.client(STRANGER).request("GET", "/v1/key/list/").status == 403
            log.wait_for(lambda log: "/v1/key/list/" in log.out)
            log.press(b"\x03")
            assert log.end() == 0
        assert ESCAPE not in log.out

    def test_interrupt(self, server: Server, folder: Path) -> None:
        """Ctrl-C ends a connected log with status 0, and nothing follows but what the terminal echoes."""
        with in_terminal("log", "-k", cwd=folder, env=variables(server)) as log:
            log.wait_for(lambda log: "/v1/log/audit" in log.out and log.out.endswith("\r\n"))
            before = log.out
            log.press(b"\x03")
            assert log.end() == 0
        assert log.out == f"{before}^C"


class TestEnd:
    def test_signal_before_a_coroutine_has_begun(self, tmp_path: Path) -> None:
        """Python has nothing to say of what the signal has kept from beginning."""
        code = (
            "import signal\nfrom kes.cli.live import endless\nasync def waiting(): pass\n"
            "with endless():\n    made = waiting()\n    signal.raise_signal(signal.SIGINT)\n"
        )
        ended = run(sys.executable, "-c", code, cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal(self, server: Server, folder: Path, number: signal.Signals) -> None:
        """SIGINT and SIGTERM are the normal end of a connected log."""
        with in_pipe("log", "-k", cwd=folder, env=variables(server)) as log:
            log.wait_for_lines(1)
            assert (log.signal(number), log.err) == (0, "")

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signal_before(self, tmp_path: Path, number: signal.Signals, status: int) -> None:
        """Before the server has answered they are an interruption."""
        asked = Event()
        with (
            fake_server(tmp_path, b"", hold=True, asked=asked) as env,
            in_pipe("log", "-k", cwd=tmp_path, env=env) as log,
        ):
            asked.wait(TIMEOUT)
            assert (log.signal(number), log.out, log.err) == (status, "", "")

    def test_server_stops(self, tmp_path: Path) -> None:
        """When the server ends the stream all events are there, and the rest is an error."""
        server = start(tmp_path)
        with in_pipe("log", "-k", cwd=tmp_path, env=variables(server)) as log:
            log.wait_for_lines(1)
            assert server.client(ADMIN).request("GET", "/v1/key/list/").status == 200
            assert server.stop() == 0
            assert log.end() == 1
        assert "/v1/key/list/" in log.lines[-1]
        assert log.err == "Error: the server has ended the log stream\n"

    def test_dropped(self, tmp_path: Path) -> None:
        """The reason that a server gives with the last line is the error."""
        with fake_server(tmp_path, ndjson(event(), {"message": "log stream closed: too slow"})) as env:
            result = kes("log", "-k", cwd=tmp_path, env=env)
        assert (result.status, result.err) == (1, "Error: log stream closed: too slow\n")
        assert len(result.text.splitlines()) == 2

    def test_refused(self, server: Server, folder: Path) -> None:
        """Who may not read the log is told so, and no header is printed."""
        for option in ([], ["--error"], ["--follow"]):
            result = kes("log", "-k", *option, cwd=folder, env=variables(server, APP))
            assert result.error == "not authorized: insufficient permissions"

    def test_no_server(self, tmp_path: Path) -> None:
        """Without a server there is a connection error, also with --follow, which begins with a server."""
        with fake_server(tmp_path) as env:
            pass
        result = kes("log", "-k", "--follow", cwd=tmp_path, env=env)
        assert result.error == f"kes: connection error: {env['KES_SERVER']}: Connection refused"

    def test_broken_pipe(self, tmp_path: Path) -> None:
        """When the reader goes, the command ends without a word, and does not wait for another event."""
        with fake_server(tmp_path, ndjson(event()), hold=True) as env:
            result = subprocess.run(
                f"{KES} log -k | head -1",
                shell=True,
                cwd=tmp_path,
                env=environment(env),
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        assert (result.stdout, result.stderr) == (f"{HEADER}\n", "")

    def test_stalled_reader(self, tmp_path: Path) -> None:
        """A reader that does not read does not keep the command from ending."""
        with fake_server(tmp_path, ndjson(event(path="/" + "k" * 20_000)), hold=True) as env:
            ours, theirs = os.pipe()
            fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
            process = subprocess.Popen([KES, "log", "-k"], cwd=tmp_path, env=environment(env), stdout=theirs)
            os.close(theirs)
            data = b""
            while b"kkk" not in data:
                data += os.read(ours, 256)
            # What is left of the line is more than the pipe holds.
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 0
            os.close(ours)

    def test_slow_reader(self, tmp_path: Path) -> None:
        """A reader that is slow gets every event, in order."""
        events = [event(path=f"/{number:06}") for number in range(3000)]
        with fake_server(tmp_path, ndjson(*events)) as env:
            ours, theirs = os.pipe()
            fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
            process = subprocess.Popen(
                [KES, "log", "-k"], cwd=tmp_path, env=environment(env), stdout=theirs, stderr=subprocess.DEVNULL
            )
            os.close(theirs)
            with os.fdopen(ours) as lines:
                assert [line.split()[4] for line in lines][1:] == [event["request"]["path"] for event in events]
            assert process.wait(TIMEOUT) == 1


class TestFollow:
    def test_again(self, tmp_path: Path) -> None:
        """--follow goes on with another connection, says so on standard error, and repeats no header."""
        streams = ndjson(event(path="/first")), ndjson(event(path="/second"))
        with (
            fake_server(tmp_path, *streams, hold=True) as env,
            in_pipe("log", "-k", "-f", cwd=tmp_path, env=env) as log,
        ):
            log.wait_for_lines(3)
            assert log.signal(signal.SIGINT) == 0
        assert [line.split()[-2] for line in log.lines] == ["API", "/first", "/second"]
        assert log.err.splitlines() == [
            "WARNING: the server has ended the log stream; connecting again",
            f"WARNING: connected to {env['KES_SERVER']} again; events may be missing",
        ]

    def test_interrupt(self, tmp_path: Path) -> None:
        """The wait for a server that is gone can be ended, as a normal end."""
        with (
            fake_server(tmp_path, ndjson(event())) as env,
            in_pipe("log", "-k", "--follow", cwd=tmp_path, env=env) as log,
        ):
            log.wait_for(lambda log: "connecting again" in log.err)
            assert log.signal(signal.SIGINT) == 0


class TestArguments:
    def test_both(self, tmp_path: Path) -> None:
        """Only one log can be asked for."""
        assert kes("log", "--audit", "--error", cwd=tmp_path).error == "--audit and --error exclude each other"

    def test_none(self, tmp_path: Path) -> None:
        """Asking for no log prints the usage on standard error, with status 2."""
        for arguments in (["--audit=false"], ["--audit=false", "--error=false"]):
            result = kes("log", *arguments, cwd=tmp_path)
            assert (result.status, result.out) == (2, b"")
            assert "kes log" in result.err
