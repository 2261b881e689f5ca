"""The metrics' text, read back by Prometheus' own parser, and what a running server has in it."""

from __future__ import annotations

import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from kes.keystore.measured import OUTCOMES
from kes.routes import ROUTES
from kes.server.metrics import BUCKETS, CONTENT_TYPE, NO_ROUTE, HandshakeFailure, Metrics, Readings
from tests.server.memory import House, get, put
from tests.support import ADMIN, APP, STRANGER, Server, make_config, require_tool, start, write_config

# Contract section 9.
CONTRACT = {
    "kes_http_request_success": "counter",
    "kes_http_request_error": "counter",
    "kes_http_request_failure": "counter",
    "kes_http_request_active": "gauge",
    "kes_http_response_time": "histogram",
    "kes_log_error_events": "counter",
    "kes_log_audit_events": "counter",
    "kes_system_up_time": "gauge",
    "kes_system_num_cpu": "gauge",
    "kes_system_num_cpu_used": "gauge",
    "kes_system_num_threads": "gauge",
    "kes_system_mem_heap_used": "gauge",
    "kes_system_mem_heap_objects": "gauge",
    "kes_system_mem_stack_used": "gauge",
}
BY_CODE = {"kes_http_request_success", "kes_http_request_error", "kes_http_request_failure"}
OF_EACH = {200: 1, 404: 1, 500: 1}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(time.monotonic())


def families(text: bytes) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def samples(text: bytes, family: str) -> dict[tuple[str, ...], float]:
    """The values of a counter or gauge by their labels."""
    return {tuple(s.labels.values()): s.value for s in families(text)[family].samples}


def types(text: bytes) -> dict[str, str]:
    """Each family's type as it is written; the parser reads some names in the newer format's way."""
    lines = (line.split() for line in text.decode().splitlines())
    return {words[2]: words[3] for words in lines if words[:2] == ["#", "TYPE"]}


def test_names_and_types(metrics: Metrics) -> None:
    """Each family of the contract is there under its name and with its type."""
    metrics.requests["/v1/key/generate/"].update(OF_EACH)
    found = types(metrics.text())
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT


def test_the_parser_reads_every_family(metrics: Metrics) -> None:
    """Prometheus' parser finds the families that are written, each once, with a help text and samples."""
    metrics.requests["/v1/key/generate/"].update(OF_EACH)
    metrics.read = lambda: Readings(connections={"h2": 1}, certificate_expiry=1e9)
    text = metrics.text()
    names = [line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))
    parsed = families(text)
    # It drops the suffix, which other parsers keep.
    assert set(parsed) == {re.sub("_total$", "", name) for name in names}
    for family in parsed.values():
        assert family.samples
        assert family.documentation


def test_families_without_samples_are_absent(metrics: Metrics) -> None:
    """Before the first request of a kind its family is left out: the SDK fails on one without samples."""
    assert set(CONTRACT) - set(types(metrics.text())) == BY_CODE
    metrics.requests["/v1/key/generate/"][403] = 1
    assert set(CONTRACT) - set(types(metrics.text())) == BY_CODE - {"kes_http_request_error"}


def test_codes_are_counted_in_their_family(metrics: Metrics) -> None:
    """2xx, 4xx and 5xx are three counters with the code as label, of the key, policy and identity routes together."""
    metrics.requests["/v1/key/generate/"].update({502: 1, 200: 5, 404: 2, 400: 2})
    metrics.requests["/v1/policy/read/"].update({404: 1, 504: 4})
    metrics.requests["/v1/status"].update({200: 100, 504: 100})
    metrics.requests[NO_ROUTE].update({404: 100})
    text = metrics.text()
    assert samples(text, "kes_http_request_success") == {("200",): 5}
    assert samples(text, "kes_http_request_error") == {("400",): 2, ("404",): 3}
    assert samples(text, "kes_http_request_failure") == {("502",): 1, ("504",): 4}


