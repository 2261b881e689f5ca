"""The policy routes. Policies come from the config file; they exist since the server's start."""

from __future__ import annotations

import msgspec

from kes import errors
from kes.api.answers import PageAnswer, encode
from kes.api.endpoint import Endpoint
from kes.api.listing import ListEndpoint, page_of
from kes.names import is_valid_name
from kes.policy import Policy
from kes.server.http.request import Request
from kes.server.state import State
from kes.timestamp import format_rfc3339


class PolicyAnswer(msgspec.Struct, omit_defaults=True):
    name: str
    allow: dict[str, dict[str, str]] = {}
    deny: dict[str, dict[str, str]] = {}
    created_at: str = ""
    created_by: str = ""


def rules(patterns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Patterns in the form that the SDK decodes: `{"<pattern>":{}}`."""
    return {pattern: {} for pattern in sorted(patterns)}


class PolicyEndpoint(Endpoint):
    """A route whose argument is a policy's name."""

    def policy(self, request: Request) -> Policy:
        if not is_valid_name(request.argument):
            raise errors.InvalidName("policy", request.argument)
        policy = request.state.policies.get(request.argument)
        if policy is None:
            raise errors.PolicyNotFound
        return policy

    def encoded(self, state: State, name: str, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> bytes:
        """The answer. What the config file defines is there since the server's start, and the admin's."""
        return encode(PolicyAnswer(name, rules(allow), rules(deny), format_rfc3339(state.started_at), state.admin))


class Describe(PolicyEndpoint):
    def handle(self, request: Request) -> bytes:
        return self.encoded(request.state, self.policy(request).name)


class Read(PolicyEndpoint):
    def handle(self, request: Request) -> bytes:
        policy = self.policy(request)
        return self.encoded(request.state, policy.name, policy.allow, policy.deny)


class List(ListEndpoint):
    def handle(self, request: Request) -> bytes:
        names, following = page_of(sorted(request.state.policies), request.argument)
        return encode(PageAnswer(names, following))
