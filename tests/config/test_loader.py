"""The config file's fields: type, default, absence, repetition and spelling of each, and the cross-checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kes.config import level
from kes.config.address import Address
from kes.config.errors import ConfigError
from kes.config.keystores import KINDS, PARSERS
from kes.config.loader import MAX_FILE, load, load_keystore, parse
from kes.config.model import API, TLS, Cache, Config, Log, TLSProxy
from kes.keystore.settings import FSSettings
from kes.policy import Policy

A, B = "a" * 64, "b" * 64

MINIMAL: Mapping[str, object] = {
    "admin": {"identity": "disabled"},
    "tls": {"key": "k", "cert": "c"},
    "keystore": {"fs": {"path": "d"}},
}
DEFAULT = Config(admin="disabled", tls=TLS("k", "c"), keystore=FSSettings("d"))

SECTIONS = (
    ("admin",),
    ("tls",),
    ("tls", "proxy"),
    ("tls", "proxy", "header"),
    ("api",),
    ("api", "/v1/ready"),
    ("policy",),
    ("policy", "p"),
    ("cache",),
    ("cache", "expiry"),
    ("log",),
    ("keystore",),
    ("keystore", "fs"),
)
REQUIRED = {
    ("admin", "identity"): "write the identity of the admin, or disabled for none",
    ("tls", "key"): "write the path of the server's private key",
    ("tls", "cert"): "write the path of the server's certificate",
    ("keystore", "fs", "path"): "write the directory that holds the keys",
}
OPTIONAL = (
    ("address",),
    ("tls", "password"),
    ("tls", "ca"),
    ("tls", "auth"),
    ("tls", "proxy", "header", "cert"),
    ("api", "/v1/ready", "timeout"),
    ("api", "/v1/ready", "skip_auth"),
    ("cache", "expiry", "any"),
    ("cache", "expiry", "unused"),
    ("cache", "expiry", "offline"),
    ("log", "error"),
    ("log", "audit"),
)
SCALARS = (*REQUIRED, *OPTIONAL)
LISTS = (
    ("tls", "proxy", "identities"),
    ("policy", "p", "allow"),
    ("policy", "p", "deny"),
    ("policy", "p", "identities"),
    ("keys",),
)


def dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)


def write(path: tuple[str, ...], raw: str, *, name: str | None = None) -> tuple[str, int]:
    """Return the minimal file with the field at `path` set to the YAML `raw`, and the field's line.

    `name` is written in place of the last part of the path, beside the field itself if that is in the minimal file.
    """
    root: dict[str, object] = {}
    for section, body in MINIMAL.items():
        root[section] = _copy(body)
    inner = root
    for part in path[:-1]:
        nested = inner.setdefault(part, {})
        assert isinstance(nested, dict)
        inner = nested
    inner[name or path[-1]] = _Raw(raw)
    lines: list[str] = []
    at = 0

    def emit(mapping: Mapping[str, object], indent: str) -> None:
        nonlocal at
        for key, value in mapping.items():
            if isinstance(value, dict):
                lines.append(f"{indent}{key}:")
                emit(value, indent + "  ")
            else:
                lines.append(f"{indent}{key}: {value}")
                if isinstance(value, _Raw):
                    at = len(lines)

    emit(root, "")
    return "\n".join(lines) + "\n", at


class _Raw(str):
    __slots__ = ()


def _copy(value: object) -> object:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def config(text: str, environ: Mapping[str, str] | None = None, **flags: str) -> Config:
    return parse(text, environ or {}, file="c.yml", **flags)


def refusal(text: str, environ: Mapping[str, str] | None = None, **flags: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(text, environ, **flags)
    return str(caught.value)


def attempt(text: str, environ: Mapping[str, str]) -> Config | ConfigError:
    try:
        return config(text, environ)
    except ConfigError as error:
        return error


BASE = "admin: {identity: disabled}\ntls: {key: k, cert: c}\nkeystore: {fs: {path: d}}\n"  # more goes into line 4


# --- every field ------------------------------------------------------------------------------------------------------


def test_minimal() -> None:
    """Everything that may be absent has a default."""
    assert config(BASE) == DEFAULT
    assert DEFAULT.address == Address("0.0.0.0", 7373)
    assert (DEFAULT.cache, DEFAULT.log) == (Cache(300, 30, 0), Log(level.INFO, level.OFF))
    assert (DEFAULT.tls.auth, DEFAULT.tls.ca, DEFAULT.tls.password, DEFAULT.tls.proxy) == (None, None, None, TLSProxy())
    assert (DEFAULT.api, DEFAULT.policies, DEFAULT.identities, DEFAULT.keys, DEFAULT.warnings) == ({}, {}, {}, (), ())


@pytest.mark.parametrize("path", [*SCALARS, ("version",)], ids=dotted)
def test_wrong_kind_for_text(path: tuple[str, ...]) -> None:
    """A list or a mapping where a single value belongs is refused in its line."""
    text, line = write(path, "[x]")
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: expected a text, found a list; write a single value"
    text, line = write(path, "{x: y}")
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: expected a text, found a mapping; write a single value"


@pytest.mark.parametrize("path", LISTS, ids=dotted)
def test_wrong_kind_for_list(path: tuple[str, ...]) -> None:
    """A text or a mapping where a list belongs is refused, and the message does not repeat it."""
    hint = "write each entry on a line of its own, after '- '"
    text, line = write(path, "hunter2")
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: expected a list, found a text; {hint}"
    text, line = write(path, "{x: y}")
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: expected a list, found a mapping; {hint}"


@pytest.mark.parametrize("path", SECTIONS, ids=dotted)
def test_wrong_kind_for_section(path: tuple[str, ...]) -> None:
    """A text or a list where a section belongs is refused, and the message does not repeat it."""
    hint = "write 'name: value' lines"
    text, line = write(path, "hunter2")
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: expected a mapping, found a text; {hint}"
    text, line = write(path, "[x]")
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: expected a mapping, found a list; {hint}"


@pytest.mark.parametrize("path", [*SCALARS, *LISTS, *SECTIONS, ("version",)], ids=dotted)
def test_twice(path: tuple[str, ...]) -> None:
    """A field that is given twice is refused with both lines, whatever its values."""
    text, line = write(path, "x")
    lines = text.splitlines()
    again = lines[line - 1]
    text = "\n".join([*lines[:line], again, *lines[line:]])
    assert refusal(text) == f"c.yml:{line + 1}: {dotted(path)}: given twice, first in line {line}; write it once"


@pytest.mark.parametrize(
    "path", [p for p in (*SCALARS, *LISTS, *SECTIONS, ("version",)) if p[-1] not in ("/v1/ready", "p")], ids=dotted
)
def test_misspelt(path: tuple[str, ...]) -> None:
    """An unknown field is refused, and the nearest known one named, letter case aside."""
    for wrong in (f"{path[-1]}x", path[-1].upper()):
        text, line = write(path, "hunter2", name=wrong)
        where = ": ".join(filter(None, (f"c.yml:{line}", dotted(path[:-1]))))
        assert refusal(text) == f"{where}: unknown field '{wrong}'; did you mean '{path[-1]}'?"


def test_unknown_field_without_a_neighbour() -> None:
    """Where nothing is near, all known fields are named."""
    assert refusal(BASE + "log: {zzzzz: on}\n") == "c.yml:4: log: unknown field 'zzzzz'; known are error, audit"
    assert refusal(BASE + '"a\\nb": c\n').startswith("c.yml:4: unknown field 'a\\nb'; known are version, address, ")


@pytest.mark.parametrize(("path", "hint"), REQUIRED.items(), ids=map(dotted, REQUIRED))
def test_required(path: tuple[str, ...], hint: str) -> None:
    """A required field that is null is missing, and the error is in its section's line; an empty one is empty."""
    text, line = write(path, "~")
    section = next(n for n, row in enumerate(text.splitlines(), 1) if row.strip() == f"{path[-2]}:")
    assert refusal(text) == f"c.yml:{section}: {dotted(path)}: missing; {hint}"
    text, line = write(path, '""')
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: empty; {hint}"


