"""The Vault key store on a real OpenBao: the shared suite, the layout of entries, logins, races, and wrong settings.

What the server cannot be made to do on demand (broken answers, time limits) is tested on a fake, and outages of a
whole server in `test_outage.py`. Contract: keystores.md section 3.
"""

from __future__ import annotations

import base64
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes.config.loader import load_keystore
from kes.keystore import PAGE, KeyExists, KeyNotFound, KeyStore, KeyStoreError, Unreachable, connect
from tests.keystore.test_every_store import *  # noqa: F403 - the suite, on the fixtures of this module
from tests.keystore.test_every_store import CURRENT, LEGACY, Plant, Traits, walk
from tests.openbao.kubernetes import TokenReviewer, service_account_token
from tests.openbao.server import RULES, AppRole, OpenBao, free_ports, until
from tests.support import APP, STRANGER, TIMEOUT, Client, start, write_client_certificate, write_server_certificate

Section = dict[str, Any]
Open = Callable[[Section], KeyStore]


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as bao:
        yield bao


@pytest.fixture(scope="module")
def reviewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenReviewer]:
    reviewer = TokenReviewer(tmp_path_factory.mktemp("kubernetes"))
    yield reviewer
    reviewer.close()


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    """A function that opens the store of a `keystore.vault` section. All are closed at the end."""
    opened: list[KeyStore] = []

    def open_store(section: Section) -> KeyStore:
        path = tmp_path / "keystore.yml"
        path.write_text(yaml.safe_dump({"keystore": {"vault": section}}))
        settings, warnings = load_keystore(path, {})
        assert warnings == ()
        store = connect(settings)
        opened.append(store)
        store.start()
        return store

    yield open_store
    for store in opened:
        store.close()


def login(role: AppRole) -> Section:
    return {"engine": role.engine, "id": role.id, "secret": role.secret}


def set_up(bao: OpenBao, version: str, *, prefix: str = "", transit: bool = False, namespace: str = "") -> Section:
    """The section for an engine of its own, to which a role of its own may do what it must, and no more."""
    engine = bao.kv(version, namespace=namespace)
    wrapping = bao.transit(namespace=namespace) if transit else ""
    policy = bao.key_policy(version, engine, transit=wrapping, namespace=namespace)
    section: Section = {
        "endpoint": bao.endpoint,
        "engine": engine,
        "version": version,
        "approle": login(bao.app_role(policy, namespace=namespace)),
        "tls": {"ca": str(bao.ca)},
    }
    if bao.client is not None:
        section["tls"] |= dict(zip(("cert", "key"), map(str, bao.client), strict=True))
    if prefix:
        section["prefix"] = prefix
    if transit:
        section["transit"] = {"engine": wrapping, "key": "key"}
    if namespace:
        section["namespace"] = namespace
    return section


def text_of(value: bytes) -> str:
    return value.decode("latin-1")


# The shared suite

