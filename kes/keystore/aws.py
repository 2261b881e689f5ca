"""Keys as secrets of AWS Secrets Manager: one secret a key, its name the key's, its current version the value.

A create is atomic: of several creators one wins, whatever the process it runs in, and one whose answer got lost is
recognised when it is repeated. A delete is forced: AWS keeps nothing that could be restored. No tag, rotation or
replication is set. Listings cover the whole account and region, and are up to five minutes behind. Contract:
keystores.md section 4.

The SDK makes and signs the requests; they are sent and repeated here, so that what it takes to send one, and all its
tries together, are bounded by `Limits`: the SDK bounds each wait, and no answer's size. What it asks others for
credentials it sends itself. An error's text names the setting to change, and holds neither a value nor a credential.
"""

from __future__ import annotations

import os
import random
import re
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.session
import certifi
import httpcore
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectionError,  # noqa: A004 - botocore's, which is none of Python's
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from kes.keystore import KeyExists, KeyNotFound, KeyStore, KeyStoreError, Unreachable, check_value, page
from kes.keystore.connections import Connections
from kes.keystore.settings import AWSSettings

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import CreateSecretRequestTypeDef, ListSecretsRequestTypeDef

MAX_SECRET = 64 * 1024  # bytes of a value; AWS takes no more
MAX_ANSWER = 10 * 1024 * 1024  # bytes of an answer; the largest are pages of a listing, of some MB at most

_PAGE = 100  # names that AWS returns at once at most
_is_filter = re.compile("[0-9A-Za-z_-]+").fullmatch  # what a filter may hold, as far as names of keys have it

_SECTION = "keystore.aws.secretsmanager"
_ENDPOINT = f"check {_SECTION}.endpoint"
_REGION = f"check that {_SECTION}.region is that of the endpoint"
_CREDENTIALS = f"check {_SECTION}.credentials, or the sources of credentials if it is empty"
_POLICY = f"check {_SECTION}.credentials and what their IAM policy allows"
_KMS_KEY = f"check {_SECTION}.kmskey, and that the credentials may use that key"

# A text about a signature may quote all that was signed, the session's token included.
_BAD_SIGNATURE = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature"})
_BAD_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "UnrecognizedClientException",
    }
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"})
_KMS_FAILED = frozenset({"DecryptionFailure", "EncryptionFailure"})
_THROTTLED = frozenset({"RequestLimitExceeded", "SlowDown", "ThrottlingException", "TooManyRequestsException"})
_NO_SUCH_SERVICE = frozenset({"InvalidAction", "UnknownOperationException", "UnknownOperation"})

