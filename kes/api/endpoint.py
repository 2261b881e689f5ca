"""A route's resource: the checks that all routes share, in the contract's order (README section 4), and the way from a
handler's result, synchronous or not, to the answer."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from kes.errors import APIError, InvalidProxyRequest, MethodNotAllowed, NotAllowed, NotFound, TimedOut
from kes.routes import Auth, Route
from kes.server.http.request import JSON, NOT_DONE_YET, Request
from kes.server.metrics import NO_ROUTE

_ALLOWED = {"GET": (b"GET", b"HEAD"), "PUT": (b"PUT", b"POST"), "DELETE": (b"DELETE",)}

_MISSING_TIMEOUT = 15.0  # seconds, for the body of a request to no route

log = Logger()


def authenticate(request: Request) -> APIError | None:
    """Find who sent the request (contract sections 2 and 5). A TLS proxy's requests are its client's.

    Returns what answers a request that needs an identity, if there is none: CertificateRequired, TooManyCertificates
    or InvalidProxyRequest. It is not raised, as a connection has one for all its requests, and each raising would add
    to its traceback.
    """
    peer, state = request.peer, request.state
    if peer.identity not in state.proxies:
        request.identity = peer.identity
        return peer.refusal
    request.address = _forwarded_address(request) or peer.address
    try:
        request.identity = state.forwarder.client(request.getAllHeaders(state.proxy_header))
    except InvalidProxyRequest as error:
        return error
    return None


def _forwarded_address(request: Request) -> str | None:
    """The client's IP address in a TLS proxy's header, without a port; None if there is no valid one."""
    values = request.getAllHeaders(b"x-forwarded-for")
    first = values[0].partition(b",")[0].strip(b" \t").decode("latin-1") if values else ""
    try:
        if found := _WITH_PORT.fullmatch(first):
            return str(IPv6Address(found[1]) if found[1] else IPv4Address(found[2]))
        # A scope (RFC 4007) may be any text.
        return str(ip_address(first)) if "%" not in first else None
    except ValueError:
        return None


# The forms in RFC 7239, section 6: IPv6 in brackets, with or without a port, or IPv4 with a port.
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


class Endpoint(Resource):
    """A leaf that serves one route."""

    isLeaf = True
    content_type: ClassVar[bytes] = JSON
    api = NO_ROUTE  # what metrics call it
    counted = False  # whether the contract's metrics count its requests
    audited = True

    def __init__(self, route: Route, clock: IReactorTime) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.route = route
        self.api = route.path
        self.counted = route.counted
        self.audited = route.path != "/v1/metrics"
        self._clock = clock
        self._methods = _ALLOWED[route.method]

    def locate(self, argument: str, given: bool) -> str | None:
        """The path that policies match for a request with this argument; None if the route takes none."""
        if self.route.takes_argument:
            return self.route.path + argument
        return None if given else self.route.path

    def begin(self, request: Request) -> int:
        """Check method, identity and policy; a refusal is kept for `render`.

        Returns how many bytes of the request's body are wanted at most.
        """
        route = self.route
        settings = request.state.routes[route.path]
        request.timeout = settings.timeout
        refusal = authenticate(request)
        if request.method not in self._methods:
            request.refusal = MethodNotAllowed(request.method, route.method, b", ".join(self._methods))
        elif not settings.skip_auth:
            if route.auth is Auth.POLICY:
                if refusal is None:
                    assert request.identity is not None
                    if not request.state.allows(request.identity, request.path):
                        refusal = NotAllowed()
            elif route.auth is Auth.NONE and not isinstance(refusal, InvalidProxyRequest):
                refusal = None  # a proxy's stays: without the proxy, the client's handshake would have failed
            request.refusal = refusal
        return route.max_body if request.refusal is None else 0

    def render(self, request: Request) -> int:
        """Answer a complete request: at once when the handler can, else when its Deferred fires or time is up."""
        if request.refusal is not None:
            _refuse(request, request.refusal)
            return NOT_DONE_YET
        try:
            result = self.handle(request)
        except APIError as error:
            _refuse(request, error)
        except Exception:
            _broken(request, Failure())
        else:
            if isinstance(result, Deferred):
                if request.timeout:
                    result.addTimeout(request.timeout, self._clock, _time_is_up)
                result.addCallbacks(self._answer, _failed, (request,), {}, (request,))
                result.addErrback(lambda failure: _broken(request, failure))
            elif result is not None:
                request.answer(200, result, self.content_type)
        return NOT_DONE_YET

    def handle(self, request: Request) -> bytes | Deferred[bytes] | None:
        """The answer's body, or a Deferred of it; None if the handler answers by itself. Raises APIError."""
        raise NotImplementedError

    def _answer(self, body: bytes, request: Request) -> None:
        request.answer(200, body, self.content_type)


class Missing(Endpoint):
    """Stands for every path that is no route."""

    def __init__(self) -> None:
        Resource.__init__(self)

    def locate(self, argument: str, given: bool) -> str | None:
        return None

    def begin(self, request: Request) -> int:
        authenticate(request)
        request.timeout = _MISSING_TIMEOUT
        request.refusal = NotFound()
        return 0


def _refuse(request: Request, error: APIError) -> None:
    headers = ((b"allow", error.allow),) if isinstance(error, MethodNotAllowed) else ()
    request.answer(error.status, error.body(), JSON, headers)


def _time_is_up(_result: object, _timeout: float) -> object:
    raise TimedOut


def _failed(failure: Failure, request: Request) -> None:
    if isinstance(failure.value, APIError):
        _refuse(request, failure.value)
    else:
        _broken(request, failure)


def _broken(request: Request, failure: Failure) -> None:
    """A defect of ours: the client gets a 500, the log the traceback."""
    log.failure("internal error in {method} {path}", failure, method=request.method.decode(), path=request.path)
    request.answer(500, APIError().body())
