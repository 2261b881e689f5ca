"""The server's options, and the server under twistd. The same server under `kes server`: tests/cli/test_server.py."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.python import usage

from kes.config.address import Address
from kes.identity import APIKey
from kes.tap import Options
from tests.keystore.fakevault import FakeVault
from tests.support import (
    ADMIN,
    READY,
    TIMEOUT,
    TWISTD,
    Client,
    Server,
    client_context,
    error_line,
    run,
    write_config,
)


def parse(*options: str) -> Options:
    parsed = Options()
    parsed.parseOptions(list(options))
    return parsed


def refusal(*options: str) -> str:
    with pytest.raises(usage.UsageError) as caught:
        parse(*options)
    message, hint = str(caught.value).split(". See ")
    assert hint == "'kes server --help'"
    return message


class TestOptions:
    def test_dev(self) -> None:
        """--dev alone is enough, and no option has a value that was not given."""
        arguments = parse("--dev").arguments
        assert arguments.dev
        assert (arguments.address, arguments.auth, arguments.cert, arguments.key) == (None,) * 4

    @pytest.mark.parametrize("options", [("--addr", "[::]:7000"), ("--addr=[::]:7000",)])
    def test_value_forms(self, options: tuple[str, ...]) -> None:
        """A value follows its option after a blank or an equals sign."""
        assert parse("--dev", *options).arguments.address == Address("::", 7000)

    def test_every_interface(self) -> None:
        """`:7000` means every interface."""
        assert parse("--dev", "--addr", ":7000").arguments.address == Address("", 7000)

    def test_paths_are_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Paths are those of the directory where the command was given, also after a daemon has left it."""
        monkeypatch.chdir(tmp_path)
        arguments = parse("--config", "c.yml", "--cert", "x.crt", "--key", "/etc/x.key").arguments
        assert arguments.config == str(tmp_path / "c.yml")
        assert arguments.cert == str(tmp_path / "x.crt")
        assert arguments.key == "/etc/x.key"

    def test_a_value_may_look_like_an_option(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What follows an option that takes a value is its value, whatever it looks like."""
        monkeypatch.chdir(tmp_path)
        assert parse("--config", "--dev").arguments.config == str(tmp_path / "--dev")

    @pytest.mark.parametrize("value", ["true", "TRUE", "1", "t"])
    def test_boolean_values(self, value: str) -> None:
        """Booleans may have a value."""
        assert parse(f"--dev={value}").arguments.dev

    def test_the_last_value_wins(self) -> None:
        """Of an option that is given more than once the last value counts."""
        assert parse("--dev=false", "--dev").arguments.dev
        assert "--dev" in refusal("--dev", "--dev=false")
        assert parse("--dev", "--addr", ":1", "--addr", ":2").arguments.address == Address("", 2)

    def test_mlock(self) -> None:
        """--mlock, which the manual uses, is accepted."""
        assert parse("--dev", "--mlock").arguments.dev

    @pytest.mark.parametrize(("text", "auth"), [("on", True), ("off", False), ("ON", True), ("Off", False)])
    def test_auth(self, text: str, *, auth: bool) -> None:
        """--auth is on or off, in any letter case as in the config file."""
        assert parse("--dev", "--auth", text).arguments.auth is auth

    def test_warnings(self) -> None:
        """Each deprecated option is warned about once, with what replaces it; the others are not."""
        warnings = parse("--dev", "--auth", "on", "--cert", "a", "--key", "b", "--mlock").warnings()
        assert warnings == [
            "--auth is deprecated: use tls.auth in the config file",
            "--cert is deprecated: use tls.cert in the config file",
            "--key is deprecated: use tls.key in the config file",
        ]
        assert parse("--dev", "--addr", ":1").warnings() == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "no configuration: give a config file with --config, or start with --dev"),
            (["--dev=false"], "no configuration: give a config file with --config, or start with --dev"),
            (["--dev", "--config", "x"], "--config and --dev exclude each other: development mode has no config file"),
            (["--config", ""], "--config is empty: give the path of a file"),
            (["--config", "x", "--key="], "--key is empty: give the path of a file"),
            (["--config"], "flag needs an argument: --config"),
            (["--dev=maybe"], 'invalid argument "maybe" for "--dev" flag: write true or false'),
            (["--dev="], 'invalid argument "" for "--dev" flag: write true or false'),
            (["--dev", "--auth", "maybe"], 'invalid argument "maybe" for "--auth" flag: write on or off'),
            (["--dev", "--auth="], 'invalid argument "" for "--auth" flag: write on or off'),
            (["--foo"], "unknown flag: --foo"),
            (["--foo=bar", "--dev"], "unknown flag: --foo"),
            (["--con", "x"], "unknown flag: --con"),
            (["--addr-x"], "unknown flag: --addr-x"),
            (["-d"], "unknown shorthand flag: 'd' in -d"),
            (["-dev"], "unknown shorthand flag: 'd' in -dev"),
            (["--dev", "more"], "unexpected argument 'more'"),
            (["more", "--dev"], "unexpected argument 'more'"),
            (["--dev", "-"], "unexpected argument '-'"),
            (["--dev", "--", "--auth"], "unexpected argument '--auth'"),
            (["--dev", "--addr", "foo:7373"], "--addr: 'foo' is not a valid IP address"),
            (["--dev", "--addr", "localhost:7373"], "--addr: 'localhost' is not a valid IP address"),
            (["--dev", "--addr", "7373"], "--addr: '7373' is not an address: write IP:port or :port"),
            (["--dev", "--addr", ""], "--addr: '' is not an address: write IP:port or :port"),
            (
                ["--dev", "--addr", "::1:7373"],
                "--addr: '::1:7373' is not an address: put an IPv6 address in brackets, as in [::]:7373",
            ),
            (["--dev", "--addr", ":65536"], "--addr: '65536' is not a valid port: write a number from 0 to 65535"),
        ],
    )
    def test_refused(self, options: list[str], message: str) -> None:
        """What is wrong with the options is said in one line."""
        assert refusal(*options) == message

    def test_nothing_after_the_end_of_options(self) -> None:
        """`--` with nothing behind it ends the options."""
        assert parse("--dev", "--").arguments.dev

    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help(self, capsys: pytest.CaptureFixture[str], option: str) -> None:
        """Help goes to standard output, names every option, and is a success whatever else is given."""
        with pytest.raises(SystemExit) as caught:
            parse("--config", "x", option, "--foo")
        out, err = capsys.readouterr()
        assert (caught.value.code, err) == (0, "")
        assert out.startswith("Usage: kes server [options]\n")
        for name in ("addr", "config", "dev", "auth", "cert", "key", "mlock", "help", "version"):
            assert f"--{name}" in out


def twistd(folder: Path, *options: str) -> Server:
    return Server([TWISTD, "-n", "kes", *options], cwd=folder)


class TestForeground:
    def test_serves_and_stops(self, tmp_path: Path) -> None:
        """`twistd -n kes` is `kes server`: its output on the terminal, logs as well, exit status 0 on SIGTERM."""
        config = write_config(tmp_path, log={"audit": "on"})
        with twistd(tmp_path, "--addr", "127.0.0.1:0", "--config", str(config)) as server:
            assert server.out[1].startswith("Version     ")
            assert server.client().request("PUT", "/v1/key/create/k").status == 200
            server.wait_for('"path":"/v1/key/create/k"')
            server.reload()
            server.wait_for("msg=", errors=True)
            assert all(line.startswith("time=") for line in server.err)
        assert server.out[-1] == "=> Stopping server... Goodbye.\n"
        assert {path.name for path in tmp_path.iterdir()} >= {"config.yml", "keys"}
        assert not [path for path in tmp_path.iterdir() if path.suffix in (".pid", ".tap", ".log")]

    def test_interrupted(self, tmp_path: Path) -> None:
        """SIGINT ends it well too."""
        server = twistd(tmp_path, "--dev", "--addr", "127.0.0.1:0")
        assert server.stop(signal.SIGINT) == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], r"no configuration: .*--config.*--dev\. See 'twistd kes --help'"),
            (["--dev", "--config", "x"], r"--config and --dev exclude each other: .*"),
            (["--foo"], r"unknown flag: --foo\. See 'twistd kes --help'"),
            (["--config", "nowhere.yml"], r"/.*/nowhere\.yml: cannot read the config file: No such file or directory"),
        ],
    )
    @pytest.mark.parametrize("mode", [["-n"], []], ids=["foreground", "daemon"])
    def test_refused(self, tmp_path: Path, mode: list[str], options: list[str], message: str) -> None:
        """What cannot start says so in one line on the terminal, with status 1, and leaves no file behind."""
        assert re.fullmatch(message, error_line(run(TWISTD, *mode, "kes", *options, cwd=tmp_path)))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("mode", [["-n"], []], ids=["foreground", "daemon"])
    def test_port_taken(self, tmp_path: Path, mode: list[str]) -> None:
        """So does one whose port is taken: before it forks, and before it has a pid file."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            line = error_line(run(TWISTD, *mode, "kes", "--dev", "--addr", address, cwd=tmp_path))
        assert line == f"cannot listen on {address}: Address already in use"
        assert list(tmp_path.iterdir()) == []

    def test_help(self, tmp_path: Path) -> None:
        """Its help names it as it was called."""
        result = run(TWISTD, "kes", "-h", cwd=tmp_path)
        assert result.returncode == 0
        assert result.stdout.startswith("Usage: twistd [options] kes [options]\n")

    def test_listed(self, tmp_path: Path) -> None:
        """`twistd --help` lists it."""
        assert re.search(r"^    kes +A key-encryption server\.$", run(TWISTD, "--help", cwd=tmp_path).stdout, re.M)

    def test_bad_directory(self, tmp_path: Path) -> None:
        """A --rundir that is none is one line as well."""
        line = error_line(run(TWISTD, "-n", "--rundir", "nowhere", "kes", "--dev", cwd=tmp_path))
        assert line == "--rundir: 'nowhere' is no directory"

    def test_relative_paths(self, tmp_path: Path) -> None:
        """Options are relative to where the command was given, paths in the config to --rundir, also on a reload."""
        rundir = tmp_path / "run"
        rundir.mkdir()
        write_config(tmp_path, keystore={"fs": {"path": "keys"}}, tls={"key": "../server.key", "cert": "../server.crt"})
        command = [TWISTD, "-n", "--rundir", "run", "kes", "--addr", "127.0.0.1:0", "--config", "config.yml"]
        with Server(command, cwd=tmp_path) as server:
            assert server.client().request("PUT", "/v1/key/create/before").status == 200
            server.reload()
            assert server.client().request("PUT", "/v1/key/create/after").status == 200
        assert {path.name for path in (rundir / "keys").iterdir()} == {"before", "after"}


def eventually(condition: Callable[[], object]) -> None:
    """Wait for what a daemon, which is nobody's child, does; there is nothing else to wait for."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """A folder where a daemon may run, which is ended at the latest with the test."""
    yield tmp_path
    pidfile = tmp_path / "kes.pid"
    if pidfile.exists():
        os.kill(int(pidfile.read_text()), signal.SIGKILL)


class TestDaemon:
    def test_serves_and_stops(self, daemon: Path) -> None:
        """`twistd kes` goes into the background; output, errors and audit events are in twistd's log.

        On SIGTERM it removes the pid file, and leaves nothing but the log behind.
        """
        folder = daemon / "files"
        folder.mkdir()
        config = write_config(folder, log={"audit": "on"})
        pidfile, logfile = daemon / "kes.pid", daemon / "kes.log"
        command = [TWISTD, "--pidfile", str(pidfile), "--logfile", str(logfile), "kes"]
        options = ["--addr", "127.0.0.1:0", "--config", str(config), "--auth", "off"]
        started = subprocess.run(
            [*command, *options], cwd=daemon, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        assert (started.returncode, started.stdout) == (0, "")
        assert started.stderr == "WARNING: --auth is deprecated: use tls.auth in the config file\n"

        eventually(lambda: READY in logfile.read_text())
        port = int(re.search(r"https://127\.0\.0\.1:(\d+)/", logfile.read_text())[1])
        client = Client(port, client_context(folder, ADMIN))
        assert client.request("PUT", "/v1/key/create/k").status == 200
        (folder / "keys" / "broken").write_text("no key")
        assert client.request("PUT", "/v1/key/generate/broken").status == 502
        client.close()
        config.write_text("nonsense: true\n")
        os.kill(int(pidfile.read_text()), signal.SIGHUP)
        eventually(lambda: "config.yml:1:" in logfile.read_text())

        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        eventually(lambda: not pidfile.exists())
        log = logfile.read_text()
        assert '"path":"/v1/key/create/k"' in log
        assert "broken" in log
        assert "=> Stopping server... Goodbye." in log
        assert "Traceback" not in log
        assert {path.name for path in daemon.iterdir()} == {"files", "kes.log"}

    def test_looks_after_its_key_store(self, daemon: Path) -> None:
        """What a key store does in the background goes on in the daemon: the thread that does it is not left behind."""
        vault = FakeVault(time.monotonic)
        vault.v1["", "kv"] = {}
        vault.logins["", "approle"] = {"role_id": "id", "secret_id": "secret"}
        login = {"id": "id", "secret": "secret"}
        keystore = {"vault": {"endpoint": vault.endpoint, "approle": login, "status": {"ping": "100ms"}}}
        folder = daemon / "files"
        folder.mkdir()
        config = write_config(folder, keystore=keystore)
        pidfile, logfile = daemon / "kes.pid", daemon / "kes.log"
        command = [TWISTD, "--pidfile", str(pidfile), "--logfile", str(logfile), "kes"]
        assert run(*command, "--addr", "127.0.0.1:0", "--config", str(config), cwd=daemon).returncode == 0
        eventually(lambda: READY in logfile.read_text())
        seen = vault.count("GET sys/health")
        eventually(lambda: vault.count("GET sys/health") > seen + 3)
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        eventually(lambda: not pidfile.exists())
        eventually(lambda: not vault.tokens)  # the token was given back
        vault.close()

    def test_dev_mode(self, daemon: Path) -> None:
        """Development mode works in the background as well; its API key is in the log."""
        pidfile, logfile = daemon / "kes.pid", daemon / "kes.log"
        command = [TWISTD, "--pidfile", str(pidfile), "--logfile", str(logfile)]
        assert run(*command, "kes", "--dev", "--addr", "127.0.0.1:0", cwd=daemon).returncode == 0
        eventually(lambda: READY in logfile.read_text())
        log = logfile.read_text()
        key = APIKey.parse(re.search(r"kes:v1:\S+", log)[0])
        port = int(re.search(r"https://127\.0\.0\.1:(\d+)/", log)[1])
        client = Client(port, client_context(daemon, key))
        assert client.request("GET", "/v1/identity/self/describe").json["admin"] is True
        client.close()
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        eventually(lambda: not pidfile.exists())