_TRANSPORT = (ConnectionError, HTTPClientError, IncompleteReadError)
# Whoever refuses a connection, or does not exist, or has no valid certificate, is no other a moment later.
_PASSING = (ConnectionClosedError, ConnectTimeoutError, ReadTimeoutError, IncompleteReadError)
_NO_CREDENTIALS = (
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

_MAX_TEXT = 300  # characters of AWS's own text that an error repeats

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a request, in seconds: a call takes at most `last + attempt`, a listing that for a page.

    One try takes at most `attempt`, from the name of the endpoint to the last byte of the answer; of that a connection
    takes at most `connect`, and TLS on it as much. `last` is when the last try begins at the latest, counted from the
    first. `wait` is the pause after the first; it doubles with each, and chance shortens it by up to half.
    """

    connect: float = 1.5  # to each address that the endpoint's name has
    attempt: float = 4.0
    last: float = 3.5
    wait: float = 0.2


class AWSStore(KeyStore):
    """The secrets that `settings` lead to.

    Raises `Unreachable` if the endpoint does not answer, and `KeyStoreError` if it is out of order. Whether the
    credentials are good for anything is only a warning: they may become so. `clock` and `sleep` count seconds, `chance`
    returns a number from 0 to 1.
    """

    def __init__(
        self,
        settings: AWSSettings,
        *,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.kms = f"AWS SecretsManager: {settings.endpoint}"
        self._settings = settings
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        self._session = _session(settings, limits)
        self._client: SecretsManagerClient | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._try = threading.local()  # until when the try of this thread may send, once it has begun to
        try:
            self._connections = Connections(_context(self._session), clock=clock, connect=limits.connect)
        except ValueError as e:
            raise KeyStoreError(f"the proxy in the environment cannot be used: {e}") from e
        try:
            self.status()
        except BaseException:
            self.close()
            raise
        self.warnings = self._check_access()

    def create(self, name: str, value: bytes) -> None:
        """Raises `KeyStoreError` also for a value over 64 KiB, and while a deleted secret of that name can be restored.

        A name whose secret was deleted for good may be taken a little longer: that is waited for.
        """
        check_value(name, value)
        if len(value) > MAX_SECRET:
            raise KeyStoreError(f"create key {name!r}: AWS takes {MAX_SECRET} bytes at most, not {len(value)}")
        # The same token in each try: AWS then takes a repeated create for the one before, and not for a conflict.
        parameters: CreateSecretRequestTypeDef = {"Name": name, "ClientRequestToken": str(uuid.uuid4())}
        try:
            parameters["SecretString"] = value.decode()
        except UnicodeDecodeError:  # no server writes such values, but all of them read them
            parameters["SecretBinary"] = value
        if self._settings.kmskey:
            parameters["KmsKeyId"] = self._settings.kmskey

        def request(client: SecretsManagerClient, repeated: bool) -> None:
            try:
                answer = client.create_secret(**parameters)
            except ClientError as e:
                if _code(e) != "ResourceExistsException":
                    raise
                if repeated and _value(client.get_secret_value(SecretId=name), name) == value:
                    return  # an earlier try had stored it, and its answer got lost
                raise KeyExists(f"key {name!r} exists") from e
            if answer.get("Name") != name:
                raise _Malformed

        self._call(f"create key {name!r}", request, is_passing=_is_free_soon)

    def get(self, name: str) -> bytes:
        def request(client: SecretsManagerClient, _repeated: bool) -> bytes:
            try:
                return _value(client.get_secret_value(SecretId=name), name)
            except ClientError as e:
                if _code(e) != "ResourceNotFoundException":
                    raise
                raise KeyNotFound(f"read key {name!r}: it does not exist") from e

        value = self._call(f"read key {name!r}", request)
        check_value(name, value)
        return value

    def delete(self, name: str) -> None:
        """A missing name is a success, unless AWS says otherwise."""

        def request(client: SecretsManagerClient, repeated: bool) -> None:
            try:
                answer = client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
            except ClientError as e:
                if _code(e) != "ResourceNotFoundException":
                    raise
                if repeated:
                    return  # an earlier try had deleted it
                raise KeyNotFound(f"delete key {name!r}: it does not exist") from e
            if not {"ARN", "Name", "DeletionDate"} & answer.keys():
                raise _Malformed

        self._call(f"delete key {name!r}", request)

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        """Takes a request for every 100 secrets of the account and region whose names begin with `prefix`."""
        return page(self._names(prefix), prefix, start_at, limit)

    def status(self) -> float:
        """Send one request without credentials; any answer will do that is not the endpoint's own failure."""
        start = self._clock()
        self._try.deadline = None
        try:
            status, _, _ = self._exchange("GET", self._settings.endpoint, (), None)
        except _TRANSPORT as e:
            raise _unreachable("status", e) from e
        if status >= 500:
            raise KeyStoreError(f"status: {self._settings.endpoint} answers with {status}; {_ENDPOINT}")
        return self._clock() - start

    def close(self) -> None:
        self._closed = True
        self._connections.close()
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _check_access(self) -> tuple[str, ...]:
        try:
            self._call("list keys", lambda client, _repeated: client.list_secrets(MaxResults=1))
        except KeyStoreError as e:
            return (f"a first request to the key store failed, and others may: {e}",)
        return ()

    def _names(self, prefix: str) -> Iterator[str]:
        """Return the names of all secrets, or of those that begin with `prefix`, as AWS has it."""
        # The filter saves pages and decides nothing: AWS is not said to tell upper from lower case in it.
        parameters: ListSecretsRequestTypeDef = {"MaxResults": _PAGE}
        if _is_filter(prefix):
            parameters["Filters"] = [{"Key": "name", "Values": [prefix]}]

        def request(client: SecretsManagerClient, _repeated: bool) -> tuple[list[str], str]:
            return _page(client.list_secrets(**parameters))

        tokens: set[str] = set()
        while True:
            names, token = self._call("list keys", request)
            yield from names
            if not token:
                return
            if token in tokens:
                raise KeyStoreError(f"list keys: AWS gives the same page again and again; {_ENDPOINT}")
            tokens.add(token)
            parameters["NextToken"] = token

    def _call(
        self,
        attempt: str,
        request: Callable[[SecretsManagerClient, bool], T],
        *,
        is_passing: Callable[[ClientError], bool] | None = None,
    ) -> T:
        """Make a request, and again while it fails with what may pass; only `KeyStoreError` comes out.

        `request` gets a client, and whether it was called before, without success.
        """
        is_passing = is_passing or _is_passing
        first = self._clock()
        wait, repeated = self._limits.wait, False
        while True:
            client: SecretsManagerClient | None = None
            self._try.deadline = None
            try:
                client = self._connected()
                return request(client, repeated)
            except KeyStoreError:
                raise
            except Exception as e:  # the SDK does not say what a malformed answer may raise
                self._forget(client, e)
                again = isinstance(e, _PASSING) or (isinstance(e, ClientError) and is_passing(e))
                pause = wait * (1 - self._chance() / 2)
                if not again or self._clock() - first + pause > self._limits.last:
                    # Unchained: the SDK's text may quote what was signed or sent, which a traceback would show.
                    raise _failed(attempt, e) from None
            self._sleep(pause)
            wait, repeated = 2 * wait, True

    def _connected(self) -> SecretsManagerClient:
        with self._lock:
            if self._client is None:
                self._client = _client(self._session, self._settings, self._limits)
                # What this returns is taken by the SDK for the answer, and nothing sent.
                self._client.meta.events.register("before-send", self._send)  # type: ignore[arg-type]  # a stub's slip
            return self._client

    def _forget(self, client: SecretsManagerClient | None, error: Exception) -> None:
        """Have credentials looked for anew by the next call: a client that has found none never looks again."""
        if isinstance(error, NoCredentialsError):
            with self._lock:
                if self._client is client:
                    self._client = None

    def _send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        """Send what the SDK has made, as it would itself but for the time and the size."""
        method, url, body = request.method, request.url, request.body
        assert method is not None
        assert url is not None
        assert isinstance(body, bytes)
        status, headers, content = self._exchange(method, url, request.headers.items(), body)
        return AWSResponse(url, status, HTTPHeaders.from_pairs(headers), _Body(content))

    def _exchange(
        self, method: str, url: str, headers: Iterable[tuple[str, str | bytes]], body: bytes | None
    ) -> tuple[int, Sequence[tuple[str, str]], bytes]:
        """Return status, headers and body of the answer to one request. Raises the SDK's errors."""
        if self._closed:
            raise ConnectionClosedError(endpoint_url=url)
        if self._try.deadline is None:
            self._try.deadline = self._clock() + self._limits.attempt
        deadline: float = self._try.deadline
        # The backend's times are the deadline; only the wait for a connection of the pool is still a length.
        timeout = {"pool": deadline - self._clock(), "connect": deadline, "read": deadline, "write": deadline}
        sent = [("Host", _host(url)), *headers]
        try:
            with self._connections.pool(url).stream(
                method, url, headers=sent, content=body, extensions={"timeout": timeout}
            ) as response:
                received = bytearray()
                for part in response.iter_stream():
                    received += part
                    if len(received) > MAX_ANSWER:
                        raise _TooLong
                got = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]
                return response.status, got, bytes(received)
        except (httpcore.ConnectTimeout, httpcore.PoolTimeout) as e:
            raise ConnectTimeoutError(endpoint_url=url, error=e) from e
        except httpcore.TimeoutException as e:
            raise ReadTimeoutError(endpoint_url=url, error=e) from e
        except httpcore.ProxyError as e:
            raise ProxyConnectionError(proxy_url="of the environment", error=e) from e
        except httpcore.ConnectError as e:
            if isinstance(e.__cause__, ssl.SSLError):
                raise SSLError(endpoint_url=url, error=e) from e
            raise EndpointConnectionError(endpoint_url=url, error=e) from e
        except (httpcore.NetworkError, httpcore.ProtocolError) as e:
            raise ConnectionClosedError(endpoint_url=url, error=e) from e


