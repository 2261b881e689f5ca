"""Run a fuzzer: `python -m tests.fuzz TARGET`, then options of libFuzzer and the folders that inputs come from. What it
finds goes to the first of them, an input that breaks the target to `build/fuzz/TARGET-crash-…`.
"""

from __future__ import annotations

import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["kes.server.http", "kes.api.body", "hpack"]):
    from tests.fuzz.mutation import MUTATORS
    from tests.fuzz.targets import TARGETS


def main(target: str, *options: str) -> None:
    def change(part: bytes, _random: Random) -> bytes:
        return atheris.Mutate(part, len(part) + 20)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        return MUTATORS[target](data, Random(seed), change)[:size]

    # For some things libFuzzer runs itself, by its first argument.
    command = f"{sys.executable} -m tests.fuzz {target}"
    atheris.Setup(
        [command, f"-artifact_prefix=build/fuzz/{target}-", "-max_len=8192", "-timeout=10", *options],
        TARGETS[target],
        custom_mutator=mutate,
    )
    atheris.Fuzz()


main(*sys.argv[1:])
