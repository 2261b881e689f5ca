"""The commands that talk to a server, against real servers: what they print, in a pipe, as JSON and on a terminal."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kes.identity import APIKey
from tests.cli.run import Result, environment, kes, on_terminal
from tests.support import ADMIN, APP, KES, OPS, STRANGER, TIMEOUT, Server, start, start_dev

CREATED = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
ESCAPE = "\x1b"
STORED = Path(__file__).parent.parent / "contract" / "vectors.json"

Run = Callable[..., Result]


def variables(server: Server, key: APIKey = ADMIN) -> dict[str, str]:
    return {"KES_SERVER": f"https://127.0.0.1:{server.port}/", "KES_API_KEY": str(key)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client-commands")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server whose keys `one` and `two` exist, and 10,000 whose names begin with `many-`."""
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    stored = json.loads(STORED.read_bytes())["stored_keys"]["vec-aes"]["stored"]
    for number in range(10_000):
        (keys / f"many-{number:05}").write_text(stored)
    with start(folder) as server:
        admin = server.client()
        for name in ("one", "two"):
            assert admin.request("PUT", f"/v1/key/create/{name}").status == 200
        yield server


@pytest.fixture
def run(server: Server, folder: Path) -> Run:
    """Run `kes` with `-k` against the server, as ADMIN unless another key is given."""

    def run(*arguments: str | bytes, key: APIKey = ADMIN, stdin: bytes | None = None, **env: str) -> Result:
        return kes(*arguments, "-k", cwd=folder, env={**variables(server, key), **env}, stdin=stdin)

    return run


@pytest.fixture
def show(server: Server, folder: Path) -> Callable[..., str]:
    """Run `kes` with `-k` on a terminal, successfully; what it shows."""

    def show(*arguments: str, key: APIKey = ADMIN, columns: int = 100, **env: str) -> str:
        status, shown = on_terminal(
            KES, *arguments, "-k", cwd=folder, env={**variables(server, key), **env}, columns=columns
        )
        assert status == 0, shown
        return shown

    return show


def success(result: Result) -> str:
    """Standard output of a command that succeeds without a word on standard error; every text ends its last line."""
    assert (result.status, result.err) == (0, ""), result
    assert result.text == "" or result.text.endswith("\n"), result
    return result.text


def document(result: Result) -> Any:
    """The one JSON document that a command prints, on one line."""
    text = success(result)
    assert text.count("\n") == 1
    return json.loads(text)


def plain(shown: str) -> str:
    """What a terminal shows, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def test_quick_start(tmp_path: Path) -> None:
    """The quick start holds word for word: the API key of the banner, two variables, `kes key ls -k`."""
    server, key = start_dev(tmp_path)
    with server:
        lines = (
            f"export KES_SERVER=https://127.0.0.1:{server.port}/",
            f"export KES_API_KEY={key}",
            f"alias kes={KES}",
            "kes key ls -k",
            "kes key create my-key -k",
            "kes key ls -k",
        )
        shell = ["bash", "-c", "shopt -s expand_aliases\n" + "\n".join(lines)]
        result = subprocess.run(shell, cwd=tmp_path, env=environment({}), capture_output=True, timeout=TIMEOUT)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"Key\nmy-key\n", b"")


@pytest.mark.parametrize("command", [("ls",), ("list",), ("key", "ls"), ("key", "list")])
def test_key_listing(run: Run, command: tuple[str, ...]) -> None:
    """A listing is a header and the names, one a line, sorted; a prefix, with one * or without, selects."""
    text = success(run(*command, "many-0999*"))
    assert text == "Key\n" + "".join(f"many-0999{digit}\n" for digit in range(10))


@pytest.mark.parametrize("arguments", [("many",), ("many-",), ("many-*",)])
def test_all_pages(run: Run, arguments: tuple[str, ...]) -> None:
    """A listing of 10,000 keys is complete, in order and without duplicates, though a page has 1024."""
    names = document(run("ls", *arguments, "--json"))
    assert names == [f"many-{number:05}" for number in range(10_000)]


def test_broken_pipe(server: Server, folder: Path) -> None:
    """A listing that nobody reads any more (`| head -1`) ends without a word, and not as an error."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [KES, "ls", "-k"],
        cwd=folder,
        env=environment(variables(server)),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
    )
    os.close(writing)
    assert (result.stderr, result.returncode in (0, 128 + signal.SIGPIPE, -signal.SIGPIPE)) == (b"", True)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("ls", "-p"), ["empty", "my-app", "ops"]),
        (("policy", "ls"), ["empty", "my-app", "ops"]),
        (("policy", "list", "my-*"), ["my-app"]),
        (("ls", "--identity"), sorted([ADMIN.identity, APP.identity, OPS.identity])),
        (("identity", "ls"), sorted([ADMIN.identity, APP.identity, OPS.identity])),
        (("identity", "ls", APP.identity[:8]), [APP.identity]),
    ],
)
def test_other_listings(run: Run, command: tuple[str, ...], names: list[str]) -> None:
    """Policies and identities, the admin among them, are listed below a header of their own, or as JSON strings."""
    header = "Policy" if "empty" in names or names == ["my-app"] else "Identity"
    assert success(run(*command)) == "\n".join([header, *names, ""])
    assert document(run(*command, "--json")) == names


