"""The `keystore.vault` section: its defaults, and every refusal of keystores.md 3.1 and 1.7."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kes.config.errors import ConfigError
from kes.config.loader import load_keystore
from kes.keystore.settings import AppRoleSettings, KubernetesSettings, TransitSettings, VaultSettings

ENDPOINT = "endpoint: https://127.0.0.1:8200"
APPROLE = "approle: {id: i, secret: s}"
DEFAULT = VaultSettings("https://127.0.0.1:8200", AppRoleSettings("i", "s"))
NO_LOGIN = "no way to log in; write approle with id and secret, or kubernetes with role and jwt"


class Loader:
    """Loads `keystore.vault` sections, whose lines begin with the file's third."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "c.yml"

    def load(self, *lines: str, **environ: str) -> tuple[VaultSettings, list[str]]:
        self.path.write_text("keystore:\n  vault:\n" + "".join(f"    {line}\n" for line in lines))
        settings, warnings = load_keystore(self.path, environ)
        assert isinstance(settings, VaultSettings)
        return settings, [warning.removeprefix(f"{self.path}:") for warning in warnings]

    def settings(self, *lines: str, **environ: str) -> VaultSettings:
        settings, warnings = self.load(*lines, **environ)
        assert warnings == []
        return settings

    def refusal(self, *lines: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(*lines, **environ)
        return str(caught.value).removeprefix(f"{self.path}:").replace("keystore.vault", "~")


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


def test_defaults(loader: Loader) -> None:
    """An endpoint and a login suffice; what is null or empty is absent."""
    assert loader.settings(ENDPOINT, APPROLE) == DEFAULT
    assert (DEFAULT.engine, DEFAULT.version, DEFAULT.ping) == ("kv", 1, 15.0)
    assert (AppRoleSettings("", "").engine, KubernetesSettings("", "").engine) == ("approle", "kubernetes")
    assert TransitSettings("").engine == "transit"
    empty = [f"{name}: ''" for name in ("engine", "version", "namespace", "prefix")]
    nothing = ["transit:", "kubernetes:", "tls: {key: '', cert: ~, ca: ''}", "status: {ping: ''}"]
    assert loader.settings(ENDPOINT, APPROLE, *empty, *nothing) == DEFAULT


def test_every_field(loader: Loader) -> None:
    """Each field is kept as text, also where it looks like a number, and the endpoint loses blanks and slashes."""
    assert loader.settings(
        "endpoint: ' http://vault.example:8200/path// '",
        "engine: 0123",
        "version: v2",
        "namespace: on",
        "prefix: 1e5",
        "transit: {engine: t, key: 0x10}",
        "approle: {engine: a, namespace: /, id: 111111111111111111111, secret: off}",
        "tls: {key: k, cert: c, ca: d}",
        "status: {ping: 1m30s}",
    ) == VaultSettings(
        endpoint="http://vault.example:8200/path",
        login=AppRoleSettings("111111111111111111111", "off", "a", "/"),
        engine="0123",
        version=2,
        namespace="on",
        prefix="1e5",
        transit=TransitSettings("0x10", "t"),
        tls_key="k",
        tls_cert="c",
        tls_ca="d",
        ping=90.0,
    )


def test_kubernetes(loader: Loader, tmp_path: Path) -> None:
    """A `jwt` without a slash is the token; one with a slash is a file, readable by now; no role is needed."""
    token = tmp_path / "token"
    token.write_text("x")
    settings = loader.settings(ENDPOINT, f"kubernetes: {{role: kes, jwt: {token}, engine: k, namespace: n}}")
    assert settings.login == KubernetesSettings("kes", str(token), "k", "n")
    assert loader.settings(ENDPOINT, "kubernetes: {jwt: a.b.c}").login == KubernetesSettings("", "a.b.c")
    token.unlink()
    problem = "the file that is to hold the service account's token cannot be read"
    assert loader.refusal(ENDPOINT, f"kubernetes: {{jwt: {token}}}") == (
        f"4: ~.kubernetes.jwt: {problem}: No such file or directory"
    )
    assert loader.refusal(ENDPOINT, f"kubernetes: {{jwt: {tmp_path}}}").endswith(f"{problem}: Is a directory")
    assert loader.refusal(ENDPOINT, 'kubernetes: {jwt: "a/\\0"}').endswith(f"{problem}: not a path")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([APPROLE], "2: ~.endpoint: missing; write the URL of Vault, such as https://127.0.0.1:8200"),
        (["endpoint: ''", APPROLE], "3: ~.endpoint: empty; write the URL of Vault, such as https://127.0.0.1:8200"),
        ([ENDPOINT], f"2: ~: {NO_LOGIN}"),
        ([ENDPOINT, "approle:", "kubernetes:"], f"2: ~: {NO_LOGIN}"),
        (
            [ENDPOINT, APPROLE, "kubernetes: {role: r, jwt: j}"],
            "5: ~.kubernetes: a second way to log in, after approle in line 4; keep one of them",
        ),
        ([ENDPOINT, "approle: {}"], "4: ~.approle.id: missing; write the role id of the AppRole"),
        ([ENDPOINT, "approle: {id: i}"], "4: ~.approle.secret: missing; write a secret id of the AppRole"),
        ([ENDPOINT, "approle: {id: '', secret: s}"], "4: ~.approle.id: empty; write the role id of the AppRole"),
        (
            [ENDPOINT, "kubernetes: {role: r}"],
            "4: ~.kubernetes.jwt: missing; write the path of the service account's token, or the token itself",
        ),
        (
            [ENDPOINT, APPROLE, "transit: {}"],
            "5: ~.transit.key: missing; write the name of the transit key that encrypts the keys",
        ),
        (
            [ENDPOINT, APPROLE, "tls: {key: k}"],
            "5: ~.tls.cert: missing; a client certificate is a key and a cert: write both, or neither",
        ),
        (
            [ENDPOINT, APPROLE, "tls: {cert: c, key: ''}"],
            "5: ~.tls.key: empty; a client certificate is a key and a cert: write both, or neither",
        ),
        ([ENDPOINT, APPROLE, "version: v3"], "5: ~.version: 'v3' is not a version of the K/V engine; write v1 or v2"),
        ([ENDPOINT, APPROLE, "version: 2"], "5: ~.version: '2' is not a version of the K/V engine; write v1 or v2"),
        (
            [ENDPOINT, APPROLE, "status: {ping: -1s}"],
            "5: ~.status.ping: '-1s' is negative; write a duration such as 15s",
        ),
        (
            [ENDPOINT, APPROLE, "status: {ping: 15}"],
            "5: ~.status.ping: '15' is not a duration: write numbers with units, such as 1h30m, 20s or 300ms",
        ),
        (
            [ENDPOINT, APPROLE, 'namespace: "a\\r\\nb"'],
            "5: ~.namespace: 'a\\r\\nb' is not a namespace; write its path, such as team-a/kes",
        ),
        ([ENDPOINT, APPROLE, "enginee: kv"], "5: ~: unknown field 'enginee'; did you mean 'engine'?"),
        ([ENDPOINT, "approle: {id: i, secrte: s}"], "4: ~.approle: unknown field 'secrte'; did you mean 'secret'?"),
        ([ENDPOINT, "kubernetes: {jvt: x}"], "4: ~.kubernetes: unknown field 'jvt'; did you mean 'jwt'?"),
        ([ENDPOINT, APPROLE, "tls: {crt: x}"], "5: ~.tls: unknown field 'crt'; did you mean 'cert'?"),
        ([ENDPOINT, APPROLE, "transit: {keys: x}"], "5: ~.transit: unknown field 'keys'; did you mean 'key'?"),
        ([ENDPOINT, APPROLE, "status: {pong: 1s}"], "5: ~.status: unknown field 'pong'; did you mean 'ping'?"),
    ],
)
def test_refused(loader: Loader, lines: list[str], message: str) -> None:
    """What is missing, contradictory or misspelt is refused in its line, with what would be right."""
    assert loader.refusal(*lines) == message


