"""Migrations between key stores of every kind; each store is looked into from outside (docs/migrate.md)."""

from __future__ import annotations

import base64
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml

from kes.config.loader import load_keystore
from kes.keystore import KeyStore
from kes.keystore.aws import AWSStore
from kes.keystore.memory import MemoryStore
from kes.keystore.vault import VaultStore
from kes.migration import Migration as Engine
from kes.migration import Mode, Report
from kes.pattern import parse
from tests.cli.run import Result, kes
from tests.keystore.fakeaws import REGION, FakeAWS, Fault, Request
from tests.keystore.fakevault import FakeVault, Versioned
from tests.keystore.test_every_store import CURRENT, LEGACY
from tests.openbao.server import OpenBao
from tests.support import start

OLD, NEW = CURRENT, LEGACY
BEGINNING = "Starting key migration:\n\n"
KINDS = ["fs", "vault", "aws"]
PAIRS = [
    *itertools.permutations(KINDS, 2),
    *((kind, "openbao") for kind in KINDS),
    *(("openbao", kind) for kind in KINDS),
]


class Directory:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / "keys"
        self._folder.mkdir()
        self.section = {"fs": {"path": str(self._folder)}}

    def put(self, name: str, value: bytes) -> None:
        (self._folder / name).write_bytes(value)

    def values(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self._folder.iterdir() if not path.name.startswith(".")}


class Vault:
    """The fake, with an engine of version 2: the one in which versions count."""

    def __init__(self, vault: FakeVault) -> None:
        self._vault = vault
        self._entries: dict[str, Versioned] = {}
        vault.v2["", "kv"] = self._entries
        vault.logins["", "approle"] = {"role_id": "id", "secret_id": "secret"}
        approle = {"id": "id", "secret": "secret"}
        self.section = {"vault": {"endpoint": vault.endpoint, "version": "v2", "prefix": "kes", "approle": approle}}

    def put(self, name: str, value: bytes) -> None:
        self._entries[f"kes/{name}"] = Versioned([{name: value.decode()}])

    def values(self) -> dict[str, bytes]:
        values = {}
        for path, entry in self._entries.items():
            (fields,) = entry.versions
            folder, name = path.split("/")
            assert folder == "kes"
            assert fields is not None
            values[name] = fields[name].encode()
        return values

    def vanish_after_deleting(self) -> None:
        """Let no connection through, from the deletion of a key on, until `mend`."""
        gone = partial(self._vault.fail, "", times=1000, dropped=True)
        self._vault.fail("DELETE kv/metadata/kes/key", before=gone)

    def mend(self) -> None:
        self._vault.faults.clear()


class SecretsManager:
    def __init__(self, aws: FakeAWS) -> None:
        self._aws = aws
        aws.reset()
        credentials = {"accesskey": "key", "secretkey": "secret"}
        section = {"endpoint": aws.endpoint, "region": REGION, "credentials": credentials}
        self.section = {"aws": {"secretsmanager": section}}

    def put(self, name: str, value: bytes) -> None:
        self._aws.plant(name, value)

    def values(self) -> dict[str, bytes]:
        with closing(self._aws.client()) as client:
            names = [
                entry["Name"]
                for page in client.get_paginator("list_secrets").paginate()
                for entry in page["SecretList"]
            ]
            return {name: client.get_secret_value(SecretId=name)["SecretString"].encode() for name in names}

    def vanish_after_deleting(self) -> None:
        def hook(request: Request) -> None:
            if request.operation == "DeleteSecret":
                for operation in ("CreateSecret", "GetSecretValue", "ListSecrets"):
                    self._aws.fail(operation, *[Fault()] * 1000)

        self._aws.hook = hook

    def mend(self) -> None:
        self._aws.hook = lambda request: None
        self._aws.faults.clear()


