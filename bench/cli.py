"""What `kes key ls` costs, whole process, as a table: `python bench/cli.py [RUNS]`.

Medians over several runs against a server on this machine, and the modules whose import takes longest. On a machine
that does other work the CPU time is the figure to compare.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support import KES, start_dev

SHOWN = 12  # modules


def measure(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Seconds that a command takes: by the clock, and of the CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
    taken = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def imports(command: list[str], env: dict[str, str]) -> list[tuple[str, float]]:
    """The modules that a command imports, each with the seconds of its own and of what it imports, longest first."""
    python = [sys.executable, "-X", "importtime", *command]
    result = subprocess.run(python, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    lines = re.findall(r"import time: +\d+ \| +(\d+) \| +(\S+)", result.stderr)
    return sorted(((name, int(microseconds) / 1e6) for microseconds, name in lines), key=lambda row: -row[1])


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    with tempfile.TemporaryDirectory() as folder:
        server, key = start_dev(Path(folder))
        with server:
            env = {**os.environ, "KES_SERVER": f"127.0.0.1:{server.port}", "KES_API_KEY": str(key)}
            print(f"{'command':<24}{'clock':>10}{'CPU':>10}   median of {runs}")
            for label, command in (
                ("kes key ls -k", [KES, "key", "ls", "-k"]),
                ("kes --version", [KES, "--version"]),
                ("python -c pass", [sys.executable, "-c", "pass"]),
            ):
                clock, cpu = (
                    statistics.median(column)
                    for column in zip(*(measure(command, env) for _ in range(runs)), strict=True)
                )
                print(f"{label:<24}{clock:>8.3f} s{cpu:>8.3f} s")
            print(f"\n{'import, with all below':<44}{'time':>10}")
            for name, seconds in imports([KES, "key", "ls", "-k"], env)[:SHOWN]:
                print(f"{name:<44}{seconds * 1000:>7.1f} ms")


if __name__ == "__main__":
    main()
