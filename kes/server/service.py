"""The service: listens, watches its files, reloads, stops. It owns what outlives a reload, and swaps what does not."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import cast

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IReactorCore,
    IReactorSocket,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.tcp import Port
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from kes.api.tree import make_tree
from kes.config import level
from kes.config.address import Address
from kes.keycache import KeyCache
from kes.server import banner
from kes.server.build import Arguments, Parts, StartError, load, make_state
from kes.server.http import limits
from kes.server.http.site import Site
from kes.server.logs import AuditLog, ErrorLog, Feed
from kes.server.metrics import Metrics, Readings
from kes.server.process import lock_memory
from kes.server.recorder import Recorder
from kes.server.state import State
from kes.server.systemd import Manager, SocketError, listening_socket
from kes.server.tcp import Turn
from kes.server.threads import NoThread, Threads
from kes.server.tls import Context, ServerTLS, Stamp, TLSError, TLSFactory, stamp

WATCH_INTERVAL = 5.0  # seconds between looks at the TLS files
REREAD_INTERVAL = 15 * 60.0  # seconds after which they are read again anyway (contract section 5)
LISTEN_BACKLOG = 1024
RETIRE_MARGIN = 1.0  # seconds that a key store of before a reload stays open beyond the time of its last request
FLUSH_TIMEOUT = 1.0  # seconds that the console gets for the last log lines

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_PORT_WAS_OPEN = "the service manager has opened the port; change ListenStream in its socket unit"

log = Logger()


class Reactor(IReactorCore, IReactorSocket, IReactorTCP, IReactorThreads, IReactorTime):
    """What the service needs of a reactor."""


@dataclass(frozen=True, slots=True)
class Console:
    """Where the start-up output and the logs go. No function here blocks, save `flush`, for so many seconds at most.

    An error log without a function goes to its subscribers only; one that is the journal takes priorities. `lost` tells
    how many lines of output and of errors could not be written.
    """

    output: Callable[[bytes], None]
    errors: Callable[[bytes], None] | None
    flush: Callable[[float], None]
    lost: Callable[[], tuple[int, int]]
    colour: bool
    journal: bool = False


class KESService(Service):
    """The server as a Twisted service, made from parts that are loaded already."""

    name = "kes"

    def __init__(
        self, reactor: Reactor, arguments: Arguments, environ: Mapping[str, str], parts: Parts, console: Console
    ) -> None:
        self._reactor = reactor
        self._arguments = arguments
        self._environ = environ
        self._parts = parts
        self._console = console
        self._threads = Threads(reactor)
        errors, audit = Feed(reactor), Feed(reactor)
        self.error_log = ErrorLog(errors, console.errors, journal=console.journal)
        self._audit_log = AuditLog(audit, console.output)
        self._metrics = metrics = Metrics(time.monotonic())
        self._tls = ServerTLS(parts.context)
        self._started_at = time.time_ns()
        self._site = Site(
            make_tree(reactor, metrics, errors, audit),
            self._state(parts),
            Recorder(metrics, self._audit_log),
            reactor,
            self._tls.peer,
            self._tls.handshake_failed,
        )
        metrics.read = self._readings
        self._set_levels(parts)
        self._manager = Manager(environ, lambda text: log.warn("{text}", text=text))
        self._alive = LoopingCall(self._manager.alive)
        self._alive.clock = reactor
        self._port: IListeningPort | None = None
        self._port_was_open = False
        self._mlock = False
        self._reloading = False
        self._reload_failed = False
        self._reload_again = False
        self._retired: dict[KeyCache, IDelayedCall] = {}
        self._stopping = False
        self._read_at = reactor.seconds()
        self._watch = LoopingCall(self._look_at_files)
        self._watch.clock = reactor

    # Start

    def privilegedStartService(self) -> None:
        """Listen, on the socket that the service manager has passed, or on one of our own. Raises StartError."""
        if self._port is not None:
            return
        factory = cast(ServerFactory, TLSFactory(self._tls, False, self._site, self._reactor))
        try:
            passed = listening_socket(self._environ, os.getpid())
        except SocketError as error:
            raise StartError(str(error)) from None
        if passed is None:
            self._port = self._listen(factory)
        else:
            with passed:  # the port has a descriptor of its own
                self._port = self._reactor.adoptStreamPort(passed.fileno(), passed.family, factory)
            self._port_was_open = True
        cast(Port, self._port).transport = Turn(self._reactor).connect  # type: ignore[assignment]

    def _listen(self, factory: ServerFactory) -> IListeningPort:
        where = self._parts.config.address
        # An empty host is every interface, of both families where the system has both.
        hosts = [where.interface] if where.interface else ["::", "0.0.0.0"]  # noqa: S104 - asked for
        for host in hosts:
            try:
                return self._reactor.listenTCP(where.port, factory, LISTEN_BACKLOG, host)
            except CannotListenError as error:
                refusal = error
                if getattr(error.socketError, "errno", None) not in _NO_IPV6:
                    # A port that is taken is no reason to serve half of what was asked for.
                    break
        reason = getattr(refusal.socketError, "strerror", None) or refusal.socketError
        raise StartError(f"cannot listen on {where}: {reason}", temporary=True)

    def startService(self) -> None:
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]
        globalLogPublisher.addObserver(self.error_log)
        self._threads.start()
        self._site.state.keys.start()
        watchdog = self._manager.watchdog(os.getpid())
        if watchdog:
            self._alive.start(watchdog / 2)
        self._mlock = not self._arguments.dev and lock_memory()
        if not self._arguments.dev:
            self._watch.start(WATCH_INTERVAL, now=False)
        # The reactor sets its own handlers when it starts; ours end the process with status 0.
        self._reactor.callWhenRunning(self._started)

    def _started(self) -> None:
        signal.signal(signal.SIGHUP, self._signalled)
        signal.signal(signal.SIGTERM, self._signalled)
        signal.signal(signal.SIGINT, self._signalled)
        self._warn(self._parts)
        own = self._parts.config.address
        if self._port_was_open and own.port != self._where().port:
            log.warn("the address {own} is not used: {used}", own=own, used=_PORT_WAS_OPEN)
        self._announce(banner.READY)
        self._manager.ready(self._status())

    def _status(self) -> str:
        """What the service does, for the service manager."""
        text = f"Serving on {self._where()}; KMS {self._parts.store.kms}"
        return f"{text}; the last reload failed, see the log" if self._reload_failed else text

    def _where(self) -> Address:
        """What the port is bound to; the config may have left it to the system, or to the service manager."""
        assert self._port is not None
        bound = cast(IPv4Address | IPv6Address, self._port.getHost())
        return Address(bound.host, bound.port)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reactor.callFromThread(self.reload)
        elif self._stopping:
            os._exit(1)  # asked twice: at once
        else:
            self._stopping = True
            self._reactor.callFromThread(self._reactor.stop)

    def _warn(self, parts: Parts) -> None:
        for warning in (*parts.config.warnings, *parts.context.warnings, *parts.store.warnings):
            log.warn("{warning}", warning=warning)

    def _announce(self, last: str) -> None:
        """Print the start-up output; its last line is true by now."""
        parts, where = self._parts, self._where()
        text = banner.render(
            banner.Banner(
                kms=parts.store.kms,
                urls=banner.addresses(where.interface, where.port),
                api_key=None if parts.api_key is None else str(parts.api_key),
                admin=parts.config.admin if parts.config.admin_enabled else "<disabled>",
                auth=parts.context.settings.auth,
                error_level=level.render(parts.config.log.error),
                audit_level=None if parts.config.log.audit > level.INFO else level.render(parts.config.log.audit),
                mlock=self._mlock,
            ),
            last,
            colour=self._console.colour,
        )
        self._console.output(text.encode())

    # Reload

    def reload(self) -> None:
        """Read the whole configuration anew and switch to it; on any error run on as before."""
        if self._stopping:
            return
        if self._arguments.dev:
            log.info("received SIGHUP: there is no config file to read again in development mode")
        elif self._reloading:
            # What is being read may be older than what this signal is about.
            self._reload_again = True
        else:
            log.info("received SIGHUP: reading the configuration again")
            self._reloading = True
            self._manager.reloading()
            loaded = self._threads.run(load, self._arguments, self._environ)
            loaded.addCallbacks(self._switch, self._keep).addErrback(_log_defect).addBoth(self._reloaded)

    def _switch(self, parts: Parts) -> None:
        """One step: new requests get the new state, those under way end on the old one."""
        if self._stopping:
            parts.store.close()
            return
        before, old = self._parts, self._site.state
        state = self._state(parts)
        state.keys.start()
        state.keys.hits, state.keys.misses = old.keys.hits, old.keys.misses
        self._parts = parts
        self._site.state = state
        self._tls.context = parts.context
        if (parts.stamp, parts.context.settings) != (before.stamp, before.context.settings):
            self._site.drain()
        self._read_at = self._reactor.seconds()
        self._set_levels(parts)
        self._retire(old)
        self._warn(parts)
        if parts.config.address != before.config.address:
            if self._port_was_open:
                log.warn("the address {new} is not used: {used}", new=parts.config.address, used=_PORT_WAS_OPEN)
            else:
                log.warn("the address {new} is used from the next start on", new=parts.config.address)
        self._reload_failed = False
        for reloads in self._metrics.reloads.values():
            reloads.ended(well=True)
        self._announce(banner.RELOADED)

    def _retire(self, old: State) -> None:
        """Close a key store of before once no request needs it: those that have begun end within their route's time.

        Not when it is idle: a request whose body is still to come has taken the state already.
        """
        longest = max(route.timeout for route in old.routes.values())
        self._retired[old.keys] = self._reactor.callLater(longest + RETIRE_MARGIN, self._close_retired, old.keys)

    def _close_retired(self, keys: KeyCache) -> None:
        del self._retired[keys]
        keys.close().addErrback(_log_defect)

    def _keep(self, failure: Failure) -> None:
        self._metrics.reloads["config"].ended(well=False)
        failure.trap(StartError, NoThread)
        self._reload_failed = True
        log.error("the configuration is not reloaded, the old one stays: {error}", error=failure.value)

    def _reloaded(self, _: object) -> None:
        self._reloading = False
        if self._reload_again:
            self._reload_again = False
            self.reload()
        elif not self._stopping:
            self._manager.ready(self._status())

    def _state(self, parts: Parts) -> State:
        return make_state(parts, self._tls, self._threads.run, self._reactor, self._metrics.calls, self._started_at)

    def _set_levels(self, parts: Parts) -> None:
        self.error_log.level = parts.config.log.error
        self._audit_log.level = parts.config.log.audit

    # Metrics

    def _readings(self) -> Readings:
        keys, connections = self._site.state.keys, self._site.census()
        errors, audit = self.error_log.feed, self._audit_log.feed
        lost_audit, lost_errors = self._console.lost()
        return Readings(
            error_events=self.error_log.events,
            audit_events=self._audit_log.events,
            subscribers={"error": len(errors.subscribers), "audit": len(audit.subscribers)},
            subscribers_dropped={"error": errors.dropped, "audit": audit.dropped},
            lines_dropped={"error": lost_errors, "audit": lost_audit},
            cache_hits=keys.hits,
            cache_misses=keys.misses,
            cached_keys=keys.size,
            keystore_up=keys.up,
            threads_busy=self._threads.busy,
            calls_waiting=self._threads.waiting,
            connections={protocol: connections[protocol] for protocol in ("http/1.1", "h2")},
            handshakes=connections["tls"],
            certificate_expiry=self._tls.context.expires,
        )

    # TLS files

    def _look_at_files(self) -> Deferred[None]:
        """Read the TLS files again if they have changed, or if it is time."""
        due = self._reactor.seconds() - self._read_at >= REREAD_INTERVAL
        looked = self._threads.run(_reread, self._parts, due)
        used = looked.addCallback(self._use_files, self._parts)
        return used.addErrback(_ignore_no_thread).addErrback(_log_defect)

    def _use_files(self, found: tuple[Stamp, Context | TLSError | None], seen: Parts) -> None:
        files, context = found
        if context is None or self._parts is not seen:
            return  # nothing new, or a reload was faster
        self._read_at = self._reactor.seconds()
        self._metrics.reloads["tls-files"].ended(well=isinstance(context, Context))
        if isinstance(context, TLSError):
            # With the new stamp, so that one bad file is one event.
            self._parts = replace(seen, stamp=files)
            log.error("the TLS files cannot be used, those read before stay: {error}", error=context)
            return
        self._parts = replace(seen, stamp=files, context=context)
        self._tls.context = context
        if files != seen.stamp:
            log.info("using the changed TLS files")
            self._site.drain()
            for warning in context.warnings:
                log.warn("{warning}", warning=warning)

    # Stop

    def stopService(self) -> Deferred[None]:
        """Take no more connections, give running requests a moment, then close everything."""
        self._stopping = True
        self._manager.stopping()
        self._console.output(f"\n{banner.GOODBYE}\n".encode())
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        await maybeDeferred(super().stopService)
        if self._watch.running:
            self._watch.stop()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
            self._port = None
        connections = self._site.connections
        for connection in tuple(connections):
            connection.stop()
        deadline = self._reactor.seconds() + limits.STOP_TIMEOUT
        while connections and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, 0.01)
        for connection in tuple(connections):
            connection.abort()
        for timer in self._retired.values():
            timer.cancel()
        # A store that hangs is left behind: it must not hold up the end of the process.
        await DeferredList([keys.close(limits.STOP_TIMEOUT) for keys in (*self._retired, self._site.state.keys)])
        self._threads.stop()
        if self._alive.running:
            self._alive.stop()
        globalLogPublisher.removeObserver(self.error_log)
        self._console.flush(FLUSH_TIMEOUT)


def _reread(parts: Parts, due: bool) -> tuple[Stamp, Context | TLSError | None]:
    """In a thread: the files' stamp, and what is in them if that is new or `due`."""
    settings = parts.context.settings
    files: Stamp = ()
    try:
        files = stamp(settings)
        if files == parts.stamp and not due:
            return files, None
        return files, Context.load(settings)
    except TLSError as error:
        # A stamp fails only where the files of `tls.ca` cannot be listed; that is reported once as well.
        return files, None if files == parts.stamp and not due else error


def _ignore_no_thread(failure: Failure) -> None:
    """The log says so already, and the next look is soon."""
    failure.trap(NoThread)


def _log_defect(failure: Failure) -> None:
    log.failure("internal error", failure)