@pytest.mark.parametrize("section", ["admin", "tls", "keystore"])
def test_required_section(section: str) -> None:
    """A required section that is absent or null is missing from the file."""
    message = {
        "admin": "admin.identity: missing; write the identity of the admin, or disabled for none",
        "tls": "tls.key: missing; write the path of the server's private key",
        "keystore": "keystore: missing; configure exactly one key store, such as fs with the path of a directory",
    }[section]
    rest = [line for line in BASE.splitlines() if not line.startswith(section)]
    assert refusal("\n".join(rest)) == f"c.yml:1: {message}"
    assert refusal("\n".join([*rest, f"{section}:"])) == f"c.yml:1: {message}"


@pytest.mark.parametrize("raw", ["", "~", "null", "''", '""', "${EMPTY}"])
@pytest.mark.parametrize("path", OPTIONAL, ids=dotted)
def test_nothing_is_absent(path: tuple[str, ...], raw: str) -> None:
    """An optional field that is null or the empty text is as if it were not there."""
    text, _ = write(path, raw)
    api = {"/v1/ready": API()} if path[0] == "api" else {}
    assert config(text, {"EMPTY": ""}) == Config(admin="disabled", tls=TLS("k", "c"), keystore=FSSettings("d"), api=api)


@pytest.mark.parametrize(
    "path", [*LISTS, *(p for p in SECTIONS if p[0] not in ("admin", "keystore") and p != ("tls",))]
)
def test_empty_body_is_absent(path: tuple[str, ...]) -> None:
    """A list or section without a body is ignored; only a policy exists without one."""
    text, _ = write(path, "")
    loaded = config(text)
    assert loaded.policies == ({"p": Policy("p")} if path[:2] == ("policy", "p") else {})
    assert loaded.tls == DEFAULT.tls
    assert (loaded.api, loaded.keys, loaded.cache, loaded.log) == ({}, (), DEFAULT.cache, DEFAULT.log)


