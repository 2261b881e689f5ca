"""What a request costs, by the functions that are called for it: no clock is asked."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock


class Calls:
    """Every Python function that is called meanwhile, by its code."""

    def __enter__(self) -> set[Any]:
        self.codes: set[Any] = set()
        sys.setprofile(self._called)
        return self.codes

    def _called(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            self.codes.add(frame.f_code)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


COSTLY = {
    "a Deferred": Deferred.__init__.__code__,
    "a delayed call": Clock.callLater.__code__,
    "a moved timer": DelayedCall.cancel.__code__,
    "a thread": threading.Thread.start.__code__,
}
