"""Keys as entries of a K/V secrets engine of HashiCorp Vault or OpenBao, laid out as the reference has them.

An entry is never overwritten: version 2 of the engine sees to that itself, and with version 1 a create looks first,
and reads back what it wrote. What is left there is that another server creates the same name at the same moment, and is
allowed to overwrite: so never grant `update` on version 1. A key is not found only if Vault says so: a wrong path, a
wrong version, an entry that was deleted and can be undeleted are errors of their own. Contract: keystores.md 3.
"""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
import threading
import time
from atexit import register, unregister
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from twisted.logger import Logger

from kes.keystore import KeyExists, KeyNotFound, KeyStore, KeyStoreError, Unreachable, check_value, page
from kes.keystore.settings import VaultSettings
from kes.keystore.vaultclient import (
    MAX_ANSWER,
    MAX_LISTING,
    OPERATION,
    TRIES,
    Answer,
    Client,
    Request,
    TLSFailure,
    join,
)
from kes.keystore.vaultsession import Session
from kes.names import is_valid_name

_NO_KEY = "_"  # what is read to see whether reading works: no key can have this name
_STRIPES = 64  # locks that creates of one name meet at; two names may share one
_WHILE_SEALED = 1.0  # seconds between two looks at whether Vault is still sealed
_LONGEST_WAIT = 3600.0  # seconds between two looks at the clock
_AFTER_A_FAULT = 30.0  # seconds
_EXIT = 2.5  # seconds that the end of the process waits for a token to be given back
_ESCAPED = re.compile("[<>&\u2028\u2029]")  # what Vault writes as \u0000 though JSON need not
_is_ciphertext = re.compile(r"vault:v[0-9]+:").match  # any version of the transit key: it may have been rotated

log = Logger()


