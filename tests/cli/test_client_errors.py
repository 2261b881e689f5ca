"""What goes wrong between the command line and a server: each time one line that says what, and hints what to do."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from kes.certificate import make_client_certificate, make_server_certificate
from tests.cli.run import environment, kes, on_terminal
from tests.support import ADMIN, APP, KES, OPS, STRANGER, TIMEOUT, Server, start

KEY = {"KES_API_KEY": str(ADMIN)}
Handler = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client-errors")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server that admits those whom its config names, and no one else."""
    with start(folder, tls={"key": str(folder / "server.key"), "cert": str(folder / "server.crt")}) as server:
        yield server


@contextmanager
def listener(handle: Handler, address: str = "127.0.0.1") -> Iterator[int]:
    """A TCP server that hands each connection to `handle` and then closes it; its port."""
    with socket.create_server((address, 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    handle(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT)


@contextmanager
def tls_listener(folder: Path, age: timedelta, answer: bytes, address: str = "127.0.0.1") -> Iterator[tuple[int, Path]]:
    """A TLS server whose certificate was made some time ago, and that gives one answer; its port and certificate."""
    cert, key = folder / "other.crt", folder / "other.key"
    for path, pem in zip((cert, key), make_server_certificate([], datetime.now(UTC) - age), strict=True):
        path.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as stream:
            stream.recv(1 << 16)
            stream.sendall(answer)

    with listener(handle, address) as port:
        yield port, cert


def refused(*arguments: str, folder: Path, env: Mapping[str, str] = KEY) -> tuple[str, list[str]]:
    """The message and the hints of a command that fails, which hold no API key."""
    result = kes(*arguments, cwd=folder, env=env)
    assert "kes:v1" not in result.err
    return result.error, result.hints


def test_no_server(folder: Path) -> None:
    """Nobody listens: the endpoint and the system's reason; the operation is named where there is one."""
    message = "kes: connection error: 127.0.0.1:1: Connection refused"
    assert refused("ls", "-s", "127.0.0.1:1", folder=folder) == (message, [])
    assert (
        refused("key", "create", "k", "-s", "127.0.0.1:1", folder=folder)[0] == f'failed to create key "k": {message}'
    )


def test_port_left_out(folder: Path) -> None:
    """No port means 443, which is a surprise when a server is meant that listens on 7373: the hint says so."""
    error, hints = refused("ls", "-s", "127.0.0.1", folder=folder)
    assert error == "kes: connection error: 127.0.0.1: Connection refused"
    assert hints == ["without a port, 443 is asked; KES servers mostly listen on 7373: 127.0.0.1:7373"]


def test_no_such_host(folder: Path) -> None:
    """A name that nobody knows is a connection error that names it."""
    error, _ = refused("ls", "-s", "kes.invalid:7373", folder=folder)
    assert error.startswith("kes: connection error: kes.invalid:7373: ")


@pytest.mark.parametrize("server", ["ftp://x", "host:0", "host:99999", "user:secret@host:1", ",", "a b"])
def test_invalid_server(folder: Path, server: str) -> None:
    """A text that names no server is refused, and a password in it is not repeated."""
    error, _ = refused("ls", "-s", server, folder=folder)
    assert error.startswith(("invalid server ", "no server is given"))
    assert "secret" not in error


def test_closes_at_once(folder: Path) -> None:
    """A peer that accepts and closes is a connection error."""
    with listener(lambda connection: None) as port:
        error, _ = refused("ls", "-s", f"127.0.0.1:{port}", folder=folder)
    assert error.startswith(f"kes: connection error: 127.0.0.1:{port}: ")


def test_no_tls(folder: Path) -> None:
    """A peer that speaks something else than TLS is a failed handshake."""
    with listener(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")) as port:
        error, _ = refused("ls", "-s", f"127.0.0.1:{port}", folder=folder)
    assert error.startswith(f"tls: handshake with 127.0.0.1:{port} failed: ")


def test_plain_http(folder: Path) -> None:
    """A peer that answers in plain HTTP is told as such."""
    with listener(lambda c: c.recv(9) and c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        error, hints = refused("ls", "-s", f"127.0.0.1:{port}", folder=folder)
    assert error == f"tls: 127.0.0.1:{port} answers in plain HTTP, without TLS"
    assert hints == ["KES servers take TLS only: check the port, and any proxy in front of the server"]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b"<html>\n<h1>404</h1></html>", "127.0.0.1:{} answered with status 404, and not as a KES server does"),
        (200, b"<html></html>", "the answer of 127.0.0.1:{} is not what was expected"),
        (500, b"x" * 2000, "127.0.0.1:{} answered with status 500, and not as a KES server does"),
        (418, b"first\nsecond\n\x1b[31m", "first second \\x1b[31m"),
        (500, b"", "the server answered with status 500"),
    ],
)
def test_another_server(folder: Path, status: int, body: bytes, message: str) -> None:
    """An HTTPS server that is no KES server gives one line, whatever it sends, and no control character of it."""
    answer = b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
    with tls_listener(folder, timedelta(), answer) as (port, _):
        assert refused("ls", "-k", "-s", f"127.0.0.1:{port}", folder=folder)[0] == message.format(port)


def test_time_limit(folder: Path) -> None:
    """A server that accepts and never says a word is given up when --timeout is over."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        error, _ = refused("ls", "--timeout", "50ms", "-s", endpoint, folder=folder)
    assert error == f"kes: connection error: {endpoint}: timed out"


@pytest.mark.parametrize("value", ["0", "-1s", "5", "soon"])
def test_invalid_time_limit(folder: Path, value: str) -> None:
    """A time limit is a duration above zero."""
    assert refused("ls", f"--timeout={value}", folder=folder)[0].startswith(
        f'invalid argument "{value}" for "--timeout" flag: '
    )


def test_interrupted(folder: Path) -> None:
    """Ctrl-C ends a command that waits for its server, without a traceback, with status 130."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = subprocess.Popen(
            [KES, "ls", "-s", f"127.0.0.1:{silent.getsockname()[1]}"],
            cwd=folder,
            env=environment(KEY),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)  # it has begun to ask
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def test_unknown_issuer(server: Server, folder: Path) -> None:
    """A server's certificate that nobody vouches for: the hint names the two ways on, and both work."""
    endpoint = f"127.0.0.1:{server.port}"
    error, hints = refused("ls", "-s", endpoint, folder=folder)
    assert error == f"tls: failed to verify the certificate of {endpoint}: self-signed certificate"
    assert [("--ca-file or SSL_CERT_FILE" in hint, "-k" in hint) for hint in hints] == [(True, True)]
    trusting = {**KEY, "SSL_CERT_FILE": str(folder / "server.crt")}
    assert kes("ls", "-s", endpoint, cwd=folder, env=trusting).status == 0
    ca_file = ("--ca-file", str(folder / "server.crt"))
    assert kes("ls", "-s", endpoint, *ca_file, cwd=folder, env=KEY).status == 0
    assert kes("status", "--server", endpoint, *ca_file, cwd=folder, env=KEY).status == 0
    assert kes("ls", "-s", endpoint, "-k", cwd=folder, env=KEY).status == 0


