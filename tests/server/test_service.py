"""The service on a clock of its own: TLS files, reloads and the stop. As a process: tests/cli/test_server.py."""

from __future__ import annotations

import ctypes
import queue
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from kes.config import address
from kes.server.build import Arguments, StartError, load
from kes.server.http.limits import STOP_TIMEOUT
from kes.server.service import REREAD_INTERVAL, RETIRE_MARGIN, WATCH_INTERVAL, Console, KESService
from tests.support import TIMEOUT, write_config, write_server_certificate


class Reactor(MemoryReactorClock):
    """Calls from threads wait until the test lets the next one happen."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def callFromThread(self, function: Callable[..., object], *args: Any) -> None:
        self._calls.put(lambda: function(*args))

    def next_report(self) -> Callable[[], object]:
        return self._calls.get(timeout=TIMEOUT)

    def let_thread_report(self) -> None:
        self.next_report()()


class Running:
    """A service that has started, and what it has written."""

    def __init__(self, folder: Path, environ: Mapping[str, str] = {}, **sections: Any) -> None:
        self.folder = folder
        self.reactor = Reactor()
        self.output: list[bytes] = []
        self.errors: list[bytes] = []
        console = Console(self.output.append, self.errors.append, lambda _seconds: None, lambda: (0, 0), colour=False)
        arguments = Arguments(config=str(write_config(folder, **sections)))
        self.service = KESService(self.reactor, arguments, environ, load(arguments, environ), console)
        self.service.startService()
        # It has locked the memory of the process that runs the tests.
        ctypes.CDLL(None).munlockall()

    def until(self, condition: Callable[[], object]) -> None:
        """Let threads report, those of the key cache's probes too, until something is so."""
        while not condition():
            self.reactor.let_thread_report()

    def look(self, seconds: float = WATCH_INTERVAL) -> None:
        """Let the service look at its TLS files, as often as it does in that time."""
        for _ in range(int(seconds / WATCH_INTERVAL)):
            self.reactor.advance(WATCH_INTERVAL)
            self.until(lambda: self.service._watch.call)

    def reloads(self, source: str) -> tuple[int, int, bool]:
        """How often something was read again well and badly, and how it went last, as metrics have it."""
        reloads = self.service._metrics.reloads[source]
        return reloads.outcomes["success"], reloads.outcomes["failure"], reloads.last

    def logged(self, text: str) -> int:
        return sum(text.encode() in line for line in self.errors)

    def stop(self) -> None:
        stopped: Deferred[None] = self.service.stopService()
        while not stopped.called:
            self.reactor.advance(0.1)


def test_a_store_that_hangs_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """No thread ever reports that the store is closed; the service has stopped within twice its limit anyway."""
    running = Running(tmp_path)
    before = running.reactor.seconds()
    running.stop()
    assert running.reactor.seconds() - before < 2 * STOP_TIMEOUT + 0.5


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    if running.service.running:
        running.stop()


REFUSED = "TLS files cannot be used"
USED = "using the changed TLS files"


class TestFiles:
    def test_unchanged(self, running: Running) -> None:
        """Files that stay as they are give no event, also when they are read again because it is time."""
        running.look(2 * REREAD_INTERVAL)
        assert (running.logged(USED), running.logged(REFUSED)) == (0, 0)

    def test_changed(self, running: Running) -> None:
        """A new certificate is used, once."""
        write_server_certificate(running.folder)
        running.look()
        running.look()
        assert running.logged(USED) == 1
        assert running.reloads("tls-files") == (1, 0, True)

    @pytest.mark.parametrize("spoil", [lambda path: path.write_text("no certificate"), lambda path: path.unlink()])
    def test_bad(self, running: Running, spoil: Callable[[Path], object]) -> None:
        """One bad file is one event, however often it is looked at; a good one is then taken."""
        spoil(running.folder / "server.crt")
        for _ in range(4):
            running.look()
        assert running.logged(REFUSED) == 1
        assert running.reloads("tls-files") == (0, 1, False)
        write_server_certificate(running.folder)
        running.look()
        assert (running.logged(REFUSED), running.logged(USED)) == (1, 1)
        assert running.reloads("tls-files") == (1, 1, True)
        assert running.reloads("config") == (0, 0, True)

    def test_bad_for_long(self, running: Running) -> None:
        """A file that stays bad is mentioned again when it is time to read it."""
        (running.folder / "server.key").write_text("no key")
        running.look()
        running.look(REREAD_INTERVAL)
        assert running.logged(REFUSED) == 2

    def test_authorities(self, tmp_path: Path) -> None:
        """The files of a directory of authorities count too; one that vanishes is one event."""
        write_server_certificate(tmp_path)
        authorities = tmp_path / "ca"
        authorities.mkdir()
        (authorities / "one.pem").write_bytes((tmp_path / "server.crt").read_bytes())
        files = {"key": str(tmp_path / "server.key"), "cert": str(tmp_path / "server.crt"), "ca": str(authorities)}
        running = Running(tmp_path, tls=files)
        (authorities / "two.pem").write_bytes((tmp_path / "server.crt").read_bytes())
        running.look()
        assert running.logged(USED) == 1
        for file in authorities.iterdir():
            file.unlink()
        authorities.rmdir()
        for _ in range(3):
            running.look()
        assert running.logged(REFUSED) == 1
        running.stop()

    def test_reload_was_faster(self, running: Running) -> None:
        """What was read for the configuration before a reload is not used after it."""
        write_server_certificate(running.folder)
        running.reactor.advance(WATCH_INTERVAL)
        report_of_the_look = running.reactor.next_report()
        running.service.reload()
        running.until(lambda: running.output)
        report_of_the_look()
        assert running.logged(USED) == 0


