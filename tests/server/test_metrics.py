"""The metrics' text, read back by Prometheus' own parser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kes.server.metrics import BUCKETS, CONTENT_TYPE, Metrics, memory
from tests.server.memory import House, get, put

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
    """Each family of the contract is there under its name and with its type; no name has `_total`."""
    metrics.codes.update({200: 1, 404: 1, 500: 1})
    found = types(metrics.text())
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT
    assert not [name for name in found if name.endswith("_total")]


def test_the_parser_reads_every_family(metrics: Metrics) -> None:
    """Prometheus' parser finds the families that are written, each with a help text and samples."""
    metrics.codes.update({200: 1, 404: 1, 500: 1})
    text = metrics.text()
    parsed = families(text)
    assert set(parsed) == set(types(text))
    for family in parsed.values():
        assert family.samples
        assert family.documentation
        assert family.type == types(text)[family.name]


def test_families_without_samples_are_absent(metrics: Metrics) -> None:
    """Before the first request of a kind its family is left out: the SDK fails on one without samples."""
    assert set(CONTRACT) - set(types(metrics.text())) == BY_CODE
    metrics.codes[403] = 1
    assert set(CONTRACT) - set(types(metrics.text())) == BY_CODE - {"kes_http_request_error"}


def test_codes_are_counted_in_their_family(metrics: Metrics) -> None:
    """2xx, 4xx and 5xx are three counters with the code as label."""
    metrics.codes.update({502: 1, 200: 5, 404: 3, 400: 2, 504: 4})
    text = metrics.text()
    assert samples(text, "kes_http_request_success") == {("200",): 5}
    assert samples(text, "kes_http_request_error") == {("400",): 2, ("404",): 3}
    assert samples(text, "kes_http_request_failure") == {("502",): 1, ("504",): 4}


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
    metrics.error_events = lambda: 3
    metrics.audit_events = lambda: 4
    metrics.cache = lambda: (5, 6)
    text = metrics.text()
    assert samples(text, "kes_log_error_events") == {(): 3}
    assert samples(text, "kes_log_audit_events") == {(): 4}
    assert samples(text, "kes_cache_hits") == {(): 5}
    assert samples(text, "kes_cache_misses") == {(): 6}


def test_system_gauges(metrics: Metrics) -> None:
    """What is told of the system is plausible: none of it is zero, and no more CPUs are used than there are."""
    text = metrics.text()
    values = {name: samples(text, name)[()] for name in CONTRACT if name.startswith("kes_system_")}
    assert all(value > 0 for value in values.values())
    assert values["kes_system_num_cpu_used"] <= values["kes_system_num_cpu"]
    assert values["kes_system_up_time"] < 600


def test_memory_of_a_process(tmp_path: Path) -> None:
    """Memory is read from the kernel's status file, in bytes; where there is none, zeros."""
    status = tmp_path / "status"
    status.write_text("Name:\tkes\nVmRSS:\t   40 kB\nVmData:\t 7 kB\nVmStk:\t  132 kB\n")
    assert memory(status) == (40 * 1024, 132 * 1024)
    assert memory(tmp_path / "none") == (0, 0)


def test_the_answer() -> None:
    """/v1/metrics answers that text with Prometheus' content type."""
    house = House()
    house.make_key("k")
    (answer,) = house.ask(get("/v1/metrics"))
    assert answer.headers["content-type"] == CONTENT_TYPE.decode()
    assert samples(answer.body, "kes_http_request_success") == {("200",): 2}
