"""How it does on an OpenBao with 10,000 keys, as a table: `python bench/vault.py`; needs Go.

All keys are listed, page by page; keys that are not cached are read one after the other; 200 clients ask for one such
key at the same moment, which should make one read; and the SDK's load on a cached key runs before the store is paused
and while it is, by turns: nobody should notice. The load has the CPUs of one machine to share with both servers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.load import BUSY, KEY, build_load, cpu_time, read_result, start_load
from kes.crypto import Algorithm, Key
from kes.crypto.storedkey import encode
from tests.openbao.server import OpenBao, until
from tests.support import APP, Client, Server, client_context, start

CLIENTS = 200


def seed(bao: OpenBao, engine: str, names: list[str]) -> None:
    """Write as many keys, as another server would."""

    def write(name: str) -> None:
        key = Key.generate(Algorithm.preferred(), "", 0)
        assert bao.write("v2", engine, name, {name: encode(key).decode()}).ok

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(write, names):
            pass


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def list_all(client: Client) -> list[int]:
    """The sizes of all pages of the listing."""
    sizes, pattern = [], ""
    while True:
        answer = client.request("GET", f"/v1/key/list/my-app{pattern}")
        assert answer.status == 200, answer
        sizes.append(len(answer.json["names"]))
        following = answer.json.get("continue_at")
        if not following:
            return sizes
        pattern = following.removeprefix("my-app")


def generate(client: Client, name: str) -> None:
    answer = client.request("PUT", f"/v1/key/generate/{name}")
    assert answer.status == 200, answer


def stampede(port: int, folder: Path, name: str) -> list[float]:
    """The seconds that each of many clients waits for a data key of one key, all at the same moment."""
    context = client_context(folder, APP)
    clients = [Client(port, context) for _ in range(CLIENTS)]
    begin = threading.Barrier(CLIENTS)

    def ask(client: Client) -> float:
        client.connection.connect()
        begin.wait()
        return timed(lambda: generate(client, name))

    with ThreadPoolExecutor(CLIENTS) as pool:
        waited = list(pool.map(ask, clients))
    for client in clients:
        client.close()
    return waited


def latency(client: Client, names: list[str]) -> str:
    """Median and 99th percentile of the time that a data key of each of the keys takes, one after the other."""
    taken = sorted(timed(lambda name=name: generate(client, name)) * 1000 for name in names)
    return f"median {median(taken):.2f} ms, p99 {taken[len(taken) * 99 // 100]:.2f} ms"


def row(what: str, figures: str, target: str = "") -> None:
    print(f"{what:<46}{figures:<44}{target}".rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=10_000, metavar="N", help="keys in the store (default: 10,000)")
    parser.add_argument("--reads", type=int, default=2_000, metavar="N", help="cold reads (default: 2,000)")
    parser.add_argument("--pairs", type=int, default=4, metavar="N", help="pairs of loads (default: 4)")
    parser.add_argument("--seconds", type=float, default=20, metavar="S", help="time that a load runs (default: 20)")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "bao").mkdir()
        program = build_load(folder)
        bao = stack.enter_context(OpenBao(folder / "bao"))
        engine = bao.kv("v2")
        role = bao.app_role(bao.key_policy("v2", engine))
        names = [KEY, *(f"my-app-{number:06}" for number in range(options.keys - 1))]
        row(f"seeding {options.keys:,} keys", f"{timed(lambda: seed(bao, engine, names)):.1f} s")
        vault = {
            "endpoint": bao.endpoint,
            "engine": engine,
            "version": "v2",
            "approle": {"engine": role.engine, "id": role.id, "secret": role.secret},
            "tls": {"ca": str(bao.ca)},
        }
        expiry = {"any": "1h", "unused": "1h", "offline": "1h"}
        api = {"/v1/ready": {"skip_auth": True}}
        server = stack.enter_context(start(folder, keystore={"vault": vault}, cache={"expiry": expiry}, api=api))
        client = server.client(APP)

        sizes: list[int] = []
        seconds = timed(lambda: sizes.extend(list_all(client)))
        assert sum(sizes) == options.keys, sizes
        pace = f"{seconds:.2f} s, {seconds / len(sizes) * 1000:.0f} ms a page"
        row(f"list {options.keys:,} keys in {len(sizes)} pages", pace)

        read = names[1 : options.reads + 1]
        before = bao.count("read", engine)
        latencies = latency(client, read)
        row(f"generate, key not cached ({bao.count('read', engine) - before:,} reads)", latencies)
        row("generate, key cached", latency(client, read))

        before = bao.count("read", engine)
        slowest = max(stampede(server.port, folder, names[-1])) * 1000
        made = bao.count("read", engine) - before
        figures = f"reads {made}, slowest {slowest:.0f} ms"
        row(f"{CLIENTS} clients at once, one key not cached", figures, f"reads =1 {'✓' if made == 1 else '✗'}")

        generate(client, KEY)
        pairs: list[tuple[Steady, Steady]] = []
        for number in range(options.pairs):
            # By turns, and each first as often: the machine does other things as well.
            if number % 2:
                with bao.paused():
                    paused = steady(program, server, options.seconds)
                until(lambda: client.request("GET", "/v1/ready").status == 200, "the store is back")
                pairs.append((steady(program, server, options.seconds), paused))
            else:
                up = steady(program, server, options.seconds)
                with bao.paused():
                    pairs.append((up, steady(program, server, options.seconds)))
                until(lambda: client.request("GET", "/v1/ready").status == 200, "the store is back")
        ratio = median(paused.rate / up.rate for up, paused in pairs)
        figures = " : ".join(f"{median(run.rate for run in side):,.0f}" for side in zip(*pairs, strict=True))
        row(
            "generate, store up : paused",
            f"{figures} requests/s, {ratio:.2f}",
            f"≥0.95 {'✓' if ratio >= 0.95 else '✗'}",
        )
        ratio = median(paused.cpu / up.cpu for up, paused in pairs)
        figures = " : ".join(f"{median(run.cpu for run in side):.0f}" for side in zip(*pairs, strict=True))
        row("", f"{figures} µs of CPU a request, {ratio:.2f}", f"≤1.05 {'✓' if ratio <= 1.05 else '✗'}")


@dataclass(frozen=True)
class Steady:
    """What a steady load measured: requests a second, and microseconds of the server's CPU by request."""

    rate: float
    cpu: float


def steady(program: Path, server: Server, seconds: float) -> Steady:
    """Run the SDK's load on the cached key; a request that fails ends all."""
    before = cpu_time(server.process.pid)
    result = read_result(start_load(program, server.port, server.folder, BUSY, seconds))
    cpu = (cpu_time(server.process.pid) - before) / result["total"] * 1e6
    return Steady(result["requests"] / result["seconds"], cpu)


if __name__ == "__main__":
    main()
