"""From options to the parts of a server: everything that blocks and everything that can fail, before anything listens.

`load` is called at start and, in a thread, at each reload; it either returns all parts, connected and checked, or
raises StartError and leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from twisted.internet.interfaces import IReactorTime

from kes import keystore
from kes.certificate import make_server_certificate
from kes.config import level
from kes.config.address import Address
from kes.config.errors import ConfigError
from kes.config.loader import load as load_config
from kes.config.model import API, TLS, Config, Log
from kes.crypto import Algorithm, Key
from kes.crypto.storedkey import encode
from kes.identity import APIKey, Identity
from kes.keycache import KeyCache, Run
from kes.keystore import KeyExists, KeyStore, KeyStoreError, Unreachable
from kes.keystore.measured import Calls, MeasuredStore
from kes.keystore.settings import MemorySettings
from kes.routes import ROUTES
from kes.server.banner import addresses
from kes.server.state import Forwarder, RouteSettings, State
from kes.server.tls import Context, Settings, Stamp, TLSError, stamp

DEV_ADDRESS = Address("127.0.0.1", 7373)


class StartError(Exception):
    """The server cannot start, or the new configuration cannot be used: one line for the operator.

    `temporary`: it may go better another time though nothing is changed, as when the key store was out of reach.
    """

    def __init__(self, text: str, *, temporary: bool = False) -> None:
        super().__init__(text)
        self.temporary = temporary


@dataclass(frozen=True, slots=True)
class Arguments:
    """The options of `kes server` and `twistd kes` (contract section 1). `auth`, `cert` and `key` win over the config.

    `config` is an absolute path; None in dev mode.
    """

    address: Address | None = None
    config: str | None = None
    auth: bool | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def dev(self) -> bool:
        return self.config is None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server runs on. `stamp` is that of the TLS files in `context`; `api_key` is there in dev mode only."""

    config: Config
    context: Context
    stamp: Stamp
    store: KeyStore
    algorithm: Algorithm
    api_key: APIKey | None = None


def load(arguments: Arguments, environ: Mapping[str, str]) -> Parts:
    """Read the config file and open everything that it names; blocks. Raises StartError."""
    if arguments.config is None:
        return _development(arguments)
    try:
        config = load_config(arguments.config, environ, tls_key=arguments.key, tls_cert=arguments.cert)
        if arguments.address is not None:
            config = replace(config, address=arguments.address)
        settings = tls_settings(config, arguments)
        # Before the files are read: a change in between is then seen as one.
        files = stamp(settings)
        context = Context.load(settings)
    except (ConfigError, TLSError) as error:
        raise StartError(str(error)) from None
    algorithm = Algorithm.preferred()
    try:
        store = keystore.connect(config.keystore)
    except KeyStoreError as error:
        raise StartError(f"cannot open the key store: {error}", temporary=isinstance(error, Unreachable)) from None
    try:
        for name in config.keys:
            _create(store, name, algorithm, config.admin)
    except KeyStoreError as error:
        store.close()
        raise StartError(f"cannot create the key {name!r} of the config file: {error}", temporary=True) from None
    return Parts(config, context, files, store, algorithm)


def _create(store: KeyStore, name: str, algorithm: Algorithm, created_by: str) -> None:
    with suppress(KeyExists):
        store.create(name, encode(Key.generate(algorithm, created_by, time.time_ns())))


def _development(arguments: Arguments) -> Parts:
    """No config file, no other setup: keys in memory, a fresh admin and, unless one is given, a fresh certificate."""
    if (arguments.cert is None) != (arguments.key is None):
        raise StartError("--dev with one of --cert and --key: give both, or neither for a fresh certificate")
    listen_at = arguments.address or DEV_ADDRESS
    api_key = APIKey.generate()
    interface = listen_at.interface or "0.0.0.0"  # noqa: S104 - what the operator asked for
    config = Config(
        admin=api_key.identity,
        tls=TLS(key=arguments.key or "(made at start)", cert=arguments.cert or "(made at start)", auth=False),
        keystore=MemorySettings(),
        address=listen_at,
        log=Log(audit=level.INFO),
    )
    settings = tls_settings(config, arguments)
    if arguments.cert is None:
        hosts = [url.removeprefix("https://").rpartition(":")[0].strip("[]") for url in addresses(interface, 0)]
        context = Context(settings, *make_server_certificate(hosts, datetime.now(UTC)))
    else:
        try:
            context = Context.load(settings)
        except TLSError as error:
            raise StartError(str(error)) from None
    return Parts(config, context, (), keystore.connect(config.keystore), Algorithm.preferred(), api_key)


def tls_settings(config: Config, arguments: Arguments) -> Settings:
    """The TLS settings of a config, with the deprecated options over them."""
    tls = config.tls
    return Settings(
        cert=tls.cert,
        key=tls.key,
        password=tls.password,
        ca=tls.ca,
        auth=tls.auth if arguments.auth is None else arguments.auth,
        pinned=frozenset((config.admin, *config.identities, *tls.proxy.identities)),
        optional=any(route.skip_auth for route in config.api.values()),
    )


def make_state(
    parts: Parts, forwarder: Forwarder, run: Run, clock: IReactorTime, calls: Calls, started_at: int
) -> State:
    """The snapshot that requests are served from. Key store calls are counted in `calls`."""
    config = parts.config
    routes = {}
    for route in ROUTES:
        settings = config.api.get(route.path, API())
        timeout = float(route.timeout) if settings.timeout is None else settings.timeout
        routes[route.path] = RouteSettings(timeout, settings.skip_auth)
    store, expiry = MeasuredStore(parts.store, calls), config.cache
    return State(
        admin=config.admin if config.admin_enabled else "",
        policies=config.policies,
        assigned={Identity(identity): config.policies[name] for identity, name in config.identities.items()},
        proxies=frozenset(Identity(identity) for identity in config.tls.proxy.identities),
        proxy_header=config.tls.proxy.header.lower().encode(),
        forwarder=forwarder,
        routes=routes,
        keys=KeyCache(store, run, clock, any=expiry.any, unused=expiry.unused, offline=expiry.offline),
        algorithm=parts.algorithm,
        started_at=started_at,
    )
