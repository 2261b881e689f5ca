"""As much of a Kubernetes API server as OpenBao asks when a service account logs in: the review of its token."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support import write_server_certificate

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"


def service_account_token(account: str = "kes", namespace: str = "apps", serial: int = 1) -> str:
    """A token of the form that Kubernetes projects into a pod. Nobody checks its signature but the review."""
    claims = {
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "jti": str(serial),
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": f"uid-{account}"}},
    }
    parts = [json.dumps({"alg": "RS256", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


class TokenReviewer:
    """A server that vouches for the tokens in `valid`, over TLS with a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        self.valid: set[str] = set()
        self.reviewed: list[str] = []
        cert, key = write_server_certificate(folder)
        self.ca = cert.read_text()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _handler(reviewer) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's below
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps({**review, "status": reviewer.review(review["spec"]["token"])}).encode()
                self.send_response(201 if self.path == PATH else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        return Handler

    def review(self, token: str) -> dict[str, Any]:
        """The status of a TokenReview."""
        self.reviewed.append(token)
        if token not in self.valid:
            return {"authenticated": False, "error": "invalid bearer token"}
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        uid = claims["kubernetes.io"]["serviceaccount"]["uid"]
        return {
            "authenticated": True,
            "user": {"username": claims["sub"], "uid": uid, "groups": ["system:authenticated"]},
        }

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
