"""What a config file says, as frozen values (contract section 6).

A `Config` that the loader returns is complete and checked: every default is filled in, no identity has two roles,
every policy and key name is valid. Durations are seconds. Paths stay as written, relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kes.config import level
from kes.config.address import DEFAULT, Address
from kes.keystore.settings import KeyStoreSettings
from kes.names import is_identity
from kes.policy import Policy


@dataclass(frozen=True, slots=True)
class TLSProxy:
    """`tls.proxy`: peers with one of `identities` forward the real client's certificate in the header `header`.

    `header` is a valid HTTP field name as written, and not empty where there are identities.
    """

    identities: frozenset[str] = frozenset()
    header: str = ""


@dataclass(frozen=True, slots=True)
class TLS:
    """`tls`: `key` and `cert` are PEM files; `ca` is a PEM file, a directory of them, or None.

    `auth` is True for `on`, False for `off`, None where the file does not say (contract section 1, client
    verification). `password` opens an encrypted `key`; it stays out of the repr.
    """

    key: str
    cert: str
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    auth: bool | None = None
    proxy: TLSProxy = TLSProxy()


@dataclass(frozen=True, slots=True)
class API:
    """`api.<route path>`: `timeout` in seconds, above 0, or None for the route's own (`kes.routes`)."""

    timeout: float | None = None
    skip_auth: bool = False


@dataclass(frozen=True, slots=True)
class Cache:
    """`cache.expiry`, in seconds, at least 0: `any` and `unused` of 0 keep no key, `offline` of 0 is off."""

    any: float = 300.0
    unused: float = 30.0
    offline: float = 0.0


@dataclass(frozen=True, slots=True)
class Log:
    """`log`: the least level (`kes.config.level`) that goes to the console; OFF for nothing."""

    error: int = level.INFO
    audit: int = level.OFF


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config file.

    `admin` is the text as written: it equals the admin's identity, or, where it is no identity (such as `disabled`),
    nobody's. `api` maps paths of `kes.routes.ROUTES` to what the file sets for them; others are absent. `policies`
    maps names to policies, `identities` each assigned identity to its policy's name. `keys` are the names of keys to
    create at start, in the file's order. `warnings` are for the operator, each with file, line and path.
    """

    admin: str
    tls: TLS
    keystore: KeyStoreSettings
    address: Address = DEFAULT
    api: Mapping[str, API] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    identities: Mapping[str, str] = field(default_factory=dict)
    cache: Cache = Cache()
    log: Log = Log()
    keys: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def admin_enabled(self) -> bool:
        """Whether any client can be the admin."""
        return is_identity(self.admin)
