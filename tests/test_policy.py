"""Policies, as contract section 3 has them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.policy import Policy

PATTERNS = st.lists(st.text(alphabet="/ab*", max_size=4), max_size=4).map(tuple)


def test_exact() -> None:
    """A pattern without `*` matches the path that equals it, and no other."""
    policy = Policy("p", allow=("/v1/status",))
    assert policy.allows("/v1/status")
    assert not policy.allows("/v1/status/")
    assert not policy.allows("/v1/statu")
    assert not policy.allows("/V1/status")


def test_prefix() -> None:
    """A `*` at the end stands for any rest, slashes and nothing at all included."""
    policy = Policy("p", allow=("/v1/key/create/my*",))
    assert policy.allows("/v1/key/create/my")
    assert policy.allows("/v1/key/create/my-key")
    assert policy.allows("/v1/key/create/my/x")
    assert not policy.allows("/v1/key/create/m")


def test_star_counts_only_at_the_end() -> None:
    """A `*` elsewhere is the character; of several at the end the last is the wildcard."""
    policy = Policy("p", allow=("/v1/*/my", "/a**"))
    assert not policy.allows("/v1/key/my")
    assert policy.allows("/v1/*/my")
    assert policy.allows("/a*b")
    assert not policy.allows("/ab")


def test_deny_wins() -> None:
    """What allow and deny both match is refused, whichever is the longer pattern."""
    policy = Policy("p", allow=("/v1/key/*", "/v1/status"), deny=("/v1/key/delete/*", "/v1/status"))
    assert policy.allows("/v1/key/create/a")
    assert not policy.allows("/v1/key/delete/a")
    assert not policy.allows("/v1/status")
    assert not Policy("p", allow=("/v1/status",), deny=("*",)).allows("/v1/status")


def test_nothing_matches() -> None:
    """A policy without patterns refuses everything, and deny patterns alone allow nothing."""
    assert not Policy("p").allows("/v1/status")
    assert not Policy("p").allows("")
    assert not Policy("p", deny=("/v1/key/*",)).allows("/v1/status")


def test_keeps_what_was_written() -> None:
    """The patterns stay as written, order and repeats included: the policy routes tell them."""
    policy = Policy("p", allow=("/b*", "/a", "/b*"), deny=("/c",))
    assert (policy.name, policy.allow, policy.deny) == ("p", ("/b*", "/a", "/b*"), ("/c",))
    assert repr(policy) == "Policy(name='p', allow=('/b*', '/a', '/b*'), deny=('/c',))"
    assert policy == Policy("p", ("/b*", "/a", "/b*"), ("/c",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.allow = ()  # type: ignore[misc]


@given(PATTERNS, PATTERNS, st.text(alphabet="/ab*", max_size=6))
def test_rule(allow: tuple[str, ...], deny: tuple[str, ...], path: str) -> None:
    """The prepared form decides as the rule, written out, does."""

    def matches(pattern: str) -> bool:
        return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern

    expected = any(map(matches, allow)) and not any(map(matches, deny))
    assert Policy("p", allow, deny).allows(path) is expected
