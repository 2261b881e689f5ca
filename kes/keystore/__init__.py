"""The KeyStore interface: where keys lie, as named values that a store keeps byte for byte and never parses.

A store is plain blocking code: it may be called from several threads at once, knows nothing of Twisted but its logger,
and bounds every call by time limits of its own. Other processes may use the same store at the same time. There is no
update: a name is created once, read, and deleted. Contract: keystores.md section 1.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib import import_module

from kes.keystore.settings import AWSSettings, FSSettings, KeyStoreSettings, MemorySettings, VaultSettings
from kes.names import is_valid_name

PAGE = 1024  # names that one listing call returns at most (contract section 4)
MAX_VALUE = 1 << 20  # bytes of a value; a stored key has about 250 (keystores.md 1.2 and 2)


class KeyStoreError(Exception):
    """The store answered, but uselessly: denied, out of space, bad data.

    The text of this error and of those below is detail for the error log and the operator: it names keys, paths and
    reasons, never a value, and a client never gets to see it.
    """


class KeyExists(KeyStoreError):
    """The name is taken; what lies under it was left as it is."""


class KeyNotFound(KeyStoreError):
    """The store answered that nothing lies under the name."""


class Unreachable(KeyStoreError):
    """No answer was to be had from the store: refused, timed out, gone. The outcome of the call is not known."""


class KeyStore(ABC):
    """Named values. Every method may raise `Unreachable` or a plain `KeyStoreError`, besides those it lists."""

    kms: str
    """What the start-up output says after `KMS`: `In Memory`, `Filesystem: <dir>`, … (cli.md)."""

    warnings: tuple[str, ...] = ()
    """What was odd when the store was opened, but no reason not to: one line each, for the operator."""

    @abstractmethod
    def create(self, name: str, value: bytes) -> None:
        """Store `value` (1 byte to 1 MiB) under a name that is not taken; when this returns, it is there to stay.

        Raises `KeyExists` and changes nothing if the name is taken, also by another process at the same moment.
        """

    @abstractmethod
    def get(self, name: str) -> bytes:
        """Return the very bytes given to `create`; raises `KeyNotFound`."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove for good. A missing name: `KeyNotFound` or success, as keystores.md 10 has it for each store."""

    @abstractmethod
    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        """Return the valid names that begin with `prefix`, from `start_at` on (inclusive), and where to go on.

        The names are unique and sorted by byte value, at most `limit` of them, and never more than `PAGE`, which is
        also what a `limit` below 1 asks for. The second value is the first matching name not returned: the `start_at`
        of the next call, `""` at the end.
        """

    @abstractmethod
    def status(self) -> float:
        """Probe the store once, cheaply; return how long that took, in seconds."""

    def start(self) -> None:  # noqa: B027 - most have nothing to do
        """Begin what runs in the background. Called once, in the process that uses the store: a daemon has forked."""

    @abstractmethod
    def close(self) -> None:
        """Stop what runs in the background. Does not wait for the network; calls still running may fail."""


def connect(settings: KeyStoreSettings) -> KeyStore:
    """Open the key store; blocks. Raises `KeyStoreError`, whose text tells the operator what is wrong and where.

    A store's module is imported only here: what is not configured need not be installed.
    """
    match settings:
        case FSSettings(path=path):
            from kes.keystore.fs import FSStore

            return FSStore(path)
        case MemorySettings():
            from kes.keystore.memory import MemoryStore

            return MemoryStore()
        case AWSSettings():
            _require("boto3", "AWS", extra="aws")
            _require("httpcore", "AWS", extra="aws")
            from kes.keystore.aws import AWSStore

            return AWSStore(settings)
        case VaultSettings():
            _require("httpcore", "Vault", extra="vault")
            from kes.keystore.vault import VaultStore

            return VaultStore(settings)


def _require(package: str, kind: str, *, extra: str) -> None:
    """Raise `KeyStoreError` unless the package that the key store `kind` is built on is installed."""
    try:
        import_module(package)
    except ModuleNotFoundError as e:
        raise KeyStoreError(f"the {kind} key store needs the package {package}: pip install 'kes[{extra}]'") from e


def page(names: Iterable[str], prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
    """Return one page of `KeyStore.list` out of all `names` of a store, in any order, foreign and double ones too."""
    if not 1 <= limit <= PAGE:
        limit = PAGE
    # Valid names are ASCII, so that comparing them as text compares their bytes.
    found = {name for name in names if name.startswith(prefix) and name >= start_at and is_valid_name(name)}
    first = heapq.nsmallest(limit + 1, found)
    return first[:limit], first[limit] if len(first) > limit else ""


def check_value(name: str, value: bytes) -> None:
    """Raise `KeyStoreError` for a value that no store takes: an empty one, or one of more than `MAX_VALUE` bytes."""
    if not 1 <= len(value) <= MAX_VALUE:
        raise KeyStoreError(f"key {name!r}: a value has 1 to {MAX_VALUE} bytes, not {len(value)}")