def test_all_requests_by_api(metrics: Metrics) -> None:
    """All requests are counted by route and code."""
    metrics.requests["/v1/key/generate/"].update({200: 5, 404: 2})
    metrics.requests["/v1/status"].update({200: 3})
    metrics.requests[NO_ROUTE].update({404: 1})
    assert samples(metrics.text(), "kes_http_requests") == {
        ("/v1/key/generate/", "200"): 5,
        ("/v1/key/generate/", "404"): 2,
        ("/v1/status", "200"): 3,
        (NO_ROUTE, "404"): 1,
    }


def test_buckets_are_cumulative(metrics: Metrics) -> None:
    """Each bucket of the histogram counts the times up to its bound, the last one all."""
    metrics.buckets = [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4]
    metrics.seconds = 61.5
    found = families(metrics.text())["kes_http_response_time"].samples
    buckets = {s.labels["le"]: s.value for s in found if s.name.endswith("_bucket")}
    bounds = ["0.01", "0.05", "0.1", "0.25", "0.5", "1", "1.5", "3", "5", "10"]
    assert list(buckets) == [*bounds, "+Inf"]
    assert list(buckets.values()) == [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 7]
    assert {s.name[-5:]: s.value for s in found if not s.name.endswith("_bucket")} == {"e_sum": 61.5, "count": 7}


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.01, 0), (0.0101, 1), (10.0, 9), (10.1, 10)])
def test_a_time_falls_into_its_bucket(seconds: float, bucket: int) -> None:
    """A bucket's bound belongs to it."""
    house = House()
    connection = house.connect()
    connection.send(put("/v1/key/create/k", b"x")[:-1])
    request = connection.wrappedProtocol._request
    assert request is not None
    house.site._recorder.began(request)
    house.site._recorder.answered(request, 200, seconds)
    assert [i for i, count in enumerate(house.metrics.buckets) if count] == [bucket]
    assert len(house.metrics.buckets) == len(BUCKETS) + 1
    connection.drop()


def test_active_requests() -> None:
    """A request is active while its answer is under way."""
    house = House()
    house.threads.hold()
    connection = house.connect()
    connection.send(put("/v1/key/create/k"))
    assert samples(house.metrics.text(), "kes_http_request_active") == {(): 1}
    house.threads.work()
    assert samples(house.metrics.text(), "kes_http_request_active") == {(): 0}
    connection.drop()


def test_gauges_are_read_when_asked(metrics: Metrics) -> None:
    """What other parts count is asked for with each text."""
    metrics.read = lambda: Readings(
        error_events=3,
        audit_events=4,
        subscribers={"error": 1, "audit": 2},
        subscribers_dropped={"error": 5, "audit": 6},
        lines_dropped={"error": 7, "audit": 8},
        cache_hits=9,
        cache_misses=10,
        cached_keys=11,
        keystore_up=False,
        threads_busy=12,
        calls_waiting=13,
        connections={"http/1.1": 14, "h2": 15},
        handshakes=16,
        certificate_expiry=2e9,
    )
    text = metrics.text()
    assert samples(text, "kes_log_error_events") == {(): 3}
    assert samples(text, "kes_log_audit_events") == {(): 4}
    assert samples(text, "kes_log_subscribers") == {("error",): 1, ("audit",): 2}
    assert samples(text, "kes_log_subscribers_dropped") == {("error",): 5, ("audit",): 6}
    assert samples(text, "kes_log_lines_dropped") == {("error",): 7, ("audit",): 8}
    assert samples(text, "kes_cache_hits") == {(): 9}
    assert samples(text, "kes_cache_misses") == {(): 10}
    assert samples(text, "kes_cache_keys") == {(): 11}
    assert samples(text, "kes_keystore_up") == {(): 0}
    assert samples(text, "kes_threads_busy") == {(): 12}
    assert samples(text, "kes_threads_waiting_calls") == {(): 13}
    assert samples(text, "kes_connections") == {("http/1.1",): 14, ("h2",): 15}
    assert samples(text, "kes_tls_handshakes_active") == {(): 16}
    assert samples(text, "kes_tls_certificate_expiry_timestamp_seconds") == {(): 2e9}


