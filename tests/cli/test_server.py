"""`kes server` as a person or a supervisor meets it: start-up output, refusals, signals, reload, streams."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kes.certificate import make_server_certificate
from kes.identity import APIKey
from tests.support import (
    ADMIN,
    APP,
    KES,
    READY,
    STRANGER,
    TIMEOUT,
    Client,
    Server,
    client_context,
    error_line,
    require_tool,
    run,
    start,
    start_dev,
    write_config,
)

LABELS = {
    "Version", "Runtime", "License", "Copyright", "KMS", "API", "Docs", "API Key", "Admin", "Auth", "Logs", "MLock",
}  # fmt: skip
ESCAPE = "\x1b"


def labels(server: Server) -> list[str]:
    """The first column of the start-up output, with "" for an empty line; lines that go on have none."""
    text = "".join(server.out)
    lines = text[: text.index(READY)].splitlines()
    return [line[:12].rstrip() for line in lines if not line.startswith(" ")]


def value(server: Server, label: str) -> str:
    return re.search(rf"^{label} +(.*)$", "".join(server.out), re.M)[1]


def serves(server: Server, path: str = "/version", key: APIKey = ADMIN) -> bool:
    return server.client(key).request("GET", path).status == 200


class TestOutput:
    def test_dev(self, tmp_path: Path) -> None:
        """Without any set-up: the labels in their order, the values in one column, and a key that is the admin's."""
        server, key = start_dev(tmp_path)
        with server:
            assert labels(server) == [
                "", "Version", "Runtime", "License", "Copyright", "", "KMS", "API", "", "Docs", "", "API Key",
                "Admin", "Auth", "Logs", "",
            ]  # fmt: skip
            rows = [line for line in server.out[: server.out.index(f"{READY}\n")] if line != "\n"]
            assert [line for line in rows if line[11] != " " or line[12] == " "] == []
            assert value(server, "KMS") == "In Memory"
            assert value(server, "API") == f"· https://127.0.0.1:{server.port}/"
            assert value(server, "Admin") == key.identity
            assert value(server, "Auth").startswith("off ")
            assert value(server, "Logs") == "error=stderr level=INFO"
            assert rows[-1] == "            audit=stdout level=INFO\n"
            assert ESCAPE not in "".join(server.out)
            assert serves(server, "/v1/status", key)
            assert server.client(STRANGER).request("GET", "/v1/status").status == 403
        assert list(tmp_path.glob("*.pem")) == list(tmp_path.iterdir()), "a file was left behind"

    def test_config(self, tmp_path: Path) -> None:
        """With a config file: the key store's text, no API key, and no audit line while the audit log is off."""
        with start(tmp_path) as server:
            assert [label for label in labels(server) if label not in ("MLock", "")] == [
                "Version", "Runtime", "License", "Copyright", "KMS", "API", "Docs", "Admin", "Auth", "Logs",
            ]  # fmt: skip
            assert value(server, "KMS") == f"Filesystem: {tmp_path}/keys"
            assert value(server, "Admin") == ADMIN.identity
            assert "audit=" not in "".join(server.out)

    def test_levels(self, tmp_path: Path) -> None:
        """The levels are those of the config file."""
        with start(tmp_path, log={"error": "WARN", "audit": "DEBUG"}) as server:
            assert value(server, "Logs") == "error=stderr level=WARN"
            assert "            audit=stdout level=DEBUG\n" in server.out

    def test_no_admin(self, tmp_path: Path) -> None:
        """An admin whose identity no client can have is shown as disabled."""
        with start(tmp_path, admin={"identity": "disabled"}) as server:
            assert value(server, "Admin") == "<disabled>"

    @pytest.mark.parametrize(("auth", "shown"), [("on", "on ("), ("off", "off ("), (None, "authorities and config (")])
    def test_auth(self, tmp_path: Path, auth: str | None, shown: str) -> None:
        """`Auth` says which of the three rules for client certificates holds, and it does hold."""
        files = {"key": str(tmp_path / "server.key"), "cert": str(tmp_path / "server.crt")}
        tls = files if auth is None else {**files, "auth": auth}
        with start(tmp_path, tls=tls) as server:
            assert value(server, "Auth").startswith(shown)
            admitted = []
            for key in (APP, STRANGER):
                with contextlib.suppress(OSError):
                    admitted.append(key) if serves(server, key=key) else None
            assert admitted == {"on": [], "off": [APP, STRANGER], None: [APP]}[auth]