@pytest.mark.parametrize("path", SCALARS, ids=dotted)
def test_environment(path: tuple[str, ...]) -> None:
    """Every value can come from the environment; an unset variable is an error with its name and line."""
    text, line = write(path, "${NAME}")
    hint = "set it, or write the value here"
    assert refusal(text) == f"c.yml:{line}: {dotted(path)}: the environment variable 'NAME' is not set; {hint}"
    valid = {"address": ":1", "auth": "on", "timeout": "1s", "skip_auth": "true", "error": "5", "audit": "on"}
    value = valid.get(path[-1], "1s" if path[0] == "cache" else "value")
    literal, _ = write(path, value)
    ours, theirs = config(text, {"NAME": value}), config(literal)
    assert dataclasses.replace(ours, warnings=()) == dataclasses.replace(theirs, warnings=()) != DEFAULT


@pytest.mark.parametrize("path", SCALARS, ids=dotted)
def test_environment_values_are_not_repeated(path: tuple[str, ...]) -> None:
    """Whatever a variable holds, no error or warning repeats it."""
    for value in ("hunter2", "kes:v1:hunter2", "hunter2:hunter2", "[hunter2]:1", "-hunter2s", "hunter2 hunter2"):
        text, _ = write(path, "${NAME}")
        outcome = attempt(text, {"NAME": value})
        if isinstance(outcome, ConfigError):
            assert "hunter2" not in str(outcome)
            assert outcome.__cause__ is None
        else:
            assert "hunter2" not in "".join(outcome.warnings)


def test_environment_must_be_the_whole_value() -> None:
    """Blanks around the reference and in its braces do not count; inside longer text it is text."""
    assert config(BASE + 'address: " ${ ADDR } "\n', {"ADDR": ":1"}).address == Address("", 1)
    fs = "keystore: {fs: {path: '%s'}}\n"
    for text in ("x${A}", "${A}x", "${A}${A}", "$A", "${A", "$${A}"):
        assert config(BASE.replace("keystore: {fs: {path: d}}\n", fs % text), {"A": "no"}).keystore == FSSettings(text)
    assert "the environment variable '' is not set" in refusal(BASE + "address: ${}\n", {"A": ""})


def test_environment_is_text() -> None:
    """A variable's value is not YAML: `null`, braces and a further reference are taken as they are."""
    for value in ("null", "{a: b}", "${OTHER}", "a # b"):
        text = BASE.replace("path: d", "path: '${DIR}'")
        assert config(text, {"DIR": value, "OTHER": "no"}).keystore == FSSettings(value)


def test_environment_in_lists() -> None:
    """Identities and key names in lists can come from the environment; patterns, names of policies and version not."""
    text = BASE + "policy:\n  p:\n    allow: ['${P}']\n    identities: ['${I}']\nkeys: [name: '${K}']\n"
    loaded = config(text, {"I": A, "K": "my-key", "P": "/no"})
    assert (loaded.identities, loaded.keys, loaded.policies["p"].allow) == ({A: "p"}, ("my-key",), ("${P}",))
    assert refusal(BASE + "version: ${V}\n", {"V": "v1"}) == (
        "c.yml:4: version: '${V}' is not a supported version; write v1, or leave it out"
    )


# --- field by field ---------------------------------------------------------------------------------------------------


def test_version() -> None:
    """`v1` or nothing, quoted or not; anything else is refused."""
    assert config(BASE + "version: v1\n") == config(BASE + "version: 'v1'\n") == config(BASE + "version:\n") == DEFAULT
    for wrong in ("v2", "V1", "1"):
        expected = f"c.yml:4: version: '{wrong}' is not a supported version; write v1, or leave it out"
        assert refusal(BASE + f"version: {wrong}\n") == expected


def test_address() -> None:
    """The address is validated; a value of three numbers with colons stays text."""
    assert config(BASE + "address: '[::]:7373'\n").address == Address("::", 7373)
    assert refusal(BASE + "address: foo:7373\n") == "c.yml:4: address: 'foo' is not a valid IP address"
    assert refusal(BASE + "address: 1:30\n") == "c.yml:4: address: '1' is not a valid IP address"


