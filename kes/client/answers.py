"""What the servers' answers say: JSON in, frozen values out.

Fields that are not known are passed over, and so is the absence of those that a server may leave out. Times are
nanoseconds since the Unix epoch (`kes.timestamp` makes them text again), None where the server does not know.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from kes.client.errors import InvalidResponse, LogClosed, server_error
from kes.client.transport import Answer
from kes.timestamp import ZERO, parse_rfc3339

NDJSON: Final = "application/x-ndjson"

T = TypeVar("T")


class Version(msgspec.Struct, frozen=True):
    """A server's version. `endpoint` is the one that answered."""

    version: str
    commit: str
    endpoint: str


class Status(msgspec.Struct, frozen=True):
    """A server's state. `endpoint` is the one that answered, `latency` the seconds that it took."""

    version: str
    os: str
    arch: str
    uptime: int  # seconds
    num_cpu: int
    num_cpu_used: int
    mem_heap_used: int  # bytes
    mem_stack_used: int  # bytes
    keystore_latency: int  # milliseconds, 0 when the key store is out of reach
    keystore_unreachable: bool
    endpoint: str
    latency: float


class Route(msgspec.Struct, frozen=True):
    """A route of a server's API."""

    method: str
    path: str
    max_body: int = 0  # bytes
    timeout: int = 0  # seconds; 0: none


class KeyInfo(msgspec.Struct, frozen=True):
    name: str
    algorithm: str
    created_at: int | None
    created_by: str


class DataKey(msgspec.Struct, frozen=True):
    """A data key: 32 random bytes, and the same encrypted. The repr shows neither."""

    plaintext: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return "DataKey(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class PolicyInfo(msgspec.Struct, frozen=True):
    name: str
    created_at: int | None
    created_by: str


class Policy(msgspec.Struct, frozen=True):
    """A policy with its patterns, sorted."""

    name: str
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    created_at: int | None
    created_by: str


class IdentityInfo(msgspec.Struct, frozen=True):
    """An identity; the patterns of its policy, sorted, only where it asked about itself."""

    identity: str
    admin: bool
    policy: str
    created_at: int | None
    created_by: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class AuditEvent(msgspec.Struct, frozen=True):
    """One request that the server has answered. `line` is the event as it was sent, JSON."""

    time: int  # nanoseconds since the epoch
    ip: str
    path: str
    identity: str
    status: int
    latency: int  # nanoseconds
    line: bytes


class ErrorEvent(msgspec.Struct, frozen=True):
    """A line of the server's error log. `line` is the event as it was sent, JSON."""

    message: str
    line: bytes


class Page(msgspec.Struct, frozen=True):
    """A part of a listing. `pattern`: it is an old server's, which takes shell patterns and knows no pages."""

    names: list[str]
    continue_at: str
    pattern: bool


class _Version(msgspec.Struct):
    version: str
    commit: str = ""


class _Status(msgspec.Struct):
    version: str
    os: str = ""
    arch: str = ""
    uptime: int = 0
    num_cpu: int = 0
    num_cpu_used: int = 0
    mem_heap_used: int = 0
    mem_stack_used: int = 0
    keystore_latency: int = 0
    keystore_unreachable: bool = False
    keystore_unavailable: bool = False


class _Key(msgspec.Struct):
    name: str
    algorithm: str = ""
    created_at: str = ""
    created_by: str = ""


class _DataKey(msgspec.Struct):
    plaintext: bytes
    ciphertext: bytes


class _Ciphertext(msgspec.Struct):
    ciphertext: bytes


class _Plaintext(msgspec.Struct):
    plaintext: bytes | None = None


class _HMAC(msgspec.Struct):
    hmac: bytes


class _Rules(msgspec.Struct):
    """A policy, or part of one; what the patterns map to means nothing."""

    name: str = ""
    allow: dict[str, msgspec.Raw] | None = None
    deny: dict[str, msgspec.Raw] | None = None
    created_at: str = ""
    created_by: str = ""


class _Identity(msgspec.Struct):
    identity: str = ""
    admin: bool = False
    policy: str | _Rules | None = None  # the reference sends the policy itself where others send its name
    created_at: str = ""
    created_by: str = ""
    allow: dict[str, msgspec.Raw] | None = None
    deny: dict[str, msgspec.Raw] | None = None


class _Page(msgspec.Struct):
    names: list[str] | None = None
    identities: list[str] | None = None
    continue_at: str | None = None


class _Line(msgspec.Struct):
    name: str = ""
    identity: str = ""
    error: str = ""


class _Message(msgspec.Struct):
    message: str = ""
    error: str = ""


class _Request(msgspec.Struct):
    path: str = ""
    ip: str = ""
    identity: str = ""


class _Response(msgspec.Struct):
    code: int
    time: int = 0


class _Audit(msgspec.Struct):
    time: str
    request: _Request
    response: _Response


