"""Every call of the API, once for both clients: the request, and what its answer means.

Names are checked before anything is sent, so that none can lead to another path, with the server's own words.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

import msgspec

from kes import errors as wire
from kes.client import answers
from kes.client.answers import (
    AuditEvent,
    DataKey,
    ErrorEvent,
    IdentityInfo,
    KeyInfo,
    Policy,
    PolicyInfo,
    Route,
    Status,
    Version,
)
from kes.client.connection import Connection
from kes.client.errors import (
    ConnectionFailed,
    InvalidName,
    InvalidResponse,
    KeyExists,
    KeyNotFound,
    OutcomeUnknown,
    ServerError,
)
from kes.client.listing import listing
from kes.client.transport import MAX_BODY, Answer, Live, Request, Transport
from kes.names import is_valid_name, list_prefix

MAX_PAGE: Final = 64 * 1024 * 1024  # bytes of a listing's page
MAX_LINE: Final = 1024 * 1024  # bytes of a log event

if TYPE_CHECKING:
    from kes.client.metrics import Metrics

E = TypeVar("E")


def _path(route: str, kind: str, name: str) -> str:
    """The path for a name. Raises InvalidName."""
    if not is_valid_name(name):
        raise InvalidName(wire.InvalidName(kind, name).message)
    # The alphabet of names needs no encoding.
    return f"/v1/{kind}/{route}/{name}"


def _json(**fields: bytes | str) -> bytes:
    """A JSON object; bytes as base64, and empty ones left out but for `plaintext`, `ciphertext` and `message`."""
    return msgspec.json.encode(
        {
            name: b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in fields.items()
            if value or name != "context"
        }
    )


class Calls:
    """The calls. All of them raise KESError: ServerError, InvalidName, ConnectionFailed, TLSError, InvalidResponse.

    `warn` is told when a call has succeeded in a way that a person may want to know of.
    """

    def __init__(self, transport: Transport, warn: Callable[[str], None]) -> None:
        self._transport = transport
        self._warn = warn

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that the client was given."""
        return tuple(map(str, self._transport.endpoints))

    @property
    def identity(self) -> str:
        """Who the client is: 64 lower-case hex digits."""
        return self._transport.identity

    async def version(self) -> Version:
        return answers.version(await self._get("/version"))

    async def ready(self) -> None:
        """Return if the server can serve. Raises KeyStoreUnreachable or KeyStoreFailed when its key store cannot."""
        await self._get("/v1/ready")

    async def status(self) -> Status:
        return answers.status(await self._get("/v1/status"))

    async def routes(self) -> list[Route]:
        """The routes of the server's API, sorted by path."""
        return sorted(answers.routes(await self._get("/v1/api")), key=lambda route: route.path)

    async def metrics(self) -> Metrics:
        from kes.client.metrics import parse_metrics

        return parse_metrics((await self._get("/v1/metrics")).body)

    async def create_key(self, name: str) -> None:
        """Create a key. Raises KeyExists; OutcomeUnknown when the answer was lost."""
        answer = await self._transport.send(Request("POST", _path("create", "key", name), repeatable=False))
        self._settle(
            answer, KeyExists, f"key {name!r} exists; an earlier attempt, whose answer was lost, may have made it"
        )

    async def import_key(self, name: str, key: bytes, algorithm: str = "AES256") -> None:
        """Create a key from 32 bytes, for `AES256` or `ChaCha20`.

        Raises KeyExists; InvalidKey; OutcomeUnknown when an answer was lost, or when the key exists after one was:
        it may be another key.
        """
        body = _json(key=key, cipher=algorithm)
        answer = await self._transport.send(Request("POST", _path("import", "key", name), body, repeatable=False))
        try:
            answers.check(answer)
        except KeyExists as error:
            if not answer.doubtful:
                raise
            reason = "an earlier attempt, whose answer was lost, or someone else may have made it"
            raise OutcomeUnknown(f"key {name!r} exists; {reason}") from error

    async def delete_key(self, name: str) -> None:
        """Delete a key, for good. Raises KeyNotFound; OutcomeUnknown when the answer was lost."""
        answer = await self._transport.send(Request("DELETE", _path("delete", "key", name), repeatable=False))
        self._settle(
            answer,
            KeyNotFound,
            f"key {name!r} does not exist; an earlier attempt, whose answer was lost, may have deleted it",
        )

    async def describe_key(self, name: str) -> KeyInfo:
        return answers.key_info(await self._get(_path("describe", "key", name)))

    async def list_keys(self, prefix: str = "") -> list[str]:
        """All names of keys with a prefix, sorted. One `*` at its end means nothing. Raises InvalidName."""
        return await self._list("key", prefix)

    async def generate_key(self, name: str, context: bytes = b"") -> DataKey:
        """A new data key, encrypted with the key `name`; decrypting it takes the same context."""
        return answers.data_key(await self._post(_path("generate", "key", name), _json(context=context)))

    async def encrypt(self, name: str, plaintext: bytes, context: bytes = b"") -> bytes:
        """The ciphertext of at most some 700 KiB; decrypting it takes the same context."""
        body = _json(plaintext=plaintext, context=context)
        return answers.ciphertext(await self._post(_path("encrypt", "key", name), body))

    async def decrypt(self, name: str, ciphertext: bytes, context: bytes = b"") -> bytes:
        """The plaintext. Raises NotAuthentic."""
        body = _json(ciphertext=ciphertext, context=context)
        return answers.plaintext(await self._post(_path("decrypt", "key", name), body))

    async def hmac(self, name: str, message: bytes) -> bytes:
        """The HMAC-SHA-256 of a message, 32 bytes. Raises NoHMAC."""
        return answers.hmac(await self._post(_path("hmac", "key", name), _json(message=message)))

    async def describe_policy(self, name: str) -> PolicyInfo:
        return answers.policy_info(await self._get(_path("describe", "policy", name)), name)

    async def read_policy(self, name: str) -> Policy:
        return answers.policy(await self._get(_path("read", "policy", name)), name)

    async def list_policies(self, prefix: str = "") -> list[str]:
        """All names of policies with a prefix, as in `list_keys`."""
        return await self._list("policy", prefix)

    async def describe_identity(self, identity: str) -> IdentityInfo:
        return answers.identity(await self._get(_path("describe", "identity", identity)), identity)

    async def describe_self(self) -> IdentityInfo:
        """The client's own identity, with what its policy allows and denies."""
        return answers.identity(await self._get("/v1/identity/self/describe"), "")

    async def list_identities(self, prefix: str = "") -> list[str]:
        """All identities with a prefix, the admin among them, as in `list_keys`."""
        return await self._list("identity", prefix)

    def _settle(self, answer: Answer, done: type[ServerError], warning: str) -> None:
        """Raise what an answer says, unless it says `done` and an earlier attempt may have done it."""
        try:
            answers.check(answer)
        except done:
            if not answer.doubtful:
                raise
            self._warn(warning)

    async def _get(self, path: str, limit: int = MAX_BODY) -> Answer:
        return await self._checked(Request("GET", path, limit=limit))

    async def _post(self, path: str, body: bytes) -> Answer:
        return await self._checked(Request("POST", path, body))

    async def _checked(self, request: Request) -> Answer:
        answer = await self._transport.send(request)
        answers.check(answer)
        return answer

    async def _list(self, kind: str, pattern: str) -> list[str]:
        prefix = list_prefix(pattern)
        if prefix is None:
            raise InvalidName(wire.InvalidPattern(pattern).message)
        steps = listing(prefix)
        argument = next(steps)
        try:
            while True:
                # `*` is all that an argument can hold beside the alphabet of names.
                path = f"/v1/{kind}/list/{argument.replace('*', '%2A')}"
                try:
                    page = answers.page(await self._get(path, MAX_PAGE))
                except ServerError as error:
                    argument = steps.throw(error)
                else:
                    argument = steps.send(page)
        except StopIteration as stop:
            names: list[str] = stop.value
            return names


