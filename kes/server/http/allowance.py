"""How often a peer may do what costs it less than it costs the server."""

from __future__ import annotations


class Allowance:
    """So many events at once, so many a second in the long run, and so many for each request that was answered.

    What ordinary clients do now and then (cancel a request, ping, enlarge a window) is never too much of it; somebody
    who does nothing else runs out of it soon.
    """

    __slots__ = ("_answered", "_at", "_burst", "_left", "_rate", "_share")

    def __init__(self, burst: int, rate: float, share: int, now: float) -> None:
        """`rate` is per second; `share` is what an answered request adds; `now` is in seconds on any clock."""
        self._burst = burst
        self._rate = rate
        self._share = share
        self._left = float(burst)
        self._at = now
        self._answered = 0

    def take(self, now: float, answered: int) -> bool:
        """Count an event; False if it is one too many. `answered` is the number of requests answered so far."""
        gained = (now - self._at) * self._rate + (answered - self._answered) * self._share
        self._at, self._answered = now, answered
        self._left = min(self._left + gained, self._burst) - 1
        return self._left >= 0