def on_terminal(folder: Path, env: Mapping[str, str]) -> str:
    """What `kes server --dev` prints on a terminal until it is up."""
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [KES, "server", "--dev", "--addr", "127.0.0.1:0"],
        cwd=folder,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "CLICOLOR_FORCE")} | env,
    )
    os.close(terminal)
    out = b""
    try:
        while READY.encode() not in out:
            out += os.read(control, 4096)
    finally:
        process.terminate()
        process.wait(TIMEOUT)
        os.close(control)
    return out.decode()


class TestColours:
    def test_terminal(self, tmp_path: Path) -> None:
        """On a terminal every label is coloured, the rest stays where it is without colours."""
        out = on_terminal(tmp_path, {"TERM": "xterm-256color"})
        assert set(re.findall(r"\x1b\[38;2;38;139;210m([^\x1b]+)\x1b\[0m {2,}", out)) == LABELS - {"MLock"}
        plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
        assert re.search(r"^KMS {9}In Memory\r?$", plain, re.M)

    @pytest.mark.parametrize("env", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}])
    def test_unwanted(self, tmp_path: Path, env: dict[str, str]) -> None:
        """With NO_COLOR, or on a terminal that cannot, there is no escape sequence."""
        assert ESCAPE not in on_terminal(tmp_path, env)