class RealVault:
    """OpenBao, with an engine of version 2 in which values are wrapped by transit."""

    def __init__(self, bao: OpenBao) -> None:
        self._bao = bao
        self._engine, self._transit = bao.kv("v2"), bao.transit()
        role = bao.app_role(bao.key_policy("v2", self._engine, transit=self._transit))
        section = {
            "endpoint": bao.endpoint,
            "engine": self._engine,
            "version": "v2",
            "transit": {"engine": self._transit, "key": "key"},
            "approle": {"engine": role.engine, "id": role.id, "secret": role.secret},
            "tls": {"ca": str(bao.ca)},
        }
        self.section = {"vault": section}

    def put(self, name: str, value: bytes) -> None:
        body = {"plaintext": base64.b64encode(value).decode()}
        wrapped = self._bao.ask("POST", f"{self._transit}/encrypt/key", body)["data"]["ciphertext"]
        assert self._bao.write("v2", self._engine, name, {name: wrapped}).ok

    def values(self) -> dict[str, bytes]:
        listed = self._bao.call("GET", f"{self._engine}/metadata/?list=true")
        values = {}
        for name in listed.data["data"]["keys"] if listed.ok else ():
            body = {"ciphertext": self._bao.read("v2", self._engine, name)[name]}
            plain = self._bao.ask("POST", f"{self._transit}/decrypt/key", body)["data"]["plaintext"]
            values[name] = base64.b64decode(plain)
        return values


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as bao:
        yield bao


@pytest.fixture(scope="module")
def aws() -> Iterator[FakeAWS]:
    aws = FakeAWS()
    yield aws
    aws.stop()


