"""The `keystore` section: exactly one kind of key store, parsed into that kind's settings (keystores.md 1.7).

Each kind that can be opened has one function in `PARSERS`, from its section to its settings. Kinds that the format
knows and this version cannot open are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kes.config.errors import ConfigError
from kes.config.view import View
from kes.keystore.settings import FSSettings, KeyStoreSettings

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


PARSERS: Final[dict[str, Callable[[View], KeyStoreSettings]]] = {
    "fs": _fs,
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
