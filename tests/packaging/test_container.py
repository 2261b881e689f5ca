"""The container image: what its Containerfile says of the program holds, and its health check knows how a server is.

No image is built here, as its base comes from a registry of images.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kes.cli.command import parse
from kes.cli.table import ROOT as COMMANDS
from tests.support import TIMEOUT, start

ROOT = Path(__file__).parents[2]
HEALTH = ROOT / "etc" / "container" / "health.py"
MANIFEST = ROOT / "etc" / "kubernetes" / "kes.yaml"
OPEN = {"/v1/ready": {"skip_auth": "true"}}


def instructions() -> list[tuple[str, str]]:
    """Name and value of each instruction, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.M)
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    return [(name, value) for name, _, value in (line.partition(" ") for line in lines if line)]


def last(name: str) -> str:
    """The value of an instruction of the last stage that is there once."""
    stages = instructions()
    begin = max(index for index, (word, _) in enumerate(stages) if word == "FROM")
    (value,) = (value for word, value in stages[begin:] if word == name)
    return value


def test_user() -> None:
    """The server is not root, which is seen without looking into the image."""
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_command() -> None:
    """What runs is `python -I -m kes`, with arguments that it takes; the environment is made where it is run."""
    python, *options = json.loads(last("ENTRYPOINT"))
    assert options == ["-I", "-m", "kes"]
    assert python == "/opt/kes/bin/python"
    given = parse(COMMANDS, json.loads(last("CMD")))
    assert (given.command.name, given.text("config")) == ("server", "/etc/kes/config.yml")
    made = [value for name, value in instructions() if name == "RUN" and "/opt/kes" in value]
    assert ["python3 -m venv --without-pip /opt/kes" in value for value in made] == [True]
    assert last("COPY") == "--from=build /opt/kes /opt/kes"
    assert last("STOPSIGNAL") == "SIGTERM"
    assert last("EXPOSE") == "7373"


def test_kubernetes() -> None:
    """The sample for Kubernetes runs the image's program with what it takes, as the user that the image has."""
    (deployment,) = (d for d in yaml.safe_load_all(MANIFEST.read_text()) if d["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "command" not in container
    assert container["args"] == json.loads(last("CMD"))
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == last("USER")


def test_health_check_is_there() -> None:
    """The health check is the file that a wheel puts there."""
    command = json.loads(last("HEALTHCHECK").partition(" CMD ")[2])
    assert command == ["/opt/kes/bin/python", "-I", f"/opt/kes/share/kes/{HEALTH.relative_to(ROOT)}"]
    assert HEALTH.is_file()


def test_extras() -> None:
    """The key stores that need packages of their own are in the image."""
    (install,) = (value for name, value in instructions() if name == "RUN" and " install --no-cache-dir " in value)
    extras = re.search(r"\[([\w,]+)\]", install)[1].split(",")
    assert extras == ["aws", "vault"]
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras)


def test_context() -> None:
    """What is copied into the build holds all that a wheel is built from, and no environment of this machine."""
    ignored = [line for line in (ROOT / ".containerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ".venv" in ignored
    assert not {"etc", "systemd", "docs", "kes", "twisted", "README.md", "setup.py", ".git"} & set(ignored)


def health(port: int) -> tuple[int, str]:
    """Status and output of the health check."""
    result = subprocess.run(
        [sys.executable, "-I", str(HEALTH), str(port)], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert result.stdout == ""
    assert result.stderr.count("\n") == (1 if result.returncode else 0), result.stderr
    return result.returncode, result.stderr


class TestHealth:
    def test_ready(self, tmp_path: Path) -> None:
        """A server that is ready is healthy; one whose key store is gone is not, and one that has ended is not."""
        with start(tmp_path, api=OPEN) as server:
            assert health(server.port) == (0, "")
            (tmp_path / "keys").rename(tmp_path / "gone")
            status, said = health(server.port)
            assert (status, "status 504" in said, "key store is not reachable" in said) == (1, True, True)
        status, said = health(server.port)
        assert (status, said) == (1, "no answer: [Errno 111] Connection refused\n")

    @pytest.mark.parametrize(
        ("api", "hint"),
        [({}, "no TLS connection: "), ({"/v1/status": {"skip_auth": "true"}}, "status 400: ")],
        ids=["nothing is open", "another route is"],
    )
    def test_route_is_closed(self, tmp_path: Path, api: dict[str, dict[str, str]], hint: str) -> None:
        """Where the config file does not open the route, the check says so."""
        with start(tmp_path, api=api) as server:
            status, said = health(server.port)
        assert status == 1
        assert said.startswith(hint)
        if not api:
            assert said.endswith("is skip_auth of /v1/ready true in the config file?\n")
