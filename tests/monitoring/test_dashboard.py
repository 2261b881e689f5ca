"""The Grafana dashboard. Grafana itself is not here: its own types read the file, and a running Prometheus answers each
query of each panel with what a real load has left behind."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from kes.identity import APIKey
from kes.server.threads import MAX_THREADS
from tests.monitoring.prometheus import ROOT, Prometheus, Scraped, start_scraped
from tests.openbao.server import OpenBao
from tests.support import ADMIN, APP, OPS, STRANGER, TIMEOUT, Client, client_context, write_config

TEXT = (ROOT / "etc" / "grafana" / "dashboard.json").read_text()
DASHBOARD = json.loads(TEXT)
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
WIDTH = 24  # columns of Grafana's grid

# What stays 0 in the load below, as it is a matter of thousands of connections or megabytes of events.
ZERO = {"Connections refused", "Log events lost"}


def targets() -> Iterator[Any]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(panel, target, id=f"{panel['id']}{target['refId']} {panel['title']}")


# The file


def test_grafanas_types_know_it_all() -> None:
    """Read by the types that Grafana's schema gives, and written again, nothing of it is lost."""
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(json.loads(TEXT)), cls=JSONEncoder))

    def check(ours: Any, theirs: Any, path: str) -> None:
        if isinstance(ours, dict):
            for name, value in ours.items():
                assert name in theirs, f"{path}.{name} is not known"
                check(value, theirs[name], f"{path}.{name}")
        elif isinstance(ours, list):
            assert len(ours) == len(theirs), path
            for at, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                check(one, other, f"{path}[{at}]")
        else:
            assert ours == theirs, path

    # Only what Grafana writes and reads with an export is not of the dashboard itself.
    check({name: value for name, value in DASHBOARD.items() if name != "__requires"}, again, "dashboard")


def test_what_grafana_needs() -> None:
    """Panels have ids of their own and fill the grid without overlaps; what Grafana asks of a dashboard is set."""
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 39  # of Grafana 10.4; later ones migrate it
    assert "id" not in DASHBOARD  # would be another dashboard's
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= WIDTH
        cells = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len(taken) == WIDTH * (1 + max(y for _, y in taken)), "the grid has holes"
    required = {item["id"] for item in DASHBOARD["__requires"] if item["type"] == "panel"}
    assert required == {panel["type"] for panel in PANELS}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_explain_themselves(panel: dict[str, Any]) -> None:
    """Every panel has a title of its own, a description, a unit, thresholds, and names for what it shows."""
    assert sum(other["title"] == panel["title"] for other in PANELS) == 1
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert panel["type"] in ("stat", "table") or target["legendFormat"]
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert target["expr"].count('job=~"$job",instance=~"$instance"') == target["expr"].count("{")
        labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        grouped = re.search(r"by \(([\w, ]+)\)", target["expr"])
        known = set(grouped[1].split(", ")) if grouped else {"instance", "source"}
        assert labels <= known, "a name that is always empty"


