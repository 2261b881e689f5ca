"""The sample manifest: Kubernetes takes it, the server takes its config, and what it says of the server is so."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM

import kubernetes_validate
import pytest
import yaml

from kes.config.loader import load
from tests.documents import ROOT, blocks, type_in
from tests.openbao.kubernetes import TokenReviewer, service_account_token
from tests.openbao.server import OpenBao, until
from tests.support import APP, TIMEOUT, Server

DOCUMENT = (ROOT / "docs" / "kubernetes.md").read_text()
RESOURCES = {
    resource["kind"]: resource for resource in yaml.safe_load_all((ROOT / "etc/kubernetes/kes.yaml").read_text())
}
POD = RESOURCES["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
CONFIG = RESOURCES["ConfigMap"]["data"]["config.yml"]
PROBES = {name: CONTAINER[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
RECOVERY = 25  # seconds; the server asks its store every 10 s


@dataclass(frozen=True)
class Answer:
    """What a probe got: a status, or none."""

    status: int | None

    @property
    def success(self) -> bool:
        """By the rule of Kubernetes."""
        return self.status is not None and 200 <= self.status < 400


def probe(port: int, name: str) -> Answer:
    """Probe as a kubelet does: HTTPS whatever the certificate, without one of its own, a connection each time."""
    settings = PROBES[name]
    request = settings["httpGet"]
    assert request["scheme"] == "HTTPS"
    context = ssl._create_unverified_context()
    limit = settings.get("timeoutSeconds", 1)
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=max(limit, TIMEOUT))
    begun = time.monotonic()
    try:
        headers = {"User-Agent": "kube-probe/1.37", "Accept": "*/*", "Connection": "close"}
        connection.request("GET", request["path"], headers=headers)
        return Answer(connection.getresponse().status)
    except ConnectionRefusedError:
        return Answer(None)
    finally:
        connection.close()
        assert time.monotonic() - begun < limit + TIMEOUT


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as bao:
        yield bao


@pytest.fixture(scope="module")
def reviewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenReviewer]:
    reviewer = TokenReviewer(tmp_path_factory.mktemp("kubernetes"))
    yield reviewer
    reviewer.close()


def in_image(instruction: str) -> str:
    """What the image's file says last."""
    return re.findall(rf"^{instruction} (.*)$", (ROOT / "Containerfile").read_text(), re.M)[-1]


def make_certificate(folder: Path) -> None:
    """Make the server's key and certificate as the document says, and put them into the Secret's volume."""
    (make,) = blocks(DOCUMENT, "sh")
    type_in(f"rm -f private.key public.crt\n{make}", folder)
    mount_secret(folder / "tls", {"tls.key": folder / "private.key", "tls.crt": folder / "public.crt"})


def mount_secret(folder: Path, files: dict[str, Path]) -> None:
    """Put files, by the names that they get, into a volume as a kubelet does, or others in their place: in one step."""
    folder.mkdir(exist_ok=True)
    data = folder / f"..{len(list(folder.iterdir()))}"
    data.mkdir()
    (volume,) = (volume for volume in POD["volumes"] if volume["name"] == "tls")
    for name, file in files.items():
        shutil.copyfile(file, data / name)
        (data / name).chmod(volume["secret"]["defaultMode"])
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(data.name)
    (folder / "..data_tmp").rename(folder / "..data")


@pytest.fixture
def server(tmp_path: Path, bao: OpenBao, reviewer: TokenReviewer) -> Iterator[Server]:
    """The image's program with the container's arguments and volumes, and OpenBao where the sample has Vault."""
    token = service_account_token()
    reviewer.valid = {token}
    engine = bao.kv("v2")
    login = bao.kubernetes(bao.key_policy("v2", engine), (reviewer.url, reviewer.ca))
    make_certificate(tmp_path)
    mounted = {
        "/etc/kes/config.yml": tmp_path / "config.yml",
        "/etc/kes/tls/tls.key": tmp_path / "tls" / "tls.key",
        "/etc/kes/tls/tls.crt": tmp_path / "tls" / "tls.crt",
        "/etc/kes/vault/ca.crt": bao.ca,
        "/var/run/secrets/kubernetes.io/serviceaccount/token": tmp_path / "token",
    }
    (tmp_path / "token").write_text(token)
    changes = {
        "0.0.0.0:7373": "127.0.0.1:0",
        "https://vault.vault.svc:8200": bao.endpoint,
        "engine: kes\n": f"engine: {engine}\n",
        "engine: kubernetes\n": f"engine: {login}\n",
        **{path: str(file) for path, file in mounted.items() if path in CONFIG},
    }
    text = CONFIG
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    mounted["/etc/kes/config.yml"].write_text(text)
    _, *entrypoint = json.loads(in_image("ENTRYPOINT"))
    command = [sys.executable, *entrypoint, *(str(mounted.get(argument, argument)) for argument in CONTAINER["args"])]
    # Nothing but the container's own environment.
    (variable,) = CONTAINER["env"]
    with Server(command, cwd=tmp_path, env={variable["name"]: APP.identity}) as server:
        yield server


