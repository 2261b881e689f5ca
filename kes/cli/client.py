"""From what a command was given to a client of a server, and from the client's errors to lines for a person.

Where the server is and who asks comes from options and environment, by the rules of `kes.client.settings` (cli.md 2).
An error ends the command with the server's own words, after the name of what was attempted; `Hint: ` lines behind it
say what to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from kes.cli.command import Given, shown
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal
from kes.client import (
    Client,
    ConnectionFailed,
    InvalidName,
    KESError,
    KeyStoreFailed,
    KeyStoreUnreachable,
    NotAllowed,
    PasswordRequired,
    ServerError,
    Settings,
    Timeouts,
    TLSError,
    TLSProblem,
)
from kes.client.endpoint import PORT, parse_endpoints

_MAX_MESSAGE: Final = 1024  # characters of a server's message; longer ones are pages of something else


@contextmanager
def connect(given: Given, terminal: Terminal) -> Iterator[Client]:
    """A client for the command. Raises CommandError."""
    made = settings(given, terminal)
    if given.command.option("enclave") and given.text("enclave"):
        terminal.warning("--enclave is ignored: there are no enclaves")
    with open_client(made, terminal) as client:
        yield client


def open_client(settings: Settings, terminal: Terminal) -> Client:
    """A client with these settings. Raises CommandError."""
    try:
        return Client(settings, warn=terminal.warning)
    except KESError as error:
        raise CommandError(str(error)) from None


def settings(given: Given, terminal: Terminal) -> Settings:
    """The settings that options and environment make. A person is asked for a password where one is needed.

    Raises CommandError.
    """
    seconds = given.seconds("timeout")
    usual = Timeouts()
    try:
        made = Settings.from_environment(
            os.environ,
            server=given.text("server"),
            api_key=given.text("api-key"),
            key_file=given.text("key-file"),
            cert_file=given.text("cert-file"),
            ca_file=given.text("ca-file"),
            insecure=given.flag("insecure"),
            timeouts=Timeouts(min(usual.connect, seconds), min(usual.handshake, seconds), seconds),
        )
        if not made.key_file or not _is_encrypted(made):
            return made
    except KESError as error:
        raise CommandError(str(error)) from None
    password = terminal.password("Enter password for private key: ", file=given.text("password-file"))
    try:
        return replace(made, password=password.decode())
    except UnicodeDecodeError:
        raise CommandError("incorrect password: it is not UTF-8") from None


def _is_encrypted(settings: Settings) -> bool:
    from kes.client.tls import identification

    try:
        identification(settings, 0)
    except PasswordRequired:
        return True
    return False


@contextmanager
def attempt(client: Client, purpose: str = "", key: str = "") -> Iterator[None]:
    """Turn the client's errors into the command's: `failed to <purpose>: …`, and hints.

    `key`: the key that the server's errors are about, if `purpose` does not name it.
    """
    try:
        yield
    except KESError as error:
        # A name that is refused is in the message already.
        prefix = f"failed to {purpose}: " if purpose and not isinstance(error, InvalidName) else ""
        subject = f"key {shown(key)}: " if key and isinstance(error, ServerError) else ""
        raise CommandError(prefix + subject + _message(error), *_hints(client, error)) from None


def _message(error: KESError) -> str:
    if isinstance(error, ServerError) and (error.message.startswith("<") or len(error.message) > _MAX_MESSAGE):
        return f"{error.endpoint} answered with status {error.status}, and not as a KES server does"
    return str(error)


def _hints(client: Client, error: KESError) -> Iterator[str]:
    if isinstance(error, NotAllowed):
        yield (
            f"the identity {client.identity} was refused. The server's config has to allow this under "
            "policy.<name>.allow, and to name the identity under policy.<name>.identities"
        )
    elif isinstance(error, KeyStoreFailed | KeyStoreUnreachable):
        yield f"the reason is in the error log of the server {error.endpoint}"
    elif isinstance(error, TLSError):
        yield from _tls_hints(error)
    elif isinstance(error, ConnectionFailed) and any(
        str(endpoint) == error.endpoint and endpoint.port == PORT for endpoint in parse_endpoints(error.endpoint)
    ):
        yield f"without a port, {PORT} is asked; KES servers mostly listen on 7373: {error.endpoint}:7373"


def _tls_hints(error: TLSError) -> Iterator[str]:
    match error.kind:
        case TLSProblem.UNKNOWN_ISSUER:
            yield (
                "name a file with the certificate of the authority that issued the server's, or with the server's own, "
                "by --ca-file or SSL_CERT_FILE; or skip the verification with -k"
            )
        case TLSProblem.NAME_MISMATCH if error.names:
            yield f"the server's certificate is for {', '.join(error.names)}"
        case TLSProblem.NAME_MISMATCH:
            yield "the server's certificate is for no name at all: it has no subject alternative names"
        case TLSProblem.EXPIRED | TLSProblem.NOT_YET_VALID if error.validity:
            since, until = (_timestamp(seconds) for seconds in error.validity)
            yield f"the server's certificate is valid from {since} until {until} UTC"
        case TLSProblem.CLIENT_REJECTED:
            yield (
                f"our identity is {error.identity}. A server admits it if its config names it as admin.identity or "
                "under policy.<name>.identities, if an authority that it trusts has issued the certificate, or if "
                "tls.auth is off"
            )
        case TLSProblem.PLAIN_HTTP:
            yield "KES servers take TLS only: check the port, and any proxy in front of the server"
        case _:
            pass


def _timestamp(seconds: int) -> str:
    from kes.cli.text import timestamp

    return timestamp(seconds * 10**9)
