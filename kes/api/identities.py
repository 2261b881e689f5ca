"""The identity routes: who is known, and what the identity that asks may do."""

from __future__ import annotations

import msgspec

from kes import errors
from kes.api.answers import encode
from kes.api.endpoint import Endpoint
from kes.api.listing import ListEndpoint, page_of
from kes.api.policies import rules
from kes.identity import Identity
from kes.names import is_identity, is_valid_name
from kes.server.http.request import Request
from kes.timestamp import format_rfc3339


class IdentityAnswer(msgspec.Struct, omit_defaults=True):
    identity: str = ""
    admin: bool = False
    policy: str = ""
    created_at: str = ""
    created_by: str = ""
    allow: dict[str, dict[str, str]] = {}
    deny: dict[str, dict[str, str]] = {}


class IdentityPage(msgspec.Struct):
    identities: list[str]
    continue_at: str


class Describe(Endpoint):
    def handle(self, request: Request) -> bytes:
        name, state = request.argument, request.state
        if not is_valid_name(name):
            raise errors.InvalidName("identity", name)
        created_at = format_rfc3339(state.started_at)
        if name == state.admin:
            return encode(IdentityAnswer(admin=True, created_at=created_at))
        policy = state.assigned.get(Identity(name))
        if policy is None:
            raise errors.IdentityNotFound
        return encode(IdentityAnswer(policy=policy.name, created_at=created_at, created_by=state.admin))


class DescribeSelf(Endpoint):
    def handle(self, request: Request) -> bytes:
        identity, state = request.identity, request.state
        assert identity is not None
        created_at = format_rfc3339(state.started_at)
        if identity == state.admin:
            return encode(IdentityAnswer(identity, admin=True, created_at=created_at))
        policy = state.assigned.get(identity)
        if policy is None:
            raise errors.IdentityNotFound
        return encode(
            IdentityAnswer(
                identity,
                policy=policy.name,
                created_at=created_at,
                created_by=state.admin,
                allow=rules(policy.allow),
                deny=rules(policy.deny),
            )
        )


class List(ListEndpoint):
    def handle(self, request: Request) -> bytes:
        state = request.state
        known: list[str] = list(state.assigned)
        if is_identity(state.admin):
            known.append(state.admin)
        identities, following = page_of(sorted(known), request.argument)
        return encode(IdentityPage(identities, following))
