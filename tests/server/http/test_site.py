"""From a request's target to its resource and its policy: no spelling of a path leads where another does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kes.routes import ROUTES
from kes.server.http import limits
from kes.server.http.site import decode_path
from tests.server.memory import ADMIN, APP, PROXY, STRANGER, Answer, House, get, put


@pytest.fixture(scope="module")
def house() -> House:
    house = House()
    for name in ("k", "secret", "secret-1"):
        house.make_key(name)
    return house


def ask(house: House, target: str, method: str = "PUT", identity: Any = ADMIN) -> Answer:
    house.audit.clear()
    (answer,) = house.ask(get(target, method=method), identity)
    return answer


# Decoding


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/version", "/version"),
        (b"/version?a=/../b", "/version"),
        (b"/version/", "/version/"),
        (b"/v1/key/create/a%2Db", "/v1/key/create/a-b"),
        (b"/v1/key/create/%41%6a%6A", "/v1/key/create/Ajj"),
        (b"/v1%2Fkey%2fcreate/a", "/v1/key/create/a"),
        (b"/a%252Fb", "/a%2Fb"),  # once only
        (b"/a%252e%252e/b", "/a%2e%2e/b"),
        (b"/a%3Fb?c", "/a?b"),
        (b"/a+b", "/a+b"),
        (b"/a%", "/a%"),
        (b"/a%4", "/a%4"),
        (b"/a%zz", "/a%zz"),
        (b"/a%u0041", "/a%u0041"),
        (b"/%e2%82%ac", "/\u20ac"),
        (b"/%ff", "/\ufffd"),
        (b"/%c0%af", "/\ufffd\ufffd"),  # an overlong slash is no slash
        (b"/a%00b", "/a\x00b"),
        (b"/...", "/..."),
        (b"/a;b", "/a;b"),
        (b"/a\\..\\b", "/a\\..\\b"),
        (b"https://kes/version", "/version"),
        (b"HTTP://kes:7373/version?x", "/version"),
        (b"https://kes", "/"),
        (b"https://kes?x/y", "/"),
        (b"", None),
        (b"*", None),
        (b"version", None),
        (b"kes:7373", None),
        (b"https:///version", None),
        (b"ftp://kes/version", None),
        (b"//kes/version", None),
        (b"//", None),
        (b"/a//b", None),
        (b"/a/%2Fb", None),
        (b"/a%2F%2Fb", None),
        (b"/a/./b", None),
        (b"/a/../b", None),
        (b"/a/..", None),
        (b"/.", None),
        (b"/%2e", None),
        (b"/a/%2e%2E/b", None),
        (b"/a%2F..%2Fb", None),
        (b"https://kes/a/../b", None),
        (b"https://kes//a", None),
    ],
)
def test_decode_path(target: bytes, path: str | None) -> None:
    """A path is decoded exactly once; one that another spelling could stand for is none."""
    assert decode_path(target) == path


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_decode_path_takes_anything(target: bytes) -> None:
    """Any bytes have a path or none; a path has no empty or dot segment but perhaps an empty last one."""
    path = decode_path(target)
    if path is not None:
        *inner, last = path.split("/")[1:]
        assert "" not in inner
        assert not {".", ".."} & {*inner, last}


# Routes


@pytest.mark.parametrize("route", ROUTES, ids=[route.path for route in ROUTES])
def test_every_route_is_found(house: House, route: Any) -> None:
    """Each path of the table leads to its route: a method that it has not gives its 405; below it is nothing."""
    answer = ask(house, route.path, "PATCH")
    assert (answer.status, answer.headers["allow"].split(", ")[0]) == (405, route.method)
    assert house.site.locate(route.path.encode())[1:] == (route.path, "")
    if route.takes_argument:
        # Policies match the route's form.
        assert house.site.locate(route.path.rstrip("/").encode())[1:] == (route.path, "")
    else:
        assert ask(house, route.path + "/", "PATCH").status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/key",
        "/v1/key/",
        "/v2/status",
        "/v1/key/rotate/k",
        "/V1/status",
        "/versions",
        "*",
        "a:1",
    ],
)
def test_no_other_path_is_found(house: House, target: str) -> None:
    """What is no route is 404, for everyone and with any method."""
    for identity in (ADMIN, STRANGER, None):
        for method in ("GET", "PUT", "OPTIONS", "CONNECT", "TRACE"):
            answer = ask(house, target, method, identity)
            assert (answer.status, answer.message) == (404, "not found")


@pytest.mark.parametrize(
    ("target", "status", "path"),
    [
        ("/v1/key/generate/k", 200, "/v1/key/generate/k"),
        ("/v1/key/%67enerate/%6b?x=y", 200, "/v1/key/generate/k"),
        ("https://elsewhere/v1/key/generate/k", 200, "/v1/key/generate/k"),
        ("/v1/key/generate/k%252D", 400, "/v1/key/generate/k%2D"),
        ("/v1/key/generate/k/", 400, "/v1/key/generate/k/"),
        ("/v1/key/generate/a/b", 400, "/v1/key/generate/a/b"),
        ("/v1/key/generate/%ff", 400, "/v1/key/generate/\ufffd"),
        ("/v1/key/generate/k%00", 400, "/v1/key/generate/k\x00"),
        ("/v1/key/generate/k%0a", 400, "/v1/key/generate/k\n"),
        ("/v1/key/generate", 400, "/v1/key/generate/"),
        ("/v1/key/generate/../generate/k", 404, "/v1/key/generate/../generate/k"),
        ("/v1//key/generate/k?x", 404, "/v1//key/generate/k?x"),
    ],
)
def test_what_is_matched_is_what_is_routed(house: House, target: str, status: int, path: str) -> None:
    """The audit log has the path as policies match it, and the name that is used is its end."""
    assert ask(house, target).status == status
    assert [event["request"]["path"] for event in house.audit] == [path]


def test_a_long_target_is_found_like_a_short_one(house: House) -> None:
    """How a target is looked up does not depend on its length."""
    for length in (300, limits.MAX_TARGET):
        target = "/v1/key/generate/k?".ljust(length, "x")
        assert ask(house, target).status == 200
        assert ask(house, target, identity=STRANGER).status == 403


def test_long_targets_are_not_remembered(house: House) -> None:
    """What is kept of targets is bounded: only short ones, and so many."""
    memo = house.site._find_memo
    before = memo.cache_info().currsize
    ask(house, "/version?".ljust(300, "x"), "GET")
    assert memo.cache_info().currsize == before
    assert memo.cache_info().maxsize == 4096


# Policies

DENIED = "/v1/key/generate/secret-1"


def _spelled(path: str, choices: list[tuple[int, bool]]) -> str:
    """`path` with each character as it is, percent-encoded once, or that encoded again, in either letter case."""
    spelling = ""
    for character, (depth, upper) in zip(path, choices, strict=True):
        text = character
        for _ in range(depth):
            text = "".join(f"%{ord(c):02X}" if upper else f"%{ord(c):02x}" for c in text)
        spelling += text
    return spelling


@given(st.lists(st.tuples(st.sampled_from([0, 0, 1]), st.booleans()), min_size=len(DENIED), max_size=len(DENIED)))
@example([(1, True)] * len(DENIED))
@settings(max_examples=200)
def test_encoding_changes_nothing(house: House, choices: list[tuple[int, bool]]) -> None:
    """However a path is percent-encoded, its policy's answer is that to the plain spelling."""
    spelling = "/" + _spelled(DENIED, choices)[1 if choices[0][0] == 0 else 3 :]
    assert ask(house, spelling, identity=APP).status == 403
    assert ask(house, spelling).status == 200