class EventStream(Generic[E]):
    """The events of a log, from when it is entered until the server ends it or it is left."""

    def __init__(self, transport: Transport, path: str, parse: Callable[[bytes], E]) -> None:
        self._transport = transport
        self._path = path
        self._parse = parse
        self._connection: Connection | None = None
        self._rest = b""
        self.endpoint = ""  # the one that answered

    async def __aenter__(self) -> Self:
        """Subscribe. Raises what a call raises."""
        answer = await self._transport.open(Request("GET", self._path))
        if not isinstance(answer, Live):
            answers.check(answer)
            raise AssertionError("status 200 is Live")
        self._connection = answer.connection
        self.endpoint = str(answer.endpoint)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; whoever waits for an event gets the end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        """The next event. Raises LogClosed or ConnectionFailed when the stream breaks, not when it was closed."""
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                if line.strip():
                    return self._parse(line)
                continue
            if len(line) > MAX_LINE:
                raise InvalidResponse(f"a line of the log is longer than {MAX_LINE} bytes")
            chunk = await self._chunk()
            if chunk is None:
                raise StopAsyncIteration
            self._rest += chunk

    async def _chunk(self) -> bytes | None:
        connection = self._connection
        if connection is None:
            return None
        try:
            return await connection.chunk(None)
        except (OSError, ValueError) as error:  # ValueError: closed while it was being read
            if self._connection is None:
                return None
            raise ConnectionFailed(f"{self.endpoint}: {error}", self.endpoint, sent=True) from None


def audit_log(transport: Transport) -> EventStream[AuditEvent]:
    return EventStream(transport, "/v1/log/audit", answers.audit_event)


def error_log(transport: Transport) -> EventStream[ErrorEvent]:
    return EventStream(transport, "/v1/log/error", answers.error_event)
