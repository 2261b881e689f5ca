"""Rates, latencies and CPU time under the official Go SDK, next to those of nginx, as a table: `make bench`.

In each row two servers, or two settings, take the same load by turns. The figures are medians over the runs, and each
ratio is the median of the ratios within a pair of runs: load, server and whatever else the machine does share its CPUs,
so a ratio means more than the figures. nginx gives the same answer to every request. CPU time is what the OS counts for
all processes of a server, by request. `--soak 30` loads this server alone for 30 minutes and shows its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.footprint import free_port, installed, resident
from tests.support import ADMIN, APP, KES, TIMEOUT, Client, client_context, write_config

KEY = "my-app-bench"  # which the policy my-app covers
TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/nginx;
    proxy_temp_path {folder}/nginx;
    fastcgi_temp_path {folder}/nginx;
    uwsgi_temp_path {folder}/nginx;
    scgi_temp_path {folder}/nginx;
    server {{
        {listen}
        http2_max_concurrent_streams 256;
        ssl_certificate {folder}/server.crt;
        ssl_certificate_key {folder}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_verify_client optional_no_ca;
        ssl_session_cache off;
        ssl_session_tickets off;
        location /v1/key/generate/ {{ return 200 '{generated}'; }}
        location /v1/key/decrypt/ {{ return 200 '{decrypted}'; }}
    }}
}}
"""


@dataclass(frozen=True)
class Load:
    """What one run does, and to which server."""

    server: str
    operation: str
    protocol: str
    concurrency: int


@dataclass(frozen=True)
class Row:
    """Two loads to compare; the least ratio of their rates and the greatest of their CPU times that are aimed at."""

    title: str
    load: Load
    reference: Load
    least_rate: float | None = None
    most_cpu: float | None = None

    def __str__(self) -> str:
        return f"{self.title}, {self.load.operation} {self.load.protocol} {self.load.concurrency}"


@dataclass(frozen=True)
class Run:
    """What one run measured: requests a second, milliseconds, and microseconds of the server's CPU by request."""

    rate: float
    p50: float
    p99: float
    cpu: float


Pairs = dict[Row, list[tuple[Run, Run]]]


def nginx(
    operation: str, protocol: str, concurrency: int, least_rate: float | None = None, most_cpu: float | None = None
) -> Row:
    """A row that compares this server with nginx."""
    load = Load("kes", operation, protocol, concurrency)
    return Row("kes : nginx", load, replace(load, server="nginx"), least_rate, most_cpu)


BUSY = Load("kes", "generate", "HTTP/2.0", 32)
ROWS = [
    nginx("generate", "HTTP/2.0", 1, least_rate=0.42),
    nginx("generate", "HTTP/2.0", 8, least_rate=0.68),
    nginx("generate", "HTTP/2.0", 32, least_rate=0.95, most_cpu=1.0),
    nginx("generate", "HTTP/2.0", 128),
    nginx("decrypt", "HTTP/2.0", 1),
    nginx("decrypt", "HTTP/2.0", 8),
    nginx("decrypt", "HTTP/2.0", 32),
    nginx("decrypt", "HTTP/2.0", 128),
    nginx("generate", "HTTP/1.1", 32, most_cpu=1.7),
    nginx("decrypt", "HTTP/1.1", 32),
    nginx("handshake", "HTTP/2.0", 32, least_rate=0.7),
    Row("decrypt : generate", replace(BUSY, operation="decrypt"), BUSY, least_rate=0.9),
    Row("audit on : off", replace(BUSY, server="audit"), BUSY, least_rate=0.85),
]


@contextmanager
def serving(command: list[str], port: int, environ: dict[str, str]) -> Iterator[int]:
    """A server that accepts connections, as its process id, until the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                if process.poll() is not None:
                    raise SystemExit(f"{command[0]} does not start") from None
                time.sleep(0.02)
            else:
                break
        yield process.pid
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def cpu_time(pid: int) -> float:
    """Seconds, user and system, that a process and its children have taken."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS + sum(cpu_time(int(child)) for child in children)


