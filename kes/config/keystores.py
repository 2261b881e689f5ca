"""The `keystore` section: exactly one kind of key store, parsed into that kind's settings (keystores.md 1.7).

Each kind that can be opened has one function in `PARSERS`, from its section to its settings. Kinds that the format
knows and this version cannot open are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kes.config import duration
from kes.config.errors import ConfigError, InvalidTextError
from kes.config.view import Fields, View
from kes.keystore.settings import (
    AppRoleSettings,
    AWSSettings,
    FSSettings,
    KeyStoreSettings,
    KubernetesSettings,
    TransitSettings,
    VaultSettings,
)

# Every kind of the format, with the name that operators know it by. A dot stands for one more level of mapping.
KINDS: Final = {
    "fs": "filesystem",
    "vault": "Hashicorp Vault",
    "fortanix.sdkms": "Fortanix SDKMS",
    "gemalto.keysecure": "Gemalto KeySecure",
    "gcp.secretmanager": "GCP SecretManager",
    "aws.secretsmanager": "AWS SecretsManager",
    "azure.keyvault": "Azure KeyVault",
    "entrust.keycontrol": "Entrust KeyControl",
}
_HINT = "configure exactly one key store, such as fs with the path of a directory"


def _fs(view: View) -> KeyStoreSettings:
    fields = view.fields("path")
    return FSSettings(fields.required("path", "write the directory that holds the keys").text())


def _aws(view: View) -> KeyStoreSettings:
    fields = view.fields("endpoint", "region", "kmskey", "credentials")
    credentials = fields.section("credentials", "accesskey", "secretkey", "token")
    endpoint_hint = "write the host of AWS Secrets Manager, such as secretsmanager.us-east-2.amazonaws.com"
    settings = AWSSettings(
        endpoint=fields.required("endpoint", endpoint_hint).parse(_aws_endpoint),
        region=fields.required("region", "write the AWS region, such as us-east-2").parse(_aws_region),
        kmskey=fields.text("kmskey"),
        accesskey=credentials.text("accesskey"),
        secretkey=credentials.text("secretkey"),
        token=credentials.text("token"),
    )
    given = (settings.accesskey, settings.secretkey, settings.token)
    if any(given) and not (settings.accesskey and settings.secretkey):
        # Not an error: such a file has always loaded (keystores.md 4).
        credentials.view.warn("accesskey and secretkey belong together; AWS will refuse one without the other")
    return settings


def _aws_endpoint(text: str) -> str:
    scheme = "" if "://" in text else "https://"
    return _url(scheme + text.strip(), "is neither a host nor an http or https URL")


def _aws_region(text: str) -> str:
    region = text.strip()
    if not _is_region(region):
        raise InvalidTextError(text, "is not an AWS region; write one such as us-east-2")
    return region


def _vault(view: View) -> KeyStoreSettings:
    fields = view.fields(
        *("endpoint", "engine", "version", "namespace", "prefix", "transit", "approle", "kubernetes", "tls", "status")
    )
    endpoint = fields.required("endpoint", "write the URL of Vault, such as https://127.0.0.1:8200").parse(_vault_url)
    tls = fields.section("tls", "key", "cert", "ca")
    for one, other in (("key", "cert"), ("cert", "key")):
        if tls.text(one):
            tls.required(other, "a client certificate is a key and a cert: write both, or neither")
    default = VaultSettings(endpoint, _vault_login(fields))
    return VaultSettings(
        endpoint=endpoint,
        login=default.login,
        engine=fields.text("engine") or default.engine,
        version=fields.optional("version", _vault_version, default.version),
        namespace=fields.optional("namespace", _vault_namespace, "") or _namespace_of_environment(view),
        prefix=fields.text("prefix"),
        transit=_vault_transit(fields),
        tls_key=tls.text("key"),
        tls_cert=tls.text("cert"),
        tls_ca=tls.text("ca"),
        ping=fields.section("status", "ping").optional("ping", _vault_ping, 0.0) or default.ping,
    )


def _vault_login(fields: Fields) -> AppRoleSettings | KubernetesSettings:
    approle, kubernetes = fields.get("approle"), fields.get("kubernetes")
    if approle is None and kubernetes is None:
        raise fields.view.error("no way to log in; write approle with id and secret, or kubernetes with role and jwt")
    if approle is not None and kubernetes is not None:
        raise kubernetes.error(f"a second way to log in, after approle in line {approle.line}; keep one of them")
    if approle is not None:
        inner = approle.fields("engine", "namespace", "id", "secret", "retry")
        _warn_of_retry(inner)
        return AppRoleSettings(
            id=inner.required("id", "write the role id of the AppRole").text(),
            secret=inner.required("secret", "write a secret id of the AppRole").text(),
            engine=inner.text("engine") or AppRoleSettings("", "").engine,
            namespace=inner.optional("namespace", _vault_namespace, ""),
        )
    assert kubernetes is not None
    inner = kubernetes.fields("engine", "namespace", "role", "jwt", "retry")
    _warn_of_retry(inner)
    jwt = inner.required("jwt", "write the path of the service account's token, or the token itself")
    login = KubernetesSettings(
        role=inner.text("role"),
        jwt=jwt.text(),
        engine=inner.text("engine") or KubernetesSettings("", "").engine,
        namespace=inner.optional("namespace", _vault_namespace, ""),
    )
    if login.jwt_path is not None:
        try:
            with Path(login.jwt_path).open("rb") as file:
                file.read(1)
        except (OSError, ValueError) as e:  # ValueError: a NUL in the path
            reason = e.strerror if isinstance(e, OSError) else "not a path"
            # The text is not shown: what looks like a path may be a secret.
            raise jwt.error(f"the file that is to hold the service account's token cannot be read: {reason}") from None
    return login


def _vault_transit(fields: Fields) -> TransitSettings | None:
    view = fields.get("transit")
    if view is None:
        return None
    inner = view.fields("engine", "key")
    default = TransitSettings(inner.required("key", "write the name of the transit key that encrypts the keys").text())
    return TransitSettings(default.key, inner.text("engine") or default.engine)


def _warn_of_retry(fields: Fields) -> None:
    retry = fields.get("retry")
    if retry is not None:
        retry.warn("has no effect; remove it")


def _namespace_of_environment(view: View) -> str:
    """Return the namespace that Vault's own clients would use, with a warning: without it, keys seem to vanish."""
    name = view.source.environ.get("VAULT_NAMESPACE", "")
    if name:
        try:
            _vault_namespace(name)
        except InvalidTextError as e:
            raise view.error(f"the value of the environment variable VAULT_NAMESPACE {e.problem}") from None
        view.warn("no namespace is written here, so the one in the environment variable VAULT_NAMESPACE is used")
    return name