def test_wrong_name(folder: Path) -> None:
    """A certificate for another name: the hint lists the names that it is for."""
    with tls_listener(folder, timedelta(), b"", "127.0.0.2") as (port, cert):
        error, hints = refused("ls", "-s", f"127.0.0.2:{port}", folder=folder, env={**KEY, "SSL_CERT_FILE": str(cert)})
    assert error.startswith(f"tls: failed to verify the certificate of 127.0.0.2:{port}: ")
    assert hints == ["the server's certificate is for localhost, 127.0.0.1, ::1"]


def test_expired(folder: Path) -> None:
    """An expired certificate: the hint says from when until when it was valid."""
    made = datetime.now(UTC) - timedelta(days=400)
    with tls_listener(folder, timedelta(days=400), b"") as (port, cert):
        error, hints = refused("ls", "-s", f"127.0.0.1:{port}", folder=folder, env={**KEY, "SSL_CERT_FILE": str(cert)})
    assert error == f"tls: failed to verify the certificate of 127.0.0.1:{port}: certificate has expired"
    (hint,) = hints
    until = (made + timedelta(days=90)).date()
    assert hint.startswith("the server's certificate is valid from ")
    assert f" until {until} " in hint


def test_rejected_by_the_server(server: Server, folder: Path) -> None:
    """A server that does not know our certificate: the hint says who we are and what would admit us."""
    error, hints = refused(
        "ls", "-k", "-s", f"127.0.0.1:{server.port}", folder=folder, env={"KES_API_KEY": str(STRANGER)}
    )
    assert error.startswith(f"tls: 127.0.0.1:{server.port} rejected the client's certificate: ")
    (hint,) = hints
    assert STRANGER.identity in hint
    assert "tls.auth" in hint
    assert "policy.<name>.identities" in hint


def test_not_allowed(server: Server, folder: Path) -> None:
    """A 403 keeps the server's words; the hint names the identity that was refused."""
    error, hints = refused(
        "key", "rm", "k", "-k", "-s", f"127.0.0.1:{server.port}", folder=folder, env={"KES_API_KEY": str(OPS)}
    )
    assert error == 'failed to remove key "k": not authorized: insufficient permissions'
    assert [OPS.identity in hint for hint in hints] == [True]


