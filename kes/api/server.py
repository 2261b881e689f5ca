"""The routes about the server itself: version, readiness, status, metrics and the list of all routes."""

from __future__ import annotations

import os

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from kes import errors, keystore
from kes.api.answers import encode
from kes.api.endpoint import Endpoint
from kes.routes import ROUTES, Route
from kes.server.http.request import Request
from kes.server.metrics import CONTENT_TYPE, Metrics
from kes.server.usage import memory, usable_cpus
from kes.version import ARCH, COMMIT, OS, VERSION


class VersionAnswer(msgspec.Struct):
    version: str
    commit: str


class RouteAnswer(msgspec.Struct):
    method: str
    path: str
    max_body: int  # bytes
    timeout: int  # seconds


class StatusAnswer(msgspec.Struct, omit_defaults=True):
    version: str
    os: str
    arch: str
    uptime: int  # seconds
    num_cpu: int
    num_cpu_used: int
    mem_heap_used: int  # bytes
    mem_stack_used: int
    keystore_latency: int = 0  # milliseconds
    keystore_unreachable: bool = False
    keystore_unavailable: bool = False


class Version(Endpoint):
    def handle(self, request: Request) -> bytes:
        return encode(VersionAnswer(VERSION, COMMIT))


class API(Endpoint):
    def handle(self, request: Request) -> bytes:
        routes = request.state.routes
        return encode([RouteAnswer(r.method, r.path, r.max_body, round(routes[r.path].timeout)) for r in ROUTES])


class Ready(Endpoint):
    def handle(self, request: Request) -> Deferred[bytes]:
        def failed(failure: Failure) -> Failure:
            failure.trap(keystore.KeyStoreError)
            if failure.check(keystore.Unreachable):
                return Failure(errors.StoreUnreachable("key store is not reachable"))
            return Failure(errors.StoreFailed("key store is unavailable"))

        return request.state.keys.status().addCallbacks(lambda _: b"", failed)


class ServerEndpoint(Endpoint):
    """A route that tells what the server counts."""

    def __init__(self, route: Route, clock: IReactorTime, metrics: Metrics) -> None:
        super().__init__(route, clock)
        self._metrics = metrics


class Prometheus(ServerEndpoint):
    """The metrics; all of them for clients that say what they accept.

    The SDK says nothing, and fails on families that it does not know if they have more than one sample. Prometheus,
    curl and browsers send `Accept`.
    """

    content_type = CONTENT_TYPE

    def handle(self, request: Request) -> bytes:
        return self._metrics.text(complete=bool(request.getAllHeaders(b"accept")))


class Status(ServerEndpoint):
    """The state of the server and of its key store, which may be down: that too is a 200."""

    def handle(self, request: Request) -> Deferred[bytes]:
        return request.state.keys.status().addCallbacks(self._up, self._down)

    def _up(self, latency: float) -> bytes:
        return encode(self._status(keystore_latency=max(1, round(latency * 1000))))

    def _down(self, failure: Failure) -> bytes:
        failure.trap(keystore.KeyStoreError)
        # The SDK rejects either of the two without the other.
        return encode(self._status(keystore_unreachable=True, keystore_unavailable=True))

    def _status(
        self, *, keystore_latency: int = 0, keystore_unreachable: bool = False, keystore_unavailable: bool = False
    ) -> StatusAnswer:
        heap, stack = memory()
        return StatusAnswer(
            version=VERSION,
            os=OS,
            arch=ARCH,
            uptime=int(self._metrics.uptime()),
            num_cpu=os.cpu_count() or 1,
            num_cpu_used=usable_cpus(),
            mem_heap_used=heap,
            mem_stack_used=stack,
            keystore_latency=keystore_latency,
            keystore_unreachable=keystore_unreachable,
            keystore_unavailable=keystore_unavailable,
        )
