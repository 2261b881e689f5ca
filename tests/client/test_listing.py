"""Listings are complete, whatever server they come from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.client import InvalidResponse, NotAllowed, ServerError
from kes.client.answers import Page
from kes.client.listing import listing
from kes.names import is_valid_name
from tests.client.fake import FakeServer, Request, fail, reply

Make = Callable[..., Any]
NAMES = st.sets(st.text("-_aAz0", min_size=1, max_size=5).filter(is_valid_name), max_size=60)


def collect(prefix: str, ask: Callable[[str], Page]) -> list[str]:
    steps = listing(prefix)
    argument = next(steps)
    try:
        while True:
            try:
                page = ask(argument)
            except ServerError as error:
                argument = steps.throw(error)
            else:
                argument = steps.send(page)
    except StopIteration as stop:
        return stop.value


def old_server(names: set[str], size: int) -> Callable[[str], Page]:
    """A server whose `continue_at` is the next name, and which takes it for a prefix (cli.md 3.3, D10 and D25)."""

    def ask(argument: str) -> Page:
        if argument and not is_valid_name(argument):
            raise ServerError(400, f"listing pattern '{argument}' is empty, too long or is invalid", "")
        found = sorted(name for name in names if name.startswith(argument))
        return Page(found[:size], found[size] if len(found) > size else "", pattern=False)

    return ask


def our_server(names: set[str], size: int) -> Callable[[str], Page]:
    def ask(argument: str) -> Page:
        prefix, _, start = argument.partition("*")
        ordered = sorted(names)
        found = [name for name in ordered[bisect_left(ordered, max(prefix, start)) :] if name.startswith(prefix)]
        return Page(found[:size], f"{prefix}*{found[size]}" if len(found) > size else "", pattern=False)

    return ask


@given(NAMES, st.sampled_from(["", "a", "a-", "aA", "z_"]), st.integers(1, 7))
def test_complete(names: set[str], prefix: str, size: int) -> None:
    """Whatever the names and the size of a page, old and new servers give all names with the prefix, in order."""
    expected = sorted(name for name in names if name.startswith(prefix))
    assert collect(prefix, our_server(names, size)) == expected
    assert collect(prefix, old_server(names, size)) == expected


def test_old_pages_cost_no_more_requests_than_needed() -> None:
    """Prefixes that can only hold names which are known already are not asked for."""
    names = {f"key-{n:04}" for n in range(1500)}
    asked: list[str] = []
    ask = old_server(names, 1024)

    def count(argument: str) -> Page:
        asked.append(argument)
        return ask(argument)

    assert len(collect("key", count)) == 1500
    assert len(asked) < 1000
    assert "key-0" not in asked


@pytest.mark.parametrize(
    "page",
    [
        Page(["b", "a"], "c", pattern=False),
        Page(["a"], "a", pattern=False),
        Page(["a"], "x/y", pattern=False),
        Page(["a"], "other*b", pattern=False),
        Page(["a"], "*", pattern=False),
        Page(["a"], "*../x", pattern=False),
    ],
    ids=["unordered", "backwards", "no name", "other prefix", "no token", "no name in token"],
)
def test_a_part_is_never_taken_for_the_whole(page: Page) -> None:
    """What cannot be continued with certainty is an error."""
    with pytest.raises(InvalidResponse):
        collect("", lambda argument: Page([], "", pattern=False) if argument else page)


def test_a_token_has_to_go_on() -> None:
    """A server that gives the same token again and again does not keep the client forever."""
    with pytest.raises(InvalidResponse):
        collect("", lambda _: Page([], "*a", pattern=False))


def test_pages_of_the_real_server(admin: Any) -> None:
    """More names than a page of the real server holds are all there."""
    names = [f"many-{n:04}" for n in range(1030)]
    have = set(admin.list_keys("many-"))
    for name in names:
        if name not in have:
            admin.create_key(name)
    assert admin.list_keys("many") == names


def test_pages_of_an_old_server(connect: Make, fake: Callable[..., FakeServer], certificate: Any) -> None:
    """Over the wire, too, an old server's listing is complete; paths are one encoded segment."""
    ask = old_server({f"key-{n}" for n in range(300)} | {"key", "other"}, 100)

    def handler(request: Request) -> bytes:
        page = ask(request.path.removeprefix("/v1/key/list/"))
        return reply(body={"names": page.names, "continue_at": page.continue_at})

    client = connect(fake(handler).address, ca_file=str(certificate))
    assert client.list_keys("key*") == sorted(["key", *(f"key-{n}" for n in range(300))])


def test_token_is_one_encoded_segment(connect: Make, fake: Callable[..., FakeServer], certificate: Any) -> None:
    """The `*` of a token is percent-encoded."""
    pages = {
        "/v1/policy/list/": {"names": ["a"], "continue_at": "*b"},
        "/v1/policy/list/%2Ab": {"names": ["b"], "continue_at": None},
    }
    client = connect(fake(lambda request: reply(body=pages[request.path])).address, ca_file=str(certificate))
    assert client.list_policies() == ["a", "b"]


def test_lines_of_an_older_server(connect: Make, fake: Callable[..., FakeServer], certificate: Any) -> None:
    """An older server sends lines and takes shell patterns: it is asked for `<prefix>*`."""
    lines = {
        "/v1/key/list/a": b"",
        "/v1/key/list/a%2A": b'{"name":"ab","created_at":""}\n{"name":"aa"}\n{"name":"b"}\n{"name":"ab"}\n',
        "/v1/identity/list/": b"",
        "/v1/identity/list/%2A": b'{"identity":"b"}\n',
        "/v1/policy/list/": b"",
        "/v1/policy/list/%2A": b'{"name":"a"}\n{"error":"it broke"}\n',
    }

    def handler(request: Request) -> bytes:
        return reply(body=lines[request.path], content_type="application/x-ndjson")

    client = connect(fake(handler).address, ca_file=str(certificate))
    assert client.list_keys("a") == ["aa", "ab"]
    assert client.list_identities() == ["b"]
    with pytest.raises(ServerError, match=r"^it broke$"):
        client.list_policies()


def test_null_is_an_empty_listing(connect: Make, fake: Callable[..., FakeServer], certificate: Any) -> None:
    """Servers may send null for no names."""
    body = {"names": None, "continue_at": ""}
    assert connect(fake(lambda _: reply(body=body)).address, ca_file=str(certificate)).list_keys() == []


def test_refusals_are_not_hidden(connect: Make, fake: Callable[..., FakeServer], certificate: Any) -> None:
    """A page in the middle that may not be read makes the listing fail."""

    def handler(request: Request) -> bytes:
        if request.path == "/v1/key/list/":
            return reply(body={"names": ["a"], "continue_at": "b"})
        return fail(403, "prohibited by policy")

    with pytest.raises(NotAllowed):
        connect(fake(handler).address, ca_file=str(certificate)).list_keys()
