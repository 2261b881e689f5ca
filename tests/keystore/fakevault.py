"""A fake of Vault: as much of its API as a key store needs, over real HTTP, with faults that a real one has by chance.

It has K/V engines of both versions, AppRole and Kubernetes logins, tokens that expire on a clock of the test's, transit
keys with versions, a seal, and namespaces. Refusals have the bodies that OpenBao sends.
"""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Body = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A request as it came in; the path is what stands behind `/v1/`."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: Any

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Fault:
    """What happens to the next `times` requests whose `METHOD path` begins with `where`.

    `before` is called first. Then there is the answer `status` with `content`, or, without a status, what the request
    leads to; of which the client hears nothing if `lost`. `dropped` is a connection that ends before anything happens.
    `dribbled` is called before each byte of an answer that has this beginning, goes on with blanks, and has no end.
    """

    where: str
    times: int = 1
    before: Callable[[], object] | None = None
    status: int = 0
    content: bytes = b'{"errors":["made up"]}'
    content_type: str = "application/json"
    location: str = ""
    lost: bool = False
    dropped: bool = False
    dribbled: Callable[[], object] | None = None


@dataclass
class Token:
    namespace: str
    expires: float
    last: float  # no renewal goes beyond


@dataclass
class Versioned:
    """An entry of K/V version 2: its versions, None where one was soft-deleted or removed."""

    versions: list[dict[str, Any] | None] = field(default_factory=list)


