"""Counts and audits answers. Every answer of every protocol passes here exactly once. Counts handshakes, too."""

from __future__ import annotations

from bisect import bisect_left

from kes.server.http.request import Request
from kes.server.logs import AuditLog
from kes.server.metrics import BUCKETS, HandshakeFailure, Metrics


class Recorder:
    """Metrics have all requests by API, and those to the key, policy and identity routes in more detail; the audit log
    has all but those for metrics."""

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
        metrics = self._metrics
        codes = metrics.requests[resource.api]
        codes[code] = codes.get(code, 0) + 1
        if resource.counted:
            metrics.active -= 1
            metrics.buckets[bisect_left(BUCKETS, seconds)] += 1
            metrics.seconds += seconds
        if resource.audited:
            self._audit.record(request, code, seconds)

    def connection_refused(self) -> None:
        """There was no room for one more."""
        self._metrics.connections_refused += 1

    def handshake_completed(self) -> None:
        """A client was let in."""
        self._metrics.handshakes += 1

    def handshake_failed(self, why: HandshakeFailure) -> None:
        """A client was not let in, or did not want to."""
        self._metrics.handshakes_failed[why] += 1
