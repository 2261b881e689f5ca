"""Vault's token: there is one from the first login on, renewed or replaced before it expires, given back at the end.

What a request needs of it happens in the request's own thread: where a token was refused that Vault no longer knows,
one login replaces it, for all who wait for one, and the request is made once more. What has to happen in time is told
by `due` and done by `renew`, for whoever has a thread to call them. Contract: keystores.md 3.2, 3.3 ("Do").
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from twisted.logger import Logger

from kes.keystore import KeyStoreError, Unreachable
from kes.keystore.settings import AppRoleSettings, KubernetesSettings
from kes.keystore.vaultclient import OPERATION, TRIES, Answer, Client, Request, is_header_value, join

RENEW_AT = 0.8  # of the time that a token is given, after which it is renewed
_SOONEST = 1.0  # seconds between two renewals, and from a login to the next, however short that time is
_RETRY = (3.0, 30.0)  # seconds from a login that failed to the next: the shortest, and the longest
_REPLICAS = 30.0  # seconds that a new token is given at most to reach all servers while the old one is good
_REVOKE = 2.0  # seconds for giving a token back
_MAX_JWT = 1 << 20  # bytes

log = Logger()


@dataclass(frozen=True, slots=True)
class Token:
    """`ttl` seconds are what Vault gave it, `expires` the time of the clock when they are over; never is `math.inf`."""

    value: str = field(repr=False)
    ttl: float
    renewable: bool
    expires: float

    @property
    def renew_at(self) -> float:
        return self.expires - self.ttl + max(_SOONEST, RENEW_AT * self.ttl) if self.ttl else math.inf


class Session:
    """A login at Vault through `client`, made here and now; raises `KeyStoreError` if that fails.

    `namespace` is the store's: that of every request but those about the token, which go to where it was issued.
    """

    def __init__(
        self,
        client: Client,
        settings: AppRoleSettings | KubernetesSettings,
        namespace: str,
        *,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._client = client
        self._settings = settings
        self._namespace = {"": namespace, "/": ""}.get(settings.namespace, settings.namespace)
        self._jwt_path: Path | None = None
        if isinstance(settings, KubernetesSettings) and settings.jwt_path is not None:
            self._jwt_path = Path(settings.jwt_path).absolute()  # a daemon changes its working directory later
        self._clock = clock
        self._uniform = uniform
        self._lock = threading.Lock()  # held by the one that logs in
        self._failures = 0  # of renewals and logins, since one last worked
        self._retry_at = -math.inf  # when `renew` tries again
        self._last_login = -math.inf
        self._last_failure: KeyStoreError | None = None
        self._refused: Token | None = None  # the last that Vault did not know
        self._successor: tuple[float, Token] | None = None  # and when it takes over
        with self._logging_in(clock() + OPERATION):
            self._token = self._login(clock() + OPERATION)

    def call(self, request: Request, deadline: float, *, tries: int = TRIES) -> Answer:
        """Return Vault's answer to `request`, with the token. As `Client.send` otherwise."""
        token = self._token
        answer = self._client.send(request, deadline, token=token.value, tries=tries)
        if answer.status != 403 or (self._token is token and self._is_known(token, deadline)):
            return answer
        return self._client.send(request, deadline, token=self._replaced(token, deadline).value, tries=tries)

    def require_login(self, deadline: float) -> None:
        """Raise `KeyStoreError` if no token is left that may be good, and no login gets one. Mostly asks nothing."""
        token = self._token
        if self._refused is token or self._clock() >= token.expires:
            self._replaced(token, deadline)

    def due(self) -> float:
        """When, as a time of the clock, `renew` has something to do."""
        if self._successor is not None:
            return self._successor[0]
        return max(self._token.renew_at, self._retry_at)

    def renew(self) -> None:
        """Do what is due, if anything is: renew the token, or log in anew. What fails is logged, and due again soon."""
        now = self._clock()
        if now < self.due():
            return
        token = self._token
        try:
            if self._successor is not None:
                self._replaced(token, now + OPERATION)
            elif now >= token.expires or not token.renewable or not self._renewed(token, now + OPERATION):
                self._log_in_ahead(token, now + OPERATION)
        except KeyStoreError as e:
            self._failures += 1
            shortest, longest = _RETRY
            # Servers that lost Vault at the same moment must not come back at the same moment.
            self._retry_at = self._clock() + self._uniform(shortest, min(longest, shortest * 2**self._failures))
            if self._failures == 1:
                log.error("the Vault token is not renewed, which will be tried again: {why}", why=str(e))
        else:
            self._works()

    def revoke(self) -> None:
        """Give the token back, as far as that works within 2 s."""
        tokens = [self._token] + ([self._successor[1]] if self._successor is not None else [])
        for token in tokens:
            with suppress(KeyStoreError):
                request = Request("PUT", "auth/token/revoke-self", namespace=self._namespace)
                self._client.send(request, self._clock() + _REVOKE, token=token.value, tries=1)

    def _works(self) -> None:
        if self._failures:
            log.info("the Vault token is renewed again")
        self._failures = 0
        self._retry_at = -math.inf

    def _is_known(self, token: Token, deadline: float) -> bool:
        """Whether Vault still knows the token: then what it refused, it refused for good."""
        request = Request("GET", "auth/token/lookup-self", namespace=self._namespace)
        return self._client.send(request, deadline, token=token.value).status != 403

    def _renewed(self, token: Token, deadline: float) -> bool:
        """Renew the token. False if Vault will not, or only for a while that shows that its last renewal has come."""
        request = Request("PUT", "auth/token/renew-self", body={"increment": 0}, namespace=self._namespace)
        now = self._clock()
        answer = self._client.send(request, deadline, token=token.value)
        renewed = _token(answer, now) if answer.status == 200 else None
        # The time that is left until a token's last moment is halved by waiting for half of it, and so on.
        if renewed is None or not renewed.ttl or renewed.ttl < self._granted / 2:
            return False
        with self._logging_in(deadline):
            if self._token is token:
                self._token = Token(token.value, renewed.ttl, renewed.renewable, renewed.expires)
        return True

    def _log_in_ahead(self, token: Token, deadline: float) -> None:
        """Get a new token while the old one may be good, and use it once all servers of a cluster know it (3.3)."""
        with self._logging_in(deadline):
            if self._token is not token:
                return
            new = self._login(deadline)
            now = self._clock()
            if now >= token.expires:
                self._token = new
            else:
                self._successor = (min(now + min(0.1 * new.ttl, _REPLICAS), token.expires), new)

    def _replaced(self, stale: Token, deadline: float) -> Token:
        """Return a token that is not `stale`. However many threads ask for one, one of them logs in, not too often."""
        with self._logging_in(deadline):
            if self._token is not stale:
                return self._token
            if self._successor is not None:
                self._token, self._successor = self._successor[1], None
                return self._token
            self._refused = stale
            self._require_patience()
            self._token = self._login(deadline)
        self._works()
        return self._token

    def _require_patience(self) -> None:
        """Raise `KeyStoreError` if the last login is too recent for another one: requests must not make a flood."""
        age, failure = self._clock() - self._last_login, self._last_failure
        if failure is not None and age < _RETRY[0]:
            raise type(failure)(str(failure))
        if failure is None and age < _SOONEST:
            raise KeyStoreError(
                f"Vault does not know the token of the login {age:.1f} s ago any more: it was revoked, or the role's "
                "token_num_uses are used up, or the servers of keystore.vault.endpoint do not share their tokens; "
                f"there is no other login before {_SOONEST:.0f} s are over"
            )

    @contextmanager
    def _logging_in(self, deadline: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=max(0.0, deadline - self._clock())):
            raise Unreachable("a login at Vault takes too long")
        try:
            yield
        finally:
            self._lock.release()

    def _login(self, deadline: float) -> Token:
        self._last_login = now = self._clock()
        try:
            answer = self._client.send(self._login_request(), deadline)
            token = _token(answer, now) if answer.status == 200 else None
            if token is None:
                said = answer.reason or ("no token in the answer" if answer.status == 200 else "no reason given")
                raise KeyStoreError(f"Vault refused the login, {answer.status}: {said}; check {self._hint()}")
        except KeyStoreError as e:
            self._last_failure = e
            raise
        self._last_failure = None
        self._granted = token.ttl
        return token

    def _login_request(self) -> Request:
        settings = self._settings
        if isinstance(settings, AppRoleSettings):
            body = {"role_id": settings.id, "secret_id": settings.secret}
        else:
            body = {"role": settings.role, "jwt": self._jwt()}
        return Request("PUT", join("auth", settings.engine, "login"), body=body, namespace=self._namespace)

    def _jwt(self) -> str:
        """The service account's token, read again each time: Kubernetes replaces it."""
        if self._jwt_path is None:
            assert isinstance(self._settings, KubernetesSettings)
            return self._settings.jwt.strip()
        try:
            with self._jwt_path.open("rb") as file:
                jwt = file.read(_MAX_JWT).decode("ascii", "replace").strip()
        except (OSError, ValueError) as e:
            reason = e.strerror if isinstance(e, OSError) else "not a path"
            raise KeyStoreError(f"keystore.vault.kubernetes.jwt: the file cannot be read: {reason}") from None
        if not jwt:
            raise KeyStoreError("keystore.vault.kubernetes.jwt: the file is empty")
        return jwt

    def _hint(self) -> str:
        kind, fields = "kubernetes", ".role and .jwt"
        if isinstance(self._settings, AppRoleSettings):
            kind, fields = "approle", ".id and .secret"
        return f"keystore.vault.{kind}{fields}, and whether it is enabled at .engine in .namespace"


def _token(answer: Answer, now: float) -> Token | None:
    """Return the token that an answer to a request of the time `now` holds, None if there is none to be used."""
    value, ttl = answer.get("auth", "client_token"), answer.get("auth", "lease_duration")
    if not isinstance(value, str) or not is_header_value(value):
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 0 <= ttl < 2**32:
        return None
    return Token(value, float(ttl), answer.get("auth", "renewable") is True, now + ttl if ttl else math.inf)