class FakeVault:
    """Listens on a free port of 127.0.0.1 until `close`. All attributes may be changed at any time."""

    def __init__(self, clock: Callable[[], float], tls: ssl.SSLContext | None = None) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.initialized = True
        self.sealed = False
        self.standby = False
        self.namespaces = {""}
        self.v1: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}  # by namespace and mount: fields by path
        self.v2: dict[tuple[str, str], dict[str, Versioned]] = {}
        self.transit: dict[tuple[str, str], dict[str, int]] = {}  # by namespace and mount: versions of keys
        self.logins: dict[tuple[str, str], Body] = {}  # by namespace and mount: the body that may log in
        self.tokens: dict[str, Token] = {}
        self.ttl = 3600.0
        self.max_ttl = 1e9
        self.renewable = True
        self.may_update = False  # whether the policy allows to overwrite
        self.denied: list[str] = []  # beginnings of `METHOD path` that the policy does not allow
        self.mounts_hidden = False  # whether sys/internal/ui/mounts is denied
        self._wrapped: dict[str, str] = {}
        self._connections: set[Any] = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                fake._connections.add(self.connection)

            def finish(self) -> None:
                fake._connections.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def handle(self) -> None:
                with suppress(OSError):
                    super().handle()

            def log_message(self, *arguments: object) -> None:
                pass

            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake._answer(self, content)

            do_GET = do_PUT = do_POST = do_DELETE = answer

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connections that stand, as a server does that is restarted."""
        for connection in [*self._connections]:
            with suppress(OSError):
                connection.shutdown(2)

    def fail(self, where: str, **fault: Any) -> None:
        self.faults.append(Fault(where, **fault))

    def count(self, where: str) -> int:
        """How many requests whose `METHOD path` begins with `where` have come."""
        return sum(seen.line.startswith(where) for seen in self.seen)

    def revoke_all(self) -> None:
        self.tokens.clear()

    # Requests

    def _answer(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        url = urlsplit(handler.path)
        path = unquote(url.path.removeprefix("/v1/"))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        seen = Seen(handler.command, path, url.query, headers, json.loads(content) if content else None)
        with self.lock:
            self.seen.append(seen)
            fault = next((f for f in self.faults if f.times and seen.line.startswith(f.where)), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None and fault.dropped:
            handler.close_connection = True
            return
        if fault is not None and fault.dribbled is not None:
            for byte in itertools.chain(fault.content, itertools.repeat(0x20)):  # until the client has gone
                fault.dribbled()
                handler.wfile.write(bytes((byte,)))
        if fault is not None and fault.status:
            self._send(handler, fault.status, fault.content, fault.content_type, fault.location)
            return
        with self.lock:
            status, body = self._handle(seen)
        if fault is not None and fault.lost:
            handler.close_connection = True
            return
        self._send(handler, status, b"" if body is None else json.dumps(body).encode() + b"\n")

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        content_type: str = "application/json",
        location: str = "",
    ) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n"
        if location:
            head += f"Location: {location}\r\n"
        handler.wfile.write(head.encode() + b"\r\n" + content)

    def _handle(self, seen: Seen) -> tuple[int, Body | None]:
        namespace = seen.headers.get("x-vault-namespace", "").strip("/")
        if seen.path == "sys/health":
            return self._health(seen, namespace)
        if self.sealed or not self.initialized:
            return 503, {"errors": ["Vault is sealed"]}
        if namespace not in self.namespaces:
            return 403, {"errors": ["permission denied"]}
        if seen.path.startswith("auth/") and seen.path.endswith("/login"):
            return self._login(seen, namespace)
        token = self.tokens.get(seen.headers.get("x-vault-token", ""))
        if token is None or self.clock() >= token.expires:
            return 403, {"errors": ["permission denied"]}
        if seen.path.startswith("auth/token/"):
            return self._token(seen, token, namespace)
        if any(seen.line.startswith(denied) for denied in self.denied):
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if seen.path == "sys/capabilities-self":
            granted = ["create", "read", "delete", "list"] + (["update"] if self.may_update else [])
            return 200, {"data": {"capabilities": granted}}
        if seen.path.startswith("sys/internal/ui/mounts/"):
            return self._mount(seen.path.removeprefix("sys/internal/ui/mounts/"), namespace)
        for (where, mount), entries in self.v1.items():
            if where == namespace and (seen.path.startswith(f"{mount}/") or seen.path == mount):
                return self._v1(seen, entries, seen.path.removeprefix(mount).lstrip("/"))
        for (where, mount), versioned in self.v2.items():
            if where == namespace and seen.path.startswith(f"{mount}/"):
                return self._v2(seen, versioned, seen.path.removeprefix(f"{mount}/"))
        for (where, mount), keys in self.transit.items():
            if where == namespace and seen.path.startswith(f"{mount}/"):
                return self._transit(seen, keys, seen.path.removeprefix(f"{mount}/"))
        return 404, {"errors": [f'no handler for route "{seen.path}". route entry not found.']}

    def _health(self, seen: Seen, namespace: str) -> tuple[int, Body | None]:
        if namespace:
            return 404, {"errors": []}
        codes = {name: int(values[0]) for name, values in parse_qs(seen.query).items()}
        state = {
            "initialized": self.initialized,
            "sealed": self.sealed or not self.initialized,
            "standby": self.standby,
        }
        if not self.initialized:
            return codes.get("uninitcode", 501), state
        if self.sealed:
            return codes.get("sealedcode", 503), state
        return codes.get("standbycode", 429) if self.standby else 200, state

    def _login(self, seen: Seen, namespace: str) -> tuple[int, Body | None]:
        expected = self.logins.get((namespace, seen.path.removeprefix("auth/").removesuffix("/login")))
        if expected is None:
            return 403, {"errors": ["permission denied"]}
        if seen.body != expected:
            return 400, {"errors": ["invalid role or secret ID"]}
        value = f"s.{secrets.token_hex(12)}"
        now = self.clock()
        ttl = min(self.ttl, self.max_ttl)
        self.tokens[value] = Token(namespace, now + ttl if ttl else float("inf"), now + self.max_ttl)
        return 200, {"auth": {"client_token": value, "lease_duration": int(ttl), "renewable": self.renewable}}

    def _token(self, seen: Seen, token: Token, namespace: str) -> tuple[int, Body | None]:
        if namespace != token.namespace:
            return 403, {"errors": ["permission denied"]}
        value = seen.headers["x-vault-token"]
        if seen.line == "GET auth/token/lookup-self":
            return 200, {"data": {"ttl": int(token.expires - self.clock())}}
        if seen.line == "PUT auth/token/revoke-self":
            del self.tokens[value]
            return 204, None
        assert (seen.line, seen.body) == ("PUT auth/token/renew-self", {"increment": 0})
        if not self.renewable:
            return 400, {"errors": ["lease is not renewable"]}
        now = self.clock()
        token.expires = min(now + self.ttl, token.last)
        return 200, {"auth": {"client_token": value, "lease_duration": int(token.expires - now), "renewable": True}}

    def _mount(self, path: str, namespace: str) -> tuple[int, Body | None]:
        kinds: list[tuple[str, Any, Any]] = [
            ("kv", None, self.v1),
            ("kv", {"version": "2"}, self.v2),
            ("transit", None, self.transit),
        ]
        for kind, options, mounts in kinds:
            if (namespace, path) in mounts and not self.mounts_hidden:
                return 200, {"data": {"type": kind, "options": options, "path": f"{path}/"}}
        return 403, {"errors": ["preflight capability check returned 403"]}

    def _v1(self, seen: Seen, entries: dict[str, dict[str, Any]], path: str) -> tuple[int, Body | None]:
        if seen.query == "list=true":
            return self._listing(entries, path)
        if seen.method == "GET":
            return (200, {"data": entries[path]}) if path in entries else (404, {"errors": []})
        if seen.method == "DELETE":
            entries.pop(path, None)
            return 204, None
        if path in entries and not self.may_update:
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        entries[path] = seen.body
        return 204, None

    def _v2(self, seen: Seen, entries: dict[str, Versioned], path: str) -> tuple[int, Body | None]:
        kind, _, name = path.partition("/")
        if kind == "metadata" and seen.query == "list=true":
            return self._listing(entries, name)
        if kind == "metadata" and seen.method == "DELETE":
            entries.pop(name, None)
            return 204, None
        if kind != "data":
            warning = (
                "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints"
            )
            return 404, {"request_id": "1", "data": None, "warnings": [warning], "auth": None}
        entry = entries.get(name)
        if seen.method == "GET":
            wanted = parse_qs(seen.query).get("version", ["0"])[0]
            number = int(wanted) or (len(entry.versions) if entry else 0)
            if entry is None or not 1 <= number <= len(entry.versions):
                return 404, {"errors": []}
            fields = entry.versions[number - 1]
            metadata = {"version": number, "deletion_time": "" if fields else "2024-01-01T00:00:00Z"}
            return 200 if fields else 404, {"data": {"data": fields, "metadata": metadata}}
        if entry is not None and seen.body["options"]["cas"] != len(entry.versions):
            if not self.may_update:
                return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
            return 400, {"errors": ["check-and-set parameter did not match the current version"]}
        entries[name] = Versioned([seen.body["data"]])
        return 200, {"data": {"version": 1, "destroyed": False}}

    def _listing(self, entries: dict[str, Any], folder: str) -> tuple[int, Body | None]:
        below = f"{folder.strip('/')}/" if folder.strip("/") else ""
        names = set()
        for path in entries:
            if path.startswith(below):
                name, slash, _ = path[len(below) :].partition("/")
                names.add(name + slash)
        return (200, {"data": {"keys": sorted(names)}}) if names else (404, {"errors": []})

    def _transit(self, seen: Seen, keys: dict[str, int], path: str) -> tuple[int, Body | None]:
        verb, _, key = path.partition("/")
        if verb not in ("encrypt", "decrypt"):
            return 404, {"errors": ["no handler for route"]}
        if key not in keys:
            return 400, {"errors": ["encryption key not found"]}
        if verb == "encrypt":
            assert base64.b64decode(seen.body["plaintext"], validate=True)
            ciphertext = f"vault:v{keys[key]}:{base64.b64encode(secrets.token_bytes(24)).decode()}"
            self._wrapped[ciphertext] = seen.body["plaintext"]
            return 200, {"data": {"ciphertext": ciphertext, "key_version": keys[key]}}
        plaintext = self._wrapped.get(seen.body["ciphertext"])
        if plaintext is None:
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": plaintext}}