@pytest.mark.parametrize("command", [("ls",), ("key", "ls"), ("policy", "ls"), ("identity", "ls")])
def test_nothing_to_list(run: Run, command: tuple[str, ...]) -> None:
    """No name is no output and no error; as JSON it is an empty array."""
    assert success(run(*command, "0nothing")) == ""
    assert document(run(*command, "0nothing", "--json")) == []


@pytest.mark.parametrize("pattern", ["a*b", "**", "../x", "a b", "_", "é", "/"])
def test_invalid_pattern(run: Run, pattern: str) -> None:
    """What can be no prefix is refused with the server's words."""
    assert run("ls", pattern).error == f"listing pattern '{pattern}' is empty, too long or is invalid"


def test_identity_or_policy(run: Run) -> None:
    """`kes ls` lists one kind at a time."""
    assert run("ls", "-i", "-p").error == "--identity and --policy exclude each other"


def test_create_and_delete(run: Run) -> None:
    """Keys are created and deleted in order and without a word; what fails is named, and what came before stays."""
    assert success(run("key", "create", "c1", "c2")) == ""
    assert run("key", "create", "c3", "c1", "c4").error == 'failed to create key "c1": key already exists'
    assert success(run("key", "ls", "c")) == "Key\nc1\nc2\nc3\n"
    assert success(run("key", "create", "--if-not-exists", "c1")) == ""
    assert document(run("key", "create", "--if-not-exists", "--json", "c1", "c4")) == {"created": ["c4"]}
    assert run("key", "rm", "c1", "c9", "c2").error == 'failed to remove key "c9": key does not exist'
    assert document(run("key", "rm", "c2", "c3", "c4", "--json")) == {"deleted": ["c2", "c3", "c4"]}
    assert document(run("key", "ls", "c", "--json")) == []


@pytest.mark.parametrize("name", ["..", "a/b", "a b", "ключ", "", "a-", "_", "x" * 81, "a\nb", "%2e%2e"])
def test_invalid_names(run: Run, name: str) -> None:
    """Names that are none are refused with the server's words, on one line, and so cannot lead to another path."""
    shown = name.replace("\n", "\\n")
    message = f"key name '{shown}' is empty, too long or contains invalid characters"
    assert run("key", "create", name).error == message