@pytest.mark.parametrize(
    "key",
    ["kes:v1:AKqwms5wRWf0p94XmeD0", "v1:AM0F5TP43FYEShMzA42f2drFYGnBOiNx7UH4DK0nm08E", "kes:v1:????", "secret"],
)
def test_half_an_api_key(folder: Path, key: str) -> None:
    """A cut or mistyped API key is refused with a reason, and not repeated."""
    for result in (
        kes("ls", cwd=folder, env={"KES_API_KEY": key}),
        kes("ls", "-a", key, cwd=folder),
    ):
        assert result.error.startswith("parsing API key: ")
        assert key not in result.err


def test_credentials(folder: Path) -> None:
    """Each way to give no credentials, or too many, has its message."""
    for env, words in (
        ({}, "MINIO_KES_API_KEY"),
        ({"KES_API_KEY": ""}, "MINIO_KES_API_KEY"),
        ({**KEY, "KES_CLIENT_KEY": "k"}, "both an API key and a private key file"),
        ({**KEY, "KES_CLIENT_CERT": "c"}, "both an API key and a certificate file"),
        ({"KES_CLIENT_KEY": "k"}, "MINIO_KES_CERT_FILE"),
        ({"KES_CLIENT_CERT": "c"}, "MINIO_KES_KEY_FILE"),
        ({"KES_CLIENT_KEY": "nowhere", "KES_CLIENT_CERT": "nowhere"}, "nowhere: No such file or directory"),
    ):
        assert words in refused("ls", folder=folder, env=env)[0]


