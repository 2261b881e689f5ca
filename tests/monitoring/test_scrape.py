"""Prometheus scrapes a server as docs/monitoring.md has it, over TLS in both directions."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.prometheus import ROOT, Prometheus, Scraped, start_scraped
from tests.support import APP, KES, STRANGER, Client, Server, client_context, make_config, start, write_config


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Scraped]:
    scraped = start_scraped(tmp_path, log={"audit": "off"})
    with scraped.server, scraped.prometheus:
        yield scraped


def test_the_target_is_up(scraped: Scraped) -> None:
    """With the policy `monitoring` of the sample config and the sample scrape config, the target is up."""
    scraped.prometheus.until(lambda: scraped.prometheus.value("up") == 1)
    (target,) = scraped.prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"] == {"job": "kes", "instance": f"127.0.0.1:{scraped.server.port}"}
    # The other path of the policy; and no more than that.
    folder = scraped.server.folder
    context = ssl.create_default_context(cafile=folder / "server.crt")
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    client = Client(scraped.server.port, context)
    answers = {path: client.request("GET", path).status for path in ("/v1/ready", "/v1/status", "/v1/key/list/")}
    client.close()
    assert answers == {"/v1/ready": 200, "/v1/status": 403, "/v1/key/list/": 403}


def test_series(scraped: Scraped) -> None:
    """What clients do is in the series, and goes on counting over a reload; a restart is seen as one."""
    server, prometheus = scraped.server, scraped.prometheus
    client = server.client()
    for name in ("one", "two"):
        assert client.request("PUT", f"/v1/key/create/{name}").status == 200
    for _ in range(3):
        assert client.request("PUT", "/v1/key/generate/one").status == 200
    assert client.request("PUT", "/v1/key/generate/none").status == 404
    generate = 'kes_http_requests_total{api="/v1/key/generate/",code="%d"}'
    prometheus.until(lambda: prometheus.value(generate % 404) == 1)
    assert prometheus.value(generate % 200) == 3
    assert prometheus.value('kes_http_requests_total{api="/v1/key/create/"}') == 2
    assert prometheus.query("kes_http_request_success") == {(("code", "200"),): 5}
    assert prometheus.query('kes_keystore_calls_total{operation="create"} > 0') == {
        (("operation", "create"), ("outcome", "ok")): 2
    }
    assert prometheus.value("kes_cache_hits") == 2
    started = prometheus.value("process_start_time_seconds")

    write_config(server.folder, **scraped.sections, cache={"expiry": {"any": "1m"}})
    server.reload()
    assert client.request("PUT", "/v1/key/generate/one").status == 200
    prometheus.until(lambda: prometheus.value(generate % 200) == 4)
    assert prometheus.value('kes_reloads_total{source="config",outcome="success"}') == 1
    assert prometheus.value("process_start_time_seconds") == started

    server.stop()
    prometheus.until(lambda: prometheus.value("up") == 0)
    port = f"127.0.0.1:{server.port}"
    command = [KES, "server", "--addr", port, "--config", str(server.folder / "config.yml")]
    with Server(command, cwd=server.folder) as again:
        assert again.client().request("PUT", "/v1/key/generate/two").status == 200
        prometheus.until(lambda: prometheus.value(generate % 200) == 1)
        restarted = prometheus.value("process_start_time_seconds")
        assert restarted > started
        assert prometheus.value("changes(process_start_time_seconds[10m])") == 1


def test_alerts_are_evaluated(scraped: Scraped) -> None:
    """The alerts are loaded with the sample config, none fails, and none fires on a healthy server."""
    prometheus = scraped.prometheus
    prometheus.until(lambda: prometheus.value("up") == 1)

    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    prometheus.until(lambda: all(rule["health"] == "ok" for rule in rules()))
    alerts = {rule["name"]: rule["state"] for rule in rules() if rule["type"] == "alerting"}
    assert len(alerts) >= 15
    # The job has no target before its first scrape.
    prometheus.until(lambda: not prometheus.query('ALERTS{alertname!="KesMissing"}'))
    assert "firing" not in alerts.values()


def test_what_prometheus_says(tmp_path: Path) -> None:
    """What goes wrong with the setting up is what the guide's table has."""
    cases = {
        "a stranger": (STRANGER, "server.crt", "remote error: tls: "),
        "no policy for metrics": (APP, "server.crt", "server returned HTTP status 403 Forbidden"),
        "another authority": (APP, f"client-{APP.identity}.pem", "certificate signed by unknown authority"),
    }
    guide = (ROOT / "docs" / "monitoring.md").read_text()
    tls = make_config(tmp_path)["tls"]
    for key in (STRANGER, APP):
        client_context(tmp_path, key)  # makes the file
    with start(tmp_path, tls={"key": tls["key"], "cert": tls["cert"]}) as server, ExitStack() as stack:
        running: list[tuple[Prometheus, str]] = []
        for name, (key, authority, error) in cases.items():
            assert f"| `{error.strip()}" in guide
            (folder := tmp_path / name).mkdir()
            pem = tmp_path / f"client-{key.identity}.pem"
            prometheus = Prometheus(folder, f"127.0.0.1:{server.port}", ca=tmp_path / authority, cert=pem, key=pem)
            running.append((stack.enter_context(prometheus), error))
        for prometheus, error in running:
            (target,) = prometheus.until(
                lambda prometheus=prometheus: [
                    found for found in prometheus.get("targets")["activeTargets"] if found["lastError"]
                ]
            )
            assert error in target["lastError"]
            assert target["health"] == "down"
