"""List patterns and paging (contract section 4, "Paging"), alike for keys, policies and identities.

A page that is not the last carries `continue_at`, `<prefix>*<next name>`: a client sends it as the next prefix, and
the listing of `<prefix>` goes on at `<next name>`. A plain pattern holds no `*` but a last one, so the two cannot be
mixed up.
"""

from __future__ import annotations

from bisect import bisect_left

from kes.api.endpoint import Endpoint
from kes.errors import InvalidPattern
from kes.keystore import PAGE
from kes.names import is_valid_name, list_prefix


class ListEndpoint(Endpoint):
    """A route that lists names. Policies match its prefix, however the listing goes on."""

    def locate(self, argument: str, given: bool) -> str | None:
        return self.route.path + argument.partition("*")[0]


def read_pattern(argument: str) -> tuple[str, str]:
    """The prefix to list, and the name to begin at ("" for the first). Raises InvalidPattern."""
    pattern, star, start_at = argument.partition("*")
    prefix = list_prefix(pattern)
    if prefix is None or (star and start_at and not (is_valid_name(start_at) and start_at.startswith(prefix))):
        raise InvalidPattern(argument)
    return prefix, start_at


def continue_at(prefix: str, following: str) -> str:
    """The token for the page that begins with the name `following`; "" when there is none."""
    return f"{prefix}*{following}" if following else ""


def page_of(names: list[str], argument: str) -> tuple[list[str], str]:
    """A page of sorted `names` and the token for the next one."""
    prefix, start_at = read_pattern(argument)
    first = bisect_left(names, max(prefix, start_at))
    page = [name for name in names[first : first + PAGE + 1] if name.startswith(prefix)]
    following = page[PAGE] if len(page) > PAGE else ""
    return page[:PAGE], continue_at(prefix, following)
