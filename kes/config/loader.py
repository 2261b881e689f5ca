"""The config file's fields: what each may hold, its default, and what must not contradict what (contract section 6).

`load` returns a complete, checked Config or raises ConfigError, whatever the file holds; nothing half-checked comes
out; `load_keystore` does the same for the `keystore` section alone. Besides the config file and the credentials that it
names nothing is read or opened: that a certificate or directory exists is not checked, but that of a Kubernetes token
is (keystores.md 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from kes.config import address, duration, keystores, level, tree
from kes.config.errors import ConfigError, InvalidTextError, quote
from kes.config.model import API, TLS, Cache, Config, Log, TLSProxy
from kes.config.view import Fields, Source, View, nearest
from kes.keystore.settings import KeyStoreSettings
from kes.names import is_identity, is_valid_name
from kes.policy import Policy
from kes.routes import ROUTES, Route

MAX_FILE = 16 * 1024 * 1024  # bytes; whoever points at a disk image or a device gets an error, not a full memory

_SECTIONS = ("version", "address", "admin", "tls", "api", "policy", "cache", "log", "keys", "keystore")
_ROUTES = {route.path.removesuffix("/"): route for route in ROUTES}
# The spellings of YAML 1.1 (https://yaml.org/type/bool.html), in any letter case.
_TRUE = ("true", "yes", "on", "y")
_FALSE = ("false", "no", "off", "n")
_header_name = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+").fullmatch  # RFC 9110, section 5.6.2


def load(
    path: str | Path, environ: Mapping[str, str], *, tls_key: str | None = None, tls_cert: str | None = None
) -> Config:
    """Read and check the config file at `path`. May be called again, for a reload; it keeps nothing.

    `environ` is what `${NAME}` is looked up in (kes.config.variables). `tls_key` and `tls_cert` are paths that win over
    the file's, which may then lack them. Raises ConfigError, also if the file cannot be read.
    """
    return parse(_read(path), environ, file=str(path), tls_key=tls_key, tls_cert=tls_cert)


def load_keystore(path: str | Path, environ: Mapping[str, str]) -> tuple[KeyStoreSettings, tuple[str, ...]]:
    """Return the settings of the key store that the config file at `path` configures, and warnings about them.

    Only the `keystore` section is checked. The others may be missing, unknown or wrong, as long as the file is YAML
    with no key given twice. Raises ConfigError, as `load`.
    """
    root = _root(_read(path), environ, str(path))
    section = next((view for key, view in root.entries() if key == "keystore" and not view.is_null), None)
    return keystores.parse(root, section), tuple(root.source.warnings)


def parse(
    text: str, environ: Mapping[str, str], *, file: str, tls_key: str | None = None, tls_cert: str | None = None
) -> Config:
    """Check the config file whose content is `text`; `file` is its name in errors. As `load` otherwise."""
    root = _root(text, environ, file)
    top = root.fields(*_SECTIONS)

    _check_version(top)
    roles = _Roles()
    admin = _admin(top, roles)
    tls = _tls(top, roles, tls_key, tls_cert)
    policies, identities = _policies(top, roles)
    return Config(
        admin=admin,
        tls=tls,
        keystore=keystores.parse(root, top.get("keystore")),
        address=top.optional("address", address.parse, address.DEFAULT),
        api=_api(top),
        policies=policies,
        identities=identities,
        cache=_cache(top),
        log=_log(top),
        keys=_keys(top),
        warnings=tuple(root.source.warnings),
    )


def _read(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(str(path), None, "", f"cannot read the config file: {reason}") from error
    if len(content) > MAX_FILE:
        raise ConfigError(str(path), None, "", f"larger than {MAX_FILE} bytes, so hardly a config file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), line, "", "not UTF-8 text; save the file as UTF-8") from None


def _root(text: str, environ: Mapping[str, str], file: str) -> View:
    node = tree.compose(text, file)
    if node is None or (isinstance(node, tree.Scalar) and node.null):
        raise ConfigError(file, None, "", "empty; a config file needs at least admin, tls and keystore")
    return View(Source(file, environ, []), node, "", node.line)


class _Roles:
    """Who was given which role; an identity has one (contract section 2)."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[str, int]] = {}

    def give(self, view: View, role: str) -> str:
        """Return the identity in `view`, which gets `role`. Raises ConfigError if it has another, or is an API key.

        A text that no certificate hashes to is taken: it has always been the way to name nobody. An API key is not, as
        identities are listed and logged, and it would give itself away there.
        """
        identity = view.text()
        if identity.startswith("kes:"):
            raise view.error("an API key stands here; write its identity, which 'kes identity of' tells")
        first, line = self._given.setdefault(identity, (role, view.line))
        if first != role:
            raise view.error(f"{view.quoted()} is already {first} in line {line}; an identity has one role")
        return identity