class VaultStore(KeyStore):
    """The keys in `settings.engine`. Logs in, and tries what it can without writing; then the settings are right.

    Raises `KeyStoreError` if they are not, naming the one to change, and if Vault is sealed or out of reach. `clock`
    tells monotonic seconds, `sleep` waits for so many between two tries, `uniform` draws a number between two.
    """

    def __init__(
        self,
        settings: VaultSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.kms = f"Hashicorp Vault: {settings.endpoint}"
        self._settings = settings
        self._is_v2 = settings.version == 2
        self._clock = clock
        self._creators = [threading.Lock() for _ in range(_STRIPES)]
        self._stop = threading.Event()
        self._poll_at = clock() + settings.ping
        self._client = Client(settings, clock=clock, sleep=sleep, uniform=uniform)
        try:
            self._check_endpoint()
            self._session = Session(self._client, settings.login, settings.namespace, clock=clock, uniform=uniform)
            try:
                self._check_engine()
                self._check_transit()
                self._warn_of_update()
            except BaseException:
                self._session.revoke()
                raise
        except BaseException:
            self._client.close()
            raise

    # The interface

    def create(self, name: str, value: bytes) -> None:
        path = self._data_path(name)
        check_value(name, value)
        deadline = self._deadline()
        with self._creating(name, deadline):
            try:
                fields = self._fields(name, deadline, latest=True)
            except KeyNotFound:
                pass
            else:
                if name in fields:
                    raise KeyExists(f"key {name!r} exists")
                raise KeyStoreError(f"create key {name!r}: its entry in Vault is there, without the field {name!r}")
            self._write(name, path, self._wrapped(name, value, deadline), deadline)

    def get(self, name: str) -> bytes:
        """Raises `KeyStoreError` for an entry without the expected field, and for one whose deletion can be undone."""
        deadline = self._deadline()
        value = self._unwrapped(name, self._stored(name, deadline), deadline)
        check_value(name, value)
        return value

    def delete(self, name: str) -> None:
        """Remove the entry with all its versions. A missing name is a success."""
        answer = self._call(Request("DELETE", self._path("metadata", self._checked(name))), self._deadline())
        if answer.status not in (200, 204) and not answer.is_missing:
            raise self._refused(f"delete key {name!r}", answer, "delete", "metadata")

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        request = Request("GET", self._path("metadata"), query="list=true", limit=MAX_LISTING)
        answer = self._call(request, self._deadline())
        if answer.is_missing:  # how Vault says that there is nothing
            return [], ""
        names = answer.get("data", "keys")
        if answer.status != 200 or not isinstance(names, list):
            raise self._refused("list keys", answer, "list", "metadata")
        return page((name for name in names if isinstance(name, str)), prefix, start_at, limit)

    def status(self) -> float:
        """One request that needs no login. Only where the login is known to be lost, one is tried, and must succeed."""
        start, deadline = time.perf_counter(), self._deadline()
        self._client.health(deadline)
        self._session.require_login(deadline)
        return time.perf_counter() - start

    def close(self) -> None:
        """The token is given back in the background, as far as that works within 2 s."""
        if self._stop.is_set():
            return
        self._stop.set()

        def end() -> None:
            try:
                self._session.revoke()
                self._client.close()
            finally:
                unregister(thread.join)

        thread = threading.Thread(target=end, name="vault-close", daemon=True)
        # Often the process ends right after. It may wait for this much, but not for whatever the network does.
        register(thread.join, _EXIT)
        thread.start()

    # The background

    def start(self) -> None:
        """Look after the token and Vault's seal: call `tick` in a thread of its own until the store is closed."""
        threading.Thread(target=self._run, name="vault", daemon=True).start()

    def tick(self) -> float:
        """Do what is due: ask whether Vault is sealed, renew the token. Return in how many seconds to call it again."""
        now = self._clock()
        if now >= self._poll_at:
            self._poll_at = now + self._settings.ping
            with suppress(KeyStoreError):  # then what is known of the seal stays as it is
                self._client.health(now + OPERATION)
        if self._client.sealed:
            return _WHILE_SEALED
        self._session.renew()
        return min(max(0.0, min(self._poll_at, self._session.due()) - self._clock()), _LONGEST_WAIT)

    def _run(self) -> None:
        seconds = 0.0
        while not self._stop.wait(seconds):
            try:
                seconds = self.tick()
            except Exception:
                log.failure("the Vault key store's background work failed")
                seconds = _AFTER_A_FAULT

    # Opening

    def _check_endpoint(self) -> None:
        try:
            self._client.health(self._deadline())
        except TLSFailure:
            raise  # it says which setting
        except KeyStoreError as e:
            if self._client.sealed:
                raise
            raise type(e)(f"{e}; check keystore.vault.endpoint") from e

    def _check_engine(self) -> None:
        """Raise `KeyStoreError` if the engine is not there, is of the other version, or may not be read."""
        engine, deadline = self._settings.engine, self._deadline()
        answer = self._call(Request("GET", join("sys/internal/ui/mounts", engine)), deadline)
        if answer.status == 200 and answer.get("data", "type") in ("kv", "generic"):
            version = answer.get("data", "options", "version") or "1"
            if version != str(self._settings.version):
                raise KeyStoreError(
                    f"the K/V engine at {engine!r} is of version {version}, not {self._settings.version}; "
                    f"write keystore.vault.version: v{version}"
                )
            return
        # Vault does not tell whether the engine is missing or forbidden. Whoever may not even read has no use of it.
        answer = self._call(Request("GET", self._path("data", _NO_KEY)), deadline)
        there = answer.status in (200, 404) and isinstance(answer.get("data"), Mapping)
        if not there and not answer.is_missing:
            raise self._refused(f"read in the engine {engine!r}", answer, "read", "data")

    def _check_transit(self) -> None:
        """Raise `KeyStoreError` unless the transit key encrypts, and decrypts again: one alone would lock keys away."""
        if self._settings.transit is not None:
            probe, deadline = b"kes", self._deadline()
            if self._decrypted("a test", self._encrypted("a test", probe, deadline), deadline) != probe:
                raise KeyStoreError("the transit engine does not give back what it was given")

    def _warn_of_update(self) -> None:
        if self._is_v2:
            return
        path = self._path("data", _NO_KEY)
        with suppress(
            KeyStoreError
        ):  # the question is allowed by Vault's own default policy, which not every login has
            answer = self._call(Request("POST", "sys/capabilities-self", body={"paths": [path]}), self._deadline())
            granted = answer.get("data", "capabilities")
            if isinstance(granted, list) and not {"update", "root"}.isdisjoint(map(str, granted)):
                self.warnings = (
                    "the login's policies allow `update` in Vault's K/V engine of version 1: of two servers that make "
                    "a key at the same moment, one may overwrite the other's; take `update` from the policies",
                )

    # Entries

    def _checked(self, name: str) -> str:
        if not is_valid_name(name):
            raise KeyStoreError(f"{name!r} cannot be the name of a key in Vault")
        return name

    def _path(self, kind: str, *rest: str) -> str:
        """The path of `rest` below the prefix; `kind` is what version 2 has between the engine and it."""
        return join(self._settings.engine, kind if self._is_v2 else "", self._settings.prefix, *rest)

    def _data_path(self, name: str) -> str:
        return self._path("data", self._checked(name))

    def _deadline(self) -> float:
        return self._clock() + OPERATION

    def _call(self, request: Request, deadline: float, *, tries: int = TRIES) -> Answer:
        if self._stop.is_set():
            raise Unreachable("the Vault key store is closed")
        in_namespace = Request(
            request.method, request.path, request.query, request.body, self._settings.namespace, request.limit
        )
        return self._session.call(in_namespace, deadline, tries=tries)

    def _fields(self, name: str, deadline: float, *, latest: bool) -> Mapping[str, object]:
        """Return the entry of a key, of version 1 unless the `latest` is asked for. Raises `KeyNotFound`."""
        query = "version=1" if self._is_v2 and not latest else ""
        answer = self._call(Request("GET", self._path("data", name), query=query), deadline)
        if answer.is_missing:
            raise KeyNotFound(f"key {name!r} does not exist")
        if self._is_v2 and answer.status in (200, 404) and isinstance(answer.get("data"), Mapping):
            fields = answer.get("data", "data")
            if fields is None:
                raise KeyStoreError(f"read key {name!r}: its version was deleted in Vault; it may be undeleted there")
        else:
            fields = answer.get("data")
        if answer.status != 200 or not isinstance(fields, Mapping):
            raise self._refused(f"read key {name!r}", answer, "read", "data")
        return fields

    def _stored(self, name: str, deadline: float) -> str:
        """Return the text that is stored for a key. Raises `KeyNotFound`."""
        text = self._fields(self._checked(name), deadline, latest=False).get(name)
        if not isinstance(text, str):
            raise KeyStoreError(f"read key {name!r}: its entry in Vault has no text in the field {name!r}")
        return text

    def _found(self, name: str, deadline: float) -> str | None:
        try:
            return self._stored(name, deadline)
        except KeyNotFound:
            return None

    @contextmanager
    def _creating(self, name: str, deadline: float) -> Iterator[None]:
        """Creates of one name come one after the other, at least in this process (3.4)."""
        lock = self._creators[hash(name) % _STRIPES]
        if not lock.acquire(timeout=max(0.0, deadline - self._clock())):
            raise Unreachable(f"create key {name!r}: another create takes too long")
        try:
            yield
        finally:
            lock.release()

    def _write(self, name: str, path: str, text: str, deadline: float) -> None:
        """Write a new entry. Where it is not clear what became of it, what is there tells: ours, another's, nothing."""
        body: Mapping[str, object] = {name: text}
        if self._is_v2:
            body = {"options": {"cas": 0}, "data": body}
        unclear = False  # whether an earlier try may have stored it
        failure: KeyStoreError
        for _ in range(TRIES):
            try:
                answer = self._call(Request("PUT", path, body=body), deadline, tries=1)
            except TLSFailure:
                raise
            except Unreachable as e:
                failure, unclear = e, True
            else:
                if answer.status in (200, 204):
                    self._confirm(name, text, answer, deadline)
                    return
                failure = self._refused(f"create key {name!r}", answer, "create", "data")
                if answer.status < 500 and answer.status != 412:
                    self._resolve_conflict(name, text, answer, failure, deadline, unclear=unclear)
                    return
                unclear = unclear or answer.status != 412
            if not self._client.pause(deadline):
                break
            found = self._found(name, deadline)
            if found is not None:
                if found == text and unclear:
                    return
                raise KeyExists(f"key {name!r} exists")
        raise failure

    def _confirm(self, name: str, text: str, answer: Answer, deadline: float) -> None:
        """Make sure that what Vault took is what can be read."""
        if self._is_v2:
            if answer.status == 204:
                raise KeyStoreError(
                    f"create key {name!r}: Vault answered as an engine of version 1 does; check keystore.vault.version"
                )
            if answer.get("data", "version") != 1:
                raise KeyStoreError(f"create key {name!r}: what Vault stored is not version 1 of the entry")
            return
        found = self._found(name, deadline)
        if found is None and self._client.pause(deadline):  # some servers of a cluster learn of it later
            found = self._found(name, deadline)
        if found is None:
            raise KeyStoreError(f"create key {name!r}: Vault took it, and does not have it")
        if found != text:
            raise KeyExists(f"key {name!r} was created elsewhere at the same moment")

    def _resolve_conflict(
        self, name: str, text: str, answer: Answer, failure: KeyStoreError, deadline: float, *, unclear: bool
    ) -> None:
        """Return if a refused write had been stored by an earlier try; otherwise raise what its refusal means."""
        # 400 is how version 2 says that the entry is there; 403 is how any policy without `update` does.
        if answer.status in (400, 403):
            found = self._found(name, deadline)
            if found is not None and found == text and unclear:
                return
            if found is not None or "check-and-set" in answer.reason:
                raise KeyExists(f"key {name!r} exists")
        raise failure

    # Values

    def _wrapped(self, name: str, value: bytes, deadline: float) -> str:
        """Return the text that is stored for a value."""
        text = _text(value)
        if text is None:
            raise KeyStoreError(f"create key {name!r}: Vault stores texts, and this value is none")
        if self._settings.transit is not None:
            return self._encrypted(f"create key {name!r}", value, deadline)
        if _is_ciphertext(text):
            raise KeyStoreError(f"create key {name!r}: the value looks like one that is encrypted with a transit key")
        if len(json.dumps(text)) + 5 * len(_ESCAPED.findall(text)) > MAX_ANSWER - 65536:
            raise KeyStoreError(f"create key {name!r}: too large when written as JSON")
        return text

    def _unwrapped(self, name: str, text: str, deadline: float) -> bytes:
        """Return the value of a stored text. The text alone decides: transit may have been set up later."""
        if not _is_ciphertext(text):
            try:
                return text.encode()
            except UnicodeEncodeError:
                raise KeyStoreError(f"read key {name!r}: what is stored is not valid text") from None
        if self._settings.transit is None:
            raise KeyStoreError(f"read key {name!r}: it is encrypted with a transit key; set keystore.vault.transit")
        return self._decrypted(f"read key {name!r}", text, deadline)

    def _encrypted(self, attempt: str, value: bytes, deadline: float) -> str:
        answer = self._transit("encrypt", {"plaintext": base64.b64encode(value).decode()}, deadline)
        text = answer.get("data", "ciphertext")
        if answer.status != 200 or not isinstance(text, str) or not _is_ciphertext(text):
            raise self._transit_refused(attempt, "encrypt", answer)
        return text

    def _decrypted(self, attempt: str, text: str, deadline: float) -> bytes:
        answer = self._transit("decrypt", {"ciphertext": text}, deadline)
        plaintext = answer.get("data", "plaintext")
        if answer.status == 200 and isinstance(plaintext, str):
            with suppress(binascii.Error, ValueError):
                return base64.b64decode(plaintext, validate=True)
        raise self._transit_refused(attempt, "decrypt", answer)

    def _transit(self, verb: str, body: Mapping[str, object], deadline: float) -> Answer:
        transit = self._settings.transit
        assert transit is not None
        return self._call(Request("POST", join(transit.engine, verb, transit.key), body=body), deadline)

    def _transit_refused(self, attempt: str, verb: str, answer: Answer) -> KeyStoreError:
        transit = self._settings.transit
        assert transit is not None
        return KeyStoreError(
            f"{attempt}: Vault does not {verb} with the transit key {transit.key!r}: {_said(answer)}; "
            "check keystore.vault.transit.key and .engine, and that the login's policies allow `update` of "
            f"{join(transit.engine, verb, transit.key)}"
        )

    def _refused(self, attempt: str, answer: Answer, capability: str, kind: str) -> KeyStoreError:
        """What an answer means that is not the one hoped for: which setting to look at, as far as it tells.

        `capability` is what a policy must allow for it, on the path of `kind`.
        """
        hint = ""
        if answer.status == 403:
            hint = (
                f"; check that the login's policies allow `{capability}` of {self._path(kind)}/*, "
                "and keystore.vault.engine, .prefix and .namespace"
            )
        elif answer.status == 404 and answer.body is None:
            hint = ", not as Vault does; check keystore.vault.endpoint"
        elif answer.status == 404 and answer.get("warnings"):
            hint = "; check keystore.vault.version"
        elif answer.status in (404, 405):
            hint = "; check keystore.vault.engine, .version and .namespace"
        elif answer.status < 300:
            hint = ", not as a K/V engine does; check keystore.vault.engine and .version"
        return KeyStoreError(f"{attempt}: {_said(answer)}{hint}")


def _said(answer: Answer) -> str:
    return f"Vault answered {answer.status}" + (f", {answer.reason}" if answer.reason else "")


def _text(value: bytes) -> str | None:
    # Not in a handler: the error holds the value.
    with suppress(UnicodeDecodeError):
        return value.decode()
    return None
