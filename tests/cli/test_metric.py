"""`kes metric` as people and programs meet it, against real servers."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kes.cli.metric import Sample, mean_latency, request_rate
from kes.client.metrics import Metrics, parse_metrics
from kes.identity import APIKey
from tests.cli.live import fake_server, in_pipe, in_terminal, screen
from tests.cli.run import environment, kes, on_terminal
from tests.support import ADMIN, APP, KES, OPS, TIMEOUT, Server, start

FIELDS = [
    "kes_http_request_success", "kes_http_request_error", "kes_http_request_failure", "kes_http_request_active",
    "kes_log_audit_events", "kes_log_error_events", "kes_http_response_time", "kes_system_up_time",
    "kes_system_num_cpu", "kes_system_num_cpu_used", "kes_system_num_threads", "kes_system_mem_heap_used",
    "kes_system_mem_heap_objects", "kes_system_mem_stack_used",
]  # fmt: skip
REQUEST = "Request    OK [2xx]       Err [4xx]       Err [5xx]      Req/s        Latency"
SYSTEM = "System       UpTime            Heap           Stack       CPUs        Threads"
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
SECOND = 1_000_000_000


def variables(server: Server, key: APIKey = OPS) -> dict[str, str]:
    return {"KES_SERVER": f"127.0.0.1:{server.port}", "KES_API_KEY": str(key)}


def metrics(text: str = "") -> Metrics:
    return parse_metrics(text.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metric")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server that has had three requests that count: two successful ones, and one that was refused."""
    with start(folder) as server:
        client = server.client(ADMIN)
        for path, status in (("list/", 200), ("list/x", 200), ("describe/none", 404)):
            assert client.request("GET", f"/v1/key/{path}").status == status
        yield server


