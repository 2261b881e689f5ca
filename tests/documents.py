"""What a document tells its readers to type, for tests that do it word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support import TIMEOUT

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a text in Markdown that are marked as `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.M | re.S)


def type_in(commands: str, cwd: Path, env: Mapping[str, str] = {}) -> str:
    """Run a block of commands in a shell that finds `kes`; their standard output. None may fail."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    shell = ("bash", "-eu", "-o", "pipefail", "-c", commands)
    environment = {**os.environ, "PATH": path, **env}
    result = subprocess.run(
        shell, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert result.returncode == 0, (commands, result.stderr)
    return result.stdout