def test_key_info(run: Run, show: Callable[..., str]) -> None:
    """A key's name, algorithm, creation time in UTC and creator, in one column, or as JSON with all four."""
    run("key", "create", "described")
    pattern = (
        r"Name        described\n"
        r"Algorithm   (AES256|ChaCha20)\n"
        rf"Date        {CREATED}\n"
        rf"Owner       {ADMIN.identity}\n"
    )
    assert re.fullmatch(pattern, success(run("key", "info", "described")))
    assert re.fullmatch(pattern, plain(show("key", "info", "described")))
    info = document(run("key", "info", "described", "--json"))
    assert list(info) == ["name", "algorithm", "created_at", "created_by"]
    assert re.fullmatch(RFC3339, info["created_at"])
    assert run("key", "info", "nobody").error == 'failed to describe keys: key "nobody": key does not exist'


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [(("KEY",), None), (("-",), b"KEY\n"), ((), b" KEY \r\n"), (("--algorithm", "chacha20"), b"KEY")],
)
def test_import(run: Run, tmp_path: Path, arguments: tuple[str, ...], stdin: bytes | None) -> None:
    """A key comes from the command line or standard input, base64 with blanks around it, and is the key it was."""
    key = base64.b64encode(bytes(range(32)))
    name = f"imported{len(arguments)}{stdin is None:d}{arguments == ():d}"
    words = [key.decode() if word == "KEY" else word for word in arguments]
    assert success(run("key", "import", name, *words, stdin=stdin and stdin.replace(b"KEY", key))) == ""
    algorithm = "ChaCha20" if "--algorithm" in arguments else "AES256"
    assert document(run("key", "info", name, "--json"))["algorithm"] == algorithm


def test_refused_import(run: Run) -> None:
    """What is no base64 is not sent, what is no key the server refuses; neither error repeats it."""
    assert run("key", "import", "bad", "c2VjcmV0!").error.startswith("invalid key: not base64: ")
    message = "failed to import \"bad\": invalid key size for 'AES256'"
    assert run("key", "import", "bad", "c2VjcmV0").error == message
    assert run("key", "import", "one", base64.b64encode(bytes(32)).decode()).error == (
        'failed to import "one": key already exists'
    )
    wrong = run("key", "import", "bad", "c2VjcmV0", "--algorithm", "DES").error
    assert wrong == (
        'invalid argument "DES" for "--algorithm" flag: write AES256 or ChaCha20. See \'kes key import --help\''
    )


def test_import_on_terminal(server: Server, folder: Path) -> None:
    """On a terminal a missing key is asked for, and not shown."""
    key = base64.b64encode(bytes(range(32))).decode()
    status, shown = on_terminal(
        KES, "key", "import", "typed", "-k", cwd=folder, env=variables(server), answers={"base64): ": f"{key}\n"}
    )
    assert (status, shown) == (0, "Enter key (base64): \n")


@pytest.mark.parametrize("context", [(), ("Y29udGV4dA==",)])
def test_encrypt_and_decrypt(run: Run, context: tuple[str, ...]) -> None:
    """A message comes back as base64, or raw as it was, with the same context only."""
    message = "Grüße, мир\n"
    ciphertext = document(run("key", "encrypt", "two", message, *context))["ciphertext"]
    assert document(run("key", "decrypt", "two", ciphertext, *context)) == {
        "plaintext": base64.b64encode(message.encode()).decode()
    }
    assert run("key", "decrypt", "--raw", "two", ciphertext, *context).out == message.encode()
    assert run("key", "decrypt", "two", ciphertext, "b3RoZXI=").error == (
        'failed to decrypt ciphertext: key "two": decryption failed: ciphertext is not authentic'
    )


def test_binary_message(run: Run) -> None:
    """Standard input is encrypted byte for byte, and --raw gives the same bytes; an argument may be no UTF-8."""
    message = bytes(range(256)) * 2048  # 512 KiB, which is 683 KiB of base64
    ciphertext = document(run("key", "encrypt", "two", "-", stdin=message))["ciphertext"]
    piped = run("key", "decrypt", "--raw", "two", "-", stdin=ciphertext.encode() + b"\n")
    assert (piped.status, piped.out, piped.err) == (0, message, "")
    ciphertext = document(run("key", "encrypt", "two", b"\xff\xfe"))["ciphertext"]
    assert run("key", "decrypt", "--raw", "two", ciphertext).out == b"\xff\xfe"
    ciphertext = document(run("key", "encrypt", "two", "-", stdin=b""))["ciphertext"]
    assert success(run("key", "decrypt", "--raw", "two", ciphertext)) == ""