def test_key_store_calls(metrics: Metrics) -> None:
    """Key store calls are there by operation and outcome, before the first of a kind as zero, with their times."""
    with metrics.calls.counting("list"):
        pass
    text = metrics.text()
    counts = samples(text, "kes_keystore_calls")
    assert set(counts) == {(name, outcome) for name, outcomes in OUTCOMES.items() for outcome in outcomes}
    assert {labels: count for labels, count in counts.items() if count} == {("list", "ok"): 1}
    durations = families(text)["kes_keystore_call_duration_seconds"].samples
    assert {s.labels["operation"]: s.value for s in durations if s.name.endswith("_count")} == {
        name: float(name == "list") for name in OUTCOMES
    }


def test_system_gauges(metrics: Metrics) -> None:
    """What is told of the system is plausible: none of it is zero, and no more CPUs are used than there are."""
    text = metrics.text()
    names = [*(name for name in CONTRACT if name.startswith("kes_system_")), *PROCESS]
    values = {name: samples(text, re.sub("_total$", "", name))[()] for name in names}
    assert all(value > 0 for value in values.values())
    assert values["kes_system_num_cpu_used"] <= values["kes_system_num_cpu"]
    assert values["kes_system_up_time"] < 600
    assert values["process_open_fds"] < values["process_max_fds"]
    assert values["process_start_time_seconds"] < time.time()


PROCESS = (
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
)


def test_the_answer() -> None:
    """/v1/metrics answers that text with Prometheus' content type."""
    house = House()
    house.make_key("k")
    (answer,) = house.ask(get("/v1/metrics", "Accept: text/plain"))
    assert answer.headers["content-type"] == CONTENT_TYPE.decode()
    assert samples(answer.body, "kes_http_request_success") == {("200",): 2}
    assert samples(answer.body, "kes_http_requests")["/v1/key/create/", "200"] == 1


def test_the_answer_for_the_sdk() -> None:
    """A client that does not say what it accepts gets the contract's families alone: the SDK can read no others."""
    house = House()
    house.make_key("k")
    (answer,) = house.ask(get("/v1/metrics"))
    assert set(types(answer.body)) == set(CONTRACT) - {"kes_http_request_error", "kes_http_request_failure"}


# A running server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("metrics")
    with start(folder, **settings(folder)) as server:
        yield server


def settings(folder: Path) -> dict[str, Any]:
    """Clients are verified, and nothing is audited."""
    tls = make_config(folder)["tls"]
    return {"tls": {"key": tls["key"], "cert": tls["cert"]}, "log": {"audit": "off"}}


def scrape(server: Server) -> bytes:
    client = server.client()
    answer = client.request("GET", "/v1/metrics", headers={"Accept": "*/*"})
    client.close()
    assert answer.status == 200
    return answer.body


def test_promtool_finds_nothing(server: Server) -> None:
    """Prometheus' own linter finds nothing but the contract's names, which are as they are."""
    promtool = require_tool("promtool")
    client = server.client()
    for path in ("/v1/key/list/", "/nowhere"):
        client.request("GET", path)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scrape(server), capture_output=True, timeout=60, check=False
    )
    found = set(checked.stderr.decode().splitlines())
    suffix = 'counter metrics should have "_total" suffix'
    old = [name for name, kind in CONTRACT.items() if kind == "counter"]
    # These two are as old as the contract's, and some dashboards have them.
    assert found - {f"{name} {suffix}" for name in (*old, "kes_cache_hits", "kes_cache_misses")} == set()