KINDS = {
    "v1": {"version": "v1"},
    "v1 prefix transit": {"version": "v1", "prefix": "some/folder", "transit": True},
    "v2": {"version": "v2"},
    "v2 prefix transit": {"version": "v2", "prefix": "some/folder", "transit": True},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def section(request: pytest.FixtureRequest, bao: OpenBao) -> Section:
    return set_up(bao, **request.param)


@pytest.fixture
def store(section: Section, open_store: Open) -> KeyStore:
    return open_store(section)


@pytest.fixture
def traits() -> Traits:
    return Traits(binary=False, tells_of_missing=False)


@pytest.fixture
def plant(bao: OpenBao, section: Section) -> Plant:
    """A function that writes a plain entry as another program would. A name that OpenBao refuses stays unwritten."""

    def plant(name: str, value: bytes) -> None:
        path = f"{section.get('prefix', '')}/{name}".lstrip("/")
        with suppress(UnicodeEncodeError):
            bao.write(section["version"], section["engine"], path, {name: text_of(value)})

    return plant


def test_more_than_a_page(store: KeyStore, plant: Plant) -> None:
    """OpenBao lists everything at once; the pages are cut from that. One number of keys is enough to see that."""
    names = [f"k{number:05}" for number in range(2 * PAGE + 1)]
    for name in random.sample(names, len(names)):
        plant(name, CURRENT)
    assert walk(store, "k", 0) == [names[:PAGE], names[PAGE : 2 * PAGE], names[2 * PAGE :]]


# The layout of entries (keystores.md 3.4, 3.5)


def path_of(section: Section, name: str) -> str:
    return f"{section['prefix']}/{name}" if "prefix" in section else name


def wrapped(bao: OpenBao, section: Section, value: bytes) -> str:
    """What an entry holds under transit."""
    body = {"plaintext": base64.b64encode(value).decode()}
    return bao.ask("POST", f"{section['transit']['engine']}/encrypt/key", body)["data"]["ciphertext"]


@pytest.mark.parametrize("value", [CURRENT, LEGACY], ids=["current", "legacy"])
def test_reads_what_another_wrote(bao: OpenBao, section: Section, store: KeyStore, value: bytes) -> None:
    """An entry that was written by the table is found, read, listed, taken, and removed for good."""
    version, engine, path = section["version"], section["engine"], path_of(section, "my-key")
    field = wrapped(bao, section, value) if "transit" in section else text_of(value)
    assert bao.write(version, engine, path, {"my-key": field}).ok
    assert store.get("my-key") == value
    assert store.list("", "", 0) == (["my-key"], "")
    with pytest.raises(KeyExists):
        store.create("my-key", CURRENT)
    store.delete("my-key")
    everything = f"{engine}/metadata/{path}" if version == "v2" else f"{engine}/{path}"
    assert bao.call("GET", everything).status == 404


@pytest.mark.parametrize("value", [CURRENT, LEGACY], ids=["current", "legacy"])
def test_writes_what_another_reads(bao: OpenBao, section: Section, store: KeyStore, value: bytes) -> None:
    """A key is one entry with one field of the key's name, and in v2 the first version."""
    store.create("my-key", value)
    fields = bao.read(section["version"], section["engine"], path_of(section, "my-key"))
    assert list(fields) == ["my-key"]
    if "transit" in section:
        assert fields["my-key"].startswith("vault:v1:")
        body = {"ciphertext": fields["my-key"]}
        plain = bao.ask("POST", f"{section['transit']['engine']}/decrypt/key", body)["data"]["plaintext"]
        assert base64.b64decode(plain) == value
    else:
        assert fields["my-key"] == text_of(value)
    if section["version"] == "v2":
        known = bao.ask("GET", f"{section['engine']}/metadata/{path_of(section, 'my-key')}")["data"]
        assert (known["current_version"], list(known["versions"])) == (1, ["1"])


def test_version_2_reads_the_first_version(bao: OpenBao, open_store: Open) -> None:
    """Versions that were written by hand later change nothing."""
    section = set_up(bao, "v2")
    store = open_store(section)
    store.create("my-key", CURRENT)
    bao.ask("PUT", f"{section['engine']}/data/my-key", {"data": {"my-key": "another"}})
    assert store.get("my-key") == CURRENT


@pytest.mark.parametrize("how", ["delete", "destroy"])
def test_version_2_deleted_softly(bao: OpenBao, open_store: Open, how: str) -> None:
    """A version that is deleted or destroyed is no missing key: it is an error to read, and is never replaced."""
    section = set_up(bao, "v2")
    store = open_store(section)
    store.create("my-key", CURRENT)
    bao.ask("PUT", f"{section['engine']}/{how}/my-key", {"versions": [1]})
    for call in (lambda: store.get("my-key"), lambda: store.create("my-key", LEGACY)):
        with pytest.raises(KeyStoreError, match="my-key") as caught:
            call()
        assert type(caught.value) is KeyStoreError
    if how == "delete":
        bao.ask("PUT", f"{section['engine']}/undelete/my-key", {"versions": [1]})
        assert store.get("my-key") == CURRENT


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_entry_that_holds_something_else(bao: OpenBao, open_store: Open, version: str) -> None:
    """An entry without the key's field, or with one that is no text, is an error, and is never replaced."""
    section = set_up(bao, version)
    store = open_store(section)
    for name, fields in {"other": {"another": "text"}, "number": {"number": 17}}.items():
        assert bao.write(version, section["engine"], name, fields).ok
        with pytest.raises(KeyStoreError) as caught:
            store.get(name)
        assert type(caught.value) is KeyStoreError
        with pytest.raises(KeyStoreError):
            store.create(name, CURRENT)
        assert bao.read(version, section["engine"], name) == fields


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_folders_are_not_keys(bao: OpenBao, open_store: Open, version: str) -> None:
    """What lies in folders below or beside the prefix is not listed."""
    section = set_up(bao, version, prefix="keys")
    store = open_store(section)
    for path in ("keys/a", "keys/b/c", "keys/d/e/f", "g", "other/h"):
        assert bao.write(version, section["engine"], path, {path.rpartition("/")[2]: text_of(CURRENT)}).ok
    assert store.list("", "", 0) == (["a"], "")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_transit_comes_and_its_key_is_rotated(bao: OpenBao, open_store: Open, version: str) -> None:
    """Plain entries are still read once transit is configured, and all entries after its key was rotated."""
    section = set_up(bao, version, transit=True)
    plain = open_store({name: value for name, value in section.items() if name != "transit"})
    plain.create("plain", CURRENT)
    store = open_store(section)
    store.create("first", LEGACY)
    bao.ask("POST", f"{section['transit']['engine']}/keys/key/rotate", {})
    store.create("second", CURRENT)
    assert bao.read(version, section["engine"], "second")["second"].startswith("vault:v2:")
    assert [store.get(name) for name in ("plain", "first", "second")] == [CURRENT, LEGACY, CURRENT]
    with pytest.raises(KeyStoreError, match="transit"):
        plain.get("first")


# Several servers


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_two_servers_create_the_same_names(bao: OpenBao, open_store: Open, version: str) -> None:
    """Of 50 threads of two servers one wins each name, all others see that it exists, and what is read is its value."""
    section = set_up(bao, version)
    stores = [open_store(section), open_store(section)]
    names = [f"k{number}" for number in range(4)]
    won: dict[str, list[bytes]] = {name: [] for name in names}
    lost: list[Exception] = []
    start = threading.Barrier(50)

    def create(number: int) -> None:
        start.wait()
        for name in names:
            try:
                stores[number % 2].create(name, value := b"%s of thread %d" % (name.encode(), number))
                won[name].append(value)
            except KeyStoreError as error:
                lost.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {type(error) for error in lost} == {KeyExists}, lost
    assert [len(values) for values in won.values()] == [1] * len(names)
    for store in stores:
        assert {name: [store.get(name)] for name in names} == won


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_two_processes_create_the_same_keys(bao: OpenBao, tmp_path: Path, version: str) -> None:
    """Of 50 clients of two server processes one makes each key, and both servers then use the same one."""
    section = {"vault": set_up(bao, version)}
    names = [f"k{number}" for number in range(8)]
    answers: dict[str, list[tuple[int, str]]] = {name: [] for name in names}
    together = threading.Barrier(50, timeout=TIMEOUT)
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    with start(folders[0], keystore=section) as one, start(folders[1], keystore=section) as other:
        servers = [one, other]
        clients = [servers[number % 2].client() for number in range(50)]

        def create(client: Client) -> None:
            for name in names:
                together.wait()
                answer = client.request("PUT", f"/v1/key/create/{name}")
                answers[name].append((answer.status, answer.message if answer.body else ""))

        threads = [threading.Thread(target=create, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {name: sorted(seen) for name, seen in answers.items()} == {
            name: [(200, ""), *[(400, "key already exists")] * 49] for name in names
        }
        for name in names:
            for here, there in (servers, servers[::-1]):
                made = here.client().request("PUT", f"/v1/key/generate/{name}").json
                opened = there.client().request("PUT", f"/v1/key/decrypt/{name}", {"ciphertext": made["ciphertext"]})
                assert opened.json == {"plaintext": made["plaintext"]}
        assert one.client().request("GET", "/v1/key/list/").json == {"names": names}


# Logins


def rest() -> None:
    """Wait until a store that was opened just now may log in again: it does so once a second at most."""
    since = time.monotonic()
    until(lambda: time.monotonic() > since + 1, "a second is over")


def value_of(store: KeyStore, name: str) -> bytes | None:
    """The value of a key, None if that does not work just now."""
    with suppress(KeyStoreError):
        return store.get(name)
    return None


def test_no_key_but_by_the_policy(bao: OpenBao, open_store: Open) -> None:
    """The policy of these tests is as narrow as promised: OpenBao itself refuses to overwrite an entry of v1."""
    section = set_up(bao, "v1")
    store = open_store(section)
    store.create("my-key", CURRENT)
    body = {"role_id": section["approle"]["id"], "secret_id": section["approle"]["secret"]}
    token = bao.ask("PUT", f"auth/{section['approle']['engine']}/login", body)["auth"]["client_token"]
    capabilities = bao.ask("PUT", "sys/capabilities", {"token": token, "path": f"{section['engine']}/my-key"})
    assert sorted(capabilities["capabilities"]) == ["create", "delete", "list", "read"]


def test_revoked_token(bao: OpenBao, open_store: Open) -> None:
    """When its token was revoked the store logs in again, once for all who wait, and nobody notices."""
    section = set_up(bao, "v2")
    store = open_store(section)
    store.create("my-key", CURRENT)
    rest()
    engine = section["approle"]["engine"]
    bao.revoke_tokens(engine)
    assert bao.tokens(engine) == []
    values: list[bytes] = []
    threads = [threading.Thread(target=lambda: values.append(store.get("my-key"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [CURRENT] * 20
    assert len(bao.tokens(engine)) == 1


def test_revoked_secret_id(bao: OpenBao, open_store: Open) -> None:
    """Without a token and a secret ID nothing works; once there is a secret ID again, everything does."""
    section = set_up(bao, "v2")
    store = open_store(section)
    store.create("my-key", CURRENT)
    role = AppRole(section["approle"]["engine"], "kes", section["approle"]["id"], section["approle"]["secret"])
    bao.revoke_secret_id(role)
    assert store.get("my-key") == CURRENT
    rest()
    bao.revoke_tokens(role.engine)
    with pytest.raises(KeyStoreError, match="approle") as caught:
        store.get("my-key")
    assert role.secret not in str(caught.value)
    bao.add_secret_id(role)
    assert until(lambda: value_of(store, "my-key"), "the store has logged in again", 40) == CURRENT


def test_short_lived_token(bao: OpenBao, open_store: Open) -> None:
    """A token is renewed in time, as long as it can be; then there is a login. Reading never fails."""
    section = set_up(bao, "v2")
    policy = bao.key_policy("v2", section["engine"])
    section["approle"] = login(bao.app_role(policy, token_ttl="2s", token_max_ttl="4s"))
    store = open_store(section)
    store.create("my-key", CURRENT)
    first = bao.tokens(section["approle"]["engine"])
    seen: set[str] = set()

    def next_but_one() -> bool:
        assert store.get("my-key") == CURRENT
        seen.update(bao.tokens(section["approle"]["engine"]))
        return len(seen) > 1

    until(next_but_one, "a second token")
    assert set(first) < seen


@pytest.mark.parametrize("where", ["text", "file"])
def test_kubernetes(bao: OpenBao, reviewer: TokenReviewer, open_store: Open, tmp_path: Path, where: str) -> None:
    """A service account logs in. A token in a file is read again at each login, as Kubernetes replaces it."""
    section = set_up(bao, "v2")
    del section["approle"]
    engine = bao.kubernetes(bao.key_policy("v2", section["engine"]), (reviewer.url, reviewer.ca))
    token = service_account_token()
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    section["kubernetes"] = {"engine": engine, "role": "kes", "jwt": str(file) if where == "file" else token}
    reviewer.valid = {token}
    store = open_store(section)
    store.create("my-key", CURRENT)
    if where == "file":
        token = service_account_token(serial=2)
        file.write_text(token)
        reviewer.valid = {token}
    bao.revoke_tokens(engine)
    assert until(lambda: value_of(store, "my-key"), "the store has logged in again") == CURRENT
    assert reviewer.reviewed[-1] == token


def test_closing_revokes_the_token(bao: OpenBao, open_store: Open) -> None:
    """A store that is closed leaves no token behind."""
    section = set_up(bao, "v1")
    store = open_store(section)
    assert len(bao.tokens(section["approle"]["engine"])) == 1
    store.close()
    until(lambda: not bao.tokens(section["approle"]["engine"]), "the token is revoked")


# Client certificates


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """An OpenBao that lets nobody in without the one client certificate that it knows."""
    folder = tmp_path_factory.mktemp("strict")
    with OpenBao(folder, client=write_client_certificate(folder, APP)) as bao:
        yield bao


def test_client_certificate(strict: OpenBao, open_store: Open) -> None:
    """The certificate of `tls.cert` is shown on every connection."""
    store = open_store(set_up(strict, "v2"))
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT
    strict.stop()
    strict.restart()
    assert until(lambda: value_of(store, "my-key"), "the store has found it again") == CURRENT


def test_without_a_client_certificate(strict: OpenBao, open_store: Open) -> None:
    """Without one, the error says what to set."""
    section = set_up(strict, "v2")
    section["tls"] = {"ca": section["tls"]["ca"]}
    assert "wants a client certificate; set keystore.vault.tls.cert and .key" in complaint(open_store, section)


def test_another_client_certificate(strict: OpenBao, open_store: Open, tmp_path: Path) -> None:
    """With one that OpenBao does not know, the error says what to check."""
    section = set_up(strict, "v2")
    cert, key = write_client_certificate(tmp_path, STRANGER)
    section["tls"] |= {"cert": str(cert), "key": str(key)}
    said = complaint(open_store, section)
    assert "refuses the client certificate" in said
    assert "check keystore.vault.tls.cert and .key" in said


# Seal


def test_sealed(bao: OpenBao, open_store: Open) -> None:
    """Sealed, it is out of reach for everything; unsealed, it works at once."""
    stores = [open_store(set_up(bao, version)) for version in ("v1", "v2")]
    for store in stores:
        store.create("my-key", CURRENT)
    bao.seal()
    try:
        for store in stores:
            for call in (
                store.status,
                lambda store=store: store.get("my-key"),
                lambda store=store: store.create("other", CURRENT),
                lambda store=store: store.delete("my-key"),
                lambda store=store: store.list("", "", 0),
            ):
                with pytest.raises(Unreachable, match="sealed"):
                    call()
    finally:
        bao.unseal()
    for store in stores:
        assert store.status() > 0
        assert store.get("my-key") == CURRENT


# Namespaces


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_namespace(bao: OpenBao, open_store: Open, version: str) -> None:
    """Engine, transit and login lie in the namespace, and so do the keys."""
    namespace = bao.namespace()
    section = set_up(bao, version, transit=True, namespace=namespace)
    store = open_store(section)
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT
    assert store.list("", "", 0) == (["my-key"], "")
    assert store.status() > 0
    assert list(bao.read(version, section["engine"], "my-key", namespace=namespace)) == ["my-key"]


def test_login_in_the_root_namespace(bao: OpenBao, open_store: Open) -> None:
    """`/` is the root namespace: a role there may be given what lies below, and its token is renewed there."""
    namespace = bao.namespace()
    section = set_up(bao, "v2", namespace=namespace)
    policy = bao.key_policy("v2", f"{namespace}/{section['engine']}")
    role = bao.app_role(policy, token_ttl="2s", token_max_ttl="1h")
    section["approle"] = {**login(role), "namespace": "/"}
    store = open_store(section)
    store.create("my-key", CURRENT)
    token = bao.tokens(role.engine)
    lookup = {"accessor": token[0]}

    def renewed() -> bool:
        assert store.get("my-key") == CURRENT
        return "last_renewal" in bao.ask("POST", "auth/token/lookup-accessor", lookup)["data"]

    until(renewed, "the token is renewed")
    assert bao.tokens(role.engine) == token


# Wrong settings


def wrong(section: Section, setting: str, value: object) -> Section:
    """The section with another value at a setting such as `tls.ca`."""
    changed = json.loads(json.dumps(section))
    *path, last = setting.split(".")
    target = changed
    for name in path:
        target = target.setdefault(name, {})
    target[last] = value
    return changed


def complaint(open_store: Open, section: Section) -> str:
    """What the operator is told, when the store is opened or at the latest when it is used."""
    with pytest.raises(KeyStoreError) as caught:
        open_store(section).get("my-key")
    assert not isinstance(caught.value, KeyNotFound)
    return str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("engine", "nowhere", "engine"),
        ("approle.engine", "nowhere", "approle"),
        ("approle.id", "00000000-0000-0000-0000-000000000000", "approle"),
        ("approle.secret", "00000000-0000-0000-0000-000000000000", "approle"),
        ("namespace", "nowhere", "namespace"),
        ("approle.namespace", "nowhere", "namespace"),
    ],
)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_wrong_setting(bao: OpenBao, open_store: Open, version: str, setting: str, value: str, words: str) -> None:
    """The error names the setting, and no secret."""
    section = set_up(bao, version)
    said = complaint(open_store, wrong(section, setting, value))
    assert words in said
    assert section["approle"]["secret"] not in said


@pytest.mark.parametrize(("version", "claimed"), [("v1", "v2"), ("v2", "v1")])
def test_wrong_version(bao: OpenBao, open_store: Open, version: str, claimed: str) -> None:
    """A key is neither read nor written with the wrong version of the engine, however much the policy allows."""
    section = set_up(bao, version)
    policy = bao.policy({f"{section['engine']}/*": ["create", "read", "update", "delete", "list"]})
    section["approle"] = login(bao.app_role(policy))
    section["version"] = claimed
    assert "version" in complaint(open_store, section)
    with pytest.raises(KeyStoreError, match="version") as caught:
        open_store(section).create("my-key", CURRENT)
    assert not isinstance(caught.value, KeyExists)


@pytest.mark.parametrize("prefix", ["", "some/folder"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_errors_lead_to_the_policy(bao: OpenBao, open_store: Open, version: str, prefix: str) -> None:
    """What the policy does not allow is told with what it would have to say; all of that is the least policy."""
    section = set_up(bao, version, prefix=prefix)
    policy = bao.policy({})
    section["approle"] = login(bao.app_role(policy))
    rules: dict[str, list[str]] = {}

    def allowed(call: Callable[[], Any]) -> Any:
        """What the call returns, once everything is allowed that its errors ask for, one after the other."""
        while True:
            try:
                return call()
            except KeyStoreError as error:
                said = str(error)
            assert "permission denied" in said
            ((capability, path),) = re.findall(r"the login's policies allow `(\w+)` of (\S+),", said)
            rules.setdefault(path, []).append(capability)
            bao.write_policy(policy, rules)

    store = allowed(lambda: open_store(section))
    allowed(lambda: store.create("my-key", CURRENT))
    assert allowed(lambda: store.get("my-key")) == CURRENT
    assert allowed(lambda: store.list("", "", 0)) == (["my-key"], "")
    allowed(lambda: store.delete("my-key"))
    assert store.list("", "", 0) == ([], "")
    folder = f"{prefix}/" if prefix else ""
    least = {
        path.format(engine=section["engine"]).replace("*", f"{folder}*"): sorted(granted)
        for path, granted in RULES[version].items()
    }
    assert {path: sorted(granted) for path, granted in rules.items()} == least


@pytest.mark.parametrize("setting", ["engine", "key"])
def test_wrong_transit(bao: OpenBao, open_store: Open, setting: str) -> None:
    """Without encryption there is no store."""
    section = set_up(bao, "v2", transit=True)
    with pytest.raises(KeyStoreError, match=r"keystore\.vault\.transit"):
        open_store(wrong(section, f"transit.{setting}", "nowhere"))


def test_wrong_authority(bao: OpenBao, open_store: Open, tmp_path: Path) -> None:
    """A server that another authority vouches for is not talked to."""
    section = set_up(bao, "v2")
    folder = tmp_path / "other"
    folder.mkdir()
    other, _ = write_server_certificate(folder)
    assert "tls.ca" in complaint(open_store, wrong(section, "tls.ca", str(other)))
    del section["tls"]
    assert "tls.ca" in complaint(open_store, section)


def test_wrong_endpoint(bao: OpenBao, open_store: Open) -> None:
    """The error has the address, and says `endpoint`."""
    section = set_up(bao, "v2")
    for endpoint in (f"https://127.0.0.1:{free_ports(1)[0]}", f"http://127.0.0.1:{bao.port}"):
        said = complaint(open_store, wrong(section, "endpoint", endpoint))
        assert endpoint in said
        assert "endpoint" in said


@pytest.mark.parametrize(("setting", "value"), [("role", "nobody"), ("jwt", service_account_token("other"))])
def test_wrong_kubernetes(bao: OpenBao, reviewer: TokenReviewer, open_store: Open, setting: str, value: str) -> None:
    """A service account that may not log in is told of with the method; its token is not repeated."""
    section = set_up(bao, "v2")
    del section["approle"]
    engine = bao.kubernetes(bao.key_policy("v2", section["engine"]), (reviewer.url, reviewer.ca))
    token = service_account_token()
    reviewer.valid = {token, service_account_token("other")}
    section["kubernetes"] = {"engine": engine, "role": "kes", "jwt": token}
    said = complaint(open_store, wrong(section, f"kubernetes.{setting}", value))
    assert "kubernetes" in said
    assert token.split(".")[1] not in said