def test_huge_message(run: Run) -> None:
    """What no request can hold is an error: the server's words up to 2 MiB, and beyond that nothing is sent."""
    assert run("key", "encrypt", "two", "-", stdin=bytes(1 << 20)).error == (
        'failed to encrypt message: key "two": request body is too large'
    )
    assert run("key", "encrypt", "two", "-", stdin=bytes((2 << 20) + 1)).error == (
        "standard input is too large: a request holds at most 1 MiB"
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("decrypt", "two", "!"), "ciphertext"),
        (("decrypt", "two", "QQ==", "Q"), "context"),
        (("encrypt", "two", "x", "Q=Q="), "context"),
        (("dek", "two", "QQ"), "context"),
    ],
)
def test_no_base64(folder: Path, arguments: tuple[str, ...], what: str) -> None:
    """Text that is no base64 is refused before anything else is done, even without a server or an API key."""
    assert kes("key", *arguments, cwd=folder).error.startswith(f"invalid {what}: not base64: ")


def test_raw_or_json(run: Run) -> None:
    """Bytes cannot be a JSON document."""
    assert run("key", "decrypt", "--raw", "--json", "two", "QQ==").error == "--raw and --json exclude each other"


def test_data_key(run: Run, show: Callable[..., str]) -> None:
    """A data key is JSON in a pipe, plaintext first, and two aligned lines on a terminal; it decrypts to itself."""
    key = document(run("key", "dek", "two", "Y3R4"))
    assert list(key) == ["plaintext", "ciphertext"]
    assert len(unbase64(key["plaintext"])) == 32
    assert document(run("key", "decrypt", "two", key["ciphertext"], "Y3R4")) == {"plaintext": key["plaintext"]}
    assert re.fullmatch(r"\nplaintext:  \S{44}\nciphertext: \S{104}\n", plain(show("key", "dek", "two", columns=200)))
    assert list(json.loads(show("key", "dek", "two", "--json"))) == ["plaintext", "ciphertext"]
    shown = re.fullmatch(r"\nciphertext: (\S+)\n", plain(show("key", "encrypt", "two", "Hello World")))
    assert shown
    assert plain(show("key", "decrypt", "two", shown[1])) == "\nplaintext: SGVsbG8gV29ybGQ=\n"


def test_policy_info(run: Run) -> None:
    """A policy's name, and when and by whom it was made known, or as JSON."""
    pattern = rf"Name        my-app\nDate        {CREATED}\nCreated by  {ADMIN.identity}\n"
    assert re.fullmatch(pattern, success(run("policy", "info", "my-app")))
    info = document(run("policy", "info", "my-app", "--json"))
    assert (list(info), info["name"]) == (["name", "created_at", "created_by"], "my-app")
    assert run("policy", "info", "none").error == "policy does not exist"
    assert run("policy", "info", "a b").error == ("policy name 'a b' is empty, too long or contains invalid characters")


def test_policy_show(run: Run, show: Callable[..., str]) -> None:
    """A policy's rules, sorted: JSON in a pipe, blocks on a terminal; a policy without rules has neither block."""
    policy = document(run("policy", "show", "my-app"))
    assert list(policy) == ["allow", "deny", "created_at", "created_by"]
    assert list(policy["allow"]) == sorted(policy["allow"])
    assert policy["deny"] == {"/v1/key/decrypt/my-app-internal*": {}, "/v1/key/generate/my-app-internal*": {}}
    allowed = "".join(f"  · {path}\n" for path in policy["allow"])
    denied = "".join(f"  · {path}\n" for path in policy["deny"])
    shown = plain(show("policy", "show", "my-app"))
    end = rf"Created at: {CREATED}\nCreated by: {ADMIN.identity}\n"
    assert re.fullmatch(re.escape(f"Allow:\n{allowed}\nDeny:\n{denied}\n\n") + end, shown)
    assert re.fullmatch(end, plain(show("policy", "show", "empty")))
    assert list(document(run("policy", "show", "empty"))) == ["created_at", "created_by"]
    assert show("policy", "show", "ops", "--json").startswith('{\n  "allow": {\n    "/v1/')
    assert run("policy", "show", "none").error == "failed to show policy 'none': policy does not exist"
    assert run("policy", "show", "ops", "x").error == "unexpected argument \"x\". See 'kes policy show --help'"


