"""Requests to Vault's HTTP API: each ends in time, in an answer of bounded size or in one of two errors.

`Unreachable`: there was no answer, or Vault is sealed or not initialised. A plain `KeyStoreError`: there was one, but
not of the kind that Vault gives. What settles nothing (a broken connection, 412, most 5xx) is asked again, three times
in all; a standby's redirect is followed once, never from https to http. While Vault is known to be sealed, it is asked
for its health alone. Tokens come from `kes.keystore.vaultsession`; no text made here holds one, nor what a request's
body held. In time is by the deadline, also where a name does not resolve, or a server dribbles its answer so that each
wait on its own is short (`kes.keystore.deadline`). Contract: keystores.md 3.2, 3.6.
"""

from __future__ import annotations

import json
import posixpath
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

import httpcore
from twisted.logger import Logger

from kes.keystore import KeyStoreError, Unreachable
from kes.keystore.connections import Connections
from kes.keystore.settings import VaultSettings

OPERATION: Final = 10.0  # seconds for all that one call of the store does; the routes that wait for it have 15
TRIES: Final = 3  # of a request, in all
MAX_ANSWER: Final = 2 << 20  # bytes of an answer; an entry has a few hundred
MAX_LISTING: Final = 32 << 20  # bytes; Vault does not page

_PAUSE = (1.0, 1.5)  # seconds between two tries, from and to
_CONNECT = 3.0  # seconds for a connection to stand, and for TLS on it
_MAX_REASON = 300  # characters of Vault's own words in an error
_MAX_AUTHORITY = 1 << 20  # bytes of a file of authorities

# Alerts that a server sends about the client's certificate, or for want of one, by the names of OpenSSL's reasons.
_blames_client = re.compile(
    r"(TLSV1|TLSV13|SSLV3)_ALERT_"
    r"(CERTIFICATE_(REQUIRED|UNKNOWN|EXPIRED|REVOKED)|(BAD|UNSUPPORTED)_CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)"
).fullmatch
is_header_value = re.compile(r"[!-~]+").fullmatch

log = Logger()


@dataclass(frozen=True, slots=True)
class Request:
    """A request to `path` below `/v1/`, which is not quoted yet; `limit` is the most bytes that its answer may have."""

    method: str
    path: str
    query: str = ""
    body: Mapping[str, object] | None = field(default=None, repr=False)
    namespace: str = ""
    limit: int = MAX_ANSWER


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, the JSON object that came with it (None: there was none), and Vault's own words on what is wrong."""

    status: int
    body: Mapping[str, object] | None = field(repr=False)
    reason: str

    def get(self, *names: str) -> object:
        """Return what lies under `names`, one inside the other; None if it is not there."""
        found: object = self.body
        for name in names:
            if not isinstance(found, Mapping):
                return None
            found = found.get(name)
        return found

    @property
    def is_missing(self) -> bool:
        """Whether Vault says that nothing lies there: not so if a 404 is not Vault's, or has something to tell."""
        return (
            self.status == 404
            and self.body is not None
            and ("errors" in self.body or "data" in self.body)
            and not (self.body.get("errors") or self.body.get("warnings"))
            and self.body.get("data") is None
        )


class TLSFailure(Unreachable):
    """There is no TLS connection to be had. Trying again at once is of no use."""


