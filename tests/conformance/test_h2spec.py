"""The conformance tests of `h2spec`, in its strict mode, against a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import Server, require_tool, start

SOURCE = Path(__file__).parent
CASES = 146  # that this version of h2spec has

# An answer without a body has no DATA frame that these could see, and waits for no window.
NEED_A_BODY = {
    "generic/2: Sends a WINDOW_UPDATE frame on half-closed (remote) stream": "failed",
    "generic/2: Sends a PRIORITY frame on half-closed (remote) stream": "failed",
    # It opens streams until there are too many, and each stays open for as long as its answer waits for a window.
    "http2/5.1.2: Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded": "failed",
    "http2/6.5.3: Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE": "skipped",
    "http2/6.9.1: Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame": "skipped",
    "http2/6.9.2: Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame": "skipped",
    "http2/6.9.2: Sends a SETTINGS frame for window size to be negative": "skipped",
}


@pytest.fixture(scope="module")
def h2spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, at the versions that go.mod and go.sum pin."""
    program = tmp_path_factory.mktemp("h2spec") / "h2spec"
    package = "github.com/summerwind/h2spec/cmd/h2spec"
    subprocess.run([require_tool("go"), "build", "-o", program, package], cwd=SOURCE, check=True, timeout=300)
    return program


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    routes = {route: {"skip_auth": True} for route in ("/v1/api", "/v1/ready")}
    with start(tmp_path_factory.mktemp("server"), api=routes) as server:
        yield server


@pytest.mark.parametrize(("path", "expected"), [("/v1/api", {}), ("/v1/ready", NEED_A_BODY)])
def test_h2spec(h2spec: Path, server: Server, tmp_path: Path, path: str, expected: dict[str, str]) -> None:
    """Every case passes, except on a route whose answer is empty those that need one with a body."""
    report = tmp_path / "report.xml"
    command = [h2spec, "--strict", "-t", "-k", "-p", str(server.port), "-P", path, "-j", report]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=False).stdout
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert len(cases) == CASES, output
    others = {
        f"{case.get('package')}: {case.get('classname')}": "skipped" if case.find("skipped") is not None else "failed"
        for case in cases
        if len(case)
    }
    assert others == expected, output