def test_endpoint_with_a_password(loader: Loader) -> None:
    """A user in the URL is refused, and neither name nor password is shown."""
    assert loader.refusal("endpoint: 'https://me:hunter2@vault'", APPROLE) == (
        "3: ~.endpoint: 'vault' has a user in front of it; write the URL without"
    )


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8200",
        "vault",
        "unix:///run/vault",
        "https://",
        "http://h:99999",
        "http://h?x",
        "http://h h",
    ],
)
def test_endpoints_that_are_none(loader: Loader, url: str) -> None:
    """An endpoint has a scheme and a host, and nothing behind its path."""
    assert loader.refusal(f"endpoint: '{url}'", APPROLE) == (
        f"3: ~.endpoint: '{url}' is no http or https URL; write one such as https://127.0.0.1:8200"
    )
    assert "hunter2" not in loader.refusal("endpoint: https://user:hunter2@host", APPROLE)


def test_zero_ping_is_the_default(loader: Loader) -> None:
    """An interval of nothing stands for the default."""
    for ping in ("0", "0s"):
        assert loader.settings(ENDPOINT, APPROLE, f"status: {{ping: {ping}}}").ping == 15.0


@pytest.mark.parametrize("login", ["approle: {id: i, secret: s, retry: 15s}", "kubernetes: {jwt: j, retry: [x]}"])
def test_dead_fields(loader: Loader, login: str) -> None:
    """`retry`, which published examples have, loads with a warning, whatever it holds."""
    _, warnings = loader.load(ENDPOINT, login)
    assert warnings == [f"4: keystore.vault.{login.partition(':')[0]}.retry: has no effect; remove it"]