def require(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        raise SystemExit(f"this needs the program {program!r}")
    return path


def build_load(folder: Path) -> Path:
    """Build the load program in `folder`."""
    program = folder / "load"
    source = Path(__file__).parent / "load"
    subprocess.run([require("go"), "build", "-o", program, "."], cwd=source, check=True)
    return program


def start_load(program: Path, port: int, folder: Path, load: Load, seconds: float) -> subprocess.Popen[str]:
    """Start a load on the server at `port`, whose certificate is in `folder`."""
    options = {
        "-server": f"https://127.0.0.1:{port}",
        "-ca": folder / "server.crt",
        "-key": APP,
        "-name": KEY,
        "-op": load.operation,
        "-protocol": load.protocol,
        "-concurrency": load.concurrency,
        "-duration": f"{seconds}s",
    }
    command = [str(program), *(str(word) for option in options.items() for word in option)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Bench:
    """The load program and the servers, each started once, in a folder of their own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._environ = installed(folder)
        self._ports: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self._load = build_load(folder)
        self._start_kes("kes")
        admin = Client(self._ports["kes"], client_context(folder, ADMIN))
        admin.request("PUT", f"/v1/key/create/{KEY}")
        admin.close()

    def _serve(self, name: str, command: list[str], port: int) -> None:
        self.pids[name] = self._stack.enter_context(serving(command, port, self._environ))
        self._ports[name] = port

    def _start_kes(self, name: str, **sections: object) -> None:
        port = free_port()
        config = write_config(self._folder, **sections)
        self._serve(name, [KES, "server", "--addr", f"127.0.0.1:{port}", "--config", str(config)], port)

    def start_audit(self) -> None:
        """Start a second server, of the same keys, that writes its audit log to /dev/null."""
        self._start_kes("audit", log={"audit": "on"})

    def start_nginx(self) -> None:
        """Start nginx with the answers that this server gives."""
        program = require("nginx")
        app = Client(self._ports["kes"], client_context(self._folder, APP))
        generated = app.request("PUT", f"/v1/key/generate/{KEY}")
        ciphertext = generated.json["ciphertext"]
        decrypted = app.request("PUT", f"/v1/key/decrypt/{KEY}", {"ciphertext": ciphertext})
        app.close()
        port = free_port()
        version = subprocess.run([program, "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr
        directive = [int(number) for number in re.findall(r"\d+", version)[:3]] >= [1, 25, 1]
        listen = f"listen 127.0.0.1:{port} ssl{'; http2 on' if directive else ' http2'};"
        config = self._folder / "nginx.conf"
        config.write_text(
            NGINX.format(
                folder=self._folder, listen=listen, generated=generated.body.decode(), decrypted=decrypted.body.decode()
            )
        )
        self._serve("nginx", [program, "-c", str(config), "-e", str(self._folder / "nginx.log")], port)

    def start(self, load: Load, seconds: float) -> subprocess.Popen[str]:
        """Start a load."""
        return start_load(self._load, self._ports[load.server], self._folder, load, seconds)

    def run(self, load: Load, seconds: float) -> Run:
        """Run a load to its end."""
        server = self.pids[load.server]
        before = cpu_time(server)
        result = read_result(self.start(load, seconds))
        cpu = cpu_time(server) - before
        return Run(
            rate=result["requests"] / result["seconds"],
            p50=result["p50"] / 1000,
            p99=result["p99"] / 1000,
            cpu=cpu / result["total"] * 1e6,
        )


def read_result(load: subprocess.Popen[str]) -> dict[str, float]:
    """What a load measured, when it is over; it has said itself what went wrong."""
    output, _ = load.communicate()
    if load.returncode:
        raise SystemExit(1)
    result: dict[str, float] = json.loads(output)
    return result


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def compare(bench: Bench, rows: list[Row], runs: int, seconds: float) -> Pairs:
    """Run each row so many times. The rows take turns as well, so that what changes with time meets them all."""
    pairs: Pairs = {row: [] for row in rows}
    for number in range(1, runs + 1):
        for row in rows:
            pair = bench.run(row.load, seconds), bench.run(row.reference, seconds)
            pairs[row].append(pair)
            progress(f"run {number} of {runs}: {row}: {pair[0].rate:,.0f} : {pair[1].rate:,.0f} requests/s")
    return pairs


def table(pairs: Pairs) -> Iterator[str]:
    """The lines of the table, each at most 120 characters long."""
    title = f"median of {len(next(iter(pairs.values())))}"
    yield f"{title:<22}{'requests/s':>17} ratio{'p50 ms':>15}{'p99 ms':>15}{'CPU µs':>13} ratio  target"
    for title, rows in groupby(pairs, key=lambda row: row.title):
        yield title
        for row in rows:
            yield line(row, pairs[row])


def line(row: Row, pairs: list[tuple[Run, Run]]) -> str:
    def medians(figure: str, form: str) -> str:
        sides = zip(*pairs, strict=True)
        return " : ".join(format(median(getattr(run, figure) for run in side), form) for side in sides)

    rate = median(one.rate / other.rate for one, other in pairs)
    cpu = median(one.cpu / other.cpu for one, other in pairs)
    targets = []
    if row.least_rate is not None:
        targets.append(f"rate ≥{row.least_rate:.2f} {'✓' if rate >= row.least_rate else '✗'}")
    if row.most_cpu is not None:
        targets.append(f"CPU ≤{row.most_cpu:.2f} {'✓' if cpu <= row.most_cpu else '✗'}")
    load = row.load
    cells = (
        f"{load.operation:<9} {load.protocol} {load.concurrency:>3}",
        f"{medians('rate', '6,.0f')}{rate:>6.2f}",
        medians("p50", ">5.3g"),
        medians("p99", ">5.3g"),
        f"{medians('cpu', '4.0f')}{cpu:>6.2f}",
        " ".join(targets),
    )
    return "  ".join(cells).rstrip()


def soak(bench: Bench, minutes: int) -> None:
    """Generate and decrypt, mixed, and print the resident memory once a minute."""
    load = bench.start(Load("kes", "mixed", "HTTP/2.0", 32), minutes * 60)
    for minute in range(minutes + 1):
        print(f"{minute:>4} min  {resident(bench.pids['kes']) / 1e6:>7.1f} MB", flush=True)
        with suppress(subprocess.TimeoutExpired):
            load.wait(60)
            break
    result = read_result(load)
    print(f"{result['total']:,} requests and no error, {result['requests'] / result['seconds']:,.0f} requests/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="pairs of runs for each row (default: 5)")
    parser.add_argument("--seconds", type=float, default=3, metavar="S", help="time that a run measures (default: 3)")
    parser.add_argument(
        "--rows", default="", metavar="REGEX", help="only rows whose name matches, such as 'nginx, generate'"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures of all runs")
    parser.add_argument("--soak", type=int, metavar="MINUTES", help="load this server alone, and show its memory")
    options = parser.parse_args()
    rows = [row for row in ROWS if re.search(options.rows, str(row))]
    if not rows:
        parser.error("no row matches: " + "; ".join(map(str, ROWS)))
    with ExitStack() as stack:
        bench = Bench(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)
        if options.soak is not None:
            soak(bench, options.soak)
            return
        bench.start_nginx()
        bench.start_audit()
        pairs = compare(bench, rows, options.runs, options.seconds)
    print(*table(pairs), sep="\n")
    if options.json:
        options.json.write_text(
            json.dumps([{**asdict(row), "runs": [list(map(asdict, pair)) for pair in pairs[row]]} for row in rows])
        )


if __name__ == "__main__":
    main()
