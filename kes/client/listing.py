"""Complete listings, whatever server they come from (cli.md 3.3).

A server gives a listing in pages. Ours says where the next one begins in a token, `<prefix>*<name>`. An old server
gives just the next name, which it would take for a prefix: there the listing goes on with each longer prefix that can
hold names from that one on. Servers that are older still answer all names of a shell pattern at once. What fits none of
these is an error: a listing is never cut short.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from kes.client.answers import Page
from kes.client.errors import InvalidResponse, ServerError
from kes.names import MAX_NAME, is_valid_name

_ALPHABET: Final = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"  # in the order of bytes

Listing = Generator[str, Page, list[str]]


def listing(prefix: str) -> Listing:
    """All names with a prefix, sorted: yields the arguments to ask a list route for, and is sent the pages.

    A ServerError in place of the first page is thrown into it.
    """
    names: set[str] = set()
    try:
        page = yield prefix
    except ServerError as error:
        # Old servers refuse prefixes that end in a hyphen.
        shorter = prefix.rstrip("-")
        if error.status != 400 or shorter == prefix:
            raise
        return [name for name in (yield from listing(shorter)) if name.startswith(prefix)]
    if page.pattern:
        # The prefix was taken for a pattern, and so for a whole name.
        page = yield f"{prefix}*"
    yield from _rest(prefix, page, names)
    return sorted(name for name in names if name.startswith(prefix))


def _rest(prefix: str, page: Page, names: set[str]) -> Generator[str, Page, None]:
    """Add the names of `page`, the first with `prefix`, and of all that follow it."""
    after = ""
    while "*" in page.continue_at:
        asked, _, following = page.continue_at.partition("*")
        if asked != prefix or not is_valid_name(following) or not following > after:
            raise InvalidResponse("the server's listing does not go on where it stopped")
        names.update(page.names)
        after = following
        page = yield page.continue_at
    names.update(page.names)
    following = page.continue_at
    if not following:
        return
    in_order = all(a < b for a, b in zip([*page.names], [*page.names[1:], following], strict=True))
    if not in_order or not following.startswith(prefix) or not is_valid_name(following):
        raise InvalidResponse("the server gave only a part of its listing, and not in order")
    for longer in _longer(prefix, following):
        page = yield longer
        yield from _rest(longer, page, names)


def _longer(prefix: str, following: str) -> Iterator[str]:
    """The shortest longer prefixes that an old server takes, and that names from `following` on can have."""
    for character in _ALPHABET if len(prefix) < MAX_NAME else "":
        longer = prefix + character
        if longer < following and not following.startswith(longer):
            continue
        if is_valid_name(longer):
            yield longer
        elif not longer.startswith("-"):
            # It ends in a hyphen or is `_`, which an old server refuses.
            yield from _longer(longer, following)