PIECES = st.sampled_from(
    ["/", "//", "/./", "/../", "%2f", "%2F", "%2f%2f", "/%2e/", "/%2e%2e/", "%252f", "%252e", "\\", "%5c", ";", ";x",
     "?", "?x=/", "%3f", "%00", "%0a", "%0d%0a", "%20", "+", "*", "%2a", "%", "%%", "%c0%af", "%ef%bc%8f", ".", "..",
     "#", "%23", "https://kes", "v1", "key", "generate", "create", "list", "k", "secret", "-1", "SECRET"]
)  # fmt: skip


@given(
    choices=st.lists(
        st.tuples(st.sampled_from([0, 0, 0, 1, 2]), st.booleans()), min_size=len(DENIED), max_size=len(DENIED)
    ),
    inserts=st.lists(st.tuples(st.integers(0, len(DENIED)), PIECES), max_size=4),
    method=st.sampled_from(["PUT", "POST"]),
    scheme=st.sampled_from(["", "", "https://kes", "http://kes:1"]),
)
@settings(max_examples=500)
def test_no_spelling_passes_a_deny_rule(
    house: House, choices: list[tuple[int, bool]], inserts: list[tuple[int, str]], method: str, scheme: str
) -> None:
    """No spelling of a denied path, nor anything near it, gets at the key that the policy denies."""
    pieces = [_spelled(character, [choice]) for character, choice in zip(DENIED, choices, strict=True)]
    for position, piece in inserts:
        pieces.insert(position, piece)
    target = scheme + "".join(pieces)
    answer = ask(house, target, method, APP)
    if answer.status == 200:
        # What was inserted has made it another key's path, and a plain one.
        assert [event["request"]["path"] for event in house.audit] == ["/v1/key/generate/k"]
        assert decode_path(target.encode()) == "/v1/key/generate/k"