def test_precedence(server: Server, folder: Path) -> None:
    """Options beat variables, MINIO_ names the short ones, and empty variables are none at all."""
    endpoint, nobody = f"127.0.0.1:{server.port}", "127.0.0.1:1"
    for arguments, env in (
        (("-s", endpoint, "-a", str(ADMIN)), {"KES_SERVER": nobody, "KES_API_KEY": "x", "KES_CLIENT_KEY": "x"}),
        ((f"--server=https://{endpoint}/",), {**KEY, "MINIO_KES_SERVER": nobody}),
        ((), {"MINIO_KES_SERVER": endpoint, "KES_SERVER": nobody, "MINIO_KES_API_KEY": str(ADMIN), "KES_API_KEY": "x"}),
        ((), {**KEY, "MINIO_KES_SERVER": "", "KES_SERVER": endpoint, "MINIO_KMS_KES_ENDPOINT": nobody}),
        ((), {"MINIO_KMS_KES_ENDPOINT": f"http://{endpoint}", "MINIO_KMS_KES_API_KEY": str(ADMIN)}),
        ((), {**KEY, "KES_SERVER": f"{endpoint},{endpoint}"}),
    ):
        result = kes("ls", "-k", *arguments, cwd=folder, env=env)
        assert (result.status, result.err) == (0, ""), (arguments, env)


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, str]:
    """A certificate of APP, and its private key encrypted with the password `open sesame`, as variables."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate, key = make_client_certificate(APP, datetime.now(UTC))
    encrypted = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")
    )
    (folder / "app.crt").write_bytes(certificate)
    (folder / "app.key").write_bytes(encrypted)
    (folder / "password").write_text("open sesame\n")
    return {"KES_CLIENT_CERT": str(folder / "app.crt"), "KES_CLIENT_KEY": str(folder / "app.key")}


def test_password_on_terminal(server: Server, folder: Path, files: dict[str, str]) -> None:
    """The password of a private key is asked for once, and not shown; a wrong one is an error."""
    env = {**files, "KES_SERVER": f"127.0.0.1:{server.port}"}
    prompt = "Enter password for private key: "
    answers = {prompt: "open sesame\n"}
    status, shown = on_terminal(KES, "ls", "my-app", "-k", cwd=folder, env=env, answers=answers)
    assert (status, shown) == (0, f"{prompt}\n")
    status, shown = on_terminal(KES, "ls", "my-app", "-k", cwd=folder, env=env, answers={prompt: "guess\n"})
    assert status == 1
    assert "incorrect password" in shown
    assert "guess" not in shown


def test_password_of_several_servers(server: Server, folder: Path, files: dict[str, str]) -> None:
    """`kes status --all` asks for the password once for all servers."""
    endpoint = f"127.0.0.1:{server.port}"
    env = {**files, "KES_SERVER": f"{endpoint},localhost:{server.port}"}
    answers = {"Enter password for private key: ": "open sesame\n"}
    status, shown = on_terminal(KES, "status", "--all", "-s", "-k", cwd=folder, env=env, answers=answers)
    assert (status, shown.count("Enter password"), shown.count("●")) == (0, 1, 2)


def test_unattended_password(server: Server, folder: Path, files: dict[str, str]) -> None:
    """Without a terminal the password comes from a file or a variable; without either the error says which."""
    env = {**files, "KES_SERVER": f"127.0.0.1:{server.port}"}
    command = ("ls", "my-app", "-k")
    for arguments, variables in (
        (("--password-file", "password"), {}),
        ((), {"KES_KEY_PASSWORD_FILE": "password"}),
        ((), {"KES_KEY_PASSWORD": "open sesame"}),
    ):
        assert kes(*command, *arguments, cwd=folder, env={**env, **variables}).status == 0
    wrong = kes(*command, cwd=folder, env={**env, "KES_KEY_PASSWORD": "guess"})
    assert "incorrect password" in wrong.error
    assert "guess" not in wrong.err
    # A process of a session of its own has no terminal to ask on.
    result = subprocess.run(
        [KES, *command],
        cwd=folder,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 1
    assert "KES_KEY_PASSWORD_FILE" in result.stderr


def test_key_store_fails(folder: Path, tmp_path: Path) -> None:
    """A failure of the key store is named with its key, and the hint says where its reason is."""
    tls = {"key": str(folder / "server.key"), "cert": str(folder / "server.crt")}
    with start(tmp_path, tls=tls, keystore={"fs": {"path": "keys"}}) as server:
        endpoint = f"127.0.0.1:{server.port}"
        shutil.rmtree(tmp_path / "keys")
        for command, message in (
            (("create", "k"), 'failed to create key "k": failed to create key'),
            (("dek", "k"), 'failed to derive key: key "k": failed to read key'),
            (("rm", "k"), 'failed to remove key "k": failed to delete key'),
        ):
            error, hints = refused("key", *command, "-k", "-s", endpoint, folder=folder)
            assert (error, hints) == (message, [f"the reason is in the error log of the server {endpoint}"])


_TOOL = "\"tool\" is not a kes command. See 'kes --help'."
_FORMER = {
    "init": "\"init\" is not a kes command. See 'kes --help'. Use 'kes identity new' for a key and certificate, and "
    "'kes server --config FILE' to start a server",
    "policy assign": "\"assign\" is not a policy command. See 'kes policy --help'. Identities are assigned in the "
    "config file, under policy.<name>.identities",
    "secret": "\"secret\" is not a kes command. See 'kes --help'. Secrets were removed: encrypt data with "
    "'kes key encrypt'",
    "--root": "unknown flag: --root. See 'kes server --help'. The admin's identity is in the config file: admin: "
    "{identity: …}",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("key", "creat"), "\"creat\" is not a key command. See 'kes key --help'. Did you mean 'kes key create'?"),
        (("polcy",), "\"polcy\" is not a kes command. See 'kes --help'. Did you mean 'kes policy'?"),
        (("init",), _FORMER["init"]),
        (("tool", "identity", "new", "--key=a"), f"{_TOOL} Use 'kes identity new'"),
        (("tool", "identity", "of", "a.crt"), f"{_TOOL} Use 'kes identity of'"),
        (("tool",), f"{_TOOL} Use 'kes identity'"),
        (("key", "derive", "k"), "\"derive\" is not a key command. See 'kes key --help'. Use 'kes key dek'"),
        (("key", "derive", "k", "-k"), "\"derive\" is not a key command. See 'kes key --help'. Use 'kes key dek'"),
        (("log", "trace"), "unexpected argument \"trace\". See 'kes log --help'. Use 'kes log'"),
        (("policy", "assign", "p", "i"), _FORMER["policy assign"]),
        (("secret", "create", "s"), _FORMER["secret"]),
        (("login",), "\"login\" is not a kes command. See 'kes --help'"),
        (("server", "--root", "abc"), _FORMER["--root"]),
        (("server", "--root=abc"), _FORMER["--root"]),
        (("key", "create", "--jsno", "k"), "unknown flag: --jsno. See 'kes key create --help'"),
        (("policy", "info", "-z", "p"), "unknown shorthand flag: 'z' in -z. See 'kes policy info --help'"),
        (("ls", "-s"), "flag needs an argument: 's' in -s. See 'kes ls --help'"),
    ],
)
def test_mistyped(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    """A mistyped command or option is named, with the nearest command and where help is."""
    assert refused(*arguments, folder=folder)[0] == message


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (("key",), ""),
        (("policy",), ""),
        (("key", "create"), "NAME"),
        (("key", "decrypt"), "NAME"),
        (("policy", "show"), "NAME"),
        (("completion",), "SHELL"),
    ],
)
def test_nothing_to_do(folder: Path, command: tuple[str, ...], missing: str) -> None:
    """A command without what it needs prints its usage and the missing argument on standard error, with status 2."""
    result = kes(*command, cwd=folder, env=KEY)
    assert (result.status, result.out) == (2, b"")
    line = f"kes {' '.join(command)}"
    assert line in result.err
    last = result.err.splitlines()[-1]
    assert (last == f"Error: missing argument {missing}. See '{line} --help'") == bool(missing)
