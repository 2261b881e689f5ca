"""The sample config file: it loads as it is, and names every field there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kes.config.keystores import KINDS
from kes.config.loader import load
from kes.config.model import TLS, Cache, Log, TLSProxy
from kes.keystore.settings import FSSettings
from kes.routes import ROUTES

ROOT = Path(__file__).parent.parent.parent
SAMPLE = ROOT / "etc" / "kes" / "config.yml"
ADMIN = "0" * 64

# Fields of contract section 6.
FILE = (
    "version",
    "address",
    "admin.identity",
    "tls.key",
    "tls.cert",
    "tls.password",
    "tls.ca",
    "tls.auth",
    "tls.proxy.identities",
    "tls.proxy.header.cert",
    "api.<route>.timeout",
    "api.<route>.skip_auth",
    "policy.<name>.allow",
    "policy.<name>.deny",
    "policy.<name>.identities",
    "cache.expiry.any",
    "cache.expiry.unused",
    "cache.expiry.offline",
    "log.error",
    "log.audit",
    "keys",
    "keystore.fs.path",
)

# Fields of keystores.md that are not keystore.fs, by kind.
FIELDS = {
    "vault": "endpoint engine version namespace prefix transit key approle id secret kubernetes role jwt tls cert ca "
    "status ping",
    "fortanix.sdkms": "endpoint group_id credentials key tls ca",
    "gemalto.keysecure": "endpoint credentials token domain tls ca",
    "gcp.secretmanager": "project_id endpoint scopes credentials client_email client_id private_key_id private_key",
    "aws.secretsmanager": "endpoint region kmskey credentials accesskey secretkey token",
    "azure.keyvault": "endpoint credentials tenant_id client_id client_secret managed_identity",
    "entrust.keycontrol": "endpoint vault_id box_id credentials username password tls ca",
}


def test_loads() -> None:
    """With nothing but the admin in the environment the sample loads without warnings, and holds the defaults."""
    config = load(SAMPLE, {"KES_ADMIN_IDENTITY": ADMIN})
    assert (config.admin, config.warnings) == (ADMIN, ())
    assert config.tls == TLS(
        "/etc/kes/private.key", "/etc/kes/public.crt", proxy=TLSProxy(frozenset(), "X-Tls-Client-Cert")
    )
    assert config.keystore == FSSettings("/var/lib/kes/keys")
    assert (config.cache, config.log) == (Cache(), Log())
    timeouts = {route.path: route.timeout for route in ROUTES if route.may_skip_auth}
    assert {path: api.timeout for path, api in config.api.items()} == timeouts
    assert not any(api.skip_auth for api in config.api.values())


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"fs"}))
def test_describes_every_keystore(kind: str) -> None:
    """The key stores that are commented out are there with all their fields, and are valid YAML when uncommented."""
    outer, _, inner = kind.partition(".")
    text = SAMPLE.read_text()
    section = re.search(rf"^  # {outer}:\n((?:  # .*\n)*)", text, re.MULTILINE)
    assert section is not None
    names = set(re.findall(r"^  # +(?:# )?(\w+):", section[0], re.MULTILINE))
    assert names >= {*FIELDS[kind].split(), *([inner] if inner else [])}


def test_reference_names_every_field() -> None:
    """docs/config.md has a row for every field of the sample's active part."""
    reference = (ROOT / "docs" / "config.md").read_text()
    for field in FILE:
        assert f"\n| `{field}` |" in reference
    for kind in KINDS.keys() - {"fs"}:
        assert f"\n| `keystore.{kind}` |" in reference