def test_variables() -> None:
    """The data source, the job and the instance can be chosen; the latter two of what a server tells of itself."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        assert variables[name]["query"]["query"].startswith("label_values(kes_build_info")
        assert variables[name]["allValue"] == ".*"


def test_panels_that_the_guide_names() -> None:
    """Where docs/monitoring.md says what to do about an alert, it names panels that there are."""
    section = (ROOT / "docs" / "monitoring.md").read_text().partition("## Alerts")[2]
    named = set(re.findall(r"\*([A-Z][\w ]+)\*", section)) - {"Targets"}  # which is Prometheus' own
    assert named
    assert all(any(panel["title"].startswith(name) for panel in PANELS) for name in named), named


# Its queries


class Load:
    """Clients of all kinds, until they are told to stop. What they are answered is no matter."""

    def __init__(self, scraped: Scraped) -> None:
        self._port = scraped.server.port
        self._folder = scraped.server.folder
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        for work in (self._use_keys, self._manage, self._be_refused, self._be_denied, self._dawdle):
            self._start(work, 1)

    def crowd(self, size: int) -> None:
        """So many clients more, each of whose requests needs the key store."""
        for number in range(size):
            self._start(self._ask_for_new_keys, number)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[[int], None], number: int) -> None:
        def run() -> None:
            at = number * 10_000
            while not self._over.wait(0.05):
                at += 1
                with suppress(OSError):
                    work(at)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    @contextmanager
    def _client(self, key: APIKey) -> Iterator[Client]:
        client = Client(self._port, client_context(self._folder, key))
        try:
            yield client
        finally:
            client.close()

    def _use_keys(self, number: int) -> None:
        with self._client(APP) as client:
            client.request("PUT", f"/v1/key/create/my-app-{number}")
            made = client.request("PUT", f"/v1/key/generate/my-app-{number}")
            if made.status == 200:
                for _ in range(5):
                    client.request("PUT", f"/v1/key/decrypt/my-app-{number}", {"ciphertext": made.json["ciphertext"]})

    def _manage(self, number: int) -> None:
        with self._client(ADMIN) as client:
            client.request("PUT", f"/v1/key/create/temporary-{number}")
            client.request("DELETE", f"/v1/key/delete/temporary-{number}")
            for path in ("/v1/key/list/", "/v1/policy/list/", "/v1/ready", "/v1/status", "/version", "/nowhere"):
                client.request("GET", path)

    def _ask_for_new_keys(self, number: int) -> None:
        with self._client(ADMIN) as client:
            client.request("PUT", f"/v1/key/generate/none-{number}")

    def _be_denied(self, number: int) -> None:
        with self._client(OPS) as client:
            client.request("PUT", "/v1/key/create/ops")

    def _be_refused(self, number: int) -> None:
        with self._client(STRANGER) as client:
            client.request("GET", "/version")

    def _dawdle(self, number: int) -> None:
        """Be in the handshake for a while, then end it with what is no TLS."""
        with socket.create_connection(("127.0.0.1", self._port), TIMEOUT) as plain:
            self._over.wait(1)
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.recv(100)


class Watched:
    """A Prometheus, and the time in which it has seen all there is."""

    def __init__(self, prometheus: Prometheus, begun: float, ended: float) -> None:
        self._prometheus = prometheus
        self._begun = begun
        self._ended = ended

    def ask(self, target: dict[str, Any]) -> list[list[float]]:
        """The values of each series that a panel would show."""
        expression = target["expr"]
        for name, value in (("$__rate_interval", "3s"), ("$job", "kes"), ("$instance", ".*")):
            expression = expression.replace(name, value)
        assert "$" not in expression
        # The time that Grafana shows; at instants, its end.
        if target.get("instant"):
            found = self._prometheus.get("query", query=expression, time=str(self._ended))["result"]
            return [[float(series["value"][1])] for series in found]
        found = self._prometheus.get(
            "query_range", query=expression, start=str(self._begun), end=str(self._ended), step="0.5"
        )["result"]
        return [[float(value) for _, value in series["values"]] for series in found]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All has happened that panels show: requests of all kinds, refused handshakes, a log that is read, a key store
    that is slow and then gone, a reload that fails and one that does not."""
    folder = tmp_path_factory.mktemp("dashboard")
    with OpenBao(tmp_path_factory.mktemp("openbao")) as bao:
        engine = bao.kv("v2")
        role = bao.app_role(bao.key_policy("v2", engine))
        vault = {
            "endpoint": bao.endpoint,
            "engine": engine,
            "version": "v2",
            "approle": {"engine": role.engine, "id": role.id, "secret": role.secret},
            "tls": {"ca": str(bao.ca)},
        }
        api = {f"/v1/key/{route}/": {"timeout": "2s"} for route in ("create", "delete", "generate", "list")}
        scraped = start_scraped(folder, log={"audit": "on"}, keystore={"vault": vault}, api=api)
        with scraped.server, scraped.prometheus:
            begun = time.time()
            log = scraped.server.client()
            log.connection.request("GET", "/v1/log/audit")
            stream = log.connection.getresponse()
            load = Load(scraped)
            try:
                go_through_it_all(scraped, bao, load)
            finally:
                load.stop()
            yield Watched(scraped.prometheus, begun, time.time())
            stream.close()


def go_through_it_all(scraped: Scraped, bao: OpenBao, load: Load) -> None:
    server, prometheus = scraped.server, scraped.prometheus

    def until(expression: str, value: float | None = None) -> None:
        """Until it has this value; without one, any but 0."""
        prometheus.until(
            lambda: prometheus.value(expression) == value if value is not None else prometheus.value(expression)
        )

    until("sum(rate(kes_http_requests_total[3s]))")
    with bao.paused():
        load.crowd(MAX_THREADS + 8)
        until("kes_threads_waiting_calls")
    bao.kill()
    until("kes_keystore_up", 0)
    until('sum(rate(kes_http_requests_total{code=~"5.."}[3s]))')
    bao.restart()
    until("kes_keystore_up", 1)
    (server.folder / "config.yml").write_text("nonsense: true\n")
    server.process.send_signal(signal.SIGHUP)
    until('kes_last_reload_successful{source="config"}', 0)
    write_config(server.folder, **scraped.sections)
    server.reload()
    until('sum(increase(kes_reloads_total{outcome="success"}[3s]))')


@pytest.mark.parametrize(("panel", "target"), list(targets()))
def test_every_query_finds_something(watched: Watched, panel: dict[str, Any], target: dict[str, Any]) -> None:
    """A query of a panel finds series, each with values, and they are not all zero where something has happened."""
    found = watched.ask(target)
    assert found
    numbers = [[value for value in series if math.isfinite(value)] for series in found]
    assert all(numbers), "a series without a number"
    assert any(map(any, numbers)) == (panel["title"] not in ZERO)
