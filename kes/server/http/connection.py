"""What connections of every protocol share: one timer for all their time limits, answers gathered for one write, and
the way to an orderly end. It knows no framing."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kes.server.http import limits
from kes.server.http.request import Peer

if TYPE_CHECKING:
    from kes.server.http.site import Site


@implementer(IHandshakeListener)
class Handshake(Protocol):
    """A connection whose TLS handshake is still to come. Then the protocol that the peers agreed on takes its place."""

    transport: TLSMemoryBIOProtocol

    def __init__(self, site: Site, clock: IReactorTime) -> None:
        self._site = site
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._stopping = False
        self._admitted = False
        self._timed_out = False

    def connectionMade(self) -> None:
        self._admitted = self._site.admit(self)
        if not self._admitted:
            self.abort()
            return
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self._timer = self._clock.callLater(limits.HANDSHAKE_TIMEOUT, self._time_is_up)

    def handshakeCompleted(self) -> None:
        connection = self._site.connection(self.transport)
        if connection is None:
            self.abort()
            return
        self._stop_timer()
        self._site.connections.discard(self)
        self._site.connections.add(connection)
        self.transport.wrappedProtocol = connection
        connection.makeConnection(self.transport)  # type: ignore[no-untyped-call]
        if self._stopping:
            connection.stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
        self._site.connections.discard(self)
        if self._admitted:
            self._site.handshake_failed(self.transport, reason, timed_out=self._timed_out)

    def stop(self) -> None:
        """Whoever was let in before the end may still have a request answered, in the time there is for those."""
        self._stopping = True

    def drain(self) -> None:
        """Whoever is in the middle of a handshake may end it as it began."""

    def abort(self) -> None:
        self.transport.abortConnection()

    def _time_is_up(self) -> None:
        self._timer = None
        self._timed_out = True
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@implementer(IPushProducer)
class Connection(Protocol):
    """One client's connection, from the end of its TLS handshake on.

    A protocol implements `dataReceived`, `stop`, `drain` and the methods below that say so.
    """

    transport: TLSMemoryBIOProtocol

    def __init__(self, site: Site, clock: IReactorTime, peer: Peer) -> None:
        self._site = site
        self._clock = clock
        self._peer = peer
        self._buffer = b""
        self._closed = False  # nothing that comes is looked at any more
        self._paused = False  # the peer does not read what was written
        self._reading_paused = False
        self._out: list[bytes] = []
        self._out_size = 0  # bytes
        self._corked = False  # more is about to be written; it goes out in one
        self._deadline = inf  # of the connection as a whole
        self._timer: IDelayedCall | None = None
        self._rings_at = inf

    # For the protocol to implement

    def stop(self) -> None:
        """The server stops: close as soon as no request is under way; a streamed answer ends now.

        On a connection that has not had a request yet, one is on its way.
        """
        raise NotImplementedError

    def drain(self) -> None:
        """Have the client move to a new connection, without losing a request: this one's certificate is of old."""
        raise NotImplementedError

    def _lost(self, reason: Failure) -> None:
        """The connection is gone: leave nothing of the requests that were under way."""
        raise NotImplementedError

    def _advance(self) -> None:
        """Take what can be taken of the buffer, then write all answers at once."""
        raise NotImplementedError

    def _time_limit(self) -> float:
        """How many seconds the connection may stay in the state that it is in."""
        raise NotImplementedError

    def _next_deadline(self) -> float:
        """When the next of all time limits is over."""
        return self._deadline

    def _time_is_up(self, now: float) -> None:
        """At least one time limit is over, `now`."""
        raise NotImplementedError

    def _pause_producers(self) -> None:
        """Have nothing more written that can wait."""
        raise NotImplementedError

    def _resume_producers(self) -> None:
        raise NotImplementedError

    # The connection's life

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self._expect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._site.connections.discard(self)
        self._closed = True
        self._buffer = b""  # an answer under way may keep this object for a while
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lost(reason)

    def abort(self) -> None:
        self._deadline = inf
        self.transport.abortConnection()

    # Time limits: one timer a connection, moved only when it would ring too late

    def _expect(self) -> None:
        """Start the time limit of a state that was just entered."""
        self._deadline = self._clock.seconds() + self._time_limit()
        self._ring_by(self._deadline)

    def _ring_by(self, deadline: float) -> None:
        if deadline >= self._rings_at:
            return
        self._rings_at = deadline
        delay = max(deadline - self._clock.seconds(), 0.0)
        if self._timer is not None:
            # Twisted's `reset` to an earlier time searches the timers of all connections.
            self._timer.cancel()
        self._timer = self._clock.callLater(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._rings_at = inf
        now = self._clock.seconds()
        if self._next_deadline() <= now:
            self._time_is_up(now)
        self._ring_by(self._next_deadline())

    # Flow control

    def pauseProducing(self) -> None:
        """The peer reads slower than we write: take no more requests, and give it so long to catch up."""
        self._paused = True
        self._expect()
        self._pause_producers()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._closed:
            self._say_goodbye()
            return
        self._expect()
        self._resume_producers()
        self._advance()

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost says so too."""

    def _pause_reading(self, pause: bool) -> None:
        if pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # Output

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        self._out_size += len(data)
        if self._out_size > limits.MAX_UNWRITTEN:
            self._flush_now()

    def _flush(self) -> None:
        if not self._corked:
            self._flush_now()

    def _flush_now(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            self.transport.write(data)

    # The end

    def _close(self) -> None:
        """Close once all that was written is on its way."""
        if not self._closed:
            self._closed = True
            self._leave_unread()
            if not self._paused:
                self._say_goodbye()

    def _leave_unread(self) -> None:
        """Send what there is; from now on nothing that comes is looked at."""
        self._flush_now()
        self._buffer = b""
        self._pause_reading(False)

    def _say_goodbye(self) -> None:
        """Tell the peer that this is the end; one that does not answer is cut off."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._expect()