class TestPipe:
    def test_stream(self, tmp_path: Path) -> None:
        """Each sample is a compact line of JSON with all the fields in order, there at once, with what happened."""
        with (
            start(tmp_path) as server,
            in_pipe("metric", "-k", "--rate", "20ms", cwd=tmp_path, env=variables(server)) as metric,
        ):
            first = json.loads(metric.wait_for_lines(1)[0])
            client = server.client(ADMIN)
            assert client.request("GET", "/v1/key/list/").status == 200
            assert client.request("PUT", "/v1/key/create/k").status == 200
            assert client.request("PUT", "/v1/key/create/k").status == 400
            # The sample after the next has been taken after the requests.
            line = metric.wait_for_lines(len(metric.lines) + 2)[-1]
            assert metric.signal(signal.SIGINT) == 0
        last = json.loads(line)
        assert line == json.dumps(last, separators=(",", ":"))
        assert list(last) == FIELDS
        assert [first[name] for name in FIELDS[:3]] == [0, 0, 0]
        assert [last[name] for name in FIELDS[:3]] == [2, 1, 0]
        assert last["kes_http_response_time"][str(10 * SECOND)] == 3
        assert next(iter(last["kes_http_response_time"])) == "10000000"
        assert "+Inf" not in last["kes_http_response_time"]
        assert 0 < first["kes_system_up_time"] < last["kes_system_up_time"] < 3600 * SECOND
        assert metric.err == ""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal(self, server: Server, folder: Path, number: signal.Signals) -> None:
        """SIGINT and SIGTERM are the normal end, in a long pause, too."""
        with in_pipe("metric", "-k", "--rate", "1h", cwd=folder, env=variables(server)) as metric:
            metric.wait_for_lines(1)
            assert (metric.signal(number), metric.err) == (0, "")
        assert len(metric.lines) == 1

    def test_signal_before(self, tmp_path: Path) -> None:
        """They are so even while the first sample is waited for."""
        from threading import Event

        asked = Event()
        with (
            fake_server(tmp_path, b"", hold=True, asked=asked) as env,
            in_pipe("metric", "-k", cwd=tmp_path, env=env) as metric,
        ):
            asked.wait(TIMEOUT)
            assert (metric.signal(signal.SIGINT), metric.out, metric.err) == (0, "", "")

    def test_server_stops(self, tmp_path: Path) -> None:
        """The first sample that cannot be had is the end, with status 1."""
        server = start(tmp_path)
        with in_pipe("metric", "-k", "--rate", "1ms", cwd=tmp_path, env=variables(server)) as metric:
            metric.wait_for_lines(2)
            assert server.stop() == 0
            assert metric.end() == 1
        assert metric.err.startswith("Error: failed to fetch metrics: kes: connection error: ")
        assert metric.err.count("Error: ") == 1

    def test_refused(self, server: Server, folder: Path) -> None:
        """Who may not read the metrics is told so."""
        error = kes("metric", "-k", cwd=folder, env=variables(server, APP)).error
        assert error == "failed to fetch metrics: not authorized: insufficient permissions"

    def test_broken_pipe(self, server: Server, folder: Path) -> None:
        """When the reader goes, the command ends without a word, and does not wait for another sample."""
        result = subprocess.run(
            f"{KES} metric -k --rate 1h | head -1",
            shell=True,
            cwd=folder,
            env=environment(variables(server)),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert list(json.loads(result.stdout)) == FIELDS
        assert result.stderr == ""

    def test_once(self, server: Server, folder: Path) -> None:
        """--once is one line, and status 0."""
        result = kes("metric", "-k", "--once", cwd=folder, env=variables(server))
        assert (result.status, result.err) == (0, "")
        assert json.loads(result.text)["kes_http_request_success"] == 2
        assert result.text.count("\n") == 1


class TestTerminal:
    def test_table(self, server: Server, folder: Path) -> None:
        """The table has the contract's layout; a rate is not defined after one sample."""
        status, shown = on_terminal(KES, "metric", "-k", "--once", cwd=folder, env=variables(server))
        assert status == 0
        lines = [re.sub(r"\x1b\[[0-9]*m", "", line) for line in shown.split("\n")]
        assert (lines[1], lines[5]) == (REQUEST, SYSTEM)
        assert re.fullmatch(r" {18}2 {15}1 {15}0 {10}- +[0-9.]+m?s", lines[2])
        assert len(lines[2]) == 77
        assert lines[3] == "             66.67%          33.33%           0.00%"
        assert (lines[0], lines[4]) == ("", "")
        assert re.fullmatch(r" +\d+s +\d+\.\dMB +\d+\.\d[KM]B +\d+ +\d+", lines[6])
        assert [match.end() for match in re.finditer(r"\S+", lines[6])] == [19, 35, 51, 62, 77]
        assert f"\x1b[1m{REQUEST}\x1b[0m" in shown

    def test_json(self, server: Server, folder: Path) -> None:
        """--json is the form for programs on a terminal, too."""
        status, shown = on_terminal(KES, "metric", "-k", "--once", "--json", cwd=folder, env=variables(server))
        assert (status, list(json.loads(shown))) == (0, FIELDS)

    def test_undefined(self, tmp_path: Path) -> None:
        """Before the first request, shares, rate and latency are not defined."""
        with start(tmp_path) as server:
            status, shown = on_terminal(KES, "metric", "-k", "--once", cwd=tmp_path, env=variables(server))
        assert status == 0
        lines = shown.split("\n")
        assert lines[2] == "                  0               0               0          -              -"
        assert lines[3] == "                  -               -               -"

    def test_in_place(self, server: Server, folder: Path) -> None:
        """The table is drawn in place, with the cursor hidden, which is back at the end."""
        with in_terminal("metric", "-k", "--rate", "1ms", cwd=folder, env=variables(server)) as metric:
            metric.wait_for(lambda metric: metric.out.count("Request") >= 4)
            assert metric.signal(signal.SIGINT) == 0
        shown = screen(metric.out)
        assert (shown[1], shown[5]) == (REQUEST, SYSTEM)
        assert re.fullmatch(r" +2 +1 +0 +0\.00 +[0-9.]+m?s", shown[2])
        assert len(shown) == 7
        assert metric.out.startswith(HIDE)
        assert metric.out.endswith(SHOW)
        assert (metric.out.count(HIDE), metric.out.count(SHOW)) == (1, 1)

    def test_interrupt(self, server: Server, folder: Path) -> None:
        """Ctrl-C ends it with status 0; what the terminal echoes is gone, the table stays, and the cursor is back."""
        with in_terminal("metric", "-k", "--rate", "1h", cwd=folder, env=variables(server)) as metric:
            # All of it: a terminal throws away what it has not shown when Ctrl-C is pressed.
            before = metric.wait_for_lines(8)
            metric.press(b"\x03")
            assert metric.end() == 0
        assert "^C" in metric.out
        assert screen(metric.out) == screen("\r\n".join(before))
        assert metric.out.endswith(SHOW)

    def test_resize(self, server: Server, folder: Path) -> None:
        """A terminal that is too narrow for the table has a list, at once when its size changes."""
        env = variables(server)
        with in_terminal("metric", "-k", "--rate", "1h", cwd=folder, env=env, columns=76) as metric:
            metric.wait_for(lambda metric: "Threads" in metric.out)
            narrow = screen(metric.out)
            metric.resize(77)
            metric.wait_for(lambda metric: REQUEST in metric.out and metric.out.count("Threads") == 2)
            assert metric.signal(signal.SIGINT) == 0
        assert narrow[0] == "OK [2xx]            2   66.67%"
        assert [line.split("  ")[0] for line in narrow[3:5]] == ["Req/s", "Latency"]
        assert screen(metric.out)[1] == REQUEST

    def test_low(self, server: Server, folder: Path) -> None:
        """Of a terminal with few lines no more is used than it has, so that nothing scrolls away."""
        env = variables(server)
        with in_terminal("metric", "-k", "--rate", "1ms", cwd=folder, env=env, rows=5) as metric:
            metric.wait_for(lambda metric: metric.out.count("Request") >= 3)
            metric.signal(signal.SIGTERM)
        assert "\x1b[4A" in metric.out
        assert len(screen(metric.out)) == 4

    def test_server_stops(self, tmp_path: Path) -> None:
        """A sample that cannot be had is an error below the last table, and tried again; SIGINT still ends it."""
        server = start(tmp_path)
        with in_terminal("metric", "-k", "--rate", "1ms", cwd=tmp_path, env=variables(server)) as metric:
            metric.wait_for(lambda metric: "Threads" in metric.out)
            assert server.stop() == 0
            metric.wait_for(lambda metric: metric.out.count("Connection refused") >= 2)
            assert metric.signal(signal.SIGINT) == 0
        shown = screen(metric.out)
        assert shown[1] == REQUEST
        assert re.search(r"\d+s +\d+\.\dMB", shown[6])
        assert shown[8:] == [
            f"Error: failed to fetch metrics: kes: connection error: 127.0.0.1:{server.port}: Connection refused"
        ]
        assert metric.out.endswith(SHOW)

    def test_refused(self, server: Server, folder: Path) -> None:
        """Who may not read the metrics is told so at once, and sees no numbers."""
        env = variables(server, APP)
        with in_terminal("metric", "-k", "--rate", "1h", cwd=folder, env=env, columns=80) as metric:
            metric.wait_for(lambda metric: "identities" in metric.out)
            assert metric.signal(signal.SIGINT) == 0
        shown = screen(metric.out)
        assert shown[2].split() == ["-"] * 5
        assert shown[8] == "Error: failed to fetch metrics: not authorized: insufficient permissions"
        assert " ".join(shown[9:]).startswith("Hint: the identity ")
        assert max(map(len, shown)) < 80

    @pytest.mark.parametrize(("color", "term"), [("never", "xterm"), ("auto", "dumb")])
    def test_without_sequences(self, server: Server, folder: Path, color: str, term: str) -> None:
        """With --color never or TERM=dumb there is no escape sequence: the tables come one below the other."""
        env = {**variables(server), "TERM": term}
        with in_terminal("metric", "-k", "--rate", "1ms", "--color", color, cwd=folder, env=env) as metric:
            metric.wait_for(lambda metric: metric.out.count("Threads") >= 2)
            metric.signal(signal.SIGINT)
        assert "\x1b" not in metric.out
        assert metric.lines[:2] == ["", REQUEST]
        assert metric.lines[8:10] == ["", REQUEST]


class TestValues:
    def test_rate(self) -> None:
        """Requests per second are those of the real time between two samples, whatever was asked for."""
        before = Sample(metrics("kes_http_request_success 10\nkes_http_request_error 5\n"), 100.0)
        last = Sample(metrics("kes_http_request_success 26\nkes_http_request_failure 1\n"), 108.0)
        assert request_rate(last, before) == "1.50"

    def test_rate_undefined(self) -> None:
        """Without a sample before, and after a restart of the server, there is no rate."""
        ten = Sample(metrics("kes_http_request_success 10\n"), 1.0)
        one = Sample(metrics("kes_http_request_success 1\n"), 2.0)
        assert request_rate(ten, None) == "-"
        assert request_rate(one, ten) == "-"

    @pytest.mark.parametrize(
        ("buckets", "text"),
        [
            ({}, "-"),
            ({0.01: 0, 10.0: 0}, "-"),
            ({0.01: 1, 10.0: 1}, "10ms"),
            ({0.01: 3, 0.05: 4, 10.0: 4}, "20ms"),
            ({0.01: 0, 1.5: 2, 10.0: 2}, "1.5s"),
            ({0.01: 2, 0.05: 3, 10.0: 3}, "23ms"),
        ],
    )
    def test_latency(self, buckets: dict[float, int], text: str) -> None:
        """The latency is the mean of the buckets' bounds, by what is in each, rounded to milliseconds."""
        assert mean_latency(buckets) == text


class TestArguments:
    @pytest.mark.parametrize(("rate", "reason"), [("0", "it has to be above 0"), ("-1s", "it has to be above 0")])
    def test_rate(self, tmp_path: Path, rate: str, reason: str) -> None:
        """A rate has to be above 0."""
        error = kes("metric", f"--rate={rate}", cwd=tmp_path).error
        assert error == f'invalid argument "{rate}" for "--rate" flag: {reason}. See \'kes metric --help\''

    @pytest.mark.parametrize("rate", ["5", "x", ""])
    def test_no_duration(self, tmp_path: Path, rate: str) -> None:
        """A rate is a duration with a unit."""
        error = kes("metric", "--rate", rate, cwd=tmp_path).error
        assert error.startswith(f'invalid argument "{rate}" for "--rate" flag: not a duration')
