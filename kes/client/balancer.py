"""Which endpoint is asked next (cli.md 3.4). Pure but for a lock, so that threads and tasks may share one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Final

from kes.client.endpoint import Endpoint, Nearness

REST: Final = 30.0  # seconds that an endpoint is left alone after a failure


class Balancer:
    """Remembers which endpoints have failed. `clock` counts seconds; `random` draws from [0, 1)."""

    def __init__(
        self, endpoints: Mapping[Endpoint, Nearness], clock: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._endpoints = dict(endpoints)
        self._clock = clock
        self._random = random
        self._resting: dict[Endpoint, float] = {}  # the time when the rest of one that has failed is over
        self._lock = Lock()

    def walk(self) -> Iterator[Endpoint]:
        """The endpoints to ask for one request, until one gives a final answer.

        The own host comes first, then the same subnet, then all others, each group from a random position on. Those
        that rest are passed over, unless that leaves none beside an own host that has just failed.
        """
        order = [endpoint for near in Nearness for endpoint in self._group(near)]
        if len(order) == 1:
            yield order[0]
            return
        asked = []
        for endpoint in order:
            if self._claim(endpoint):
                asked.append(endpoint)
                yield endpoint
        own = order[:1] if self._endpoints[order[0]] is Nearness.OWN_HOST else []
        if not asked or asked == own:
            yield from (endpoint for endpoint in order if endpoint not in asked)

    def _group(self, near: Nearness) -> list[Endpoint]:
        group = [endpoint for endpoint, its in self._endpoints.items() if its is near]
        start = int(self._random() * len(group)) if near is not Nearness.OWN_HOST else 0
        return group[start:] + group[:start]

    def _claim(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint may be asked. After a rest only one request may, until its outcome is known."""
        with self._lock:
            until = self._resting.get(endpoint)
            if until is None:
                return True
            now = self._clock()
            if now < until:
                return False
            self._resting[endpoint] = now + REST
            return True

    def failed(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._resting[endpoint] = self._clock() + REST

    def succeeded(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._resting.pop(endpoint, None)
