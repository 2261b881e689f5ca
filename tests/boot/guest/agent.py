"""Runs the commands that come over the second serial line, and answers with what came of them.

One JSON document a line, in both directions; `tests/boot/machine.py` is the other end.
"""

import json
import subprocess
import tty
from pathlib import Path
from typing import Any

LINE = Path("/dev/ttyS1")


def execute(request: dict[str, Any]) -> dict[str, Any]:
    """Run `argv` with `input` for at most `timeout` seconds."""
    stdin, timeout = request["input"].encode(), request["timeout"]
    try:
        done = subprocess.run(request["argv"], input=stdin, capture_output=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": -1, "out": "", "err": str(error)}
    return {"status": done.returncode, "out": done.stdout.decode("utf-8", "replace"), "err": done.stderr.decode()}


def main() -> None:
    with LINE.open("r+b", buffering=0) as line:
        tty.setraw(line)
        line.write(b"ready\n")
        buffered = b""
        while True:
            buffered += line.read(4096)
            while b"\n" in buffered:
                request, _, buffered = buffered.partition(b"\n")
                answer = json.dumps(execute(json.loads(request))).encode() + b"\n"
                while answer:
                    answer = answer[line.write(answer) :]


main()