class Client:
    """The Vault at `settings.endpoint`. Raises `KeyStoreError` if a file of `settings.tls_*` cannot be used.

    May be used by several threads at once. `clock` tells monotonic seconds, `sleep` waits for so many, `uniform` draws
    a number between two.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        uniform: Callable[[float, float], float],
    ) -> None:
        self.endpoint = settings.endpoint
        self.sealed = False  # or not initialised, as far as is known
        self._seal_lock = threading.Lock()
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform
        # What to say of an alert that is about the client's certificate.
        self._client_certificate = (
            "refuses the client certificate; check keystore.vault.tls.cert and .key"
            if settings.tls_cert
            else "wants a client certificate; set keystore.vault.tls.cert and .key"
        )
        self._closed = False
        context = _tls_context(settings)
        try:
            self._connections = Connections(context, clock=clock, connect=_CONNECT)
        except ValueError as e:
            raise KeyStoreError(f"the proxy in the environment cannot be used: {e}") from e

    def send(self, request: Request, deadline: float, *, token: str = "", tries: int = TRIES) -> Answer:
        """Return the answer to `request`, whatever its status; by `deadline`, a time of the clock.

        Only with `tries` of 1 is a request certainly not made twice.
        """
        tried = 0
        while True:
            self._require_unsealed()
            tried += 1
            answer: Answer | None = None
            try:
                answer = self._exchange(request, token, deadline)
            except TLSFailure:
                raise
            except Unreachable:
                if tried == tries or not self.pause(deadline):
                    raise
                continue
            if answer.status < 300:
                self._set_sealed(False)
            if answer.status == 503:
                with suppress(KeyStoreError):
                    self.health(deadline)
                self._require_unsealed()
            settled = answer.status != 412 and (answer.status < 500 or answer.status == 501)
            if settled or tried == tries or not self.pause(deadline):
                return answer

    def health(self, deadline: float) -> None:
        """Ask once how Vault is. Raises `Unreachable` also if it is sealed or not initialised; a standby is healthy."""
        answer = self._exchange(_HEALTH, "", deadline)
        initialized, sealed = answer.get("initialized"), answer.get("sealed")
        if not isinstance(initialized, bool) or not isinstance(sealed, bool):
            raise KeyStoreError(
                f"{self.endpoint} answered {answer.status} to Vault's health request, not as Vault does"
            )
        self._set_sealed(sealed or not initialized)
        if not initialized:
            raise Unreachable(f"Vault at {self.endpoint} is not initialised")
        self._require_unsealed()

    def pause(self, deadline: float) -> bool:
        """Wait before another try. False, without a wait, if it could not end by `deadline`."""
        seconds = self._uniform(*_PAUSE)
        if self._clock() + seconds >= deadline:
            return False
        self._sleep(seconds)
        return True

    def close(self) -> None:
        """Close all connections. Requests under way, and later ones, fail."""
        self._closed = True
        self._connections.close()

    def _require_unsealed(self) -> None:
        if self.sealed:
            raise Unreachable(f"Vault at {self.endpoint} is sealed")

    def _set_sealed(self, sealed: bool) -> None:
        with self._seal_lock:
            changed, self.sealed = sealed != self.sealed, sealed
        if changed and sealed:
            log.error("Vault at {endpoint} is sealed", endpoint=self.endpoint)
        elif changed:
            log.info("Vault at {endpoint} is no longer sealed", endpoint=self.endpoint)

    def _exchange(self, request: Request, token: str, deadline: float) -> Answer:
        url = f"{self.endpoint}/v1/{quote(request.path)}" + (f"?{request.query}" if request.query else "")
        headers = {
            "User-Agent": "kes",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "X-Vault-Request": "true",
        }
        if token:
            headers["X-Vault-Token"] = token
        if request.namespace:
            headers["X-Vault-Namespace"] = request.namespace
        content = b"" if request.method in ("PUT", "POST") else None
        if request.body is not None:
            content = json.dumps(request.body).encode()
            headers["Content-Type"] = "application/json"
        status, location, body = self._once(request, url, headers, content, deadline)
        if status == 307 and location:
            target = self._redirected(url, location)
            status, location, body = self._once(request, target, headers, content, deadline)
        if 300 <= status < 400:
            raise KeyStoreError(f"{self.endpoint} answered with a redirect, {status}; check keystore.vault.endpoint")
        return self._answer(status, body, [token, *_texts(request.body)])

    def _once(
        self, request: Request, url: str, headers: dict[str, str], content: bytes | None, deadline: float
    ) -> tuple[int, str, bytes]:
        """Return status, Location and body of the answer to a single request."""
        rest = deadline - self._clock()
        if rest <= 0:
            raise self._timed_out()
        if self._closed:
            raise Unreachable(f"the connections to {self.endpoint} are closed")
        # The backend's times are the deadline; only the wait for a connection of the pool is still a length.
        timeout = {"pool": rest, "connect": deadline, "read": deadline, "write": deadline}
        pool = self._connections.pool(url)
        # The library would write an IPv6 address without its brackets.
        sent = [("Host", urlsplit(url).netloc), *headers.items()]
        try:
            with pool.stream(
                request.method, url, headers=sent, content=content, extensions={"timeout": timeout}
            ) as response:
                body = bytearray()
                for part in response.iter_stream():
                    body += part
                    if len(body) > request.limit:
                        raise KeyStoreError(f"the answer of {self.endpoint} has more than {request.limit} bytes")
                    if self._clock() >= deadline:
                        raise self._timed_out()
                return response.status, _header(response, b"location"), bytes(body)
        except httpcore.TimeoutException as e:
            raise self._timed_out(str(e)) from e
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as e:
            raise self._failed(e) from e

    def _redirected(self, url: str, location: str) -> str:
        """Return the URL that an answer to a request to `url` redirects to. Raises `KeyStoreError` for a bad one."""
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            valid = bool(parts.hostname) and parts.port != 0 and is_header_value(target) is not None
        except ValueError:
            valid = False
        if not valid:
            raise KeyStoreError(f"{self.endpoint} answered with a redirect to what is no URL")
        if parts.scheme != "https" and parts.scheme != urlsplit(url).scheme:
            raise KeyStoreError(f"{self.endpoint} redirects to {parts.scheme}, where the token would go in the clear")
        return target

    def _timed_out(self, why: str = "") -> Unreachable:
        return Unreachable(f"{self.endpoint} did not answer in time" + (f": {why}" if why else ""))

    def _failed(self, error: Exception) -> Unreachable:
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = f"its certificate is not trusted: {cause.verify_message}"
                return TLSFailure(f"{self.endpoint}: {why}; check keystore.vault.tls.ca and .endpoint")
            if isinstance(cause, ssl.SSLError):
                why = (cause.reason or "TLS failed").lower().replace("_", " ")
                if _blames_client(cause.reason or ""):
                    return TLSFailure(f"{self.endpoint} {self._client_certificate} ({why})")
                return TLSFailure(f"{self.endpoint}: {why}; check keystore.vault.tls and .endpoint")
        if isinstance(error, httpcore.LocalProtocolError):  # its text may quote a header
            return Unreachable(f"{self.endpoint}: the request could not be written")
        return Unreachable(f"{self.endpoint}: {str(error)[:_MAX_REASON] or type(error).__name__}")

    def _answer(self, status: int, content: bytes, secrets: list[str]) -> Answer:
        body: Mapping[str, object] | None = None
        if content.strip():
            parsed = _parse(content)
            if isinstance(parsed, dict):
                body = parsed
            elif status < 300:
                raise KeyStoreError(f"{self.endpoint} answered {status} with what is no JSON object, not as Vault does")
        said = [] if body is None else [*_strings(body.get("errors")), *_strings(body.get("warnings"))]
        reason = "; ".join(" ".join(text.split()) for text in said)
        for secret in secrets:
            if secret:
                reason = reason.replace(secret, "…")
        return Answer(status, body, reason[:_MAX_REASON])


def join(*parts: str) -> str:
    """Return the parts of a path as one, without empty and `.` parts, `..` resolved: as Go's path.Join does it."""
    return posixpath.normpath("/" + "/".join(parts).lstrip("/")).lstrip("/")


