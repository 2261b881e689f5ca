"""The server's metrics (contract section 9), read from Prometheus text. What is not known is passed over."""

from __future__ import annotations

import re
from collections import defaultdict
from math import isfinite

import msgspec

from kes.client.errors import InvalidResponse

_SAMPLE = re.compile(r'([A-Za-z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?[ \t]*')
_BOUND = re.compile(r'(?:^|,)\s*le="([^"]*)"')


class Metrics(msgspec.Struct, frozen=True):
    """What a server counts, since its start. Counters are summed over their labels."""

    requests_ok: int
    requests_err: int  # 4xx
    requests_fail: int  # 5xx
    requests_active: int
    audit_events: int
    error_events: int
    latency: dict[float, int]  # how many requests took up to so many seconds; without the last, infinite bound
    uptime: float  # seconds
    num_cpu: int
    num_cpu_used: int
    num_threads: int
    mem_heap_used: int  # bytes
    mem_heap_objects: int
    mem_stack_used: int  # bytes


def parse_metrics(body: bytes) -> Metrics:
    """Raises InvalidResponse."""
    values: dict[str, float] = defaultdict(float)
    latency: dict[float, int] = defaultdict(int)
    try:
        for line in body.decode("utf-8").splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            sample = _SAMPLE.fullmatch(line)
            if sample is None:
                raise ValueError("no sample")
            name, labels, value = sample[1], sample[2] or "", float(sample[3])
            if name.startswith("kes_") and not isfinite(value):
                raise ValueError("not finite")
            bound = _BOUND.search(labels) if name == "kes_http_response_time_bucket" else None
            if bound is None:
                values[name] += value
            elif bound[1] != "+Inf":
                latency[float(bound[1])] += int(value)
        if not all(map(isfinite, latency)):
            raise ValueError("not finite")
        return Metrics(
            requests_ok=int(values["kes_http_request_success"]),
            requests_err=int(values["kes_http_request_error"]),
            requests_fail=int(values["kes_http_request_failure"]),
            requests_active=int(values["kes_http_request_active"]),
            audit_events=int(values["kes_log_audit_events"]),
            error_events=int(values["kes_log_error_events"]),
            latency=dict(sorted(latency.items())),
            uptime=values["kes_system_up_time"],
            num_cpu=int(values["kes_system_num_cpu"]),
            num_cpu_used=int(values["kes_system_num_cpu_used"]),
            num_threads=int(values["kes_system_num_threads"]),
            mem_heap_used=int(values["kes_system_mem_heap_used"]),
            mem_heap_objects=int(values["kes_system_mem_heap_objects"]),
            mem_stack_used=int(values["kes_system_mem_stack_used"]),
        )
    except (ValueError, OverflowError):
        raise InvalidResponse("the server's metrics are no Prometheus text") from None
