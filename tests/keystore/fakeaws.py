"""AWS Secrets Manager on a port of 127.0.0.1: moto, with the faults in front of it that it cannot have itself.

It handles one request at a time, as moto's own check and write are not one step, and AWS's are. Nothing is signed or
checked: what credentials a request came with is in `requests`.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, repeat
from typing import Any

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.secretsmanager.models import secretsmanager_backends
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "us-east-2"


@dataclass(frozen=True)
class Request:
    """What came: `operation` is `ListSecrets` and the like, empty for what is none."""

    method: str
    operation: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def signer(self) -> tuple[str, str, str]:
        """The access key's ID, the region and the session's token, empty where there are none."""
        found = re.search(r"Credential=([^/]*)/\d+/([^/]*)/", self.headers.get("authorization", ""))
        key, region = (found[1], found[2]) if found else ("", "")
        return key, region, self.headers.get("x-amz-security-token", "")


@dataclass(frozen=True)
class Fault:
    """What comes in place of moto's answer: another one, or, without a status, the end of the connection.

    With `done` moto has handled the request before. With `held` the answer waits until that event. `dribbled` is called
    before each byte of an answer that begins with `body`, its head included, goes on with blanks, and has no end.
    """

    status: int = 0
    body: bytes = b""
    done: bool = False
    held: threading.Event | None = field(default=None, compare=False)
    dribbled: Callable[[], object] | None = None


def error(code: str, text: str = "", status: int = 400) -> Fault:
    """An error as AWS sends it."""
    return Fault(status, json.dumps({"__type": code, "Message": text}).encode())


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # so that connections are kept, as AWS does

    def log(self, *arguments: object) -> None:
        pass


class FakeAWS:
    """A server, from `start` on; it keeps its port and its secrets when it is stopped and started again."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[tuple[str, Fault]] = []
        self.hook: Callable[[Request], object] = lambda request: None  # called with each request before it is handled
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._port = 0
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.start()

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=_Handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at once: connections that stand are cut."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        while self._sockets:
            _cut(self._sockets.pop())

    def reset(self) -> None:
        """Forget secrets, requests, faults and the hook."""
        self.hook = lambda request: None
        secretsmanager_backends.reset()
        self.requests.clear()
        self.faults.clear()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def fail(self, operation: str, *faults: Fault) -> None:
        """Have the next requests for `operation` fail, each in one of these ways. `GET` stands for the probe."""
        self.faults += [(operation, fault) for fault in faults]

    def client(self) -> Any:
        """A client of its own, independent of the store's."""
        return boto3.client(
            "secretsmanager",
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="admin",
            aws_secret_access_key="admin",
        )

    def plant(self, name: str, value: bytes) -> None:
        """Put a secret in, with any name, and without a request."""
        backend = secretsmanager_backends[DEFAULT_ACCOUNT_ID][REGION]
        backend.create_secret(name, value.decode(), None, None, None, None, None, [], False)

    def operations(self, operation: str) -> list[Request]:
        return [request for request in self.requests if request.operation == operation]

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._sockets.add(environ["werkzeug.socket"])
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        headers = {name[5:].lower().replace("_", "-"): text for name, text in environ.items() if name[:5] == "HTTP_"}
        headers["content-type"] = environ.get("CONTENT_TYPE", "")
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        request = Request(environ["REQUEST_METHOD"], operation, headers, body)
        with self._lock:
            self.requests.append(request)
            self.hook(request)
            wanted = operation or request.method
            fault = next((fault for name, fault in self.faults if name == wanted), None)
            if fault is None:
                return [b"".join(self._moto(environ, start_response))]
            self.faults.remove((wanted, fault))
            if fault.done:
                b"".join(self._moto(environ, lambda *_: None))
        if fault.held is not None:
            fault.held.wait(20)
        if fault.dribbled is not None:
            with suppress(OSError):  # until the client has gone
                for byte in chain(fault.body, repeat(0x20)):
                    fault.dribbled()
                    environ["werkzeug.socket"].sendall(bytes((byte,)))
        if not fault.status:
            _cut(environ["werkzeug.socket"])
        length = ("Content-Length", str(len(fault.body)))
        start_response(f"{fault.status or 200} Fault", [("Content-Type", "application/x-amz-json-1.1"), length])
        return [fault.body]


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it was closed already
        connection.shutdown(socket.SHUT_RDWR)