class _Body(BytesIO):
    """The body of an answer, for the SDK."""

    def stream(self) -> Iterator[bytes]:
        yield self.getvalue()


class _TooLong(Exception):
    """An answer of more than `MAX_ANSWER` bytes."""


class _Malformed(Exception):
    """An answer without what makes it one: what stands at the endpoint is not AWS Secrets Manager."""


def _session(settings: AWSSettings, limits: Limits) -> botocore.session.Session:
    session = botocore.session.Session()
    session.set_config_variable("config_file", os.devnull)  # only the credentials file counts (keystores.md 4)
    session.set_config_variable("region", settings.region)
    # For the clients that look for credentials.
    session.set_default_client_config(_config(limits, tries=2))
    if settings.accesskey or settings.secretkey or settings.token:
        # As they are: half a pair is refused by AWS, not by the SDK.
        session.set_credentials(settings.accesskey, settings.secretkey, settings.token or None)
    return session


def _client(session: botocore.session.Session, settings: AWSSettings, limits: Limits) -> SecretsManagerClient:
    return boto3.session.Session(botocore_session=session).client(
        "secretsmanager", endpoint_url=settings.endpoint, region_name=settings.region, config=_config(limits, tries=1)
    )


def _config(limits: Limits, *, tries: int) -> Config:
    # What would otherwise depend on the environment is set here as well.
    return Config(
        connect_timeout=limits.connect,
        read_timeout=limits.attempt,
        retries={"mode": "standard", "total_max_attempts": tries},
        defaults_mode="legacy",  # type: ignore[arg-type]  # a stub's slip
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
    )