@pytest.fixture
def place(request: pytest.FixtureRequest, aws: FakeAWS, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """A function that makes an empty store of a kind."""
    vaults: list[FakeVault] = []

    def place(kind: str) -> Any:
        if kind == "fs":
            return Directory(tmp_path)
        if kind == "aws":
            return SecretsManager(aws)
        if kind == "openbao":
            return RealVault(request.getfixturevalue("bao"))  # only here: without Go there may be none
        vaults.append(FakeVault(time.monotonic))
        return Vault(vaults[-1])

    yield place
    for vault in vaults:
        vault.close()


class Migration:
    """Two stores, and the command that copies from one to the other."""

    def __init__(self, folder: Path, source: Any, target: Any) -> None:
        self.source, self.target = source, target
        self._folder = folder
        for name, end in (("from", source), ("to", target)):
            (folder / f"{name}.yml").write_text(yaml.safe_dump({"keystore": end.section}))

    def migrate(self, *arguments: str) -> Result:
        """What a run ends with: how many keys it tells of meanwhile depends on how long it takes."""
        result = kes("migrate", "--from=from.yml", "--to=to.yml", *arguments, cwd=self._folder)
        return replace(result, out=re.sub(rb"Migrated +\d+ keys \.\.\.\n", b"", result.out))


@pytest.fixture(params=PAIRS, ids="-".join)
def migration(request: pytest.FixtureRequest, place: Callable[[str], Any], tmp_path: Path) -> Migration:
    source, target = request.param
    return Migration(tmp_path, place(source), place(target))


def test_copies_everything(migration: Migration) -> None:
    """Keys of both generations are there byte for byte, the source is as it was, and a second run confirms it."""
    values = {f"key-{number}": (CURRENT, LEGACY)[number % 2] for number in range(12)}
    for name, value in values.items():
        migration.source.put(name, value)
    assert migration.migrate("--dry-run").text == f"{BEGINNING}Would migrate     12 keys. Nothing was changed.\n"
    assert migration.target.values() == {}
    assert migration.migrate() == Result(0, f"{BEGINNING}Migrated     12 keys successfully!\n".encode(), "")
    assert migration.target.values() == migration.source.values() == values
    again = migration.migrate("--merge")
    assert again.status == 0
    assert again.err == "".join(f'Skipped "{name}": exists with the same value\n' for name in sorted(values))


def test_existing_keys(migration: Migration) -> None:
    """A key that exists is left alone without --force and with --merge, and replaced with it; nothing else is left."""
    for name in ("a", "b"):
        migration.source.put(name, NEW)
    migration.target.put("b", OLD)
    result = migration.migrate()
    assert (result.status, result.err.splitlines()[0]) == (1, 'Error: failed to migrate "b": key already exists')
    assert migration.target.values() == {"a": NEW, "b": OLD}
    assert 'Skipped "b": exists with another value' in migration.migrate("--merge").err
    assert migration.migrate("--force").status == 0
    assert migration.target.values() == {"a": NEW, "b": NEW}


class Time:
    """Seconds that pass by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("kind", "make"), [("vault", VaultStore), ("aws", AWSStore)], ids=["vault", "aws"])
def test_outage_while_a_key_is_replaced(
    place: Callable[[str], Any], tmp_path: Path, kind: str, make: Callable[..., KeyStore]
) -> None:
    """When the target goes away after a key was deleted, its old value is safe there, and the next run puts it back."""
    target = place(kind)
    target.put("key", OLD)
    (tmp_path / "to.yml").write_text(yaml.safe_dump({"keystore": target.section}))
    settings, _ = load_keystore(tmp_path / "to.yml", {})
    source, time = MemoryStore(), Time()
    source.create("key", NEW)

    def migrate(mode: Mode) -> Report:
        with closing(make(settings, clock=time.clock, sleep=time.sleep)) as store:
            return Engine(source, store, parse("*"), mode).run(lambda _: None, Event())

    target.vanish_after_deleting()
    report = migrate(Mode.FORCE)
    target.mend()
    assert (report.progress.failed, len(report.unsettled)) == (1, 1)
    ((aside, record),) = target.values().items()
    assert f'its old value is kept as "{aside}"' in report.failed[0].reason
    assert base64.b64decode(json.loads(record)["old"]) == OLD
    report = migrate(Mode.MERGE)
    assert "it was missing, and its old value was put back" in report.settled[0]
    assert target.values() == {"key": OLD}
    assert migrate(Mode.FORCE).progress.migrated == 1
    assert target.values() == {"key": NEW}


@pytest.mark.parametrize("way", [("fs", "vault", "aws", "fs"), ("fs", "aws", "vault", "fs")], ids="-".join)
def test_data_decrypts_wherever_its_key_goes(place: Callable[[str], Any], tmp_path: Path, way: tuple[str, ...]) -> None:
    """What a server has encrypted, a server on each store that the key was moved to decrypts."""
    places = []
    for number, kind in enumerate(way):
        folder = tmp_path / str(number)
        folder.mkdir()
        places.append((folder, Directory(folder) if kind == "fs" else place(kind)))
    with start(places[0][0], keystore=places[0][1].section) as server:
        client = server.client()
        assert client.request("PUT", "/v1/key/create/my-key").status == 200
        made = client.request("PUT", "/v1/key/generate/my-key").json
    for (_, source), (folder, target) in itertools.pairwise(places):
        assert Migration(folder, source, target).migrate().status == 0
        with start(folder, keystore=target.section) as server:
            answer = server.client().request("PUT", "/v1/key/decrypt/my-key", {"ciphertext": made["ciphertext"]})
            assert answer.json == {"plaintext": made["plaintext"]}


@pytest.mark.parametrize("kind", ["vault", "aws"])
def test_store_out_of_reach(place: Callable[[str], Any], tmp_path: Path, kind: str) -> None:
    """A store that does not answer is one line that names the file and the setting; nothing was begun."""
    migration = Migration(tmp_path, place("fs"), place(kind))
    inner = migration.target.section[kind]
    (inner if kind == "vault" else inner["secretsmanager"])["endpoint"] = "http://127.0.0.1:1"
    result = Migration(tmp_path, migration.source, migration.target).migrate()
    assert result.error.startswith("to.yml: cannot open the key store: ")


def test_warning_of_a_store(place: Callable[[str], Any], aws: FakeAWS, tmp_path: Path) -> None:
    """What a store warns of when it is opened is told with its file, unless nothing is to be told."""
    migration = Migration(tmp_path, place("fs"), place("aws"))
    denied = Fault(400, b'{"__type": "AccessDeniedException"}')
    aws.fail("ListSecrets", denied)
    assert migration.migrate("*").err.startswith("WARNING: to.yml: a first request to the key store failed")
    aws.fail("ListSecrets", denied)
    assert migration.migrate("--quiet").err == ""