def test_namespace_of_the_environment(loader: Loader) -> None:
    """VAULT_NAMESPACE is used where the file has no namespace, with a warning; no other variable of Vault's is."""
    others: Mapping[str, str] = {"VAULT_ADDR": "x", "VAULT_TOKEN": "x", "VAULT_CACERT": "x", "VAULT_SKIP_VERIFY": "1"}
    settings, warnings = loader.load(ENDPOINT, APPROLE, VAULT_NAMESPACE="team", **others)
    assert (settings.namespace, settings.tls_ca) == ("team", "")
    used = "no namespace is written here, so the one in the environment variable VAULT_NAMESPACE is used"
    assert warnings == [f"2: keystore.vault: {used}"]
    assert loader.settings(ENDPOINT, APPROLE, "namespace: own", VAULT_NAMESPACE="team").namespace == "own"
    assert loader.settings(ENDPOINT, APPROLE, VAULT_NAMESPACE="") == DEFAULT
    wrong = "the value of the environment variable VAULT_NAMESPACE is not a namespace"
    assert loader.refusal(ENDPOINT, APPROLE, VAULT_NAMESPACE="a\nhunter2") == (
        f"2: ~: {wrong}; write its path, such as team-a/kes"
    )


def test_environment(loader: Loader) -> None:
    """Every value can come from the environment; a variable that is not set is an error, an empty one is absent."""
    settings = loader.settings("endpoint: ${E}", "approle: {id: '${I}', secret: ' ${ S } '}", "status: {ping: '${P}'}",
                               E="https://h", I="i", S="s", P="1s")  # fmt: skip
    assert settings == VaultSettings("https://h", AppRoleSettings("i", "s"), ping=1.0)
    assert loader.refusal(ENDPOINT, "approle: {id: '${I}', secret: s}") == (
        "4: ~.approle.id: the environment variable 'I' is not set; set it, or write the value here"
    )
    assert loader.refusal(ENDPOINT, "approle: {id: '${I}', secret: s}", I="") == (
        "4: ~.approle.id: empty; write the role id of the AppRole"
    )


def test_secrets_are_not_shown(loader: Loader, tmp_path: Path) -> None:
    """Neither settings nor errors show a secret, also where it was taken for a path."""
    settings = loader.settings(ENDPOINT, "approle: {id: i, secret: hunter2}")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(loader.settings(ENDPOINT, "kubernetes: {jwt: hunter2}"))
    assert "hunter2" not in loader.refusal(ENDPOINT, "kubernetes: {jwt: hunter2/x}")