def _context(session: botocore.session.Session) -> ssl.SSLContext:
    """The client's side of TLS, with the authorities that the SDK would use."""
    bundle = str(session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where())
    try:
        if Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as e:  # ssl.SSLError is one
        reason = "holds no valid PEM certificate" if isinstance(e, ssl.SSLError) else e.strerror
        raise KeyStoreError(f"the authorities {bundle} of AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE: {reason}") from e


def _host(url: str) -> str:
    """Return the Host of a URL as the SDK has signed it: in lower case, without the port if it is the scheme's own."""
    parts = urlsplit(url)
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return parts.netloc.lower().removesuffix(default)


def _value(answer: Mapping[str, object], name: str) -> bytes:
    """Return the value of the key `name` that `answer` holds."""
    text, binary = answer.get("SecretString"), answer.get("SecretBinary")
    if answer.get("Name") != name:
        raise _Malformed
    if isinstance(text, str):
        return text.encode()
    if isinstance(binary, bytes):
        return binary
    raise _Malformed


def _page(answer: Mapping[str, object]) -> tuple[list[str], str]:
    """Return the names that `answer` lists, and the token of the next page, empty for the last."""
    entries, token = answer.get("SecretList"), answer.get("NextToken", "")
    if not isinstance(entries, list) or not isinstance(token, str):
        raise _Malformed
    names = (entry.get("Name") for entry in entries)
    return [name for name in names if isinstance(name, str)], token


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _text(error: ClientError) -> str:
    """Return AWS's own words, on one line and cut."""
    return " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:_MAX_TEXT]


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _is_passing(error: ClientError) -> bool:
    return _status(error) >= 500 or _code(error) in _THROTTLED


def _is_being_deleted(error: ClientError) -> bool:
    """Whether a secret is on its way out: at once, or in days; AWS does not say which."""
    return _code(error) == "InvalidRequestException" and "delet" in _text(error)


def _is_free_soon(error: ClientError) -> bool:
    return _is_passing(error) or _is_being_deleted(error)


def _unreachable(attempt: str, error: Exception) -> Unreachable:
    # The SDK's text is that of the network's error, with the URL.
    return Unreachable(f"{attempt}: {' '.join(str(error).split())[:_MAX_TEXT]}; {_ENDPOINT}")


def _failed(attempt: str, error: Exception) -> KeyStoreError:
    """Return what `error` means, and what to do about it."""
    match error:
        case ClientError():
            return KeyStoreError(f"{attempt}: {_reason(error)}")
        case _ if isinstance(error, _NO_CREDENTIALS):
            return KeyStoreError(f"{attempt}: no AWS credentials: {error}; {_CREDENTIALS}")
        case _ if isinstance(error, _TRANSPORT):
            return _unreachable(attempt, error)
        case BotoCoreError():
            # The type alone: a text may quote parameters, and so the value.
            return KeyStoreError(f"{attempt}: the AWS SDK refuses it ({type(error).__name__}); check {_SECTION}")
        case _:
            return KeyStoreError(f"{attempt}: an answer that is not AWS's ({type(error).__name__}); {_ENDPOINT}")


def _reason(error: ClientError) -> str:
    code, text = _code(error), _text(error)
    if code in _BAD_SIGNATURE:
        if "region" in text:
            return f"AWS refuses the signature ({code}), made for another region; {_REGION}"
        return f"AWS refuses the signature ({code}); {_CREDENTIALS}, and the clock of this machine"
    said = f"{code}: {text}" if text else f"{code} (status {_status(error)})"
    if code in _KMS_FAILED or (code in _DENIED and "kms" in text.lower()):
        return f"{said}; {_KMS_KEY}"
    if code in _BAD_CREDENTIALS:
        return f"{said}; {_CREDENTIALS}"
    if code in _DENIED:
        return f"{said}; {_POLICY}"
    if code.isdigit() or code in _NO_SUCH_SERVICE:
        return f"{said}; {_ENDPOINT}"
    if _is_being_deleted(error):
        return f"{said}; restore it, or wait until AWS has deleted it"
    return said
