"""One frozen snapshot of everything that a request needs. A reload builds a new one aside and swaps the reference;
a request takes the reference once, at its start, and so never sees half of a change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from kes.crypto import Algorithm
from kes.identity import Identity
from kes.keycache import KeyCache
from kes.policy import Policy


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """What the config file may change of a route (contract section 6). `timeout` is in seconds, 0 for none."""

    timeout: float
    skip_auth: bool


class Forwarder(Protocol):
    """Reads the client certificate that a TLS proxy forwards."""

    def client(self, values: list[bytes]) -> Identity:
        """The identity of the one valid certificate in the header's values. InvalidProxyRequest if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`started_at` is the server's start in nanoseconds since the epoch: policies and identities count from it."""

    admin: str
    policies: Mapping[str, Policy]
    assigned: Mapping[Identity, Policy]
    proxies: frozenset[Identity]
    proxy_header: bytes
    forwarder: Forwarder
    routes: Mapping[str, RouteSettings]
    keys: KeyCache
    algorithm: Algorithm
    started_at: int

    def allows(self, identity: Identity, path: str) -> bool:
        """Whether `identity` may make a request for `path`: the admin any, others what their policy says."""
        if identity == self.admin:
            return True
        policy = self.assigned.get(identity)
        return policy is not None and policy.allows(path)
