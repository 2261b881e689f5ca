"""The log routes: endless streams of JSON lines (contract section 8)."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from kes.api.endpoint import Endpoint
from kes.routes import Route
from kes.server.http.request import Request
from kes.server.logs import Feed


class Log(Endpoint):
    """Streams one log's events from the moment it is asked; the answer's head goes out at once."""

    def __init__(self, route: Route, clock: IReactorTime, feed: Feed) -> None:
        super().__init__(route, clock)
        self._feed = feed

    def handle(self, request: Request) -> None:
        self._feed.subscribe(request)
