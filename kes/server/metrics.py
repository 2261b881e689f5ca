"""What the server counts, and its text form for Prometheus (exposition format 0.0.4).

Names and types are the contract's (section 9). `prometheus_client` would add `_total` to the counters' names, which the
SDK then would not find, so the few lines of text are written here. A family without samples is left out: the SDK fails
on one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 3.0, 5.0, 10.0)  # seconds
CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Plain numbers, changed on the reactor thread only. `gauges` are read when the text is asked for."""

    def __init__(self, started: float) -> None:
        self.active = 0
        self.codes: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.error_events: Callable[[], int] = lambda: 0
        self.audit_events: Callable[[], int] = lambda: 0
        self.cache: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._started = started  # on the monotonic clock

    def uptime(self) -> float:
        """Seconds since the server started."""
        return time.monotonic() - self._started

    def text(self) -> bytes:
        """All families, in Prometheus' text format."""
        return "".join(self._lines()).encode()

    def _lines(self) -> Iterator[str]:
        yield from _family(
            "kes_http_request_active", "gauge", "Number of active requests that are not finished, yet.", self.active
        )
        for name, low, text in (
            ("success", 200, "Number of requests that have been served successfully."),
            ("error", 400, "Number of requests that failed due to a client error. (HTTP 4xx status code)"),
            ("failure", 500, "Number of requests that failed due to a server error. (HTTP 5xx status code)"),
        ):
            codes = {code: count for code, count in sorted(self.codes.items()) if low <= code < low + 100}
            if codes:
                yield _header(f"kes_http_request_{name}", "counter", text)
                for code, count in codes.items():
                    yield f'kes_http_request_{name}{{code="{code}"}} {count}\n'
        yield _header("kes_http_response_time", "histogram", "Histogram of request response times from 10ms to 10s.")
        counts = list(accumulate(self.buckets))
        for bound, count in zip((*map(_number, BUCKETS), "+Inf"), counts, strict=True):
            yield f'kes_http_response_time_bucket{{le="{bound}"}} {count}\n'
        yield f"kes_http_response_time_sum {self.seconds!r}\nkes_http_response_time_count {counts[-1]}\n"
        hits, misses = self.cache()
        heap, stack = memory()
        for name, kind, text, value in (
            ("log_error_events", "counter", "Number of events written to the error log.", self.error_events()),
            ("log_audit_events", "counter", "Number of events written to the audit log.", self.audit_events()),
            ("cache_hits", "counter", "Number of keys that were found in the cache.", hits),
            ("cache_misses", "counter", "Number of keys that had to be read from the key store.", misses),
            ("system_up_time", "gauge", "The time the server has been up and running in seconds.", self.uptime()),
            ("system_num_cpu", "gauge", "The number of logical CPUs of the system.", os.cpu_count() or 1),
            ("system_num_cpu_used", "gauge", "The number of logical CPUs that the server may use.", usable_cpus()),
            ("system_num_threads", "gauge", "The number of threads of the server.", threading.active_count()),
            ("system_mem_heap_used", "gauge", "The bytes of memory that the server holds.", heap),
            ("system_mem_heap_objects", "gauge", "The number of memory blocks in use.", sys.getallocatedblocks()),
            ("system_mem_stack_used", "gauge", "The bytes of stack memory obtained from the system.", stack),
        ):
            yield from _family(f"kes_{name}", kind, text, value)


def usable_cpus() -> int:
    """How many CPUs the process may run on."""
    return len(os.sched_getaffinity(0))


def memory(status: Path = Path("/proc/self/status")) -> tuple[int, int]:
    """Bytes of memory that the process holds (resident), and those of its main stack; zeros where that is not told."""
    values = {"VmRSS": 0, "VmStk": 0}
    try:
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in values:
                values[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return values["VmRSS"], values["VmStk"]


def _number(value: float) -> str:
    return f"{value:g}"


def _header(name: str, kind: str, text: str) -> str:
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def _family(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield f"{_header(name, kind, text)}{name} {value!r}\n"