class TestAddress:
    def test_flag_wins(self, tmp_path: Path) -> None:
        """--addr wins over the config's address, which wins over the default."""
        with start(tmp_path, address="192.0.2.1:1") as server:
            assert value(server, "API") == f"· https://127.0.0.1:{server.port}/"
        config = write_config(tmp_path, address="127.0.0.1:0")
        with Server([KES, "server", "--config", str(config)], cwd=tmp_path) as server:
            assert serves(server)

    def test_every_interface(self, tmp_path: Path) -> None:
        """`:port` serves every interface, by IPv6 too where the system has it, and says where."""
        with Server([KES, "server", "--dev", "--addr", ":0"], cwd=tmp_path) as server:
            assert f"· https://127.0.0.1:{server.port}/" in "".join(server.out)
            hosts = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]
            for host in hosts:
                socket.create_connection((host, server.port), TIMEOUT).close()

    @pytest.mark.parametrize("host", ["::1", "::"])
    def test_ipv6(self, tmp_path: Path, host: str) -> None:
        """IPv6 addresses are written in brackets. Where there is no IPv6, one line says that."""
        command = [KES, "server", "--dev", "--addr", f"[{host}]:0"]
        if not has_ipv6():
            assert f"cannot listen on [{host}]:0: " in error_line(run(*command, cwd=tmp_path))
            return
        with Server(command, cwd=tmp_path) as server:
            key = APIKey.parse(value(server, "API Key"))
            client = Client(server.port, client_context(tmp_path, key))
            client.connection.host = "::1"
            assert client.request("GET", "/v1/status").status == 200
            client.close()
            if host == "::1":
                assert value(server, "API") == f"· https://[::1]:{server.port}/"

    def test_certificate_covers_the_addresses(self, tmp_path: Path) -> None:
        """The certificate of development mode is valid for localhost and every address that is shown."""
        with Server([KES, "server", "--dev", "--addr", ":0"], cwd=tmp_path) as server:
            key = APIKey.parse(value(server, "API Key"))
            client = server.client(key)
            client.request("GET", "/version")
            der = client.connection.sock.getpeercert(binary_form=True)
            certificate = tmp_path / "dev.der"
            certificate.write_bytes(der)
            for host in ("127.0.0.1", *re.findall(r"· https://([0-9.]+):", "".join(server.out))):
                check = run(
                    require_tool("openssl"), "x509", "-inform", "DER", "-in", str(certificate), "-noout",
                    "-checkip", host, cwd=tmp_path,
                )  # fmt: skip
                assert "does match" in check.stdout
            names = run("openssl", "x509", "-inform", "DER", "-in", str(certificate), "-noout", "-text", cwd=tmp_path)
            assert "DNS:localhost" in names.stdout

    def test_port_taken(self, tmp_path: Path) -> None:
        """A port that is taken is one line with address and reason, and no word of a server that is up."""
        config = write_config(tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            result = run(KES, "server", "--addr", address, "--config", str(config), cwd=tmp_path)
        assert error_line(result) == f"cannot listen on {address}: Address already in use"

    def test_port_taken_on_one_family(self, tmp_path: Path) -> None:
        """`:port` is not content with IPv4 where only the IPv6 port is taken: half of what was asked is not served."""
        if not has_ipv6():
            pytest.skip("this system has no IPv6")
        with socket.socket(socket.AF_INET6) as taken:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind(("::", 0))
            taken.listen()
            port = taken.getsockname()[1]
            result = run(KES, "server", "--dev", "--addr", f":{port}", cwd=tmp_path)
        assert error_line(result) == f"cannot listen on :{port}: Address already in use"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def without_roots_rights(command: list[str]) -> list[str]:
    """A command that is bound by the modes of files, also where root runs the tests."""
    if os.geteuid() == 0:
        return [require_tool("setpriv"), "--bounding-set=-dac_override,-dac_read_search", *command]
    return command


class TestRefused:
    def test_nothing_given(self, tmp_path: Path) -> None:
        """Without --dev and --config one line names both."""
        line = error_line(run(KES, "server", cwd=tmp_path))
        assert "--config" in line
        assert "--dev" in line

    def test_bad_config(self, tmp_path: Path) -> None:
        """An error in the config file is one line with file and line number."""
        path = tmp_path / "config.yml"
        path.write_text("version: v1\nadmni:\n  identity: disabled\n")
        line = error_line(run(KES, "server", "--config", "config.yml", cwd=tmp_path))
        assert line.startswith(f"{path}:2: ")
        assert "admin" in line

    def test_bad_certificate(self, tmp_path: Path) -> None:
        """A certificate that cannot be used is one line that names its file."""
        config = write_config(tmp_path)
        (tmp_path / "server.crt").write_text("no certificate")
        line = error_line(run(KES, "server", "--config", str(config), cwd=tmp_path))
        assert f"tls.cert {tmp_path}/server.crt: " in line

    def test_key_store_not_writable(self, tmp_path: Path) -> None:
        """A key store directory that cannot be written is one line with directory and reason."""
        keys = tmp_path / "keys"
        config = write_config(tmp_path)
        keys.mkdir(mode=0o500)
        command = without_roots_rights([KES, "server", "--addr", "127.0.0.1:0", "--config", str(config)])
        line = error_line(run(*command, cwd=tmp_path))
        assert line == f"cannot open the key store: key store directory '{keys}': Permission denied"

    def test_folder_that_cannot_be_entered(self, tmp_path: Path) -> None:
        """Where it is started is no matter, as when another user's shell stands in its own folder."""
        folder = tmp_path / "private"
        folder.mkdir()
        command = without_roots_rights([KES, "server", "--dev", "--addr", "127.0.0.1:0"])
        with Server(["sh", "-c", 'chmod 0 . && exec "$@"', "sh", *command], cwd=folder) as server:
            server.wait_for(READY)
        folder.chmod(0o700)

    def test_interrupted_early(self, tmp_path: Path) -> None:
        """Ctrl-C while the server starts ends it with status 130 and no traceback."""
        pipe = tmp_path / "config.yml"
        os.mkfifo(pipe)  # nobody writes: reading the config takes until the signal
        process = subprocess.Popen(
            [KES, "server", "--config", str(pipe)], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        with pipe.open("wb"):  # returns when the server has opened its end
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, errors) == (130, b"")


class TestDeprecated:
    def test_effective(self, tmp_path: Path) -> None:
        """--cert, --key and --auth each give one warning, win over the config, and stay in force on a reload.

        The config may do without what they give.
        """
        cert, key = tmp_path / "other.crt", tmp_path / "other.key"
        cert_pem, key_pem = make_server_certificate([], datetime.now(UTC))
        cert.write_bytes(cert_pem)
        key.write_bytes(key_pem)
        options = ("--cert", "other.crt", "--key", "other.key", "--auth", "off")
        with start(tmp_path, *options, tls={"auth": "on"}) as server:
            warnings = [line.split(" is deprecated")[0] for line in server.err if line.startswith("WARNING: ")]
            assert warnings == ["WARNING: --auth", "WARNING: --cert", "WARNING: --key"]
            for auth in ("on", "off"):
                assert value(server, "Auth").startswith("off ")
                assert server.client(STRANGER, ca=cert).request("GET", "/version").status == 200
                write_config(
                    tmp_path,
                    tls={"key": str(tmp_path / "server.key"), "cert": str(tmp_path / "server.crt"), "auth": auth},
                )
                server.reload()
            assert server.client(STRANGER, ca=cert).request("GET", "/version").status == 200
            assert sum("deprecated" in line for line in server.err) == 3

    def test_dev(self, tmp_path: Path) -> None:
        """They hold in development mode too: --auth on lets no self-signed client in, and the certificate is served."""
        write_config(tmp_path)
        command = [KES, "server", "--dev", "--addr", "127.0.0.1:0"]
        files = ["--cert", "server.crt", "--key", "server.key"]
        with Server([*command, *files], cwd=tmp_path) as server:
            assert server.client(STRANGER, ca=tmp_path / "server.crt").request("GET", "/version").status == 200
        with Server([*command, "--auth", "on"], cwd=tmp_path) as server, pytest.raises(OSError):  # noqa: PT011
            serves(server, key=STRANGER)
        assert "--cert" in error_line_after_warning(run(*command, "--key", "server.key", cwd=tmp_path))


def error_line_after_warning(result: subprocess.CompletedProcess[str]) -> str:
    warning, error = result.stderr.splitlines(keepends=True)
    assert warning.startswith("WARNING: ")
    return error_line(subprocess.CompletedProcess(result.args, result.returncode, result.stdout, error))


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stop(self, tmp_path: Path, number: signal.Signals) -> None:
        """SIGTERM and SIGINT stop it: an empty line, the farewell, exit status 0."""
        server = start(tmp_path)
        assert serves(server)
        assert server.stop(number) == 0
        assert server.out[-2:] == ["\n", "=> Stopping server... Goodbye.\n"]

    def test_stop_with_open_streams(self, tmp_path: Path) -> None:
        """A log stream that is open when the server stops ends in order, after its last events."""
        with start(tmp_path) as server:
            stream = server.client()
            stream.connection.request("GET", "/v1/log/audit")
            response = stream.connection.getresponse()
            assert serves(server, "/v1/status")
            server.process.send_signal(signal.SIGTERM)
            lines = response.read().splitlines()
            assert server.process.wait(TIMEOUT) == 0
        assert b'"/v1/status"' in lines[-1]

    def test_request_under_way(self, tmp_path: Path) -> None:
        """A request that is under way when the server stops is answered."""
        server = start(tmp_path, log={"audit": "on"})
        client = server.client()
        client.connection.putrequest("PUT", "/v1/key/create/late")
        client.connection.endheaders()
        assert client.connection.getresponse().read() == b""
        client.connection.putrequest("PUT", "/v1/key/generate/late")
        client.connection.putheader("Content-Length", "2")
        client.connection.endheaders()
        # So that the half request has arrived: a connection's bytes are read in turn.
        assert serves(server)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("Goodbye")
        client.connection.send(b"{}")
        assert client.connection.getresponse().status == 200
        assert server.process.wait(TIMEOUT) == 0
        server.stop()
        assert any('"/v1/key/generate/late"' in line for line in server.out)

    def test_second_signal(self, tmp_path: Path) -> None:
        """A second signal ends it at once, whatever is under way."""
        server = start(tmp_path)
        client = server.client()
        client.connection.putrequest("PUT", "/v1/key/generate/k")
        client.connection.putheader("Content-Length", "2")
        client.connection.endheaders()
        assert serves(server)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("Goodbye")
        assert server.stop(signal.SIGTERM) == 1

    def test_hangup_in_dev_mode(self, tmp_path: Path) -> None:
        """SIGHUP is ignored in development mode: there is nothing to read again, and the keys stay."""
        server, key = start_dev(tmp_path)
        with server:
            assert server.client(key).request("PUT", "/v1/key/create/k").status == 200
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("SIGHUP", errors=True)
            assert serves(server, "/v1/key/describe/k", key)
            assert sum(READY in line for line in server.out) == 1


class TestReload:
    def test_output(self, tmp_path: Path) -> None:
        """A reload prints the start-up output of the new configuration with another last line."""
        with start(tmp_path) as server:
            write_config(tmp_path, log={"error": "WARN", "audit": "on"})
            server.reload()
            again = server.out[server.out.index(f"{READY}\n") + 1 :]
            assert [line[:12].strip() for line in again[:4]] == ["", "Version", "Runtime", "License"]
            assert "Logs        error=stderr level=WARN\n" in again
            assert "            audit=stdout level=INFO\n" in again
            assert again[-1] == "=> Reloading configuration after SIGHUP signal completed.\n"

    def test_broken_config(self, tmp_path: Path) -> None:
        """A reload of a broken file is one error line; the old configuration stays, and a mended file is taken."""
        with start(tmp_path) as server:
            (tmp_path / "config.yml").write_text("nonsense: true\n")
            server.process.send_signal(signal.SIGHUP)
            line = server.wait_for("level=ERROR", errors=True)
            assert f"{tmp_path}/config.yml:1: " in line
            assert serves(server, "/v1/key/list/", ADMIN)
            write_config(tmp_path, policy={"all": {"allow": ["/v1/status"], "identities": [STRANGER.identity]}})
            assert server.client(STRANGER).request("GET", "/v1/status").status == 403
            server.reload()
            assert server.client(STRANGER).request("GET", "/v1/status").status == 200
            assert sum("level=ERROR" in line for line in server.err) == 1

    def test_address_stays(self, tmp_path: Path) -> None:
        """The address does not change on a reload, which is said."""
        config = write_config(tmp_path, address="127.0.0.1:0")
        with Server([KES, "server", "--config", str(config)], cwd=tmp_path) as server:
            write_config(tmp_path, address="127.0.0.1:1")
            server.reload()
            server.wait_for("127.0.0.1:1 is used from the next start on", errors=True)
            assert serves(server)

    def test_at_once(self, tmp_path: Path) -> None:
        """Signals that come while the file is read are not lost: what stood there at the last of them is in force."""
        with start(tmp_path) as server:
            for number in range(10):
                level = "WARN" if number == 9 else "INFO"
                write_config(tmp_path, log={"error": level})
                server.process.send_signal(signal.SIGHUP)
            server.wait_for("error=stderr level=WARN")
            assert serves(server)


class TestStreams:
    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_closed_later(self, tmp_path: Path, stream: str) -> None:
        """When nobody reads the output any more the server serves on, and stops with status 0."""
        config = write_config(tmp_path, log={"audit": "on"})
        process = subprocess.Popen(
            [KES, "server", "--addr", "127.0.0.1:0", "--config", str(config)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        port = 0
        for line in process.stdout:
            port = int(found[1]) if (found := re.search(r"https://127\.0\.0\.1:(\d+)/", line)) else port
            if READY in line:
                break
        getattr(process, stream).close()
        client = Client(port, client_context(tmp_path, ADMIN))
        for _ in range(3):
            assert client.request("GET", "/v1/status").status == 200
            process.send_signal(signal.SIGHUP)
        assert client.request("PUT", "/v1/key/create/k").status == 200
        client.close()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        process.stdout.close()
        process.stderr.close()

    def test_closed_from_the_start(self, tmp_path: Path) -> None:
        """Closed streams are not needed, and what takes their descriptors is not written to."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = write_config(tmp_path, log={"audit": "on"})
        command = 'exec "$0" "$@" <&- >&- 2>&-'
        process = subprocess.Popen(
            ["sh", "-c", command, KES, "server", "--addr", f"127.0.0.1:{port}", "--config", str(config)], cwd=tmp_path
        )
        deadline = time.monotonic() + TIMEOUT
        while True:  # it has no way to say that it is up
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.02)
        client = Client(port, client_context(tmp_path, ADMIN))
        for number in range(20):
            assert client.request("PUT", f"/v1/key/create/k{number}").status == 200
        assert len(client.request("GET", "/v1/key/list/").json["names"]) == 20
        for number in range(20):
            assert client.request("PUT", f"/v1/key/generate/k{number}").status == 200
        client.close()
        process.terminate()
        assert process.wait(TIMEOUT) == 0

    def test_reader_that_stalls(self, tmp_path: Path) -> None:
        """A reader of standard output that stops reading holds up neither requests, nor a reload, nor the stop."""
        config = write_config(tmp_path, log={"audit": "on"})
        process = subprocess.Popen(
            [KES, "server", "--addr", "127.0.0.1:0", "--config", str(config)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out = b""
        while READY.encode() not in out:
            out += os.read(process.stdout.fileno(), 4096)
        client = Client(int(re.search(rb"127\.0\.0\.1:(\d+)/", out)[1]), client_context(tmp_path, ADMIN))
        for _ in range(600):  # more than a pipe holds
            assert client.request("GET", "/v1/status").status == 200
        write_config(tmp_path, policy={"all": {"allow": ["/v1/status"], "identities": [APP.identity]}})
        process.send_signal(signal.SIGHUP)
        while client.request("GET", f"/v1/identity/describe/{APP.identity}").json["policy"] != "all":
            pass
        client.close()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        process.stdout.close()
        process.stderr.close()
