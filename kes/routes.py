"""The table of the HTTP API: every route with its method, limits and authentication (contract section 4).

It is the single source: the resource tree, `/v1/api` and the check of the config file's `api` section are made from
it. It knows no handler and no request.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_BODY = 1048576  # bytes; the limit of every route that takes a body


class Auth(Enum):
    """What a route asks of a client."""

    POLICY = "policy"  # a certificate whose identity is the admin or has a policy that allows the path
    CERTIFICATE = "certificate"  # any client certificate
    NONE = "none"  # nothing; without `skip_auth` on some route, TLS still asks every client for a certificate


@dataclass(frozen=True, slots=True)
class Route:
    """One route. A `path` that ends in `/` takes an argument (a name or a list prefix), one that does not is whole.

    `method` is the one that `/v1/api` tells; PUT routes also take POST, and GET routes HEAD. `max_body` is in bytes,
    0 where the route takes none. `timeout` is in seconds, 0 where the response has no end. `may_skip_auth` says
    whether the config file may open the route to clients without a certificate.
    """

    method: str
    path: str
    max_body: int = 0
    timeout: int = 15
    auth: Auth = Auth.POLICY
    may_skip_auth: bool = False

    @property
    def takes_argument(self) -> bool:
        return self.path.endswith("/")

    @property
    def counted(self) -> bool:
        """Whether the contract's request metrics count its requests (section 9)."""
        return self.path.startswith(("/v1/key/", "/v1/policy/", "/v1/identity/"))


ROUTES: tuple[Route, ...] = (
    Route("GET", "/version", timeout=10, auth=Auth.NONE),
    Route("GET", "/v1/ready", may_skip_auth=True),
    Route("GET", "/v1/status", may_skip_auth=True),
    Route("GET", "/v1/metrics", may_skip_auth=True),
    Route("GET", "/v1/api", timeout=10, may_skip_auth=True),
    Route("PUT", "/v1/key/create/"),
    Route("PUT", "/v1/key/import/", max_body=MAX_BODY),
    Route("GET", "/v1/key/describe/"),
    Route("DELETE", "/v1/key/delete/"),
    Route("GET", "/v1/key/list/"),
    Route("PUT", "/v1/key/generate/", max_body=MAX_BODY),
    Route("PUT", "/v1/key/encrypt/", max_body=MAX_BODY),
    Route("PUT", "/v1/key/decrypt/", max_body=MAX_BODY),
    Route("PUT", "/v1/key/hmac/", max_body=MAX_BODY),
    Route("GET", "/v1/policy/describe/"),
    Route("GET", "/v1/policy/read/"),
    Route("GET", "/v1/policy/list/"),
    Route("GET", "/v1/identity/describe/"),
    Route("GET", "/v1/identity/list/"),
    Route("GET", "/v1/identity/self/describe", auth=Auth.CERTIFICATE),
    Route("GET", "/v1/log/error", timeout=0),
    Route("GET", "/v1/log/audit", timeout=0),
)
