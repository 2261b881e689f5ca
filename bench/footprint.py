"""Start-up time and memory of a server, as a table: `python bench/footprint.py`.

Start-up is from exec to the first accepted connection, median of several runs. Memory is the resident set after a
warm-up and after 100,000 generate requests over keep-alive connections with mutual TLS; their difference shows whether
it grows. Absolute figures depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support import ADMIN, KES, Client, client_context, start, write_config

PIPELINED = 50  # requests that one write holds


def installed(folder: Path) -> dict[str, str]:
    """An environment in which modules are compiled once, as they are where the package is installed."""
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return environ


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_up(folder: Path, environ: dict[str, str]) -> float:
    """Seconds from exec to the first accepted connection."""
    port = free_port()
    config = write_config(folder)
    begun = time.perf_counter()
    process = subprocess.Popen(
        [KES, "server", "--addr", f"127.0.0.1:{port}", "--config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.002)
        else:
            break
    taken = time.perf_counter() - begun
    process.terminate()
    process.wait()
    return taken


def resident(pid: int) -> int:
    """The process's resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


class Generator:
    """Pipelines generate requests on one connection."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
        body = b'{"context":"Y29udGV4dA=="}'
        head = b"PUT /v1/key/generate/bench HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._batch = (head + body) * PIPELINED

    def run(self, requests: int) -> None:
        for _ in range(requests // PIPELINED):
            self._socket.sendall(self._batch)
            answers = b""
            while answers.count(b'"ciphertext":') < PIPELINED or not answers.endswith(b"}\n"):
                data = self._socket.recv(1 << 16)
                if not data:
                    raise RuntimeError("the server closed the connection")
                answers += data
            if answers.count(b"HTTP/1.1 200 ") != PIPELINED:
                raise RuntimeError("a request failed")

    def close(self) -> None:
        self._socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = installed(folder)
        start_up(folder, environ)
        taken = [start_up(folder, environ) for _ in range(options.starts)]
        with start(folder, env=environ) as server:
            admin = Client(server.port, client_context(folder, ADMIN))
            admin.request("PUT", "/v1/key/create/bench")
            admin.close()
            generators = [Generator(server.port, client_context(folder, ADMIN)) for _ in range(8)]
            memory = [resident(server.process.pid)]
            for _ in range(5):
                begun = time.perf_counter()
                for generator in generators:
                    generator.run(options.requests // 5 // len(generators))
                rate = options.requests / 5 / (time.perf_counter() - begun)
                memory.append(resident(server.process.pid))
            for generator in generators:
                generator.close()
    print(f"exec to accepting connections   {statistics.median(taken):.2f} s (median of {len(taken)})")
    for index, value in enumerate(memory):
        print(f"resident after {index * options.requests // 5:>9,} requests   {value / 1e6:.1f} MB")
    print(f"rate in the last fifth          {rate:,.0f} requests/s (one pipelining client, in this process)")


if __name__ == "__main__":
    main()