def test_admin() -> None:
    """An identity is the admin; any other text is nobody's, with a warning unless it is `disabled`."""
    loaded = config(BASE.replace("disabled", A))
    assert (loaded.admin, loaded.admin_enabled, loaded.warnings) == (A, True, ())
    assert not DEFAULT.admin_enabled
    for text in ("12e45", "0123", "on", A.upper(), A[1:]):
        loaded = config(BASE.replace("disabled", text))
        assert (loaded.admin, loaded.admin_enabled) == (text, False)
        assert loaded.warnings == (
            f"c.yml:1: admin.identity: '{text}' is no identity (64 lower-case hex digits), so there is no admin",
        )


@pytest.mark.parametrize("where", ["admin", "policy", "proxy"])
def test_api_key_for_an_identity(where: str) -> None:
    """An API key in place of an identity is refused and not repeated: identities are listed and logged."""
    key = "kes:v1:hunter2"
    text, path = {
        "admin": (BASE.replace("disabled", key), "admin.identity"),
        "policy": (BASE + "policy: {p: {identities: ['kes:v1:hunter2']}}", "policy.p.identities[0]"),
        "proxy": (BASE.replace("key: k", "proxy: {identities: ['kes:v1:hunter2']}, key: k"), "tls.proxy.identities[0]"),
    }[where]
    assert refusal(text).endswith(
        f": {path}: an API key stands here; write its identity, which 'kes identity of' tells"
    )


def test_tls_flags_win() -> None:
    """Key and certificate given as flags win over the file's, which may then lack them."""
    without = BASE.replace("tls: {key: k, cert: c}", "tls: {ca: x}")
    assert config(without, tls_key="K", tls_cert="C").tls == TLS("K", "C", ca="x")
    assert config(BASE, tls_key="K", tls_cert="C").tls == TLS("K", "C")
    assert config(BASE, tls_key="K").tls == TLS("K", "c")
    assert refusal(without, tls_key="K") == "c.yml:2: tls.cert: missing; write the path of the server's certificate"
    assert refusal(without, tls_cert="C") == "c.yml:2: tls.key: missing; write the path of the server's private key"


def test_tls_auth() -> None:
    """`on` and `off` in any letter case, quoted or not; empty is not given; nothing else."""
    auth = BASE.replace("key: k", "auth: %s, key: k")
    for raw, value in {"on": True, "'On'": True, "OFF": False, "off": False, "''": None}.items():
        assert config(auth % raw).tls.auth is value
    for raw in ("true", "yes", "1"):
        assert refusal(auth % raw) == f"c.yml:2: tls.auth: '{raw}' is neither on nor off"


def test_password_stays_out_of_repr() -> None:
    """The repr of a config, which may land in a log, does not show the password."""
    loaded = config(BASE.replace("key: k", "password: hunter2, key: k"))
    assert loaded.tls.password == "hunter2"
    assert "hunter2" not in repr(loaded)


def test_proxy() -> None:
    """Proxies need the header's name, which must be one; the header alone is fine."""
    proxy = BASE.replace("key: k", "proxy: %s, key: k")
    assert config(proxy % f"{{identities: [{A}, {A}], header: {{cert: X-Cert}}}}").tls.proxy == TLSProxy(
        frozenset({A}), "X-Cert"
    )
    assert config(proxy % "{header: {cert: X-Cert}}").tls.proxy == TLSProxy(frozenset(), "X-Cert")
    hint = "name the header in which the proxies send the client's certificate, such as X-Tls-Client-Cert"
    assert refusal(proxy % f"{{identities: [{A}]}}") == f"c.yml:2: tls.proxy.header.cert: missing; {hint}"
    assert refusal(proxy % f"{{identities: [{A}], header: {{cert: ''}}}}") == (
        f"c.yml:2: tls.proxy.header.cert: empty; {hint}"
    )
    assert refusal(proxy % "{header: {cert: 'X Cert:'}}") == (
        "c.yml:2: tls.proxy.header.cert: 'X Cert:' is not a header name; write one such as X-Tls-Client-Cert"
    )


def test_api() -> None:
    """A route is set by its path, with or without the slash at its end; what is not set stays its own."""
    text = BASE + "api:\n  /v1/status/: {timeout: 1m, skip_auth: TRUE}\n  /v1/key/list: {timeout: 90s}\n  /v1/api:\n"
    assert config(text).api == {"/v1/status": API(60, True), "/v1/key/list/": API(90)}
    assert config(BASE + "api: {/v1/log/error: {timeout: 1h}}\n").api == {"/v1/log/error": API(3600)}
    assert config(BASE + "api: {/v1/status: {timeout: 0s}}\n").api == {"/v1/status": API(None)}


