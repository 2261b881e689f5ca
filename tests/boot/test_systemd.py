"""The service under a systemd that has started the machine: what its units promise is what happens.

One machine serves all tests. It starts up twice: after the second time the service runs because it is enabled.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from tests.boot.image import image
from tests.boot.machine import TIMEOUT, BootedMachine
from tests.openbao.build import bao
from tests.packaging.build import build, copy_checkout
from tests.support import ADMIN, STRANGER, client_context, require_tool, write_server_certificate

READY = "=> Server is up and running..."
RELOADED = "=> Reloading configuration after SIGHUP signal completed."
CONFIG = {
    "version": "v1",
    "admin": {"identity": "${KES_ADMIN_IDENTITY}"},
    "tls": {"key": "/etc/kes/private.key", "cert": "/etc/kes/public.crt", "auth": "off"},
    "keystore": {"fs": {"path": "/var/lib/kes/keys"}},
}
# As docs/install.md has it, but for what the disk has already.
INSTALL = """
umask 022
/opt/kes/bin/pip install --quiet --no-index --no-deps /payload/*.whl
/opt/kes/bin/kes install
install -m 0640 -g kes /payload/server.key /etc/kes/private.key
install -m 0644 /payload/server.crt /etc/kes/public.crt
# An emulated CPU takes its time.
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\\nDefaultTimeoutStartSec=10min\\n' > /etc/systemd/system.conf.d/pace.conf
systemctl enable kes.service
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedMachine]:
    folder = tmp_path_factory.mktemp("boot")
    checkout, built, payload = (folder / name for name in ("checkout", "built", "payload"))
    for path in (checkout, built, payload):
        path.mkdir()
    disk = image()
    copy_checkout(checkout)
    shutil.copy(build(checkout, built)[1], payload)
    shutil.copy(bao(), payload / "bao")
    key = write_server_certificate(payload)[1]
    locked = [require_tool("openssl"), "pkey", "-aes256", "-passout", "pass:opensesame"]
    subprocess.run([*locked, "-in", key, "-out", payload / "locked.key"], check=True)
    client_context(payload, ADMIN)
    with BootedMachine(disk, folder, payload) as machine:
        machine.shell(INSTALL)
        machine.write("/etc/kes/environment", f"KES_ADMIN_IDENTITY={ADMIN.identity}\n")
        machine.write("/etc/kes/config.yml", yaml.safe_dump(CONFIG))
        machine.reboot()
        yield machine


class Unit:
    """A unit of the machine."""

    def __init__(self, machine: BootedMachine, name: str = "kes.service") -> None:
        self.machine = machine
        self.name = name

    def control(self, verb: str) -> None:
        self.machine.run("systemctl", verb, self.name)

    def show(self, *properties: str) -> tuple[str, ...]:
        """Properties of the unit, as text."""
        out = self.machine.run("systemctl", "show", *(f"--property={name}" for name in properties), self.name)
        found = dict(line.split("=", 1) for line in out.splitlines())
        return tuple(found[name] for name in properties)

    def journal(self) -> list[dict[str, Any]]:
        """What the journal has of the unit's processes, since they were last started."""
        (invocation,) = self.show("InvocationID")
        self.machine.run("journalctl", "--sync")
        out = self.machine.run("journalctl", "--output=json", f"_SYSTEMD_INVOCATION_ID={invocation}")
        return [json.loads(line) for line in out.splitlines()]

    def messages(self, priority: int) -> list[str]:
        """The journal's lines of one priority."""
        return [entry["MESSAGE"] for entry in self.journal() if entry["PRIORITY"] == str(priority)]

    def wait_for(self, expected: tuple[str, ...], *properties: str) -> None:
        until(lambda: self.show(*properties) == expected, f"{properties} of {self.name} are {expected}")


def until(condition: Callable[[], bool], what: str) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"not in {TIMEOUT} s: {what}"


def until_fed(unit: Unit, last: str = "") -> str:
    """Wait until the watchdog's last ping is not the one of `last`; when it came, on the monotonic clock."""
    times: list[str] = []

    def is_new() -> bool:
        times[:] = unit.show("WatchdogTimestampMonotonic")
        return times[0] not in ("0", last)

    until(is_new, f"a ping of {unit.name} after {last}")
    return times[0]


@pytest.fixture
def kes(machine: BootedMachine) -> Unit:
    """kes.service, running with its usual config."""
    unit = Unit(machine)
    unit.control("start")
    return unit


@contextmanager
def config(machine: BootedMachine, text: str) -> Iterator[None]:
    """Another config file, until the end of the block."""
    machine.write("/etc/kes/config.yml", text)
    try:
        yield
    finally:
        machine.write("/etc/kes/config.yml", yaml.safe_dump(CONFIG))


@contextmanager
def drop_in(machine: BootedMachine, *lines: str) -> Iterator[None]:
    """Other settings of kes.service, which is stopped before and after."""
    path = "/etc/systemd/system/kes.service.d/test.conf"
    machine.run("systemctl", "stop", "kes")
    machine.write(path, "\n".join(("[Service]", *lines, "")))
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        machine.shell(f"rm {path}; systemctl stop kes; systemctl reset-failed; systemctl daemon-reload")


def exchange(machine: BootedMachine) -> dict[str, Any]:
    """What a client of the server learnt."""
    keys = f"KES_API_KEY={ADMIN} STRANGER={STRANGER}"
    return json.loads(machine.shell(f"{keys} /opt/kes/bin/python -I /payload/exchange.py"))


def test_enabled_at_boot(machine: BootedMachine) -> None:
    """It was started with the machine, says what it serves, and nothing on the machine has failed."""
    until(lambda: machine.execute("systemctl", "is-system-running", "--wait").status == 0, "the machine is up")
    unit = Unit(machine)
    assert unit.show("Type", "ActiveState", "SubState", "NRestarts") == ("notify", "active", "running", "0")
    status = "Serving on 0.0.0.0:7373; KMS Filesystem: /var/lib/kes/keys"
    assert f'Status: "{status}"' in machine.run("systemctl", "status", "kes")


def test_units_are_understood(machine: BootedMachine) -> None:
    """systemd knows every setting, and finds what the units name."""
    done = machine.execute("systemd-analyze", "verify", "--man=no", "kes.service", "kes.socket", "kes@a.service")
    assert (done.status, done.err) == (0, "")


def test_exposure(machine: BootedMachine) -> None:
    """Little of the machine can be reached from the service, in systemd's own reckoning."""
    machine.run("systemd-analyze", "security", "--threshold=15", "kes.service")
    assert machine.execute("systemd-analyze", "security", "--threshold=5", "kes.service").status != 0


def test_journal(kes: Unit) -> None:
    """The start-up output is there under the service's name, as information."""
    entries = kes.journal()
    assert {(entry["SYSLOG_IDENTIFIER"], entry["PRIORITY"]) for entry in entries} == {("kes", "6")}
    assert [entry["MESSAGE"] for entry in entries].count(READY) == 1


def test_memory_is_locked(kes: Unit) -> None:
    """All of it, though the service has no rights and a user namespace of its own."""
    assert [line for line in kes.messages(6) if re.fullmatch(r"MLock +enabled", line)]
    (pid,) = kes.show("MainPID")
    status = kes.machine.run("cat", f"/proc/{pid}/status")
    locked, resident = (int(re.search(rf"^{name}:\s+(\d+) kB", status, re.M)[1]) for name in ("VmLck", "VmRSS"))
    assert locked > resident > 0
    assert re.search(r"^VmSwap:\s+0 kB", status, re.M)


def test_requests(kes: Unit) -> None:
    """Clients with certificates are served, also the command line; new keys are for the algorithm of this CPU."""
    machine = kes.machine
    assert exchange(machine) == {"algorithm": "AES256", "keys": ["exchange"], "cpus": 2, "refusal": 403}
    machine.shell(f"KES_API_KEY={ADMIN} /opt/kes/bin/kes key create cli -k")
    listed = machine.run("find", "/var/lib/kes", "-printf", "%u %g %M %P\n")
    assert set(listed.splitlines()) == {
        "kes kes drwx------ ",
        "kes kes drwx------ keys",
        "kes kes -rw------- keys/exchange",
        "kes kes -rw------- keys/cli",
    }


def test_reload(kes: Unit) -> None:
    """The manager sees that a reload begins and ends; what is new counts."""
    machine = kes.machine
    changed = yaml.safe_dump({**CONFIG, "log": {"audit": "on"}})
    # A file that can be read when somebody writes: until then the reload goes on.
    machine.shell("mv /etc/kes/config.yml /etc/kes/kept; mkfifo -m 0644 /etc/kes/config.yml")
    try:
        # Without waiting: where the server is faster than systemd, systemctl would until the reload ends.
        machine.run("systemctl", "--no-block", "reload", "kes")
        kes.wait_for(("reloading", "Reading the configuration"), "ActiveState", "StatusText")
        assert RELOADED not in kes.messages(6)
        machine.write("/etc/kes/config.yml", changed)
        kes.wait_for(("active",), "ActiveState")
    finally:
        machine.shell("mv /etc/kes/kept /etc/kes/config.yml")
    assert RELOADED in kes.messages(6)
    exchange(machine)
    (event,) = [line for line in kes.messages(6) if '"path":"/v1/key/generate/exchange"' in line]
    assert json.loads(event)["response"]["code"] == 200


def test_reload_of_a_broken_config(kes: Unit) -> None:
    """It runs on, and says so; the next reload that succeeds takes that back."""
    (pid, status) = kes.show("MainPID", "StatusText")
    with config(kes.machine, "version: v1\nkeystores: {}\n"):
        kes.control("reload")
        kes.wait_for(("active", f"{status}; the last reload failed, see the log"), "ActiveState", "StatusText")
    (error,) = kes.messages(3)
    assert "/etc/kes/config.yml:2" in error
    assert exchange(kes.machine)["refusal"] == 403
    kes.control("reload")
    kes.wait_for((pid, "active", status), "MainPID", "ActiveState", "StatusText")


def test_broken_config_at_start(kes: Unit) -> None:
    """It fails once, with one line, and is not started again."""
    kes.control("stop")
    with drop_in(kes.machine, "RestartSec=100ms"), config(kes.machine, "version: v1\nkeystores: {}\n"):
        assert kes.machine.execute("systemctl", "start", "kes").status != 0
        assert kes.show("ActiveState", "Result", "ExecMainStatus", "NRestarts") == ("failed", "exit-code", "78", "0")
        (error,) = [entry["MESSAGE"] for entry in kes.journal()]
        assert "/etc/kes/config.yml:2" in error
        assert kes.messages(3) == [error]


def test_vault_that_comes_late(kes: Unit) -> None:
    """While the key store is out of reach it is started again and again; then the server serves, with keys there."""
    machine = kes.machine
    store = {
        "endpoint": "https://localhost:8300",
        "engine": "kv",
        "version": "v1",
        "approle": {"id": "${VAULT_APPROLE_ID}", "secret": "${VAULT_APPROLE_SECRET}"},
        "tls": {"ca": "/run/bao/vault-ca.pem"},
    }
    machine.shell(
        "mkdir /run/bao; systemd-run --quiet --unit=bao --setenv=HOME=/run/bao /payload/bao server -dev "
        "-dev-no-store-token -dev-root-token-id=root -dev-tls -dev-tls-cert-dir=/run/bao"
    )
    role = json.loads(
        machine.run("python3", "/payload/vault.py", "https://localhost:8200", "root", "/run/bao/vault-ca.pem")
    )
    machine.shell(
        f"printf %s {role['secret']} | systemd-creds encrypt --name=VAULT_APPROLE_SECRET - /etc/kes/secret.cred"
    )
    settings = (
        f"Environment=VAULT_APPROLE_ID={role['id']}",
        "LoadCredentialEncrypted=VAULT_APPROLE_SECRET:/etc/kes/secret.cred",
    )
    with drop_in(machine, *settings), config(machine, yaml.safe_dump({**CONFIG, "keystore": {"vault": store}})):
        assert machine.execute("systemctl", "start", "kes").status != 0
        kes.wait_for(("auto-restart", "1"), "SubState", "ExecMainStatus")
        (error,) = kes.messages(3)
        assert "https://localhost:8300" in error
        # Now there is something on that port.
        machine.shell(
            "systemd-run --quiet --unit=way --socket-property=ListenStream=127.0.0.1:8300 "
            "/lib/systemd/systemd-socket-proxyd 127.0.0.1:8200"
        )
        kes.wait_for(("running",), "SubState")
        assert int(kes.show("NRestarts")[0]) >= 1
        assert exchange(machine)["keys"] == ["exchange"]
        environment = machine.shell(f"cat /proc/{kes.show('MainPID')[0]}/environ")
        assert "VAULT_APPROLE_ID" in environment
        assert "VAULT_APPROLE_SECRET" not in environment


def test_stuck_server(kes: Unit) -> None:
    """The watchdog ends a process that does nothing any more, and it is started again. It leaves no core file."""
    machine = kes.machine
    machine.shell("mkdir -m 0777 /var/tmp/cores; echo /var/tmp/cores/%e > /proc/sys/kernel/core_pattern")
    # Core files would be written here.
    machine.shell("ulimit -c unlimited; sh -c 'kill -ABRT $$' || test -e /var/tmp/cores/sh")
    with drop_in(machine, "WatchdogSec=10s", "LimitCORE=infinity"):
        kes.control("start")
        (before, pid) = kes.show("InvocationID", "MainPID")
        machine.run("kill", "-STOP", pid)
        kes.wait_for(("1", "running"), "NRestarts", "SubState")
        log = machine.run("journalctl", "--output=cat", "--unit=kes", f"INVOCATION_ID={before}")
        assert "Watchdog timeout" in log
        assert "code=killed, status=6/ABRT" in log
        # Where the threads stood, by names and lines alone.
        where = machine.run("journalctl", "--output=cat", f"_SYSTEMD_INVOCATION_ID={before}")
        assert "Fatal Python error: Aborted" in where
    assert machine.run("ls", "/var/tmp/cores") == "sh\n"


def test_clock_is_set(kes: Unit) -> None:
    """When the wall clock is set, clients are answered and the watchdog is fed: the server is not restarted."""
    machine = kes.machine
    with drop_in(machine, "WatchdogSec=10s"):
        kes.control("start")
        before = kes.show("InvocationID", "NRestarts")
        now = time.time()
        try:
            for seconds in (-8, -3600, 3600):
                machine.run("date", "--set", f"@{now + seconds:.0f}")
                fed = until_fed(kes)
                assert exchange(machine)["refusal"] == 403
                for _ in range(3):
                    fed = until_fed(kes, fed)
        finally:
            machine.run("date", "--set", f"@{time.time():.0f}")
        assert kes.show("InvocationID", "NRestarts") == before
        assert exchange(machine)["refusal"] == 403


def test_port_stays_open(machine: BootedMachine) -> None:
    """With the socket unit, clients that connect while the service restarts wait, and none is turned away."""
    kes = Unit(machine)
    kes.control("stop")
    machine.run("systemctl", "start", "kes.socket")
    try:
        # It starts when the first client comes.
        assert kes.show("ActiveState") == ("inactive",)
        assert exchange(machine)["refusal"] == 403
        assert kes.show("ActiveState") == ("active",)
        certificate = f"/payload/client-{ADMIN.identity}.pem"
        machine.shell(
            "mkdir /run/load; touch /run/load/go; "
            "systemd-run --quiet --unit=load --property=StandardOutput=file:/run/outcomes "
            f"/opt/kes/bin/python -I /payload/load.py /run/load {certificate}"
        )
        until(lambda: machine.execute("test", "-e", "/run/load/answered").status == 0, "a client is answered")
        for _ in range(2):
            kes.control("restart")
        machine.shell("rm /run/load/go; while systemctl is-active load; do sleep 0.2; done")
        outcomes = json.loads(machine.run("cat", "/run/outcomes"))
        assert set(outcomes) == {"200"}
        assert outcomes["200"] > 3  # more than the first of each thread
    finally:
        machine.shell("systemctl stop kes.socket kes.service")


def test_instances(machine: BootedMachine) -> None:
    """Each has a config and a folder to itself."""
    units = [Unit(machine, f"kes@{name}.service") for name in ("a", "b")]
    for name, port in (("a", 7401), ("b", 7402)):
        own = {**CONFIG, "address": f"127.0.0.1:{port}", "keystore": {"fs": {"path": f"/var/lib/kes/{name}"}}}
        machine.write(f"/etc/kes/{name}.yml", yaml.safe_dump(own))
        machine.run("cp", "/etc/kes/environment", f"/etc/kes/{name}.environment")
    machine.run("systemctl", "start", *(unit.name for unit in units))
    try:
        for unit, name, port in zip(units, "ab", (7401, 7402), strict=True):
            assert unit.show("StatusText") == (f"Serving on 127.0.0.1:{port}; KMS Filesystem: /var/lib/kes/{name}",)
        server = "KES_SERVER=https://127.0.0.1:7402"
        machine.shell(f"KES_API_KEY={ADMIN} {server} /opt/kes/bin/kes key create of-b -k")
        assert machine.run("ls", "/var/lib/kes/a", "/var/lib/kes/b") == "/var/lib/kes/a:\n\n/var/lib/kes/b:\nof-b\n"
    finally:
        machine.run("systemctl", "stop", *(unit.name for unit in units))


def test_credentials(kes: Unit) -> None:
    """The private key may be readable for root alone, and its password be encrypted on the disk."""
    machine = kes.machine
    machine.shell(
        "install -m 0600 /payload/locked.key /etc/kes/locked.key; "
        "printf opensesame | systemd-creds encrypt --name=KES_TLS_PASSWORD - /etc/kes/tls-password.cred"
    )
    tls = {**CONFIG["tls"], "key": "${KES_TLS_KEY}", "password": "${KES_TLS_PASSWORD}"}
    settings = (
        "LoadCredentialEncrypted=KES_TLS_PASSWORD:/etc/kes/tls-password.cred",
        "LoadCredential=private.key:/etc/kes/locked.key",
        "Environment=KES_TLS_KEY=%d/private.key",
    )
    with drop_in(machine, *settings), config(machine, yaml.safe_dump({**CONFIG, "tls": tls})):
        kes.control("start")
        assert exchange(machine)["refusal"] == 403
    assert "opensesame" not in machine.run("cat", "/etc/kes/tls-password.cred")


def test_sandbox(machine: BootedMachine) -> None:
    """What the unit forbids fails, and succeeds without it; what the server needs succeeds."""
    # The same unit, with another program in it.
    machine.shell(
        "sed -e /^ExecStart=/cExecStart='/opt/kes/bin/python -I /payload/probe.py' -e /^Type=/cType=oneshot "
        "-e /^Restart=/d -e /^WatchdogSec=/d /usr/local/lib/systemd/system/kes.service "
        "> /run/systemd/system/probe.service; mkdir -m 0777 /var/tmp/shared; systemctl daemon-reload"
    )
    probe = Unit(machine, "probe.service")
    probe.control("start")
    machine.run("journalctl", "--sync")
    inside = json.loads(machine.run("journalctl", "--output=cat", "_SYSTEMD_UNIT=probe.service"))
    outside = json.loads(machine.run("/opt/kes/bin/python", "-I", "/payload/probe.py"))
    assert set(inside["needed"].values()) == {"ok"}
    assert "ok" not in inside["forbidden"].values()
    # Each of these attempts can succeed.
    assert set(outside["forbidden"].values()) == {"ok"}
    assert inside["user"] == "kes"
    assert inside["process"] == {"CapPrm": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    # The folders for temporary files are its own.
    assert inside["writable"] == ["/tmp", "/var/lib/kes", "/var/tmp"]
