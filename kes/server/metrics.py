"""What the server counts, and its text form for Prometheus (exposition format 0.0.4).

Some names and types are the contract's (section 9), the others follow Prometheus' conventions; docs/monitoring.md has
them all. `prometheus_client` would add `_total` to the names of the contract's counters, which the SDK then would not
find, so the few lines of text are written here. A family without samples is left out: the SDK fails on one, and on one
with several that it does not know. Labels have few values, all known beforehand: no name of a key, no identity and no
address ever is one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Final

from kes.keystore.measured import BOUNDS, Calls
from kes.routes import ROUTES
from kes.server.usage import max_files, memory, open_files, started_at, usable_cpus
from kes.version import COMMIT, VERSION

BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 3.0, 5.0, 10.0)  # seconds
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
NO_ROUTE: Final = "none"  # in place of a route's path

_Samples = Iterable[tuple[str, float]]  # labels as they are written, and the value


class HandshakeFailure(StrEnum):
    """Why a TLS handshake came to nothing."""

    CERTIFICATE = "certificate"  # the client has none, or one that is not let in
    ALERT = "alert"  # the client broke off and said why, most often that it does not trust the server's certificate
    PROTOCOL = "protocol"  # no version, cipher or protocol in common, or no TLS at all
    TIMEOUT = "timeout"
    CLOSED = "closed"  # the client went without a word


class Reloads:
    """How often something was read again while the server ran. `succeeded_at` is the last time that it worked (or the
    server's start), in seconds since the epoch."""

    def __init__(self) -> None:
        self.outcomes = {"success": 0, "failure": 0}
        self.last = True
        self.succeeded_at = time.time()

    def ended(self, *, well: bool) -> None:
        """Count one more."""
        self.outcomes["success" if well else "failure"] += 1
        self.last = well
        if well:
            self.succeeded_at = time.time()


def _by_log() -> Mapping[str, int]:
    return {"error": 0, "audit": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What other parts of the server know of themselves, read when the text is asked for."""

    error_events: int = 0
    audit_events: int = 0
    subscribers: Mapping[str, int] = field(default_factory=_by_log)
    subscribers_dropped: Mapping[str, int] = field(default_factory=_by_log)
    lines_dropped: Mapping[str, int] = field(default_factory=_by_log)
    cache_hits: int = 0
    cache_misses: int = 0
    cached_keys: int = 0
    keystore_up: bool = True
    threads_busy: int = 0
    calls_waiting: int = 0
    connections: Mapping[str, int] = field(default_factory=dict)
    handshakes: int = 0
    certificate_expiry: float = 0.0  # seconds since the epoch


class Metrics:
    """Plain numbers, changed on the reactor thread only, but for `calls`, which has a lock."""

    def __init__(self, started: float) -> None:
        self.active = 0
        self.requests: dict[str, dict[int, int]] = {api: {} for api in (*(route.path for route in ROUTES), NO_ROUTE)}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.calls = Calls()
        self.handshakes = 0
        self.handshakes_failed: dict[str, int] = dict.fromkeys(HandshakeFailure, 0)
        self.connections_refused = 0
        self.reloads = {"config": Reloads(), "tls-files": Reloads()}
        self.read: Callable[[], Readings] = Readings
        self._started = started  # on the monotonic clock

    def uptime(self) -> float:
        """Seconds since the server started."""
        return time.monotonic() - self._started

    def codes(self) -> dict[int, int]:
        """How many requests got each status, of those that the contract wants counted."""
        codes: Counter[int] = Counter()
        for route in ROUTES:
            if route.counted:
                codes.update(self.requests[route.path])
        return dict(sorted(codes.items()))

    def text(self, *, complete: bool = True) -> bytes:
        """All families, in Prometheus' text format; or those that the SDK can read."""
        read = self.read()
        families: tuple[Iterator[str], ...] = (self._of_the_contract(read),)
        if complete:
            families += self._added(read)
        return "".join(line for lines in families for line in lines).encode()

    def _added(self, read: Readings) -> tuple[Iterator[str], ...]:
        return (
            self._of_requests(),
            self._of_the_cache(read),
            self._of_the_key_store(read),
            self._of_connections(read),
            self._of_logs(read),
            self._of_reloads(),
            _of_the_process(),
        )

    def _of_the_contract(self, read: Readings) -> Iterator[str]:
        yield from _family(
            "kes_http_request_active", "gauge", "Number of active requests that are not finished, yet.", self.active
        )
        codes = self.codes()
        for name, low, text in (
            ("success", 200, "Number of requests that have been served successfully."),
            ("error", 400, "Number of requests that failed due to a client error. (HTTP 4xx status code)"),
            ("failure", 500, "Number of requests that failed due to a server error. (HTTP 5xx status code)"),
        ):
            samples = [(f'code="{code}"', count) for code, count in codes.items() if low <= code < low + 100]
            yield from _family(f"kes_http_request_{name}", "counter", text, samples)
        yield from _histogram(
            "kes_http_response_time",
            "Histogram of request response times from 10ms to 10s.",
            BUCKETS,
            [("", self.buckets, self.seconds)],
        )
        heap, stack = memory()
        for name, kind, text, value in (
            ("log_error_events", "counter", "Number of events written to the error log.", read.error_events),
            ("log_audit_events", "counter", "Number of events written to the audit log.", read.audit_events),
            ("system_up_time", "gauge", "The time the server has been up and running in seconds.", self.uptime()),
            ("system_num_cpu", "gauge", "The number of logical CPUs of the system.", os.cpu_count() or 1),
            ("system_num_cpu_used", "gauge", "The number of logical CPUs that the server may use.", usable_cpus()),
            ("system_num_threads", "gauge", "The number of threads of the server.", threading.active_count()),
            ("system_mem_heap_used", "gauge", "The bytes of memory that the server holds.", heap),
            ("system_mem_heap_objects", "gauge", "The number of memory blocks in use.", sys.getallocatedblocks()),
            ("system_mem_stack_used", "gauge", "The bytes of stack memory obtained from the system.", stack),
        ):
            yield from _family(f"kes_{name}", kind, text, value)

    def _of_requests(self) -> Iterator[str]:
        yield from _family(
            "kes_http_requests_total",
            "counter",
            "Number of requests answered, by the API's path and the status code.",
            [
                (f'api="{api}",code="{code}"', count)
                for api, by_code in self.requests.items()
                for code, count in sorted(by_code.items())
            ],
        )

    def _of_the_cache(self, read: Readings) -> Iterator[str]:
        for name, kind, text, value in (
            ("hits", "counter", "Number of keys that were found in the cache.", read.cache_hits),
            ("misses", "counter", "Number of keys that had to be read from the key store.", read.cache_misses),
            ("keys", "gauge", "Number of keys in the cache.", read.cached_keys),
        ):
            yield from _family(f"kes_cache_{name}", kind, text, value)

    def _of_the_key_store(self, read: Readings) -> Iterator[str]:
        operations = self.calls.operations.items()
        yield from _family(
            "kes_keystore_up", "gauge", "Whether the key store answers: 1, or 0 during an outage.", read.keystore_up
        )
        yield from _family(
            "kes_keystore_calls_total",
            "counter",
            "Number of calls of the key store, by operation and outcome.",
            [
                (f'operation="{name}",outcome="{outcome}"', count)
                for name, operation in operations
                for outcome, count in operation.outcomes.items()
            ],
        )
        yield from _histogram(
            "kes_keystore_call_duration_seconds",
            "Histogram of the durations of key store calls.",
            BOUNDS,
            [(f'operation="{name}"', operation.buckets, operation.seconds) for name, operation in operations],
        )
        for name, text, value in (
            ("keystore_calls_active", "Number of key store calls under way.", self.calls.active),
            ("threads_busy", "Number of threads of the pool that work, for the key store mostly.", read.threads_busy),
            ("threads_waiting_calls", "Number of calls that wait for a thread of the pool.", read.calls_waiting),
        ):
            yield from _family(f"kes_{name}", "gauge", text, value)

    def _of_connections(self, read: Readings) -> Iterator[str]:
        yield from _family(
            "kes_tls_handshakes_total", "counter", "Number of TLS handshakes completed.", self.handshakes
        )
        yield from _family(
            "kes_tls_handshakes_failed_total",
            "counter",
            "Number of TLS handshakes refused by the server or given up, by reason.",
            _labelled("reason", self.handshakes_failed),
        )
        yield from _family("kes_tls_handshakes_active", "gauge", "Number of TLS handshakes under way.", read.handshakes)
        if read.certificate_expiry:
            yield from _family(
                "kes_tls_certificate_expiry_timestamp_seconds",
                "gauge",
                "When the server's certificate, or the first of its chain, expires, in seconds since the epoch.",
                read.certificate_expiry,
            )
        yield from _family(
            "kes_connections",
            "gauge",
            "Number of open connections whose TLS handshake is over, by protocol.",
            _labelled("protocol", read.connections),
        )
        yield from _family(
            "kes_connections_refused_total",
            "counter",
            "Number of connections refused because too many were open.",
            self.connections_refused,
        )

    def _of_logs(self, read: Readings) -> Iterator[str]:
        for name, kind, text, values in (
            ("subscribers", "gauge", "Number of clients that read the log's stream.", read.subscribers),
            (
                "subscribers_dropped_total",
                "counter",
                "Number of clients cut off from the log's stream because they did not keep up.",
                read.subscribers_dropped,
            ),
            (
                "lines_dropped_total",
                "counter",
                "Number of log lines lost because the console did not take them.",
                read.lines_dropped,
            ),
        ):
            yield from _family(f"kes_log_{name}", kind, text, _labelled("log", values))

    def _of_reloads(self) -> Iterator[str]:
        yield from _family(
            "kes_reloads_total",
            "counter",
            "Number of times that the configuration or the TLS files were read again, by outcome.",
            [
                (f'source="{source}",outcome="{outcome}"', count)
                for source, reloads in self.reloads.items()
                for outcome, count in reloads.outcomes.items()
            ],
        )
        yield from _family(
            "kes_last_reload_successful",
            "gauge",
            "Whether the last time worked: 1, or 0 while what was read before is in use.",
            _labelled("source", {source: reloads.last for source, reloads in self.reloads.items()}),
        )
        yield from _family(
            "kes_last_reload_success_timestamp_seconds",
            "gauge",
            "The last time that it worked, the start included, in seconds since the epoch.",
            _labelled("source", {source: reloads.succeeded_at for source, reloads in self.reloads.items()}),
        )


def _of_the_process() -> Iterator[str]:
    """Under the names that Prometheus' own libraries give them."""
    for name, kind, text, value in (
        ("cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", time.process_time()),
        ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", memory()[0]),
        ("open_fds", "gauge", "Number of open file descriptors.", open_files()),
        ("max_fds", "gauge", "Maximum number of open file descriptors.", max_files()),
        ("start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", started_at()),
    ):
        yield from _family(f"process_{name}", kind, text, value)
    build = f'version="{_escape(VERSION)}",commit="{_escape(COMMIT)}"'
    yield from _family("kes_build_info", "gauge", "Which build of the server this is; always 1.", [(build, 1)])


def _labelled(label: str, values: Mapping[str, float]) -> _Samples:
    return [(f'{label}="{name}"', value) for name, value in values.items()]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _family(name: str, kind: str, text: str, samples: float | _Samples) -> Iterator[str]:
    """A family of several samples, or of a single one without labels."""
    if isinstance(samples, int | float):
        samples = [("", samples)]
    header = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for labels, value in samples:
        yield f"{header}{_sample(name, labels, value)}"
        header = ""


def _histogram(
    name: str, text: str, bounds: Sequence[float], series: Iterable[tuple[str, Sequence[int], float]]
) -> Iterator[str]:
    """A family of histograms: labels, the counts by bucket (the last is for what is above all bounds), and the sum."""
    yield f"# HELP {name} {text}\n# TYPE {name} histogram\n"
    for labels, buckets, total in series:
        more = f"{labels}," if labels else ""
        counts = list(accumulate(buckets))
        for bound, count in zip((*(f"{bound:g}" for bound in bounds), "+Inf"), counts, strict=True):
            yield _sample(f"{name}_bucket", f'{more}le="{bound}"', count)
        yield _sample(f"{name}_sum", labels, total)
        yield _sample(f"{name}_count", labels, counts[-1])


def _sample(name: str, labels: str, value: float) -> str:
    # As a number: a truth value would be written as a word.
    return f"{name}{{{labels}}} {+value!r}\n" if labels else f"{name} {+value!r}\n"
