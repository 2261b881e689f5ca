"""The official Go SDK against a running server: every call, every result, every error value."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.program import build, check, needs
from tests.support import start


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2.0"])
def test_the_sdk_gets_what_it_expects(tmp_path: Path, protocol: str) -> None:
    """All checks of the interoperability program pass; README.md says what it needs of the server."""
    program = build(tmp_path)
    with start(tmp_path, **needs(tmp_path)) as server:
        check(program, server.port, tmp_path / "server.crt", protocol)
