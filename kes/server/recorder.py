"""Counts and audits answers. Every answer of every protocol passes here exactly once."""

from __future__ import annotations

from bisect import bisect_left

from kes.server.http.request import Request
from kes.server.logs import AuditLog
from kes.server.metrics import BUCKETS, Metrics


class Recorder:
    """Metrics count requests to the key, policy and identity routes; the audit log has all but those for metrics."""

    def __init__(self, metrics: Metrics, audit: AuditLog) -> None:
        self._metrics = metrics
        self._audit = audit

    def began(self, request: Request) -> None:
        """A request is complete and about to be handled."""
        if request.resource.counted:
            self._metrics.active += 1

    def answered(self, request: Request, code: int, seconds: float) -> None:
        """The head of its answer goes out, `seconds` after the request's own head was read."""
        resource = request.resource
        if resource.counted:
            metrics = self._metrics
            metrics.active -= 1
            metrics.codes[code] = metrics.codes.get(code, 0) + 1
            metrics.buckets[bisect_left(BUCKETS, seconds)] += 1
            metrics.seconds += seconds
        if resource.audited:
            self._audit.record(request, code, seconds)