class TestReload:
    def test_one_at_a_time(self, running: Running) -> None:
        """Reloads asked for while one runs become one more after it."""
        for _ in range(3):
            running.service.reload()
        assert running.logged("reading the configuration again") == 1
        running.until(lambda: running.output)
        assert running.logged("reading the configuration again") == 2
        running.until(lambda: len(running.output) == 2)
        assert running.logged("received SIGHUP") == 2

    def test_old_key_store(self, running: Running) -> None:
        """The key store of before is closed once the last request that can be using it is over, not earlier."""
        old = running.service._site.state.keys
        running.service.reload()
        running.until(lambda: running.output)
        assert not old._closed
        running.reactor.advance(15)
        assert not old._closed
        running.reactor.advance(RETIRE_MARGIN)
        running.until(lambda: old._closed)

    def test_old_key_store_at_the_stop(self, running: Running) -> None:
        """A stop does not wait for that time, and closes them all."""
        first = running.service._site.state.keys
        running.service.reload()
        running.until(lambda: running.output)
        second = running.service._site.state.keys
        running.stop()
        assert first._closed
        assert second._closed
        assert running.reactor.getDelayedCalls() == []

    def test_failed(self, running: Running) -> None:
        """A reload that fails is one error, and the next one is made all the same."""
        (running.folder / "config.yml").write_text("nonsense: true\n")
        running.service.reload()
        running.until(lambda: running.logged("the old one stays"))
        assert running.output == []
        assert running.reloads("config") == (0, 1, False)
        write_config(running.folder)
        running.service.reload()
        running.until(lambda: running.output)
        assert running.logged("the old one stays") == 1
        assert running.reloads("config") == (1, 1, True)

    def test_while_it_stops(self, running: Running) -> None:
        """A reload that is done after the stop has begun changes nothing, and none begins then."""
        running.service.reload()
        stopped = running.service.stopService()
        running.reactor.let_thread_report()
        running.service.reload()
        while not stopped.called:
            running.reactor.advance(0.1)
        assert running.output == [b"\n=> Stopping server... Goodbye.\n"]
        assert running.logged("received SIGHUP") == 1
        assert running.logged("level=ERROR") == 0


class TestLoad:
    def test_default_address(self, tmp_path: Path) -> None:
        """With neither option nor field the server listens on every IPv4 interface, port 7373."""
        parts = load(Arguments(config=str(write_config(tmp_path))), {})
        assert str(parts.config.address) == "0.0.0.0:7373"

    def test_development_address(self) -> None:
        """In development mode it listens on this machine only, unless --addr says otherwise."""
        assert str(load(Arguments(), {}).config.address) == "127.0.0.1:7373"
        assert str(load(Arguments(address.parse(":1")), {}).config.address) == ":1"

    def test_keys_of_the_config(self, tmp_path: Path) -> None:
        """Keys of the config file are created if they are missing, and left alone otherwise."""
        arguments = Arguments(config=str(write_config(tmp_path, keys=[{"name": "one"}])))
        load(arguments, {}).store.close()
        value = (tmp_path / "keys" / "one").read_bytes()
        load(arguments, {}).store.close()
        assert (tmp_path / "keys" / "one").read_bytes() == value

    def test_error(self, tmp_path: Path) -> None:
        """What is wrong is one line that begins with file and line."""
        (tmp_path / "config.yml").write_text("a: b\n")
        with pytest.raises(StartError, match=r"config\.yml:1: .*'a'"):
            load(Arguments(config=str(tmp_path / "config.yml")), {})