def _vault_url(text: str) -> str:
    return _url(text, "is no http or https URL; write one such as https://127.0.0.1:8200")


def _vault_version(text: str) -> int:
    if text not in ("v1", "v2"):
        raise InvalidTextError(text, "is not a version of the K/V engine; write v1 or v2")
    return int(text[1])


def _vault_namespace(text: str) -> str:
    if not _printable_ascii(text):
        raise InvalidTextError(text, "is not a namespace; write its path, such as team-a/kes")
    return text


def _vault_ping(text: str) -> float:
    seconds = duration.parse(text)
    if seconds < 0:
        raise InvalidTextError(text, "is negative; write a duration such as 15s")
    return seconds


def _url(text: str, problem: str) -> str:
    """Return the URL of an endpoint without blanks around it and slashes at its end."""
    url = text.strip().rstrip("/")
    if "@" in url:
        # What is in front of it is not shown: it may be a password.
        raise InvalidTextError(url.rpartition("@")[2], "has a user in front of it; write the URL without")
    try:
        parts = urlsplit(url)
        valid = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        valid = False
    if not valid or "?" in url or "#" in url or not _printable_ascii(url):
        raise InvalidTextError(text, problem)
    return url


_printable_ascii = re.compile(r"[!-~]+").fullmatch
_is_region = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?").fullmatch

PARSERS: Final[dict[str, Callable[[View], KeyStoreSettings]]] = {
    "fs": _fs,
    "vault": _vault,
    "aws.secretsmanager": _aws,
}


def parse(root: View, section: View | None) -> KeyStoreSettings:
    """Return the settings of the one key store in `section`; `root` is the whole file, for the error that it is absent.

    Raises ConfigError if there is none or more than one, or if it is wrong or not supported.
    """
    if section is None:
        raise ConfigError(root.source.file, root.line, "keystore", f"missing; {_HINT}")
    present = _present(section)
    if not present:
        raise section.error(f"no key store; {_HINT}")
    kind, view = present[0]
    if len(present) > 1:
        other, second = present[1]
        raise second.error(f"a second key store, {other}, after {kind} in line {view.line}; keep one of them")
    if kind not in PARSERS:
        supported = ", ".join(PARSERS)
        raise view.error(f"this version does not support the {KINDS[kind]} key store; supported are {supported}")
    return PARSERS[kind](view)


def _present(section: View) -> list[tuple[str, View]]:
    """Return the kinds whose own mapping is not null, in the file's order."""
    inner: dict[str, list[str]] = {}
    for kind in KINDS:
        outer, _, name = kind.partition(".")
        inner.setdefault(outer, []).extend([name] if name else [])
    present: list[tuple[str, View]] = []
    for outer, view in section.fields(*inner, "kes").present.items():
        if outer == "kes":
            raise view.error(
                "a KES server cannot be the key store of another: such a section was always read and never used; "
                "configure the key store that holds the keys"
            )
        if not inner[outer]:
            present.append((outer, view))
            continue
        for name, kind_view in view.fields(*inner[outer]).present.items():
            present.append((f"{outer}.{name}", kind_view))
    return present
