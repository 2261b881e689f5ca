"""The text that names servers, how near they are, and which is asked next."""

from __future__ import annotations

import threading
from ipaddress import ip_interface

import pytest

from kes.client import ConfigurationError, endpoint
from kes.client.balancer import REST, Balancer
from kes.client.endpoint import Endpoint, Nearness, nearness, parse_endpoints

OWN, SUBNET, OTHER = Nearness.OWN_HOST, Nearness.SAME_SUBNET, Nearness.OTHER
A, B, C, D = (Endpoint(name) for name in "abcd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:7373", Endpoint("127.0.0.1", 7373)),
        ("kes.example.com", Endpoint("kes.example.com", 443)),
        ("https://KES.example.com/", Endpoint("kes.example.com", 443)),
        ("http://kes:1", Endpoint("kes", 1)),
        (" kes:1 ", Endpoint("kes", 1)),
        ("kes:1/base/path//", Endpoint("kes", 1, "/base/path")),
        ("[::1]:7373", Endpoint("::1", 7373)),
        ("[::1]", Endpoint("::1", 443)),
        ("bücher.example", Endpoint("xn--bcher-kva.example", 443)),
    ],
)
def test_endpoint(text: str, expected: Endpoint) -> None:
    """A scheme may be there, a port has a default, a path is kept; `str` reads as the same endpoint."""
    assert parse_endpoints(text) == (expected,)
    assert parse_endpoints(str(expected)) == (expected,)


def test_several() -> None:
    """Commas separate endpoints; empty ones are skipped and repeated ones dropped."""
    assert [str(e) for e in parse_endpoints("b:2, a:1,,b:2,")] == ["b:2", "a:1"]


@pytest.mark.parametrize(
    "text", ["", ",", "https://", "::1", "a:0", "a:65536", "a:b", "ftp://a", "a b", "a?x", "a/#x", "a/b c", "[g]"]
)
def test_invalid(text: str) -> None:
    """What is no endpoint is refused."""
    with pytest.raises(ConfigurationError):
        parse_endpoints(text)


def test_passwords_are_refused_and_not_repeated() -> None:
    """User names have no meaning here; a password is not in the error."""
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoints("https://user:hidden@host:1")
    assert "hidden" not in str(caught.value)


def test_nearness() -> None:
    """Own hosts come first, then the subnets, then all others, each in the order given."""
    addresses = {"a": "10.0.1.1", "b": "10.0.0.9", "c": "10.0.0.1", "d": None, "127.0.0.1": "127.0.0.1"}
    endpoints = (A, D, B, C, Endpoint("127.0.0.1"), Endpoint("localhost"))
    found = nearness(endpoints, addresses.get, lambda: [ip_interface("10.0.0.1/24")])
    assert list(found.items()) == [
        (C, OWN),
        (Endpoint("127.0.0.1"), OWN),
        (Endpoint("localhost"), OWN),
        (B, SUBNET),
        (A, OTHER),
        (D, OTHER),
    ]


def test_slow_names_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not found in time is no reason to wait: its endpoint counts as far."""
    monkeypatch.setattr(endpoint, "RESOLVE_TIMEOUT", 0)
    release = threading.Event()

    def resolve(host: str) -> str:
        release.wait(20)
        return "127.0.0.1"

    found = nearness((A, B), resolve, list)
    release.set()
    assert found == {A: OTHER, B: OTHER}


def test_the_machine_is_its_own_host() -> None:
    """The real resolver and interfaces find loopback."""
    found = nearness((Endpoint("127.0.0.1"), Endpoint("localhost")), endpoint.resolve, endpoint.interfaces)
    assert set(found.values()) == {OWN}
    assert any(interface.ip.is_loopback for interface in endpoint.interfaces())


class World:
    now = 0.0
    chance = 0.0


def balancer(near: dict[Endpoint, Nearness]) -> tuple[Balancer, World]:
    world = World()
    return Balancer(near, lambda: world.now, lambda: world.chance), world


@pytest.mark.parametrize(("chance", "expected"), [(0.0, [A, B, C]), (0.4, [B, C, A]), (0.99, [C, A, B])])
def test_random_start(chance: float, expected: list[Endpoint]) -> None:
    """Endpoints that are alike are asked in turn from a random one on."""
    found, world = balancer({A: OTHER, B: OTHER, C: OTHER})
    world.chance = chance
    assert list(found.walk()) == expected


def test_near_ones_first() -> None:
    """No chance puts a farther endpoint before a nearer one, and the own host is asked first."""
    found, world = balancer({A: OWN, B: SUBNET, C: SUBNET, D: OTHER})
    world.chance = 0.99
    assert list(found.walk()) == [A, C, B, D]


def test_rest() -> None:
    """An endpoint that failed is passed over until its rest is over; then one request tries it, not two."""
    found, world = balancer({A: OTHER, B: OTHER})
    found.failed(A)
    assert list(found.walk()) == [B]
    world.now = REST - 0.001
    assert list(found.walk()) == [B]
    world.now = REST
    assert next(found.walk()) is A
    assert list(found.walk()) == [B]
    found.succeeded(A)
    assert list(found.walk()) == [A, B]


def test_none_left() -> None:
    """If all rest they are asked all the same; so are the others if only the own host was left and has failed."""
    found, _ = balancer({A: OTHER, B: OTHER})
    found.failed(A)
    found.failed(B)
    assert list(found.walk()) == [A, B]
    found, _ = balancer({A: OWN, B: OTHER})
    found.failed(B)
    assert list(found.walk()) == [A, B]


def test_one_endpoint_never_rests() -> None:
    """A single endpoint is always asked, once."""
    found, _ = balancer({A: OTHER})
    found.failed(A)
    assert list(found.walk()) == [A]