@pytest.mark.parametrize("value", [True, False])
def test_skip_auth_spellings(value: bool) -> None:
    """`skip_auth` takes every spelling of a truth that YAML 1.1 has."""
    for text in (
        ("true", "True", "TRUE", "yes", "Yes", "on", "ON", "y") if value else ("false", "No", "off", "OFF", "n")
    ):
        assert config(BASE + f"api: {{/v1/ready: {{skip_auth: {text}}}}}\n").api == {"/v1/ready": API(None, value)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("/v1/redy: {}", "4: api: unknown route '/v1/redy'; did you mean '/v1/ready'?"),
        ("/v1/key/list//: {}", "4: api: unknown route '/v1/key/list//'; did you mean '/v1/key/list/'?"),
        ("/v1/api: {}, /v1/api/: {}", "4: api./v1/api/: the route is given twice, first in line 4; write it once"),
        (
            "/v1/ready: {timeout: -1s}",
            "4: api./v1/ready.timeout: '-1s' is negative; write a duration such as 5m, or 0",
        ),
        (
            "/v1/ready: {timeout: 15}",
            "4: api./v1/ready.timeout: '15' is not a duration: write numbers with units, such as 1h30m, 20s or 300ms",
        ),
        ("/v1/ready: {skip_auth: maybe}", "4: api./v1/ready.skip_auth: 'maybe' is neither true nor false"),
        (
            "/v1/key/create/: {skip_auth: true}",
            "4: api./v1/key/create/.skip_auth: this route always needs a client certificate; "
            "only /v1/ready, /v1/status, /v1/metrics, /v1/api can go without",
        ),
        (
            "/version: {skip_auth: false}",
            "4: api./version.skip_auth: this route always needs a client certificate; "
            "only /v1/ready, /v1/status, /v1/metrics, /v1/api can go without",
        ),
    ],
)
def test_api_refused(body: str, message: str) -> None:
    """Unknown routes, timeouts that are none, and opening a route that cannot be opened are errors."""
    assert refusal(BASE + f"api: {{{body}}}\n") == f"c.yml:{message}"


def test_policy() -> None:
    """Policies keep their patterns; identities map to their policy; repeats within one policy are harmless."""
    text = BASE + (
        f"policy:\n  my-app:\n    allow: [/v1/status, /v1/key/*]\n    deny: [/v1/key/delete/*]\n    "
        f"identities: [{A}, {A}]\n  other:\n    identities: [{B}]\n  empty: {{}}\n  bare:\n"
    )
    loaded = config(text)
    assert loaded.policies == {
        "my-app": Policy("my-app", ("/v1/status", "/v1/key/*"), ("/v1/key/delete/*",)),
        "other": Policy("other"),
        "empty": Policy("empty"),
        "bare": Policy("bare"),
    }
    assert (loaded.identities, loaded.warnings) == ({A: "my-app", B: "other"}, ())


def test_policy_name() -> None:
    """A policy's name follows the rule of names."""
    rule = "write 1 to 80 of 0-9 A-Z a-z _ -, without a hyphen first or last, and not _ alone"
    assert refusal(BASE + "policy:\n  a b: {}\n") == f"c.yml:5: policy.'a b': not a valid policy name; {rule}"
    assert refusal(BASE + "policy:\n  -a: {}\n") == f"c.yml:5: policy.-a: not a valid policy name; {rule}"


def test_one_role() -> None:
    """An identity that is the admin, a proxy or in a policy cannot be another of these, nor in a second policy."""
    policy = BASE + f"policy:\n  p:\n    identities: [{A}]\n  q:\n    identities:\n    - {A}\n"
    assert refusal(policy) == (
        f"c.yml:9: policy.q.identities[0]: '{A}' is already assigned to the policy 'p' in line 6; "
        "an identity has one role"
    )
    admin = policy.replace("disabled", A)
    assert refusal(admin) == (
        f"c.yml:6: policy.p.identities[0]: '{A}' is already the admin in line 1; an identity has one role"
    )
    proxy = f"proxy: {{identities: [{A}], header: {{cert: X}}}}, key: k"
    assert refusal(policy.replace("key: k", proxy)) == (
        f"c.yml:6: policy.p.identities[0]: '{A}' is already a TLS proxy in line 2; an identity has one role"
    )
    assert refusal(admin.replace("key: k", proxy)) == (
        f"c.yml:2: tls.proxy.identities[0]: '{A}' is already the admin in line 1; an identity has one role"
    )