@pytest.mark.parametrize("token", ["secret", "secret*", "secret*secret-1", "%73ecret", "secret%2a", "secret-"])
def test_a_denied_listing_stays_denied(house: House, token: str) -> None:
    """A list pattern and a continuation need what the plain prefix needs."""
    assert ask(house, f"/v1/key/list/{token}", "GET", APP).status == 403
    assert ask(house, "/v1/key/list/k*k", "GET", APP).status == 200


# The audit log and the metrics


def test_every_request_is_recorded_once(house: House) -> None:
    """Each request is one audit event with its code, refused ones too, but none is for /v1/metrics."""
    house.audit.clear()
    too_large = put("/v1/key/hmac/k", b"x" * (limits.MAX_BODY + 1))
    requests = [
        (get("/version"), ADMIN, 200),
        (get("/version"), STRANGER, 200),
        (get("/version"), None, 200),
        (get("/nowhere"), None, 404),
        (get("/nowhere?x"), ADMIN, 404),
        (get("/version", method="DELETE"), ADMIN, 405),
        (too_large, ADMIN, 413),
        (put("/v1/key/generate/secret"), APP, 403),
        (put("/v1/key/hmac/k", b"{"), ADMIN, 400),
        (put("/v1/key/create/k"), ADMIN, 400),
        (get("/v1/key/describe/none"), ADMIN, 404),
        (get("/v1/log/audit", method="HEAD"), ADMIN, 200),
    ]
    for data, identity, _ in requests:
        house.ask(data, identity) if b"/log/" not in data else house.connect().send(data)
        assert ask_metrics(house) == 200
    assert house.codes == [code for _, _, code in requests]
    assert [event["request"]["identity"] for event in house.audit] == [identity or "" for _, identity, _ in requests]


def ask_metrics(house: House) -> int:
    (answer,) = house.ask(get("/v1/metrics"))
    return answer.status


def test_what_an_event_holds(house: House) -> None:
    """An event has the contract's fields, the method besides, and nothing of body or query."""
    house.audit.clear()
    house.ask(put("/v1/key/hmac/k?secret=query", {"message": "c2VjcmV0"}))
    (event,) = house.audit
    taken = event["response"].pop("time")
    assert isinstance(taken, int)
    assert 0 < taken < 10**9  # nanoseconds
    assert event.pop("time").endswith("Z")
    assert event == {
        "request": {"ip": "192.0.2.7", "path": "/v1/key/hmac/k", "method": "PUT", "identity": ADMIN},
        "response": {"code": 200},
    }


@pytest.mark.parametrize(
    ("headers", "status", "identity"),
    [
        ([f"X-Tls-Client-Cert: {APP}"], 200, APP),
        ([f"x-tls-client-cert:{STRANGER} "], 403, STRANGER),
        ([f"X-Tls-Client-Cert: {APP}", f"X-TLS-CLIENT-CERT: {ADMIN}"], 400, ""),
        ([], 400, ""),
    ],
)
def test_headers_reach_the_resource(house: House, headers: list[str], status: int, identity: str) -> None:
    """A request's header fields are its resource's: names in any letter case, every value, without white space."""
    for filler in ([], ["X-Filler: " + "x" * 2000]):
        house.audit.clear()
        (answer,) = house.ask(get("/v1/key/generate/k", *headers, *filler, method="PUT"), PROXY)
        assert answer.status == status
        assert [event["request"]["identity"] for event in house.audit] == [identity]


def test_what_is_counted() -> None:
    """All requests are counted by API and code, in more detail those to the key, policy and identity routes."""
    house = House()
    house.make_key("k")
    house.forget_counts()
    house.ask(
        put("/v1/key/generate/k")
        + put("/v1/key/generate/none")
        + get("/v1/key/create/x")
        + get("/v1/policy/list/")
        + get("/v1/identity/describe/none")
        + get("/v1/status")
        + get("/nowhere")
    )
    assert house.metrics.codes() == {200: 2, 404: 2, 405: 1}
    assert sum(house.metrics.buckets) == 5
    assert house.metrics.active == 0
    assert house.metrics.seconds > 0
    assert {api: codes for api, codes in house.metrics.requests.items() if codes} == {
        "/v1/key/generate/": {200: 1, 404: 1},
        "/v1/key/create/": {405: 1},
        "/v1/policy/list/": {200: 1},
        "/v1/identity/describe/": {404: 1},
        "/v1/status": {200: 1},
        "none": {404: 1},
    }