def test_kubernetes_takes_it() -> None:
    """Every resource is valid by Kubernetes' own schema, without a field that it does not know."""
    for resource in RESOURCES.values():
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_references() -> None:
    """What one part names, another has; what the sample does not hold, the document makes."""
    labels = RESOURCES["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert RESOURCES["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert RESOURCES["Service"]["spec"]["selector"] == labels
    assert RESOURCES["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert POD["serviceAccountName"] == RESOURCES["ServiceAccount"]["metadata"]["name"]
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    (port,) = CONTAINER["ports"]
    assert {settings["httpGet"]["port"] for settings in PROBES.values()} == {port["name"]}
    assert RESOURCES["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert f"address: 0.0.0.0:{port['containerPort']}\n" in CONFIG
    made = {RESOURCES["ConfigMap"]["metadata"]["name"], *re.findall(r"kubectl create \S+ (?:tls )?(\S+)", DOCUMENT)}
    for volume in POD["volumes"]:
        assert (volume.get("secret", {}).get("secretName") or volume["configMap"]["name"]) in made


def test_config_loads(tmp_path: Path) -> None:
    """The config in the ConfigMap is one, with the environment that the container has, and gives rise to no warning."""
    token = tmp_path / "token"
    token.write_text(service_account_token())
    text = CONFIG.replace("/var/run/secrets/kubernetes.io/serviceaccount/token", str(token))
    (tmp_path / "config.yml").write_text(text)
    config = load(str(tmp_path / "config.yml"), {one["name"]: one["value"] for one in CONTAINER["env"]})
    assert not config.warnings
    for settings in PROBES.values():
        assert config.api[settings["httpGet"]["path"]].skip_auth
    assert PROBES["readiness"]["timeoutSeconds"] > config.api["/v1/ready"].timeout


def test_may_do_nothing_else() -> None:
    """The pod meets the restricted Pod Security Standard, and cannot write its own file system."""
    context = POD["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == in_image("USER")
    assert context["fsGroup"] == context["runAsGroup"]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_probes(server: Server, bao: OpenBao) -> None:
    """Without a certificate the probes find the server well; without its key store it is not ready, and alive."""
    assert all(probe(server.port, name).success for name in PROBES)
    assert not any("level=WARN" in line for line in server.err)
    bao.kill()
    try:
        until(lambda: not probe(server.port, "readiness").success, "the server is not ready")
        assert probe(server.port, "liveness").success
        assert probe(server.port, "startup").success
    finally:
        bao.restart()
    until(lambda: probe(server.port, "readiness").success, "the server is ready", RECOVERY)


def test_silent_key_store(server: Server, bao: OpenBao) -> None:
    """A key store that says nothing makes it unready by its own word, before the probe gives up."""
    with bao.paused():
        assert probe(server.port, "readiness").status == 504
        assert probe(server.port, "liveness").success


def test_changed_certificate(tmp_path: Path, server: Server) -> None:
    """A Secret that has changed is used without a restart, and without a SIGHUP."""

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", server.port))

    assert shown() == (tmp_path / "public.crt").read_text()
    make_certificate(tmp_path)
    server.wait_for("using the changed TLS files", errors=True)
    assert shown() == (tmp_path / "public.crt").read_text()


def test_others_need_a_certificate(server: Server) -> None:
    """What is open for the probes opens nothing else but the version."""
    assert server.client(None).request("GET", "/version").status == 200
    for path in ("/v1/status", "/v1/metrics", "/v1/key/list/"):
        assert server.client(None).request("GET", path).status == 400
    assert server.client(APP).request("PUT", "/v1/key/create/my-app").status == 200


def test_stop(server: Server) -> None:
    """SIGTERM: what is under way is answered, nobody gets in any more, and it ends well within the time that it has."""
    client = server.client(APP)
    assert client.request("PUT", "/v1/key/create/my-app").status == 200
    client.connection.putrequest("PUT", "/v1/key/generate/my-app")
    client.connection.putheader("Content-Length", "2")
    client.connection.putheader("Expect", "100-continue")
    client.connection.endheaders()
    assert client.connection.sock.recv(1024).startswith(b"HTTP/1.1 100 ")  # it is under way
    begun = time.monotonic()
    server.process.send_signal(SIGTERM)
    server.wait_for("Goodbye")
    until(lambda: probe(server.port, "readiness").status is None, "nobody gets in")
    client.connection.send(b"{}")
    assert client.connection.getresponse().status == 200
    assert server.process.wait(TIMEOUT) == 0
    left = POD["terminationGracePeriodSeconds"] - CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert time.monotonic() - begun < left