def _check_version(top: Fields) -> None:
    view = top.get("version")
    if view is not None and view.literal() != "v1":
        raise view.error(f"{quote(view.literal())} is not a supported version; write v1, or leave it out")


def _admin(top: Fields, roles: _Roles) -> str:
    hint = "write the identity of the admin, or disabled for none"
    view = top.section("admin", "identity").required("identity", hint)
    identity = roles.give(view, "the admin")
    if not is_identity(identity) and identity != "disabled":
        view.warn(f"{view.quoted()} is no identity (64 lower-case hex digits), so there is no admin")
    return identity


def _identities(view: View | None, roles: _Roles, role: str) -> list[str]:
    identities = []
    for item in view.items() if view is not None else ():
        if item.is_null or not item.text():
            item.warn("empty, so it is left out")
            continue
        identity = roles.give(item, role)
        if not is_identity(identity):
            item.warn(f"{item.quoted()} is no identity (64 lower-case hex digits), so no client has it")
        identities.append(identity)
    return identities


def _tls(top: Fields, roles: _Roles, key: str | None, cert: str | None) -> TLS:
    fields = top.section("tls", "key", "cert", "password", "ca", "auth", "proxy")
    # The file's fields are checked even where a flag wins, so that the file is right or wrong on its own.
    file_key, file_cert = fields.text("key"), fields.text("cert")
    return TLS(
        key=key or file_key or fields.required("key", "write the path of the server's private key").text(),
        cert=cert or file_cert or fields.required("cert", "write the path of the server's certificate").text(),
        password=fields.text("password") or None,
        ca=fields.text("ca") or None,
        auth=fields.optional("auth", _on_off, None),
        proxy=_proxy(fields.section("proxy", "identities", "header"), roles),
    )


def _proxy(fields: Fields, roles: _Roles) -> TLSProxy:
    identities = frozenset(_identities(fields.get("identities"), roles, "a TLS proxy"))
    header = fields.section("header", "cert")
    name = header.optional("cert", _header, "")
    if identities and not name:
        hint = "name the header in which the proxies send the client's certificate, such as X-Tls-Client-Cert"
        header.required("cert", hint)
    return TLSProxy(identities, name)


def _api(top: Fields) -> dict[str, API]:
    view = top.get("api")
    lines: dict[str, int] = {}
    settings: dict[str, API] = {}
    for path, entry in view.entries() if view is not None else ():
        route = _ROUTES.get(path.removesuffix("/"))
        if route is None:
            assert view is not None
            known = nearest(path, (route.path for route in ROUTES))
            raise ConfigError(view.source.file, entry.line, view.path, f"unknown route {known}")
        if route.path in lines:
            raise entry.error(f"the route is given twice, first in line {lines[route.path]}; write it once")
        lines[route.path] = entry.line
        if not entry.is_null:
            settings[route.path] = _route(entry.fields("timeout", "skip_auth"), route)
    return settings


