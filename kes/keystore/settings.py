"""What each key store needs to know to be opened: plain values, checked by whoever made them.

The config file's `keystore` section is parsed into one of these (`kes.config.keystores`), and the store of that kind
is opened from it. Nothing here reads a file or opens a connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FSSettings:
    """`keystore.fs`: one file per key in the directory `path`, not empty; relative to the working directory."""

    path: str


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Keys in memory, gone at exit: development mode's store, which no config file can name."""


@dataclass(frozen=True, slots=True)
class AWSSettings:
    """`keystore.aws.secretsmanager`: the secrets of one account in one region.

    `endpoint` is an http or https URL without a slash at its end. `kmskey` is a KMS key's ID, ARN or alias; if it is
    empty, AWS's default key is used. If any of `accesskey`, `secretkey` and the session's `token` is given, they are
    the credentials as they are; otherwise the SDK looks for some.
    """

    endpoint: str
    region: str
    kmskey: str = ""
    accesskey: str = ""
    secretkey: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class AppRoleSettings:
    """`keystore.vault.approle`: a login with a role's id and a secret id.

    `namespace` is that of the login alone: empty for the store's own, `/` for the root namespace.
    """

    id: str
    secret: str = field(repr=False)
    engine: str = "approle"
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """`keystore.vault.kubernetes`: a login with a service account's token; `namespace` as with AppRole.

    `jwt` is the path of the file that holds the token if it has a slash in it, and the token itself otherwise.
    """

    role: str
    jwt: str = field(repr=False)
    engine: str = "kubernetes"
    namespace: str = ""

    @property
    def jwt_path(self) -> str | None:
        return self.jwt if "/" in self.jwt else None


@dataclass(frozen=True, slots=True)
class TransitSettings:
    """`keystore.vault.transit`: the key of a transit engine under which values are encrypted before they are stored."""

    key: str
    engine: str = "transit"


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """`keystore.vault`: a K/V secrets engine of HashiCorp Vault or OpenBao (keystores.md 3.1).

    `endpoint` is an http or https URL without a slash at its end, `version` that of the engine, 1 or 2. `tls_key` and
    `tls_cert` are paths of PEM files, both or neither; `tls_ca` is that of a file or directory of authorities, empty
    for the system's. `ping` is the interval in seconds, above 0, at which the store asks whether Vault is sealed.
    """

    endpoint: str
    login: AppRoleSettings | KubernetesSettings
    engine: str = "kv"
    version: int = 1
    namespace: str = ""
    prefix: str = ""
    transit: TransitSettings | None = None
    tls_key: str = ""
    tls_cert: str = ""
    tls_ca: str = ""
    ping: float = 15.0


# One member for each kind of store.
KeyStoreSettings = FSSettings | MemorySettings | AWSSettings | VaultSettings
