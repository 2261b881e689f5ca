"""What a client is set up with: the servers, who it is, whom it trusts, how long it waits (cli.md 2).

Values only: nothing is opened or looked up here, but for the environment variables that are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from kes.client.endpoint import DEFAULT
from kes.client.errors import ConfigurationError

# The first that is set, and not to nothing, counts.
SERVER: Final = ("MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT")
API_KEY: Final = ("MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY")
KEY_FILE: Final = ("MINIO_KES_KEY_FILE", "KES_CLIENT_KEY", "MINIO_KES_CLIENT_KEY", "MINIO_KMS_KES_KEY_FILE")
CERT_FILE: Final = ("MINIO_KES_CERT_FILE", "KES_CLIENT_CERT", "MINIO_KES_CLIENT_CERT", "MINIO_KMS_KES_CERT_FILE")


class Timeouts(msgspec.Struct, frozen=True):
    """How long the client waits, in seconds."""

    connect: float = 30.0
    handshake: float = 10.0
    response: float = 60.0  # without a byte of the response; log streams may be idle for any time


TIMEOUTS: Final = Timeouts()


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a client.

    `server`: `HOST`, `HOST:PORT` or an `https://` URL, several with commas between them; no port means 443. The client
    is who its `api_key` says, or its `cert_file` (PEM, the leaf first) with `key_file`, which `password` opens. Servers
    are verified against the PEM file `ca_file`, else against the system's authorities, which SSL_CERT_FILE and
    SSL_CERT_DIR replace; `insecure` skips that. HTTPS_PROXY and NO_PROXY are those of `environ`, by default the
    process's.
    """

    server: str = DEFAULT
    api_key: str | None = field(default=None, repr=False)
    cert_file: str | None = None
    key_file: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    insecure: bool = False
    timeouts: Timeouts = TIMEOUTS
    max_connections: int = 32  # at the same time; requests beyond that wait. Log streams do not count
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_credentials(self.api_key, self.key_file, self.cert_file)

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        server: str | None = None,
        api_key: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        insecure: bool = False,
        timeouts: Timeouts = TIMEOUTS,
    ) -> Settings:
        """The settings of the environment; what is given here wins.

        A credential that is given here also overrides those of the other kind in the environment. A variable that is
        set to nothing counts as unset. Raises ConfigurationError.
        """
        by_key, by_files = bool(api_key), bool(key_file or cert_file)
        if not by_files:
            api_key = api_key or _first(environ, API_KEY)
        if not by_key:
            key_file = key_file or _first(environ, KEY_FILE)
            cert_file = cert_file or _first(environ, CERT_FILE)
        return cls(
            server=server or _first(environ, SERVER) or DEFAULT,
            api_key=api_key,
            cert_file=cert_file,
            key_file=key_file,
            password=password,
            ca_file=ca_file,
            insecure=insecure,
            timeouts=timeouts,
            environ=environ,
        )


def check_credentials(api_key: str | None, key_file: str | None, cert_file: str | None) -> None:
    """Raise ConfigurationError unless there is an API key, or a key file and a certificate file (cli.md 2.3)."""
    if not api_key and not key_file and not cert_file:
        raise ConfigurationError("no API key is given: set MINIO_KES_API_KEY, or a key file and a certificate file")
    if api_key and key_file:
        raise ConfigurationError("both an API key and a private key file are given")
    if api_key and cert_file:
        raise ConfigurationError("both an API key and a certificate file are given")
    if not cert_file and key_file:
        raise ConfigurationError("a private key file but no certificate file is given: set MINIO_KES_CERT_FILE")
    if cert_file and not key_file:
        raise ConfigurationError("a certificate file but no private key file is given: set MINIO_KES_KEY_FILE")


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)