def test_labels_are_bounded(server: Server) -> None:
    """Whatever clients ask for and whoever they are, labels have the values that were known beforehand, no others."""
    client = server.client(APP)
    names = [f"/v1/key/generate/my-app-{number}" for number in range(5)]
    for path in (*names, "/v1/key/generate/denied", "/nowhere/secret", "/v1/status/", "/v1/policy/read/my-app"):
        client.request("PUT", path)
    with pytest.raises(ssl.SSLError):
        server.client(STRANGER).request("GET", "/version")
    known = {
        "api": {*(route.path for route in ROUTES), NO_ROUTE},
        "code": {"200", "400", "401", "403", "404", "405", "409", "413", "500", "502", "504"},
        "operation": set(OUTCOMES),
        "outcome": {"ok", "exists", "not-found", "error", "unreachable", "success", "failure"},
        "reason": set(HandshakeFailure),
        "protocol": {"http/1.1", "h2"},
        "log": {"error", "audit"},
        "source": {"config", "tls-files"},
    }
    for family in families(scrape(server)).values():
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label not in ("le", "version", "commit"):
                    assert value in known[label], sample


def test_what_a_server_counts(tmp_path: Path) -> None:
    """Requests, key store calls, handshakes, connections and subscribers are counted where they happen; a reload
    resets none."""
    with start(tmp_path, **settings(tmp_path)) as server:
        client, log = server.client(), server.client()
        for method, path in (
            ("PUT", "/v1/key/create/k"),
            ("PUT", "/v1/key/create/k"),
            ("PUT", "/v1/key/generate/k"),
            ("PUT", "/v1/key/generate/k"),
            ("PUT", "/v1/key/generate/none"),
            ("GET", "/v1/key/list/"),
            ("GET", "/nowhere"),
        ):
            client.request(method, path)
        log.connection.request("GET", "/v1/log/audit")
        stream = log.connection.getresponse()
        with pytest.raises(ssl.SSLError):
            server.client(STRANGER).request("GET", "/version")
        with pytest.raises(ssl.SSLError):  # does not trust the server
            server.client(ADMIN, tmp_path / f"client-{ADMIN.identity}.pem").request("GET", "/version")

        def check(text: bytes) -> None:
            requests = samples(text, "kes_http_requests")
            assert requests["/v1/key/create/", "200"] == requests["/v1/key/create/", "400"] == 1
            assert requests["/v1/key/generate/", "200"] == 2
            assert requests["none", "404"] == requests["/v1/log/audit", "200"] == 1
            calls = samples(text, "kes_keystore_calls")
            assert calls["create", "ok"] == calls["create", "exists"] == 1
            assert calls["get", "ok"] == calls["get", "not-found"] == calls["list", "ok"] == 1
            assert samples(text, "kes_cache_hits") == {(): 1}
            assert samples(text, "kes_cache_misses") == {(): 2}
            assert samples(text, "kes_keystore_up") == {(): 1}
            failed = {labels: count for labels, count in samples(text, "kes_tls_handshakes_failed").items() if count}
            assert failed == {("certificate",): 1, ("alert",): 1}
            assert samples(text, "kes_log_subscribers") == {("error",): 0, ("audit",): 1}

        before = scrape(server)
        check(before)
        assert samples(before, "kes_cache_keys") == {(): 1}
        assert samples(before, "kes_tls_handshakes") == {(): 3}
        assert samples(before, "kes_connections") == {("http/1.1",): 3, ("h2",): 0}
        certificate = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
        assert samples(before, "kes_tls_certificate_expiry_timestamp_seconds") == {
            (): certificate.not_valid_after_utc.timestamp()
        }
        write_config(tmp_path, **settings(tmp_path), cache={"expiry": {"any": "1m"}})
        server.reload()
        check(after := scrape(server))
        reloads = {(source, outcome): 0.0 for source in ("config", "tls-files") for outcome in ("success", "failure")}
        assert samples(before, "kes_reloads") == reloads
        assert samples(after, "kes_reloads") == reloads | {("config", "success"): 1, ("tls-files", "success"): 1}
        assert samples(before, "process_start_time_seconds") == samples(after, "process_start_time_seconds")
        stream.close()
