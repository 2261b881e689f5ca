"""A real Prometheus, on the config of etc/prometheus, which scrapes a server of the test's."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support import KES, TIMEOUT, Server, make_config, require_tool, run, start

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "etc" / "prometheus" / "prometheus.yml"
ALERTS = ROOT / "etc" / "prometheus" / "alerts.yml"
INTERVAL = "500ms"  # between scrapes, and between evaluations of the rules
PAUSE = 0.1  # seconds between looks at what Prometheus has


class Prometheus:
    """A process. As a context manager it is stopped at the end."""

    def __init__(self, folder: Path, target: str, *, ca: Path, cert: Path, key: Path) -> None:
        """The sample config, with its places replaced by those of the test, and the intervals by short ones."""
        text = CONFIG.read_text()
        for old, new in (
            ("/etc/prometheus/kes/ca.crt", str(ca)),
            ("/etc/prometheus/kes/client.crt", str(cert)),
            ("/etc/prometheus/kes/client.key", str(key)),
            ("kes.example.com:7373", target),
            ("- alerts.yml", f"- {ALERTS}"),
            ("_interval: 15s", f"_interval: {INTERVAL}"),
        ):
            assert old in text, f"no {old!r} in {CONFIG}"
            text = text.replace(old, new)
        config = folder / "prometheus.yml"
        config.write_text(text)
        self._log = folder / "prometheus.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    require_tool("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        try:
            found = self.until(lambda: re.search(r'"Listening on" address=(\S+)', self._log.read_text()))
            self._url = f"http://{found[1]}"
            self.until(lambda: "Server is ready to receive web requests" in self._log.read_text())
        except BaseException:
            self.stop()
            raise

    def until(self, look: Callable[[], Any]) -> Any:
        """Look again and again until there is something."""
        deadline = time.monotonic() + 3 * TIMEOUT
        while not (found := look()):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "nothing was found in time"
            time.sleep(PAUSE)
        return found

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The values of an expression now, by their labels, less those that all series of the target have."""
        return {
            tuple(
                sorted((k, v) for k, v in found["metric"].items() if k not in ("__name__", "job", "instance"))
            ): float(found["value"][1])
            for found in self.get("query", query=expression)["result"]
        }

    def value(self, expression: str) -> float | None:
        """The single value of an expression now; None if it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return next(iter(found.values()), None)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT)

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


@dataclass
class Scraped:
    """A server, and the Prometheus that scrapes it. `sections` are those of the server's config."""

    server: Server
    prometheus: Prometheus
    sections: dict[str, Any]


def start_scraped(folder: Path, **sections: Any) -> Scraped:
    """A server that verifies its clients, and a Prometheus with an identity of its own and the sample's policy."""
    made = run(KES, "identity", "new", "--key", "client.key", "--cert", "client.crt", "--json", cwd=folder)
    identity = json.loads(made.stdout)["identity"]
    sample = yaml.safe_load((ROOT / "etc" / "kes" / "config.yml").read_text())
    tls = make_config(folder)["tls"]
    sections = {
        "tls": {"key": tls["key"], "cert": tls["cert"]},
        "policy": {
            **make_config(folder)["policy"],
            "monitoring": {**sample["policy"]["monitoring"], "identities": [identity]},
        },
        **sections,
    }
    server = start(folder, **sections)
    try:
        prometheus = Prometheus(
            folder,
            f"127.0.0.1:{server.port}",
            ca=folder / "server.crt",
            cert=folder / "client.crt",
            key=folder / "client.key",
        )
    except BaseException:
        server.stop(signal.SIGKILL)
        raise
    return Scraped(server, prometheus, sections)
