"""A client for this server and for those whose API it has: `Client` for plain code, `AsyncClient` for asyncio.

Both have the calls of the official Go SDK, keep connections, fail over to other endpoints and repeat what may be
repeated; both raise subclasses of KESError. No key, plaintext or password gets into a repr or an error.

    with Client(Settings("127.0.0.1:7373", api_key="kes:v1:…")) as client:
        client.create_key("my-key")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from kes.client.calls import EventStream
from kes.client.errors import (
    CertificateRequired,
    ConfigurationError,
    ConnectionFailed,
    IdentityNotFound,
    InvalidKey,
    InvalidName,
    InvalidResponse,
    KESError,
    KeyExists,
    KeyNotFound,
    KeyStoreFailed,
    KeyStoreUnreachable,
    LogClosed,
    NoHMAC,
    NotAllowed,
    NotAuthentic,
    OutcomeUnknown,
    PasswordRequired,
    PolicyNotFound,
    ServerError,
    TimedOut,
    TLSError,
    TLSProblem,
)
from kes.client.network import World
from kes.client.settings import Settings, Timeouts
from kes.client.sync import Client, LogStream

if TYPE_CHECKING:
    from kes.client.aio import AsyncClient
    from kes.client.metrics import Metrics

__all__ = [
    "AsyncClient",
    "AuditEvent",
    "CertificateRequired",
    "Client",
    "ConfigurationError",
    "ConnectionFailed",
    "DataKey",
    "ErrorEvent",
    "EventStream",
    "IdentityInfo",
    "IdentityNotFound",
    "InvalidKey",
    "InvalidName",
    "InvalidResponse",
    "KESError",
    "KeyExists",
    "KeyInfo",
    "KeyNotFound",
    "KeyStoreFailed",
    "KeyStoreUnreachable",
    "LogClosed",
    "LogStream",
    "Metrics",
    "NoHMAC",
    "NotAllowed",
    "NotAuthentic",
    "OutcomeUnknown",
    "PasswordRequired",
    "Policy",
    "PolicyInfo",
    "PolicyNotFound",
    "Route",
    "ServerError",
    "Settings",
    "Status",
    "TLSError",
    "TLSProblem",
    "TimedOut",
    "Timeouts",
    "Version",
    "World",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":
        # asyncio takes longer to import than the rest of the client; plain code does without it.
        from kes.client.aio import AsyncClient

        return AsyncClient
    if name == "Metrics":
        from kes.client.metrics import Metrics

        return Metrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
