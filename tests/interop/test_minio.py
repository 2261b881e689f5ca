"""The document on MinIO, word for word. In MinIO's place a program makes its requests, with the official SDK."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks, type_in
from tests.interop.program import build
from tests.support import KES, TIMEOUT, Server

DOCUMENT = (ROOT / "docs" / "minio.md").read_text()
IDENTITY = "2d2289cadcae3ab465204e5d1907ab78200b07f296bf7660854d79a447eb5749"  # that the document has as an example
MAKE, START, TRY = blocks(DOCUMENT, "sh")
CONFIG, DEPLOYMENTS = blocks(DOCUMENT, "yaml")
(VARIABLES,) = blocks(DOCUMENT, "env")
BUCKET, OWN_KEY = blocks(DOCUMENT, "mc")
UNTRUSTED, NOT_ALLOWED = blocks(DOCUMENT, "text")
FURTHER = "list,status,metrics,api"  # that the first policy allows beside keys


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("minio"), "./minio")


class Host:
    """A root folder in which someone follows the document."""

    def __init__(self, root: Path, program: Path) -> None:
        self.root = root
        self.etc = root / "etc" / "kes"
        self.etc.mkdir(parents=True)
        (root / "var/lib/kes").mkdir(parents=True)
        self._program = program
        self.configure(CONFIG)
        self.key, self.identity = new_identity(type_in(self.here(MAKE), self.etc))

    def here(self, text: str) -> str:
        """A text of the document as it is on this host."""
        text = text.replace("/etc/minio/kes/", "/etc/kes/").replace("kes.example.com", "localhost")
        return re.sub(r"/(etc|var/lib)/kes\b", rf"{self.root}/\1/kes", text)

    def configure(self, text: str) -> None:
        """Write the server's config, with a free port in place of its own."""
        assert "address: 0.0.0.0:7373" in text
        text = text.replace("address: 0.0.0.0:7373", "address: 127.0.0.1:0")
        (self.etc / "config.yml").write_text(self.here(text))

    def start(self) -> Server:
        variable, command = self.here(START).splitlines()
        name, _, value = variable.removeprefix("export ").partition("=")
        assert value == IDENTITY
        program, *options = shlex.split(command)
        assert program == "kes"
        return Server([KES, *options], cwd=self.root, env={**os.environ, name: self.identity})

    def minio(
        self, server: Server, *arguments: str, key: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the program in MinIO's place, with MinIO's variables; `variables` replace the document's."""
        text = self.here(VARIABLES).replace(":7373", f":{server.port}").replace("kes:v1:…", key or self.key)
        said = dict(line.split("=", 1) for line in text.splitlines())
        return subprocess.run(
            [self._program, *arguments],
            env={**os.environ, **said, **variables},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )


def new_identity(told: str) -> tuple[str, str]:
    """The API key and identity that `kes identity new` has told last."""
    return re.findall(r"kes:v1:\S+", told)[-1], re.findall(r"^   ([0-9a-f]{64})$", told, re.M)[-1]


@pytest.fixture
def host(tmp_path: Path, program: Path) -> Host:
    return Host(tmp_path, program)


def test_from_nothing_to_an_encrypted_bucket(host: Host) -> None:
    """MinIO's requests succeed under the document's policy, with the keys that it names, and no others do."""
    own = shlex.split(OWN_KEY.splitlines()[0])[-1]
    assert f"sse-kms {own} " in OWN_KEY
    with host.start() as server:
        tried = host.here(TRY).replace(":7373", f":{server.port}").replace("kes:v1:…", host.key)
        assert "minio-default" in type_in(tried, host.root).splitlines()[-1]
        result = host.minio(server, "-own", own, "-foreign", "other", "-may", FURTHER)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "refused everything else"
    assert sorted(path.name for path in (host.root / "var/lib/kes/keys").iterdir()) == ["minio-default", own]


def test_minio_creates_its_key(host: Host) -> None:
    """A key need not be made by hand."""
    with host.start() as server:
        result = host.minio(server, "-own", "minio-own", "-foreign", "other", "-may", FURTHER)
    assert (result.returncode, result.stderr) == (0, "")


def test_what_a_permission_is_for(host: Host) -> None:
    """The table's paths are those of the policy, and each is needed for what stands next to it."""
    table = DOCUMENT.split("| --- | --- | --- |\n")[1].split("\n\n")[0]
    told = [path for line in table.splitlines() for path in re.findall(r"`(/v1/[a-z/]+)`", line.split("|")[1])]
    allowed = re.findall(r"^      - (/v1/[a-z/]+?)(?:minio-)?\*?$", CONFIG, re.M)
    assert told == allowed
    failing = {
        "/v1/key/create/": "create minio-default: ",
        "/v1/key/generate/": "minio-default: ",
        "/v1/key/decrypt/": "minio-default: ",
        "/v1/key/list/": "list: ",
        "/v1/status": "status: ",
        "/v1/metrics": "metrics: ",
        "/v1/api": "api: ",
    }
    with host.start() as server:
        for path in allowed:
            lines = CONFIG.splitlines(keepends=True)
            host.configure("".join(line for line in lines if not line.startswith(f"      - {path}")))
            server.reload()
            result = host.minio(server, "-own", "minio-own", "-foreign", "other", "-may", FURTHER)
            assert result.returncode == 1
            assert result.stderr.startswith(f"{failing[path]}not authorized: insufficient permissions"), path


def test_several_deployments(host: Host) -> None:
    """Each has its own keys, and no way to those of the other."""
    keys = {}
    policies = DEPLOYMENTS.removeprefix("policy:\n")
    for name in ("A", "B"):
        keys[name.lower()], identity = new_identity(type_in("kes identity new", host.root))
        policies = policies.replace(f"${{MINIO_{name}_IDENTITY}}", identity)
    with host.start() as server:
        host.configure(CONFIG.replace("keystore:", f"{policies}keystore:"))
        server.reload()
        for mine, others in ("ab", "ba"):
            result = host.minio(
                server,
                *("-own", f"minio-{mine}-own", "-foreign", f"minio-{others}-default", "-may", "status"),
                key=keys[mine],
                MINIO_KMS_KES_KEY_NAME=f"minio-{mine}-default",
            )
            assert (result.returncode, result.stderr) == (0, "")


def test_errors(host: Host) -> None:
    """The errors that the document explains are those that one gets."""
    with host.start() as server:
        type_in("kes identity new --key other.key --cert other.crt --dns localhost", host.etc)
        result = host.minio(server, MINIO_KMS_KES_CAPATH=str(host.etc / "other.crt"))
        assert "x509: certificate signed by unknown authority" in result.stderr
        result = host.minio(server, MINIO_KMS_KES_ENDPOINT=f"https://127.0.0.1:{server.port}")
        assert "x509: cannot validate certificate for 127.0.0.1" in result.stderr

        stranger, identity = new_identity(type_in("kes identity new", host.etc))
        result = host.minio(server, key=stranger)
        assert "remote error: tls: " in result.stderr
        line = UNTRUSTED.strip().replace(IDENTITY, identity).replace("192.0.2.7", "127.0.0.1")
        assert line in server.wait_for(identity, errors=True)

        host.configure(CONFIG + "log:\n  audit: on\n")
        server.reload()
        result = host.minio(server, "-own", "documents")
        assert result.stderr == "create documents: not authorized: insufficient permissions\n"
        line = server.wait_for(NOT_ALLOWED.strip())
        event = json.loads(line)
        assert (event["response"]["code"], event["request"]["identity"]) == (403, host.identity)
