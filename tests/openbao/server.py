"""OpenBao as a process: start, initialise, unseal, and everything that may happen to it afterwards.

It keeps port, certificate and storage for as long as it lives, so that clients find it again after a restart. Nothing
sleeps for a fixed time: what is waited for is asked for until it is there.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.openbao.build import bao
from tests.support import TIMEOUT, write_server_certificate

SHARED_MEMORY = Path("/dev/shm")

# What a policy must allow (keystores.md 3.4), no more: never `update` on what holds keys.
RULES = {
    "v1": {"{engine}/*": ["create", "read", "delete", "list"]},
    "v2": {"{engine}/data/*": ["create", "read"], "{engine}/metadata/*": ["list", "delete"]},
}


def until(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """Ask until the answer is true, and return it; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not in {timeout} s: {what}"
        time.sleep(0.05)
    return answer


@dataclass(frozen=True)
class Answer:
    """What the API answered; `data` is the whole JSON document, empty without one."""

    status: int
    data: dict[str, Any]

    @property
    def ok(self) -> bool:
        return self.status < 300


@dataclass(frozen=True)
class AppRole:
    """What logs in: the method's mount, the role's name, its ID and a secret ID."""

    engine: str
    role: str
    id: str
    secret: str


class OpenBao:
    """A server with config, certificate and log in `folder`; its storage outlives the process, not `close`.

    `prefix` is a command that runs it on another host, whose `address` is. With a `client`, a certificate and its key,
    it lets no other certificate in.
    """

    def __init__(
        self,
        folder: Path,
        address: str = "127.0.0.1",
        prefix: tuple[str, ...] = (),
        client: tuple[Path, Path] | None = None,
    ) -> None:
        self.folder = folder
        self.client = client
        self._address = address
        self._prefix = prefix
        self.token = ""
        self._program = bao()
        self._process: subprocess.Popen[bytes] | None = None
        self._unseal_key = ""
        self._local = threading.local()
        self._connections: list[http.client.HTTPSConnection] = []
        self._names = 0
        self.ca, key = write_server_certificate(folder, address)
        ports = free_ports(2)
        self.port = ports[0]
        self.endpoint = f"https://{address}:{self.port}"
        self._context = ssl.create_default_context(cafile=self.ca)
        # Where memory is a file system: OpenBao syncs every write, which a disk takes long for.
        self._storage = Path(tempfile.mkdtemp(prefix="bao-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else folder))
        raft = {
            "path": str(self._storage),
            "node_id": "test",
            "performance_multiplier": "1",  # elects itself sooner
            "max_entry_size": str(4 << 20),  # or no value could be as long as the interface allows
        }
        listener = {
            "address": f"{address}:{self.port}",
            "tls_cert_file": str(self.ca),
            "tls_key_file": str(key),
        }
        if client is not None:
            self._context.load_cert_chain(*client)
            listener |= {"tls_client_ca_file": str(client[0]), "tls_require_and_verify_client_cert": "true"}
        config = {
            "storage": {"raft": raft},
            "listener": {"tcp": listener},
            "api_addr": self.endpoint,
            "cluster_addr": f"https://{address}:{ports[1]}",
            "disable_mlock": True,
            "telemetry": {"disable_hostname": True, "prometheus_retention_time": "1h"},
        }
        (folder / "bao.json").write_text(json.dumps(config))
        self.start()
        made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}).data
        self._unseal_key, self.token = made["keys_base64"][0], made["root_token"]
        self.unseal()

    # The process

    def start(self) -> None:
        """Start the process and wait until it answers: sealed, except for the very first time."""
        with (self.folder / "bao.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, self._program, "server", "-config", self.folder / "bao.json"],
                cwd=self.folder,
                env={"HOME": str(self.folder)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(self._answers, "OpenBao answers")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "bao.log").read_text()
        try:
            self.call("GET", "sys/seal-status")
        except OSError:
            return False
        return True

    def end(self, number: signal.Signals) -> None:
        """Send a signal that ends the process, and wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(TIMEOUT)

    def stop(self) -> None:
        """Let it end in its own time."""
        self.end(signal.SIGTERM)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again after `stop` or `kill`, on the same port and storage, and unseal."""
        self.start()
        self.unseal()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It accepts connections and says nothing until the end of the block."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self._process.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "OpenBao is stopped")
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, in whatever state it is."""
        for connection in self._connections:
            connection.close()
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._storage)

    def __enter__(self) -> OpenBao:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The API, as an administrator

    def call(self, method: str, path: str, body: Any = None, *, namespace: str = "") -> Answer:
        """One request, with the root token; each thread has a connection of its own, which is kept."""
        headers = {"X-Vault-Token": self.token} if self.token else {}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPSConnection(self._address, self.port, context=self._context, timeout=TIMEOUT)
            self._local.connection = connection
            self._connections.append(connection)
        for again in (False, True):
            try:
                connection.request(method, f"/v1/{path}", None if body is None else json.dumps(body), headers)
                response = connection.getresponse()
                text = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()  # the next request opens it again
                if again or isinstance(error, ConnectionRefusedError | TimeoutError):
                    raise
        return Answer(response.status, json.loads(text) if text.strip() else {})

    def ask(self, method: str, path: str, body: Any = None, *, namespace: str = "") -> dict[str, Any]:
        """`call` that must succeed; the JSON document."""
        answer = self.call(method, path, body, namespace=namespace)
        assert answer.ok, f"{method} {path}: {answer.status} {answer.data}"
        return answer.data

    def seal(self) -> None:
        self.ask("PUT", "sys/seal")

    def unseal(self) -> None:
        """Unseal, and wait until it serves."""
        self.ask("PUT", "sys/unseal", {"key": self._unseal_key})
        until(lambda: self.call("GET", "sys/health").status == 200, "OpenBao is active")

    # Setting up. Every name that is made here is used once.

    def fresh(self, word: str) -> str:
        """A name that nothing has."""
        self._names += 1
        return f"{word}-{self._names}"

    def kv(self, version: str, *, engine: str = "", namespace: str = "") -> str:
        """Mount a K/V engine, `v1` or `v2`; its path."""
        engine = engine or self.fresh("kv")
        mount = {"type": "kv", "options": {"version": version.removeprefix("v")}}
        self.ask("POST", f"sys/mounts/{engine}", mount, namespace=namespace)
        # A mount of v2 is not ready at once.
        path = f"{engine}/metadata/?list=true" if version == "v2" else f"{engine}/?list=true"
        until(lambda: self.call("GET", path, namespace=namespace).status == 404, f"{engine} is ready")
        return engine

    def transit(self, *, engine: str = "", key: str = "key", namespace: str = "") -> str:
        """Mount a transit engine with a key; its path."""
        engine = engine or self.fresh("transit")
        self.ask("POST", f"sys/mounts/{engine}", {"type": "transit"}, namespace=namespace)
        self.ask("POST", f"{engine}/keys/{key}", {}, namespace=namespace)
        return engine

    def policy(self, rules: Mapping[str, Iterable[str]], *, namespace: str = "") -> str:
        """Write a policy that allows the capabilities on the paths; its name."""
        name = self.fresh("policy")
        self.write_policy(name, rules, namespace=namespace)
        return name

    def write_policy(self, name: str, rules: Mapping[str, Iterable[str]], *, namespace: str = "") -> None:
        """Write a policy, in place of the one of that name."""
        text = json.dumps({"path": {path: {"capabilities": [*capabilities]} for path, capabilities in rules.items()}})
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": text}, namespace=namespace)

    def key_policy(self, version: str, engine: str, *, transit: str = "", key: str = "key", namespace: str = "") -> str:
        """Write the least policy under which a server can work; its name."""
        rules = {path.format(engine=engine): allowed for path, allowed in RULES[version].items()}
        if transit:
            rules |= {f"{transit}/{call}/{key}": ["update"] for call in ("encrypt", "decrypt")}
        return self.policy(rules, namespace=namespace)

    def app_role(self, policy: str, *, namespace: str = "", **settings: object) -> AppRole:
        """Mount AppRole with one role that has the policy, and make a secret ID. `settings` are the role's."""
        engine, role = self.fresh("approle"), "kes"
        self.ask("POST", f"sys/auth/{engine}", {"type": "approle"}, namespace=namespace)
        where = f"auth/{engine}/role/{role}"
        self.ask("POST", where, {"token_policies": [policy], "token_ttl": "1h", **settings}, namespace=namespace)
        role_id = self.ask("GET", f"{where}/role-id", namespace=namespace)["data"]["role_id"]
        return AppRole(engine, role, role_id, self.secret_id(engine, role, namespace=namespace))

    def secret_id(self, engine: str, role: str = "kes", *, namespace: str = "", **settings: object) -> str:
        """Make a secret ID."""
        made = self.ask("POST", f"auth/{engine}/role/{role}/secret-id", settings, namespace=namespace)
        return made["data"]["secret_id"]

    def revoke_secret_id(self, role: AppRole) -> None:
        self.ask("POST", f"auth/{role.engine}/role/{role.role}/secret-id/destroy", {"secret_id": role.secret})

    def add_secret_id(self, role: AppRole) -> None:
        """Let the role's secret ID log in again after it was revoked."""
        self.ask("POST", f"auth/{role.engine}/role/{role.role}/custom-secret-id", {"secret_id": role.secret})

    def tokens(self, engine: str, *, namespace: str = "") -> list[str]:
        """The accessors of the tokens that a login method has issued."""
        found = []
        for accessor in self.ask("LIST", "auth/token/accessors", namespace=namespace)["data"]["keys"]:
            known = self.call("POST", "auth/token/lookup-accessor", {"accessor": accessor}, namespace=namespace)
            if known.ok and known.data["data"]["path"] == f"auth/{engine}/login":
                found.append(accessor)
        return found

    def revoke_tokens(self, engine: str) -> None:
        """Revoke every token that a login method has issued."""
        self.ask("PUT", f"sys/leases/revoke-prefix/auth/{engine}/login")

    def kubernetes(self, policy: str, reviewer: tuple[str, str], *, namespace: str = "", **settings: object) -> str:
        """Mount Kubernetes, with a role `kes` for the account `kes` in `apps`; its path.

        `reviewer` is the URL of the Kubernetes API and its authority's certificate, PEM.
        """
        engine = self.fresh("kubernetes")
        self.ask("POST", f"sys/auth/{engine}", {"type": "kubernetes"}, namespace=namespace)
        url, ca = reviewer
        config = {
            "kubernetes_host": url,
            "kubernetes_ca_cert": ca,
            "token_reviewer_jwt": "reviewer",
            "disable_local_ca_jwt": True,
        }
        self.ask("POST", f"auth/{engine}/config", config, namespace=namespace)
        role = {
            "bound_service_account_names": ["kes"],
            "bound_service_account_namespaces": ["apps"],
            "token_policies": [policy],
            "token_ttl": "1h",
            **settings,
        }
        self.ask("POST", f"auth/{engine}/role/kes", role, namespace=namespace)
        return engine

    def namespace(self) -> str:
        """Make a namespace; its path."""
        name = self.fresh("ns")
        self.ask("POST", f"sys/namespaces/{name}", {})
        return name

    # Entries, exactly as another program would write and read them (keystores.md 3.4)

    def write(self, version: str, engine: str, path: str, fields: object, *, namespace: str = "") -> Answer:
        where = f"{engine}/data/{quote(path)}" if version == "v2" else f"{engine}/{quote(path)}"
        body = {"options": {"cas": 0}, "data": fields} if version == "v2" else fields
        return self.call("PUT", where, body, namespace=namespace)

    def read(self, version: str, engine: str, path: str, *, namespace: str = "") -> dict[str, Any]:
        """The fields of an entry."""
        where = f"{engine}/data/{quote(path)}?version=1" if version == "v2" else f"{engine}/{quote(path)}"
        data = self.ask("GET", where, namespace=namespace)["data"]
        return data["data"] if version == "v2" else data

    def count(self, operation: str, engine: str) -> int:
        """How many requests of a kind, such as `read`, a mount has had."""
        connection = http.client.HTTPSConnection(self._address, self.port, context=self._context, timeout=TIMEOUT)
        connection.request("GET", "/v1/sys/metrics?format=prometheus", headers={"X-Vault-Token": self.token})
        text = connection.getresponse().read().decode()
        connection.close()
        name = f"route_{operation}_{engine.replace('-', '_')}__count "
        return sum(int(float(line.rpartition(" ")[2])) for line in text.splitlines() if name in line)


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