def test_own_identity(run: Run) -> None:
    """Everyone with a policy, and the admin, sees who they are; patterns of the policy stand one a line."""
    admin = success(run("identity", "info"))
    assert re.fullmatch(rf"Identity    {ADMIN.identity}\nCreated At  {CREATED}\nRole        Admin\n", admin)
    app = success(run("identity", "info", key=APP))
    head, rules = app.split("\n\n")
    assert re.fullmatch(
        rf"Identity    {APP.identity}\nCreated At  {CREATED}\nRole        User\nCreated By  {ADMIN.identity}", head
    )
    assert rules.startswith("Policy      my-app\nAllow\n            · /v1/key/create/my-app*\n")
    assert "\nDeny\n            · /v1/key/decrypt/my-app-internal*\n" in rules
    document_ = document(run("identity", "info", "--json", key=APP))
    assert list(document_) == ["identity", "policy", "created_at", "created_by", "allow", "deny"]
    assert document_["allow"]["/v1/status"] == {}
    assert run("identity", "info", key=STRANGER).error == "identity does not exist"


def test_other_identity(run: Run) -> None:
    """Of another identity the policy comes first; rules are shown for the own one only."""
    text = success(run("identity", "info", APP.identity))
    assert re.fullmatch(
        rf"Identity    {APP.identity}\nPolicy      my-app\nCreated At  {CREATED}\nRole        User\n"
        rf"Created By  {ADMIN.identity}\n",
        text,
    )
    admin = document(run("identity", "info", ADMIN.identity, "--json"))
    assert (admin["identity"], admin["admin"]) == (ADMIN.identity, True)
    assert run("identity", "info", STRANGER.identity).error == "identity does not exist"


def test_status(run: Run, server: Server) -> None:
    """Who answered, what it runs on, how its key store and memory are; --short is the first line of it."""
    first = f"● 127.0.0.1:{server.port}\n"
    assert re.fullmatch(
        re.escape(first) + r"  Version  \S+\n"
        r"  Uptime   \d+ (seconds|minutes)\n"
        r"  Latency  \d+ms\n"
        r"  OS       linux\n"
        r"  CPUs     \d+ \w+\n"
        r"  Keystore \d+ms\n"
        r"  Memory\n"
        r"  · Heap   \d+\.\d[KM]B\n"
        r"  · Stack  \d+\.\d[KM]B\n",
        success(run("status")),
    )
    assert success(run("status", "-s")) == first
    assert success(run("status", "-s", "--check", "--server", f"https://localhost:{server.port}")) == (
        f"● localhost:{server.port}\n"
    )


def test_status_json(run: Run) -> None:
    """As JSON the state has the API's fields, without those that are zero or false."""
    status = document(run("status", "--json"))
    assert set(status) <= {
        "version",
        "os",
        "arch",
        "uptime",
        "num_cpu",
        "num_cpu_used",
        "mem_heap_used",
        "mem_stack_used",
        "keystore_latency",
    }
    assert all(status.values())


def test_status_api(run: Run) -> None:
    """--api adds the routes, sorted by path, in columns; with --json it prints them alone and whole."""
    _, empty, header, *rows = success(run("status", "--short", "--api")).splitlines()
    assert (empty, header) == ("", "  Method  API                          Timeout")
    assert rows == sorted(rows, key=lambda row: row.split()[1])
    assert "  PUT     /v1/key/create/              15s" in rows
    assert "  GET     /v1/log/audit                Inf" in rows
    routes = document(run("status", "--json", "--api"))
    assert {"method": "GET", "path": "/v1/log/audit", "max_body": 0, "timeout": 0} in routes
    assert len(routes) == len(rows)


def test_status_of_all(run: Run, server: Server) -> None:
    """--all asks each server; one that does not answer is shown with its reason, and makes the status 1."""
    servers = f"127.0.0.1:{server.port},localhost:{server.port}"
    assert success(run("status", "--all", "--short", KES_SERVER=servers)).count("●") == 2
    result = run("status", "--all", "--short", "--json", KES_SERVER=f"127.0.0.1:{server.port},127.0.0.1:1")
    assert result.status == 1
    up, down = json.loads(result.out)
    assert (up["endpoint"], "error" in up) == (f"127.0.0.1:{server.port}", False)
    assert down == {"endpoint": "127.0.0.1:1", "error": "kes: connection error: 127.0.0.1:1: Connection refused"}