def test_role_of_an_identity_from_the_environment() -> None:
    """Identities are compared after the environment is looked up, and those values are named, not shown."""
    text = BASE.replace("disabled", "'${ADMIN}'") + f"policy: {{p: {{identities: [{A}, '${{ME}}']}}}}\n"
    assert refusal(text, {"ADMIN": B, "ME": B}) == (
        "c.yml:4: policy.p.identities[1]: the value of '${ME}' is already the admin in line 1; an identity has one role"
    )


def test_odd_identities() -> None:
    """Identities that no client has load with a warning; empty items are left out with one."""
    loaded = config(BASE + "policy:\n  p:\n    identities: [12e45, '', ~, '${E}']\n", {"E": ""})
    assert loaded.identities == {"12e45": "p"}
    where = "c.yml:6: policy.p.identities"
    assert loaded.warnings == (
        f"{where}[0]: '12e45' is no identity (64 lower-case hex digits), so no client has it",
        f"{where}[1]: empty, so it is left out",
        f"{where}[2]: empty, so it is left out",
        f"{where}[3]: empty, so it is left out",
    )


def test_odd_patterns() -> None:
    """Patterns that do not do what they look like load with a warning."""
    loaded = config(BASE + "policy:\n  p:\n    allow: [/v1/*/my*, v1/status, '*', '**']\n    deny: ['']\n")
    assert loaded.policies["p"] == Policy("p", ("/v1/*/my*", "v1/status", "*", "**"), ("",))
    star = "has a * before its end, where it is no wildcard; only a last * is one"
    assert loaded.warnings == (
        f"c.yml:6: policy.p.allow[0]: '/v1/*/my*' {star}",
        "c.yml:6: policy.p.allow[1]: 'v1/status' matches nothing; paths begin with /",
        f"c.yml:6: policy.p.allow[3]: '**' {star}",
        "c.yml:7: policy.p.deny[0]: '' matches nothing; paths begin with /",
    )


def test_merged_policies() -> None:
    """Policies can share parts by anchors and merge keys; errors point to where a text is written."""
    text = BASE + "policy:\n  p: &p\n    allow: &a [/v1/status]\n  q:\n    <<: *p\n    deny: *a\n"
    assert config(text).policies["q"] == Policy("q", ("/v1/status",), ("/v1/status",))


def test_cache() -> None:
    """Each expiry has its own default: an explicit `any` holds also where `unused` is absent."""
    assert config(BASE + "cache: {expiry: {any: 1h}}\n").cache == Cache(3600, 30, 0)
    assert config(BASE + "cache: {expiry: {unused: 1h}}\n").cache == Cache(300, 3600, 0)
    assert config(BASE + "cache: {expiry: {offline: 1h}}\n").cache == Cache(300, 30, 3600)
    assert config(BASE + "cache: {expiry: {any: 0, unused: 0s, offline: 0}}\n").cache == Cache(0, 0, 0)


@pytest.mark.parametrize("name", ["any", "unused", "offline"])
def test_cache_refused(name: str) -> None:
    """Bare numbers and negative durations are refused."""
    where = f"c.yml:4: cache.expiry.{name}"
    wrong = "is not a duration: write numbers with units, such as 1h30m, 20s or 300ms"
    assert refusal(BASE + f"cache: {{expiry: {{{name}: 5}}}}\n") == f"{where}: '5' {wrong}"
    assert refusal(BASE + f"cache: {{expiry: {{{name}: -5s}}}}\n") == (
        f"{where}: '-5s' is negative; write a duration such as 5m, or 0"
    )


def test_log() -> None:
    """`on`, `off`, names with offsets and numbers; both defaults hold on their own."""
    assert config(BASE + "log: {error: off, audit: on}\n").log == Log(level.OFF, level.INFO)
    assert config(BASE + "log: {error: WARN+1}\n").log == Log(5, level.OFF)
    assert config(BASE + "log: {audit: -4}\n").log == Log(level.INFO, level.DEBUG)
    wrong = "is not a log level: write on, off, DEBUG, INFO, WARN or ERROR, one of these names with +n, or an integer"
    assert refusal(BASE + "log: {error: loud}\n") == f"c.yml:4: log.error: 'loud' {wrong}"
    assert refusal(BASE + "log:\n  audit: true\n") == f"c.yml:5: log.audit: 'true' {wrong}"


