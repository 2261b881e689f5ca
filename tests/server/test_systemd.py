"""The server under a service manager: the test is the manager, with a notify socket, a watchdog, sockets to pass and a
journal of its own. Under a booted systemd: tests/boot."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kes.server.systemd import REFUSED
from tests.server.test_service import Running
from tests.support import (
    ADMIN,
    KES,
    TIMEOUT,
    TWISTD,
    Client,
    Server,
    client_context,
    require_tool,
    start,
    start_dev,
    write_config,
)

# Starts a program with descriptors from 3 on, as sd_listen_fds(3) has them.
_PASS = """
import os, sys
descriptors, command = sys.argv[1].split(","), sys.argv[2:]
for target, descriptor in enumerate(filter(None, descriptors), 3):
    os.dup2(int(descriptor), target)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""


class NotifySocket:
    """The manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.variable = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self._socket.settimeout(TIMEOUT)

    def next(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    @property
    def waiting(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        finally:
            self._socket.settimeout(TIMEOUT)
        return True

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    notify = NotifySocket(str(tmp_path / "notify"))
    yield notify
    notify.close()


def environment(**variables: object) -> dict[str, str]:
    return {**os.environ, **{name: str(value) for name, value in variables.items()}}


class TestNotify:
    def test_life(self, tmp_path: Path, manager: NotifySocket) -> None:
        """The manager hears when the server is ready, what it serves, when it reloads and when it stops."""
        with start(tmp_path, env=environment(NOTIFY_SOCKET=manager.variable)) as server:
            serving = {
                "READY": "1",
                "STATUS": f"Serving on 127.0.0.1:{server.port}; KMS Filesystem: {tmp_path / 'keys'}",
            }
            assert manager.next() == serving
            server.process.send_signal(signal.SIGHUP)
            reloading = manager.next()
            assert (reloading["RELOADING"], reloading["STATUS"]) == ("1", "Reading the configuration")
            assert reloading["MONOTONIC_USEC"].isdigit()
            assert manager.next() == serving
        assert manager.next() == {"STOPPING": "1", "STATUS": "Stopping"}
        assert not manager.waiting

    def test_ready_means_that_it_listens(self, tmp_path: Path, manager: NotifySocket) -> None:
        """A server that cannot listen never says that it is ready."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            command = [KES, "server", "--dev", "--addr", f"127.0.0.1:{port}"]
            result = refused(command, tmp_path, NOTIFY_SOCKET=manager.variable)
        assert (result.returncode, manager.waiting) == (1, False)

    def test_failed_reload(self, tmp_path: Path, manager: NotifySocket) -> None:
        """After a reload that failed the service is ready as before, and its status says so until one succeeds."""
        with start(tmp_path, env=environment(NOTIFY_SOCKET=manager.variable)) as server:
            serving = manager.next()["STATUS"]
            good = (tmp_path / "config.yml").read_text()
            statuses = []
            for text in ("nonsense: true\n", good):
                (tmp_path / "config.yml").write_text(text)
                server.process.send_signal(signal.SIGHUP)
                assert "RELOADING" in manager.next()
                message = manager.next()
                assert message["READY"] == "1"
                statuses.append(message["STATUS"])
            assert statuses == [f"{serving}; the last reload failed, see the log", serving]

    def test_abstract_name(self, tmp_path: Path) -> None:
        """The socket may have an abstract name."""
        manager = NotifySocket(f"@kes-test-{os.getpid()}-{tmp_path.name}")
        server = Server(
            [KES, "server", "--dev", "--addr", "127.0.0.1:0"],
            cwd=tmp_path,
            env=environment(NOTIFY_SOCKET=manager.variable),
        )
        with server:
            assert manager.next()["READY"] == "1"
        manager.close()

    def test_twistd(self, tmp_path: Path, manager: NotifySocket) -> None:
        """Under twistd it is the same."""
        command = [TWISTD, "-n", "kes", "--dev", "--addr", "127.0.0.1:0"]
        with Server(command, cwd=tmp_path, env=environment(NOTIFY_SOCKET=manager.variable)):
            assert manager.next()["READY"] == "1"
        assert manager.next()["STOPPING"] == "1"

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("{}/nowhere", "No such file or directory"),
            ("{}/config.yml", "Connection refused"),
            ("vsock:2:1234", "neither a path nor an abstract name"),
            ("{}/" + "x" * 200, "AF_UNIX path too long"),
        ],
    )
    def test_wrong_socket(self, tmp_path: Path, path: str, reason: str) -> None:
        """A socket that leads nowhere is one line in the log; the server serves all the same."""
        name = path.format(tmp_path)
        with start(tmp_path, env=environment(NOTIFY_SOCKET=name)) as server:
            server.reload()
            assert server.client().request("GET", "/v1/status").status == 200
        lines = [line for line in server.err if "NOTIFY_SOCKET" in line]
        assert len(lines) == 1
        assert 'level=WARN msg="the service manager cannot be told that READY=1, and may end the server: ' in lines[0]
        assert f"NOTIFY_SOCKET '{name}': {reason}. In the unit, set Type=notify\"\n" in lines[0]