_STATES = ("uninitcode", "sealedcode", "standbycode", "drsecondarycode", "performancestandbycode")
# Without a namespace: in one there is no such path. All states are to arrive as a success with a body.
_HEALTH = Request("GET", "sys/health", "&".join(f"{state}=299" for state in _STATES))


def _texts(body: Mapping[str, object] | None) -> Iterator[str]:
    """The texts in a request's body that no message may repeat: all but the name of a role."""
    for name, value in (body or {}).items():
        if isinstance(value, str) and name != "role":
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value)


def _parse(content: bytes) -> object:
    """Return what JSON `content` holds, None if it is none."""
    # Not in the handler: the error holds what could not be parsed.
    with suppress(ValueError, RecursionError):
        parsed: object = json.loads(content)
        return parsed
    return None


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _header(response: httpcore.Response, name: bytes) -> str:
    """Return the value of a header, empty if there is none."""
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tls_context(settings: VaultSettings) -> ssl.SSLContext:
    """The client's side of TLS. What the settings name must load: never is anything else trusted or shown instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.tls_ca:
        _load_authorities(context, settings.tls_ca)
    else:
        context.load_default_certs()
    if settings.tls_cert:
        pair = f"keystore.vault.tls.cert {settings.tls_cert} with .key {settings.tls_key}"
        try:
            # An encrypted key must not ask for its password on the terminal.
            context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
        except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
            reason = e.reason if isinstance(e, ssl.SSLError) else getattr(e, "strerror", None)
            raise KeyStoreError(f"{pair}: {reason or 'they cannot be used together'}") from e
    return context


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    what = f"keystore.vault.tls.ca {path}"
    try:
        folder = Path(path)
        files = sorted(entry for entry in folder.iterdir() if entry.is_file()) if folder.is_dir() else [folder]
        for file in files:
            what = f"keystore.vault.tls.ca {file}"
            with file.open("rb") as opened:
                pem = opened.read(_MAX_AUTHORITY + 1)
            if len(pem) > _MAX_AUTHORITY:
                raise KeyStoreError(f"{what}: larger than {_MAX_AUTHORITY} bytes")
            # What is not ASCII can only be a remark, and is not taken.
            context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except ssl.SSLError as e:
        raise KeyStoreError(f"{what}: holds no valid PEM certificate") from e
    except (OSError, ValueError) as e:
        raise KeyStoreError(f"{what}: {getattr(e, 'strerror', None) or e}") from e
    if not files:
        raise KeyStoreError(f"{what}: the directory holds no file")