def test_keys() -> None:
    """Keys are names in the file's order; digits and `on` are names too."""
    assert config(BASE + "keys:\n- name: b\n- name: a\n- name: 0123\n- name: on\n").keys == ("b", "a", "0123", "on")
    assert config(BASE + "keys: []\n").keys == ()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("- a", "5: keys[0]: expected a mapping, found a text; write 'name: value' lines"),
        ("-", "5: keys[0]: expected a mapping, found a text; write 'name: value' lines"),
        ("- {}", "5: keys[0].name: missing; write the name of a key to create at start"),
        ("- name: ''", "5: keys[0].name: empty; write the name of a key to create at start"),
        ("- name: [a]", "5: keys[0].name: expected a text, found a list; write a single value"),
        ("- nam: a", "5: keys[0]: unknown field 'nam'; did you mean 'name'?"),
        (
            "- name: a.b",
            "5: keys[0].name: 'a.b' is not a valid key name; "
            "write 1 to 80 of 0-9 A-Z a-z _ -, without a hyphen first or last, and not _ alone",
        ),
        (
            "- name: a\n- name: b\n- name: a",
            "7: keys[2].name: the key 'a' is already named in line 5; name it once",
        ),
    ],
)
def test_keys_refused(body: str, message: str) -> None:
    """A key needs a valid name of its own."""
    assert refusal(BASE + f"keys:\n{body}\n") == f"c.yml:{message}"


STORES = BASE.replace("keystore: {fs: {path: d}}\n", "keystore:\n")  # its body begins in line 4


def test_keystore_fs() -> None:
    """The path stays as written, also where it looks like a number."""
    assert config(STORES + "  fs: {path: ./0123}\n").keystore == FSSettings("./0123")
    assert config(STORES + "  fs:\n    path: 0123\n").keystore == FSSettings("0123")


@pytest.mark.parametrize("body", ["  {}\n", "  fs:\n", "  fortanix:\n  aws: {}\n", "  gcp: {secretmanager: }\n"])
def test_no_keystore(body: str) -> None:
    """No key store at all is refused with a hint; one without a body is none."""
    hint = "configure exactly one key store, such as fs with the path of a directory"
    assert refusal(STORES + body) == f"c.yml:3: keystore: no key store; {hint}"


def test_two_keystores() -> None:
    """A second key store is refused, with both named; an empty one does not count."""
    assert refusal(STORES + "  fs: {path: d}\n  aws:\n    secretsmanager: {}\n") == (
        "c.yml:6: keystore.aws.secretsmanager: a second key store, aws.secretsmanager, after fs in line 4; "
        "keep one of them"
    )
    assert config(STORES + "  fs: {path: d}\n  vault:\n  aws:\n    secretsmanager:\n").keystore == FSSettings("d")


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - PARSERS.keys()))
def test_unsupported_keystore(kind: str) -> None:
    """A kind that this version cannot open is refused by name, without a look at its fields."""
    outer, _, inner = kind.partition(".")
    body = f"  {outer}:\n    {inner}: {{credentials: hunter2}}\n" if inner else f"  {outer}: {{secret: hunter2}}\n"
    assert refusal(STORES + body) == (
        f"c.yml:{5 if inner else 4}: keystore.{kind}: this version does not support the {KINDS[kind]} key store; "
        f"supported are {', '.join(PARSERS)}"
    )


def test_kes_keystore() -> None:
    """The `kes` backend, which was parsed and never used, is refused with that explanation."""
    assert refusal(STORES + "  kes: {endpoint: [x]}\n") == (
        "c.yml:4: keystore.kes: a KES server cannot be the key store of another: such a section was always read and "
        "never used; configure the key store that holds the keys"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("fss: {}", "4: keystore: unknown field 'fss'; did you mean 'fs'?"),
        ("aws: {secretmanager: {}}", "4: keystore.aws: unknown field 'secretmanager'; did you mean 'secretsmanager'?"),
        ("aws: x", "4: keystore.aws: expected a mapping, found a text; write 'name: value' lines"),
        ("fs: {path: d, dir: e}", "4: keystore.fs: unknown field 'dir'; known are path"),
    ],
)
def test_keystore_misspelt(body: str, message: str) -> None:
    """Kinds and their fields are as strict as all others."""
    assert refusal(STORES + f"  {body}\n") == f"c.yml:{message}"


# --- the file ---------------------------------------------------------------------------------------------------------


def test_load(tmp_path: Path) -> None:
    """A file loads from a path or its text, with a byte order mark or without, and again."""
    path = tmp_path / "c.yml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("path: d", "path: '${D}'").encode())
    assert load(path, {"D": "d"}) == load(str(path), {"D": "d"}) == DEFAULT