def test_status_without_key_store(tmp_path: Path) -> None:
    """A key store that is out of reach is shown, and an error only with --check."""
    with start(tmp_path) as server:
        (tmp_path / "keys").rename(tmp_path / "gone")
        env = variables(server)
        result = kes("status", "-k", cwd=tmp_path, env=env)
        assert "\n  Keystore unreachable\n" in success(result)
        document_ = document(kes("status", "-k", "--json", cwd=tmp_path, env=env))
        assert document_["keystore_unreachable"] is True
        assert document_["keystore_unavailable"] is True
        checked = kes("status", "-k", "--check", "--short", cwd=tmp_path, env=env)
        assert checked.status == 1
        assert checked.err == f"Error: the key store of 127.0.0.1:{server.port} is not reachable\n"


COMMANDS = {
    "ls": ("ls", "one"),
    "key create": ("key", "create", "--if-not-exists", "two"),
    "key import": ("key", "import", "enclaved"),
    "key info": ("key", "info", "two"),
    "key ls": ("key", "ls", "two"),
    "key rm": ("key", "rm", "removed"),
    "key encrypt": ("key", "encrypt", "two", "text"),
    "key decrypt": ("key", "decrypt", "two", "CIPHERTEXT"),
    "key dek": ("key", "dek", "two"),
    "policy info": ("policy", "info", "ops"),
    "policy ls": ("policy", "ls"),
    "policy show": ("policy", "show", "ops"),
    "identity info": ("identity", "info"),
    "identity ls": ("identity", "ls"),
    "status": ("status",),
}


@pytest.mark.parametrize(
    "name",
    ["key create", "key info", "key ls", "key encrypt", "key dek", "policy info", "policy show", "identity info"],
)
def test_enclave(run: Run, name: str) -> None:
    """Old scripts' --enclave is accepted with a warning, and changes nothing."""
    result = run(*COMMANDS[name], "-e", "tenant")
    assert (result.status, result.err) == (0, "WARNING: --enclave is ignored: there are no enclaves\n")


@pytest.mark.parametrize("name", ["ls", "key ls", "key info", "policy show", "identity info", "status"])
def test_colours(run: Run, show: Callable[..., str], name: str) -> None:
    """Only a terminal gets colours, unless an option or a variable says otherwise; the option has the last word."""
    command = COMMANDS[name]
    assert ESCAPE not in success(run(*command))
    assert ESCAPE in show(*command)
    assert ESCAPE not in show(*command, NO_COLOR="1")
    assert ESCAPE not in show(*command, "--color=never")


def test_forced_colours(run: Run, show: Callable[..., str]) -> None:
    """CLICOLOR_FORCE and --color=always colour a pipe, TERM=dumb no terminal; --color beats NO_COLOR."""
    assert ESCAPE in success(run("status", CLICOLOR_FORCE="1"))
    assert ESCAPE in success(run("status", "--color", "ALWAYS", NO_COLOR="1"))
    assert ESCAPE not in show("status", TERM="dumb")
    assert run("ls", "--color=red").error == (
        'invalid argument "red" for "--color" flag: write auto, always or never. See \'kes ls --help\''
    )


@pytest.mark.parametrize("name", ["ls", "status", "policy show", "identity info"])
def test_narrow_terminal(show: Callable[..., str], name: str) -> None:
    """The width of the terminal changes nothing: lines are never cut, so that they can be copied."""
    wide, narrow = (re.sub(r"\d", "0", show(*COMMANDS[name], columns=columns)) for columns in (200, 20))
    assert re.sub("0+", "0", wide) == re.sub("0+", "0", narrow)


def test_terminal_on_standard_error_only(server: Server, folder: Path) -> None:
    """In `X=$(kes …)` in a shell on a terminal, X gets the form for programs."""
    line = f'X=$({KES} key dek two -k); echo "$X"'
    status, shown = on_terminal("/bin/sh", "-c", line, cwd=folder, env=variables(server))
    assert status == 0
    assert list(json.loads(shown)) == ["plaintext", "ciphertext"]