def _decode(body: bytes, kind: type[T], endpoint: object) -> T:
    """Raises InvalidResponse, which quotes nothing: a plaintext may be in the body."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidResponse(f"the answer of {endpoint} is not what was expected") from None


def _time(text: str, endpoint: object) -> int | None:
    try:
        time = parse_rfc3339(text) if text else ZERO
    except ValueError:
        raise InvalidResponse(f"the answer of {endpoint} holds an invalid time") from None
    return time if time != ZERO else None


def _patterns(rules: dict[str, msgspec.Raw] | None) -> tuple[str, ...]:
    return tuple(sorted(rules or ()))


def check(answer: Answer) -> None:
    """Raise a ServerError unless an answer's status is 200."""
    if answer.status != 200:
        raise server_error(answer.status, _message(answer.body), str(answer.endpoint))


def _message(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    return error.error or error.message


def version(answer: Answer) -> Version:
    found = _decode(answer.body, _Version, answer.endpoint)
    return Version(found.version, found.commit, str(answer.endpoint))


def status(answer: Answer) -> Status:
    found = _decode(answer.body, _Status, answer.endpoint)
    return Status(
        version=found.version,
        os=found.os,
        arch=found.arch,
        uptime=found.uptime,
        num_cpu=found.num_cpu,
        num_cpu_used=found.num_cpu_used,
        mem_heap_used=found.mem_heap_used,
        mem_stack_used=found.mem_stack_used,
        keystore_latency=found.keystore_latency,
        keystore_unreachable=found.keystore_unreachable or found.keystore_unavailable,
        endpoint=str(answer.endpoint),
        latency=answer.seconds,
    )


def routes(answer: Answer) -> list[Route]:
    return _decode(answer.body, list[Route], answer.endpoint)


def key_info(answer: Answer) -> KeyInfo:
    key = _decode(answer.body, _Key, answer.endpoint)
    return KeyInfo(key.name, key.algorithm, _time(key.created_at, answer.endpoint), key.created_by)


def data_key(answer: Answer) -> DataKey:
    key = _decode(answer.body, _DataKey, answer.endpoint)
    return DataKey(key.plaintext, key.ciphertext)


def ciphertext(answer: Answer) -> bytes:
    return _decode(answer.body, _Ciphertext, answer.endpoint).ciphertext


def plaintext(answer: Answer) -> bytes:
    return _decode(answer.body, _Plaintext, answer.endpoint).plaintext or b""


def hmac(answer: Answer) -> bytes:
    return _decode(answer.body, _HMAC, answer.endpoint).hmac


def policy_info(answer: Answer, name: str) -> PolicyInfo:
    policy = _decode(answer.body, _Rules, answer.endpoint)
    return PolicyInfo(policy.name or name, _time(policy.created_at, answer.endpoint), policy.created_by)


def policy(answer: Answer, name: str) -> Policy:
    found = _decode(answer.body, _Rules, answer.endpoint)
    return Policy(
        found.name or name,
        _patterns(found.allow),
        _patterns(found.deny),
        _time(found.created_at, answer.endpoint),
        found.created_by,
    )


def identity(answer: Answer, name: str) -> IdentityInfo:
    found = _decode(answer.body, _Identity, answer.endpoint)
    rules = found.policy if isinstance(found.policy, _Rules) else _Rules(found.policy or "", found.allow, found.deny)
    return IdentityInfo(
        found.identity or name,
        found.admin,
        rules.name,
        _time(found.created_at, answer.endpoint),
        found.created_by,
        _patterns(rules.allow),
        _patterns(rules.deny),
    )


def page(answer: Answer) -> Page:
    if answer.content_type == NDJSON:
        return Page(_lines(answer), "", pattern=True)
    found = _decode(answer.body, _Page, answer.endpoint)
    return Page(found.names or found.identities or [], found.continue_at or "", pattern=False)


def _lines(answer: Answer) -> list[str]:
    names = []
    for line in answer.body.splitlines():
        found = _decode(line, _Line, answer.endpoint)
        if found.error:
            raise server_error(answer.status, found.error, str(answer.endpoint))
        names.append(found.name or found.identity)
    return names


def audit_event(line: bytes) -> AuditEvent:
    """An event of the audit log. Raises LogClosed for the line with which a server ends a stream."""
    try:
        event = msgspec.json.decode(line, type=_Audit)
        time = parse_rfc3339(event.time)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        reason = _decode(line, _Message, "the audit log")
        if reason.error or reason.message:
            raise LogClosed(reason.error or reason.message) from None
        raise InvalidResponse("a line of the audit log is no event") from None
    request, response = event.request, event.response
    return AuditEvent(time, request.ip, request.path, request.identity, response.code, response.time, line)


def error_event(line: bytes) -> ErrorEvent:
    """An event of the error log."""
    message = _decode(line, _Message, "the error log")
    return ErrorEvent(message.message or message.error, line)