def test_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark does not shift the places that errors point to."""
    path = tmp_path / "c.yml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode() + b"log:\n\terror: on\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value) == f"{path}:5: not valid YAML: a tab where only spaces may indent or separate"


def test_empty(tmp_path: Path) -> None:
    """A file of nothing or of comments is refused."""
    path = tmp_path / "c.yml"
    for content in ("", "# only this\n", "~\n", "---\n"):
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value) == f"{path}: empty; a config file needs at least admin, tls and keystore"


@pytest.mark.parametrize(("text", "kind"), [("hunter2", "a text"), ("[hunter2]", "a list")])
def test_not_a_mapping(text: str, kind: str) -> None:
    """A file that is not a mapping is refused without showing it."""
    assert refusal(text) == f"c.yml:1: expected a mapping, found {kind}; write 'name: value' lines"


def test_unreadable(tmp_path: Path) -> None:
    """A path that is missing, a directory, or no path at all is a ConfigError that names it."""
    for path, reason in (
        (tmp_path / "none.yml", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "a\0b", "embedded null byte"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value) == f"{path}: cannot read the config file: {reason}"


def test_not_utf8(tmp_path: Path) -> None:
    """A file in another encoding is refused at the first line that shows it."""
    path = tmp_path / "c.yml"
    path.write_bytes(BASE.encode() + b"# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value) == f"{path}:4: not UTF-8 text; save the file as UTF-8"


def test_too_large(tmp_path: Path) -> None:
    """16 MiB is the limit, and a byte more is refused."""
    path = tmp_path / "c.yml"
    path.write_bytes(BASE.encode() + b"#" * (MAX_FILE - len(BASE)))
    assert load(path, {}) == DEFAULT
    with path.open("ab") as file:
        file.write(b"#")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert str(caught.value) == f"{path}: larger than 16777216 bytes, so hardly a config file"


# --- the keystore section alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "others",
    [
        "",
        BASE.replace("keystore: {fs: {path: d}}\n", ""),
        "version: v2\nadmin: [x]\ntls: {auth: maybe}\nunknown: {}\nlog: nonsense\nkeys: {a: b}\n",
    ],
    ids=["missing", "right", "wrong"],
)
def test_keystore_alone(tmp_path: Path, others: str) -> None:
    """The keystore section loads without the others, whatever they hold; the environment counts."""
    path = tmp_path / "c.yml"
    path.write_text(others + "keystore: {fs: {path: '${D}'}}\n")
    assert load_keystore(path, {"D": "d"}) == load_keystore(str(path), {"D": "d"}) == (FSSettings("d"), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keystore: {fs: {path: d}}\nkeystore: {fs: {path: d}}\n", ":2: keystore: given twice, first in line 1; "),
        ("admin: x\n", ":1: keystore: missing; configure exactly one key store, "),
        ("admin: x\nkeystore:\n", ":1: keystore: missing; configure exactly one key store, "),
        ("keystore: {}\n", ":1: keystore: no key store; configure exactly one key store, "),
        ("keystore: {fs: {paht: d}}\n", ":1: keystore.fs: unknown field 'paht'; did you mean 'path'?"),
        ("admin: {\nkeystore: {fs: {path: d}}\n", ":3: not valid YAML: "),
        ("- keystore\n", ":1: expected a mapping, found a list; "),
        ("# nothing\n", ": empty; "),
    ],
)
def test_keystore_alone_refused(tmp_path: Path, text: str, message: str) -> None:
    """The section is as strict alone as in a whole file, and the file has to be YAML."""
    path = tmp_path / "c.yml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_keystore(path, {})
    assert str(caught.value).startswith(f"{path}{message}")


def test_keystore_alone_unreadable(tmp_path: Path) -> None:
    """A missing file is a ConfigError that names it."""
    with pytest.raises(ConfigError) as caught:
        load_keystore(tmp_path / "none.yml", {})
    assert str(caught.value) == f"{tmp_path / 'none.yml'}: cannot read the config file: No such file or directory"


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_arbitrary_bytes(tmp_path: Path, content: bytes) -> None:
    """Whatever the file holds, it loads or is a ConfigError."""
    path = tmp_path / "c.yml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load(path, {})


VALUES = st.recursive(
    st.sampled_from(["", "~", "on", "x", "5m", "-1s", ":1", "true", "'${E}'", "'${U}'", A, "'*'", "é"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(
            st.sampled_from(sorted({p for path in (*SCALARS, *LISTS, *SECTIONS) for p in path})), inner
        ).map(lambda entries: "{" + ", ".join(f"{key}: {value}" for key, value in entries.items()) + "}"),
    ),
    max_leaves=8,
)


@given(st.sampled_from([*SCALARS, *LISTS, *SECTIONS]), VALUES)
def test_arbitrary_values(path: tuple[str, ...], raw: str) -> None:
    """Whatever stands in a field, the file loads or is a ConfigError with a line."""
    text, _ = write(path, raw)
    outcome = attempt(text, {"E": ""})
    assert isinstance(outcome, Config) or outcome.line is not None