class TestWatchdog:
    def running(self, folder: Path, **variables: object) -> Running:
        return Running(folder, environ={name: str(value) for name, value in variables.items()})

    def test_fed_by_the_reactor(self, tmp_path: Path, manager: NotifySocket) -> None:
        """Each half of the watchdog's time that passes for the reactor is a sign of life; a stuck one gives none."""
        running = self.running(
            tmp_path, NOTIFY_SOCKET=manager.variable, WATCHDOG_USEC=30_000_000, WATCHDOG_PID=os.getpid()
        )
        assert manager.next() == {"WATCHDOG": "1"}
        for _ in range(3):
            running.reactor.advance(14)
            assert not manager.waiting
            running.reactor.advance(1)
            assert manager.next() == {"WATCHDOG": "1"}
        running.stop()

    @pytest.mark.parametrize(
        "variables", [{}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": 1000, "WATCHDOG_PID": os.getpid() + 1}]
    )
    def test_not_wanted(self, tmp_path: Path, manager: NotifySocket, variables: dict[str, object]) -> None:
        """Without a watchdog, or with one for another process, there are no signs of life, and no word about it."""
        running = self.running(tmp_path, NOTIFY_SOCKET=manager.variable, **variables)
        running.reactor.advance(60)
        assert not manager.waiting
        assert not running.logged("WATCHDOG")
        running.stop()

    @pytest.mark.parametrize(
        ("usec", "notify", "message"),
        [
            (30_000_000, False, "no NOTIFY_SOCKET to feed it by: in the unit, set Type=notify or remove WatchdogSec"),
            ("soon", True, "WATCHDOG_USEC is 'soon', no number of microseconds: the watchdog is not fed"),
            ("0", True, "WATCHDOG_USEC is '0', no number"),
            ("-5", True, "WATCHDOG_USEC is '-5', no number"),
        ],
    )
    def test_wrong(self, tmp_path: Path, manager: NotifySocket, usec: object, notify: bool, message: str) -> None:
        """A watchdog that cannot be fed is one line in the log."""
        variables = {"NOTIFY_SOCKET": manager.variable} if notify else {}
        running = self.running(tmp_path, WATCHDOG_USEC=usec, **variables)
        assert running.logged(message) == running.logged("WATCHDOG_USEC") == 1
        running.stop()


@contextmanager
def listeners(*kinds: str) -> Iterator[list[socket.socket]]:
    """Sockets to pass, of these kinds."""
    with ExitStack() as stack:
        sockets = []
        for kind in kinds:
            match kind:
                case "tcp":
                    made = socket.create_server(("127.0.0.1", 0), backlog=1024)
                case "tcp6":
                    made = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
                case "udp":
                    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                case "unix":
                    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                    made.bind("")  # an abstract name of the kernel's choice
                    made.listen()
                case "connected":
                    made, other = socket.socketpair(socket.AF_UNIX)
                    stack.callback(other.close)
                case "idle":
                    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sockets.append(made)
            stack.callback(made.close)
        yield sockets


def activated(sockets: list[socket.socket], *options: str) -> list[str]:
    """A command that starts the server with these sockets."""
    numbers = ",".join(str(made.fileno()) for made in sockets)
    return [sys.executable, "-c", _PASS, numbers, KES, "server", *options]


def refused(
    command: list[str], folder: Path, pass_fds: Sequence[int] = (), **variables: object
) -> subprocess.CompletedProcess[str]:
    """A start that has to fail, in one line and with nothing on standard output."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        pass_fds=pass_fds,
    )
    assert re.fullmatch(r"Error: .+\n", result.stderr), result.stderr
    assert result.stdout == ""
    return result


class TestActivation:
    @pytest.mark.parametrize("kind", ["tcp", "tcp6"])
    def test_serves_on_the_socket(self, tmp_path: Path, kind: str) -> None:
        """The port that the manager has opened is the one that is served; the config's address is not, and told so."""
        config = write_config(tmp_path, address="127.0.0.1:1")
        with listeners(kind) as sockets:
            port = sockets[0].getsockname()[1]
            server = Server(
                activated(sockets, "--config", str(config)),
                cwd=tmp_path,
                env=environment(LISTEN_FDS=1, LISTEN_FDNAMES="kes.socket"),
                pass_fds=[sockets[0].fileno()],
            )
            with server:
                assert server.port == port
                assert server.client().request("PUT", "/v1/key/create/k").status == 200
                used = "the service manager has opened the port; change ListenStream in its socket unit"
                server.wait_for(f"the address 127.0.0.1:1 is not used: {used}", errors=True)
                write_config(tmp_path, address="127.0.0.1:2")
                server.reload()
                server.wait_for(f"the address 127.0.0.1:2 is not used: {used}", errors=True)
            # The server is gone, and its port still there.
            with socket.create_connection(("127.0.0.1", port), TIMEOUT):
                pass

    def test_socket_activate(self, tmp_path: Path) -> None:
        """The tool that systemd has for trying it out starts the server when the first client comes."""
        tool = require_tool("systemd-socket-activate")
        config = write_config(tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [tool, "--listen", f"127.0.0.1:{port}", KES, "server", "--config", str(config)]
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stdout is not None
            assert f"Listening on 127.0.0.1:{port}" in process.stderr.readline()
            client = Client(port, client_context(tmp_path, ADMIN))
            assert client.request("PUT", "/v1/key/create/k").status == 200
            client.close()
            process.send_signal(signal.SIGTERM)
            assert f"https://127.0.0.1:{port}/" in process.stdout.read()
            assert process.wait(TIMEOUT) == 0
            process.stderr.read()

    def test_restart_under_load(self, tmp_path: Path) -> None:
        """While the server restarts again and again, nobody is refused: the one that goes or the next serves."""
        config = write_config(tmp_path, keys=[{"name": "k"}])
        failures: list[Exception] = []
        served = [0]
        done = threading.Event()
        with listeners("tcp") as sockets:
            port = sockets[0].getsockname()[1]
            context = client_context(tmp_path, ADMIN)

            def load() -> None:
                while not done.is_set():
                    client = Client(port, context)
                    try:
                        assert client.request("PUT", "/v1/key/generate/k").status == 200
                        served[0] += 1
                    except Exception as error:
                        failures.append(error)
                    finally:
                        client.close()

            clients = [threading.Thread(target=load) for _ in range(4)]
            for index in range(5):
                server = Server(
                    activated(sockets, "--config", str(config)),
                    cwd=tmp_path,
                    env=environment(LISTEN_FDS=1),
                    pass_fds=[sockets[0].fileno()],
                )
                with server:
                    if index == 0:
                        for thread in clients:
                            thread.start()
                    before = served[0]
                    while served[0] < before + 20 and len(failures) < 20:
                        done.wait(0.01)
                    if index == 4:
                        done.set()
                        for thread in clients:
                            thread.join(TIMEOUT)
        assert not [error for error in failures if isinstance(error, ConnectionRefusedError)]
        # On a busy machine a handshake may not have ended when the second that a stop allows is over.
        assert len(failures) < 5
        assert served[0] >= 100

    @pytest.mark.parametrize(
        ("kinds", "message"),
        [
            (("tcp", "tcp"), r"has passed 2 sockets \(a:b\), and the server takes one: write one ListenStream in .*"),
            (("unix",), r"has passed \(a:b\) is AF_UNIX SOCK_STREAM: in its unit, write ListenStream with a TCP port"),
            (("udp",), r"has passed \(a:b\) is AF_INET SOCK_DGRAM: in its unit, write ListenStream with a TCP port"),
            (("connected",), r"has passed \(a:b\) is AF_UNIX SOCK_STREAM: .*"),
            (("idle",), r"has passed \(a:b\) does not listen: in its unit, set Accept=no"),
            ((), r"has passed \(a:b\) is none: .*"),
        ],
    )
    def test_wrong_sockets(self, tmp_path: Path, kinds: tuple[str, ...], message: str) -> None:
        """What cannot be served is one line that names the setting of the socket unit, and no reason to try again."""
        config = write_config(tmp_path)
        with listeners(*kinds) as sockets:
            result = refused(
                activated(sockets, "--config", str(config)),
                tmp_path,
                [made.fileno() for made in sockets],
                LISTEN_FDS=max(len(kinds), 1),
                LISTEN_FDNAMES="a:b",
                NOTIFY_SOCKET=tmp_path / "nobody",
            )
        assert re.fullmatch(rf"Error: the .*service manager {message}\n", result.stderr), result.stderr
        assert result.returncode == REFUSED

    @pytest.mark.parametrize("variables", [{"LISTEN_FDS": 1, "LISTEN_PID": 1}, {"LISTEN_FDS": 0}, {}])
    def test_not_for_us(self, tmp_path: Path, variables: dict[str, object]) -> None:
        """Sockets for another process, or none, are no sockets: the server opens its own."""
        with start(tmp_path, env=environment(**variables)) as server:
            assert server.client().request("GET", "/v1/status").status == 200


class TestExitStatus:
    """systemd tries again what ends with 1, and leaves what ends with `REFUSED` to people."""

    @staticmethod
    def status(folder: Path, command: list[str]) -> tuple[int, int]:
        """The exit status under a manager, and without one."""
        return (
            refused(command, folder, NOTIFY_SOCKET=folder / "nobody").returncode,
            refused(command, folder).returncode,
        )

    @pytest.mark.parametrize(
        "sections",
        [
            {"nonsense": True},
            {"tls": {"key": "nowhere.key", "cert": "nowhere.crt"}},
            {"keystore": {"fs": {"path": "/dev/null/keys"}}},
            {"admin": {"identity": "${KES_NOT_SET}"}},
        ],
    )
    def test_configuration(self, tmp_path: Path, sections: dict[str, Any]) -> None:
        """A config that would fail again: nobody tries again."""
        command = [KES, "server", "--addr", "127.0.0.1:0", "--config", str(write_config(tmp_path, **sections))]
        assert self.status(tmp_path, command) == (REFUSED, 1)

    def test_unreadable(self, tmp_path: Path) -> None:
        """So does a config file that is not there, or cannot be read."""
        for path in (tmp_path / "nowhere.yml", tmp_path):
            command = [KES, "server", "--config", str(path)]
            assert self.status(tmp_path, command) == (REFUSED, 1)

    @pytest.mark.parametrize("options", [["server"], ["server", "--dev", "--nonsense"], ["server", "--addr", "x"]])
    def test_options(self, tmp_path: Path, options: list[str]) -> None:
        """And options that the unit has wrong."""
        assert self.status(tmp_path, [KES, *options]) == (REFUSED, 1)

    def test_may_pass(self, tmp_path: Path) -> None:
        """A key store that is out of reach may be back soon, and so may a port: it is tried again."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert self.status(tmp_path, [KES, "server", "--dev", "--addr", f"127.0.0.1:{port}"]) == (1, 1)
        vault = {"endpoint": f"http://127.0.0.1:{port}", "approle": {"id": "i", "secret": "s"}}
        config = write_config(tmp_path, keystore={"vault": vault})
        assert self.status(tmp_path, [KES, "server", "--config", str(config)]) == (1, 1)


class TestJournal:
    def test_priorities(self, tmp_path: Path) -> None:
        """Lines of the error log have their priority in front where they go to the journal, and only there."""
        config = write_config(tmp_path, api={"/v1/status": {"timeout": "15s"}})
        journal = tmp_path / "journal"
        with journal.open("wb") as file:
            status = os.fstat(file.fileno())
            process = subprocess.Popen(
                [KES, "server", "--addr", "127.0.0.1:0", "--auth", "off", "--config", str(config)],
                cwd=tmp_path,
                env=environment(JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}"),
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    if "up and running" in line:
                        break
                config.write_text("nonsense: true\n")
                process.send_signal(signal.SIGHUP)
                while "not reloaded" not in journal.read_text():
                    assert process.poll() is None
                process.terminate()
                assert "Goodbye" in process.stdout.read()
        warning, *logged = journal.read_text().splitlines()
        assert warning == "<4>WARNING: --auth is deprecated: use tls.auth in the config file"
        assert [line[:3] + line.split(" ")[1] for line in logged] == ["<6>level=INFO", "<3>level=ERROR"]

    def test_refusal(self, tmp_path: Path) -> None:
        """So has the line that says why the server does not start."""
        journal = tmp_path / "journal"
        with journal.open("wb") as file:
            status = os.fstat(file.fileno())
            subprocess.run(
                [KES, "server", "--config", "nowhere.yml"],
                cwd=tmp_path,
                env=environment(JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}"),
                stderr=file,
                timeout=TIMEOUT,
                check=False,
            )
        assert journal.read_text().startswith("<3>Error: ")

    def test_other_stream(self, tmp_path: Path) -> None:
        """A standard error that is not the journal has none, though the environment of one was inherited."""
        server, _ = start_dev(tmp_path, env=environment(JOURNAL_STREAM="1:2"))
        with server:
            server.process.send_signal(signal.SIGHUP)
            assert server.wait_for("SIGHUP", errors=True).startswith("time=")
