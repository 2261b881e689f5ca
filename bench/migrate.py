"""Keys per second of `kes migrate` between two directories, as a table: `python bench/migrate.py`.

Each row is one run of the installed command, from exec to exit: every copy is synced to disk and read back. The last
row is what the disk alone gives: one thread that creates and reads back the same keys. The directories are made under
`--directory`, which should be on the disk that matters. Absolute figures depend on the machine.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from kes.keystore.fs import FSStore
from tests.support import KES

VALUE = 190  # random bytes of a value, which is their base64: about as long as a stored key


def fill(directory: Path, keys: int) -> None:
    """Write new values for the keys k0, k1, …, without syncing."""
    directory.mkdir(exist_ok=True)
    for number in range(keys):
        (directory / f"k{number}").write_bytes(base64.b64encode(os.urandom(VALUE)))


def write_config(path: Path, directory: Path) -> Path:
    path.write_text(f"keystore: {{fs: {{path: {directory}}}}}\n")
    return path


def migrate(folder: Path, *options: str) -> float:
    """Seconds of a run that must succeed and leave two equal directories."""
    source, target = folder / "source", folder / "target"
    command = [
        KES,
        "migrate",
        f"--from={write_config(folder / 'from.yml', source)}",
        f"--to={write_config(folder / 'to.yml', target)}",
        "--quiet",
        *options,
    ]
    begun = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - begun
    if {path.name: path.read_bytes() for path in source.iterdir()} != {
        path.name: path.read_bytes() for path in target.iterdir()
    }:
        raise RuntimeError("the directories differ")
    return seconds


def bare(folder: Path) -> float:
    """Seconds of the creates and reads alone."""
    store = FSStore(str(folder / "bare"))
    values = {path.name: path.read_bytes() for path in (folder / "source").iterdir()}
    begun = time.perf_counter()
    for name, value in values.items():
        store.create(name, value)
        if store.get(name) != value:
            raise RuntimeError("a key differs")
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.directory))
    try:
        fill(folder / "source", given.keys)
        show("into an empty store", given.keys, migrate(folder))
        show("--merge, all are there", given.keys, migrate(folder, "--merge"))
        fill(folder / "source", given.keys)
        show("--force, all are replaced", given.keys, migrate(folder, "--force"))
        show("one thread, no migration", given.keys, bare(folder))
    finally:
        shutil.rmtree(folder)


def show(what: str, keys: int, seconds: float) -> None:
    print(f"{what:<26} {keys:>7,} keys  {seconds:6.2f} s  {keys / seconds:7,.0f} keys/s", flush=True)


if __name__ == "__main__":
    main()