def _route(fields: Fields, route: Route) -> API:
    skip_auth = fields.get("skip_auth")
    if skip_auth is not None and not route.may_skip_auth:
        open_ones = ", ".join(route.path for route in ROUTES if route.may_skip_auth)
        raise skip_auth.error(f"this route always needs a client certificate; only {open_ones} can go without")
    # A timeout of 0 means the route's own, as in the original.
    timeout = fields.optional("timeout", _not_negative, 0.0) or None
    return API(timeout, fields.optional("skip_auth", _boolean, False))


def _policies(top: Fields, roles: _Roles) -> tuple[dict[str, Policy], dict[str, str]]:
    view = top.get("policy")
    policies: dict[str, Policy] = {}
    assigned: dict[str, str] = {}
    for name, entry in view.entries() if view is not None else ():
        if not is_valid_name(name):
            raise entry.error(f"not a valid policy name; {_NAME_RULE}")
        # A policy without a body exists, and allows nothing.
        known = ("allow", "deny", "identities")
        fields = Fields(entry, {}) if entry.is_null else entry.fields(*known)
        policies[name] = Policy(name, _patterns(fields.get("allow")), _patterns(fields.get("deny")))
        for identity in _identities(fields.get("identities"), roles, f"assigned to the policy {name!r}"):
            assigned[identity] = name
    return policies, assigned


def _patterns(view: View | None) -> tuple[str, ...]:
    patterns = []
    for item in view.items() if view is not None else ():
        pattern = item.literal()
        if "*" in pattern[:-1]:
            item.warn(f"{quote(pattern)} has a * before its end, where it is no wildcard; only a last * is one")
        elif not pattern.startswith(("/", "*")):
            item.warn(f"{quote(pattern)} matches nothing; paths begin with /")
        patterns.append(pattern)
    return tuple(patterns)


def _cache(top: Fields) -> Cache:
    expiry = top.section("cache", "expiry").section("expiry", "any", "unused", "offline")
    default = Cache()
    return Cache(
        any=expiry.optional("any", _not_negative, default.any),
        unused=expiry.optional("unused", _not_negative, default.unused),
        offline=expiry.optional("offline", _not_negative, default.offline),
    )


def _log(top: Fields) -> Log:
    fields = top.section("log", "error", "audit")
    default = Log()
    return Log(
        error=fields.optional("error", level.parse, default.error),
        audit=fields.optional("audit", level.parse, default.audit),
    )


def _keys(top: Fields) -> tuple[str, ...]:
    view = top.get("keys")
    lines: dict[str, int] = {}
    for item in view.items() if view is not None else ():
        entry = item.fields("name").required("name", "write the name of a key to create at start")
        name = entry.parse(_key_name)
        if name in lines:
            raise entry.error(f"the key {entry.quoted()} is already named in line {lines[name]}; name it once")
        lines[name] = entry.line
    return tuple(lines)


_NAME_RULE = "write 1 to 80 of 0-9 A-Z a-z _ -, without a hyphen first or last, and not _ alone"


def _key_name(text: str) -> str:
    if not is_valid_name(text):
        raise InvalidTextError(text, f"is not a valid key name; {_NAME_RULE}")
    return text


def _not_negative(text: str) -> float:
    seconds = duration.parse(text)
    if seconds < 0:
        raise InvalidTextError(text, "is negative; write a duration such as 5m, or 0")
    return seconds


def _on_off(text: str) -> bool:
    lower = text.lower()
    if lower not in ("on", "off"):
        raise InvalidTextError(text, "is neither on nor off")
    return lower == "on"


def _boolean(text: str) -> bool:
    lower = text.lower()
    if lower not in (*_TRUE, *_FALSE):
        raise InvalidTextError(text, "is neither true nor false")
    return lower in _TRUE


def _header(text: str) -> str:
    if _header_name(text) is None:
        raise InvalidTextError(text, "is not a header name; write one such as X-Tls-Client-Cert")
    return text
