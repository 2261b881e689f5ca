"""`kes identity`, `new` and `of` as people call them: in pipes, on terminals, with files there and files in the way."""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from kes.certificate import encode_private_key, load_private_key
from kes.cli import pair
from kes.cli.errors import CommandError
from kes.identity import APIKey
from tests.cli.run import kes, on_terminal
from tests.support import ADMIN, KES, require_tool, run

PASSWORD = "correct horse"
PAIR = ("--key", "k.key", "--cert", "c.crt")

# cli.md 4.5
VECTORS = [
    (
        "kes:v1:ACQpoGqx3rHHjT938Hfu5hVVQJHZWSqVI2Xp1KlYxFVw",
        "0426fa9a04bc2756b92fbe8a97e1a1e07b53ecf04ed33da22c33e5c9faeb8cbb",
    ),
    (
        "kes:v1:ADsGCjJoWziQ82wPUG6oHbqhhlbkajaRGP+3+JSfx5Wq",
        "7bbffa635fc160ef8048a344a53aab54e472e5c654c6339a9cec9223301808c7",
    ),
]
REFUSED = [
    "v1:AM0F5TP43FYEShMzA42f2drFYGnBOiNx7UH4DK0nm08E",
    "kes:AM0F5TP43FYEShMzA42f2drFYGnBOiNx7UH4DK0nm08E",
    "kes:v1:sbDvZFqUPFFwxRS4EkuoEb2nyyInkdKSUEYHXFHeTouW",
]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def key_lines(text: str) -> list[str]:
    """What scripts look for: the lines of an API key or an identity, three spaces in."""
    found = [line[3:] for line in text.splitlines() if line.startswith("   ") and line[3] != " "]
    assert len(found) == 2, text
    assert re.fullmatch("[0-9a-f]{64}", found[1])
    return found


class TestBare:
    def test_pipe(self, tmp_path: Path) -> None:
        """In a pipe it is a new API key, and a newline, each time another."""
        first, second = (kes("identity", cwd=tmp_path) for _ in range(2))
        assert (first.status, first.err) == (0, "")
        assert f"{APIKey.parse(first.text.removesuffix(chr(10)))}\n" == first.text != second.text

    def test_json(self, tmp_path: Path) -> None:
        """--json gives key and identity, on one line."""
        result = kes("identity", "--json", cwd=tmp_path)
        document = json.loads(result.text)
        assert list(document) == ["api_key", "identity"]
        assert APIKey.parse(document["api_key"]).identity == document["identity"]
        assert result.text.count("\n") == 1

    def test_terminal(self, tmp_path: Path) -> None:
        """On a terminal prose is around key and identity, which are bold and alone on their lines."""
        status, shown = on_terminal(KES, "identity", cwd=tmp_path)
        assert status == 0
        key, identity = key_lines(shown.replace("\x1b[1m", "").replace("\x1b[0m", ""))
        assert APIKey.parse(key).identity == identity
        assert f"   \x1b[1m{key}\x1b[0m\n" in shown
        assert f"\n    kes identity {key}\n" in shown

    def test_no_color(self, tmp_path: Path) -> None:
        """NO_COLOR and --color=never mean no escape sequence at all, and the prose stays."""
        for options, env in (((), {"NO_COLOR": "1"}), (("--color=never",), {})):
            _, shown = on_terminal(KES, "identity", *options, cwd=tmp_path, env=env)
            assert "\x1b" not in shown
            key_lines(shown)


class TestOf:
    @pytest.mark.parametrize("command", [("identity",), ("identity", "of")])
    @pytest.mark.parametrize(("key", "identity"), VECTORS)
    def test_api_key(self, tmp_path: Path, command: tuple[str, ...], key: str, identity: str) -> None:
        """The identity of an API key, as 64 hex digits and a newline in a pipe."""
        result = kes(*command, key, cwd=tmp_path)
        assert (result.status, result.text, result.err) == (0, f"{identity}\n", "")

    @pytest.mark.parametrize("command", [("identity",), ("identity", "of")])
    @pytest.mark.parametrize("key", [*REFUSED, VECTORS[0][0][:-9], VECTORS[0][0].removeprefix("kes:v1:")[:-1]])
    def test_broken_api_key(self, tmp_path: Path, command: tuple[str, ...], key: str) -> None:
        """What is no API key is refused, and not repeated, as all of it but a character may be one."""
        error = kes(*command, key, cwd=tmp_path).error
        assert error.startswith("kes: invalid API key: ")
        assert key[8:20] not in error

    def test_terminal(self, tmp_path: Path) -> None:
        """On a terminal there is a label, and the identity in bold; with --json there is neither."""
        key, identity = VECTORS[0]
        assert on_terminal(KES, "identity", "of", key, cwd=tmp_path) == (
            0,
            f"Identity:\n\n   \x1b[1m{identity}\x1b[0m\n",
        )
        assert on_terminal(KES, "identity", "of", key, "--json", cwd=tmp_path) == (0, f'{{"identity":"{identity}"}}\n')

    def test_files(self, tmp_path: Path) -> None:
        """A certificate, a private key and a file with both have one identity; the key file has the API key, too."""
        key, identity = key_lines(kes("identity", "new", *PAIR, cwd=tmp_path).text)
        (tmp_path / "both.pem").write_bytes(
            b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
            + (tmp_path / "c.crt").read_bytes()
            + (tmp_path / "k.key").read_bytes()
        )
        for name in ("c.crt", "k.key", "both.pem"):
            assert kes("identity", "of", name, cwd=tmp_path).text == f"{identity}\n"
        assert kes("identity", "c.crt", cwd=tmp_path).text == f"{identity}\n"
        assert kes("identity", "k.key", cwd=tmp_path).text == f"{key}\n"
        assert kes("identity", "k.key", "--json", cwd=tmp_path).text == f'{{"api_key":"{key}"}}\n'

    def test_other_keys(self, tmp_path: Path) -> None:
        """Other private keys have an identity, but no API key."""
        openssl = require_tool("openssl")
        run(openssl, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ec.key", cwd=tmp_path)
        assert re.fullmatch("[0-9a-f]{64}\n", kes("identity", "of", "ec.key", cwd=tmp_path).text)
        assert (
            kes("identity", "ec.key", cwd=tmp_path).error == '"ec.key" is no Ed25519 key, so there is no API key for it'
        )

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("missing", '"missing" is neither an API key nor a file'),
            ("folder", 'cannot read "folder": Is a directory'),
            ("empty", '"empty" holds neither a certificate nor a private key in PEM format'),
            ("bad.crt", '"bad.crt" holds no valid certificate'),
            ("bad.key", '"bad.key": holds no valid private key'),
            ("a\n\x1bb", '"a\\n\\x1bb" is neither an API key nor a file'),
            ("", '"" is neither an API key nor a file'),
        ],
    )
    def test_unusable_files(self, tmp_path: Path, name: str, error: str) -> None:
        """What is wrong with a file is one line that names it."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "empty").touch()
        for label, file in (("CERTIFICATE", "bad.crt"), ("PRIVATE KEY", "bad.key")):
            (tmp_path / file).write_text(f"-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n")
        assert kes("identity", "of", name, cwd=tmp_path).error == error

    def test_name_that_is_no_text(self, tmp_path: Path) -> None:
        """A file name may be any bytes, and an error shows them escaped."""
        assert kes("identity", "of", b"\xff", cwd=tmp_path).error == '"\\udcff" is neither an API key nor a file'

    def test_extra_arguments(self, tmp_path: Path) -> None:
        """More than one argument is an error, and so is none."""
        assert kes("identity", "of", "a", "b", cwd=tmp_path).error.startswith('unexpected argument "b"')
        result = kes("identity", "of", cwd=tmp_path)
        assert (result.status, result.text) == (2, "")
        assert "kes identity of [options] API-KEY|FILE" in result.err


class TestNew:
    def test_without_files(self, tmp_path: Path) -> None:
        """Without files it prints what `kes identity` does on a terminal, also into a pipe, and how to see it again."""
        result = kes("identity", "new", cwd=tmp_path)
        key, identity = key_lines(result.text)
        assert APIKey.parse(key).identity == identity
        assert f"\n    kes identity of {key}\n" in result.text
        assert list(tmp_path.iterdir()) == []

    def test_files(self, tmp_path: Path) -> None:
        """The files are a key and its certificate with what was asked for, and only the owner reads the key."""
        options = ("--dns", "localhost,a.example", "--dns=b.example", "--ip=127.0.0.1,::1", "--expiry", "2h")
        result = kes("identity", "new", *PAIR, *options, "my app", cwd=tmp_path)
        assert (result.status, result.err) == (0, "")
        key, identity = key_lines(result.text)
        assert "    kes identity of c.crt\n" in result.text
        cert = x509.load_pem_x509_certificate((tmp_path / "c.crt").read_bytes())
        assert encode_private_key(APIKey.parse(key).private_key) == (tmp_path / "k.key").read_bytes()
        assert cert.public_key() == APIKey.parse(key).private_key.public_key()
        assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "my app"
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["localhost", "a.example", "b.example"]
        assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
        assert timedelta(hours=1, minutes=50) < cert.not_valid_after_utc - datetime.now(UTC) < timedelta(hours=2)
        assert (mode(tmp_path / "k.key"), mode(tmp_path / "c.crt")) == (0o600, 0o644 & ~umask())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["c.crt", "k.key"]
        assert identity in kes("identity", "of", "c.crt", cwd=tmp_path).text

    def test_defaults(self, tmp_path: Path) -> None:
        """Without a subject the name is the identity; 30 days; no address, about which there is a warning."""
        result = kes("identity", "new", *PAIR, cwd=tmp_path)
        assert result.err == "WARNING: the certificate has no --dns and no --ip: a client can use it, a server cannot\n"
        cert = x509.load_pem_x509_certificate((tmp_path / "c.crt").read_bytes())
        assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == key_lines(result.text)[1]
        assert timedelta(days=29) < cert.not_valid_after_utc - datetime.now(UTC) < timedelta(days=30)

    def test_json(self, tmp_path: Path) -> None:
        """--json gives key, identity and the files' names, and nothing else."""
        document = json.loads(kes("identity", "new", *PAIR, "--json", "--dns", "a", cwd=tmp_path).text)
        assert list(document) == ["api_key", "identity", "key", "cert"]
        assert (document["key"], document["cert"]) == ("k.key", "c.crt")
        assert list(json.loads(kes("identity", "new", "--json", cwd=tmp_path).text)) == ["api_key", "identity"]

    def test_umask(self, tmp_path: Path) -> None:
        """The umask holds for the certificate; it cannot open the key."""
        for mask, expected in (("077", 0o600), ("000", 0o644)):
            command = f'umask {mask}; "$0" identity new --key {mask}.key --cert {mask}.crt'
            assert run("/bin/sh", "-c", command, KES, cwd=tmp_path).returncode == 0
            assert (mode(tmp_path / f"{mask}.key"), mode(tmp_path / f"{mask}.crt")) == (0o600, expected)

    def test_existing_files(self, tmp_path: Path) -> None:
        """Files that exist stay as they are without --force; with it both are new, and have the modes of new ones."""
        key, cert = tmp_path / "k.key", tmp_path / "c.crt"
        cert.write_text("old certificate")
        error = kes("identity", "new", *PAIR, cwd=tmp_path).error
        assert error == "certificate already exists. Use --force to overwrite it"
        assert [path.name for path in tmp_path.iterdir()] == ["c.crt"]
        key.write_text("old key")
        key.chmod(0o644)
        cert.chmod(0o600)
        error = kes("identity", "new", *PAIR, cwd=tmp_path).error
        assert error == "private key already exists. Use --force to overwrite it"
        assert (key.read_text(), cert.read_text()) == ("old key", "old certificate")
        assert kes("identity", "new", *PAIR, "-f", cwd=tmp_path).status == 0
        assert (mode(key), mode(cert)) == (0o600, 0o644 & ~umask())
        assert b"PRIVATE KEY" in key.read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["c.crt", "k.key"]

    @pytest.mark.parametrize("cert", ["k.key", "./k.key", "link", "hard"])
    def test_same_file(self, tmp_path: Path, cert: str) -> None:
        """Key and certificate cannot be one file, however it is called: the key would be lost."""
        key = tmp_path / "k.key"
        key.write_text("old")
        (tmp_path / "link").symlink_to("k.key")
        (tmp_path / "hard").hardlink_to(key)
        error = kes("identity", "new", "--key", "k.key", "--cert", cert, "--force", cwd=tmp_path).error
        assert error == "--key and --cert are the same file"
        assert key.read_text() == "old"

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            (("--key", "k"), "--cert is missing: give both --key and --cert, or neither"),
            (("--cert", "c"), "--key is missing: give both --key and --cert, or neither"),
            (("--ip", "127.0.0.1", "localhost"), "--ip needs --key and --cert: add --key FILE and --cert FILE"),
            (("--encrypt",), "--encrypt needs --key and --cert: add --key FILE and --cert FILE"),
            ((*PAIR, "--password-file", "x"), "--password-file needs --encrypt or --pbes2"),
            ((*PAIR, "s" * 65), "the subject has to be 1 to 64 printable characters"),
            ((*PAIR, "a\nb"), "the subject has to be 1 to 64 printable characters"),
            (("--key", "no/k", "--cert", "c"), 'cannot write "no/k": No such file or directory'),
            (("--key", "k", "--cert", "no/c"), 'cannot write "no/c": No such file or directory'),
            (("--key", "k", "--cert", "f/c"), 'cannot write "f/c": Not a directory'),
            (("--key", "", "--cert", "c"), "--key and --cert need the path of a file: one of them is empty"),
            (("--key", "d", "--cert", "c", "-f"), 'cannot replace "d": it is no regular file'),
            (("--key", "k", "--cert", "/dev/null", "-f"), 'cannot replace "/dev/null": it is no regular file'),
        ],
    )
    def test_refused(self, tmp_path: Path, options: tuple[str, ...], error: str) -> None:
        """What cannot be done is one line, and leaves no file behind, whole or half."""
        (tmp_path / "d").mkdir()
        (tmp_path / "f").touch()
        assert kes("identity", "new", *options, cwd=tmp_path).error == error
        assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "f"]

    @pytest.mark.parametrize(
        ("option", "value", "reason"),
        [
            ("expiry", "-1h", "a certificate is valid for at least 1s"),
            ("expiry", "0", "a certificate is valid for at least 1s"),
            ("ip", "localhost", "not an IP address"),
            ("ip", "fe80::1%eth0", "not an IP address"),
            ("dns", "127.0.0.1", "write IP addresses with --ip"),
            ("dns", "a b", "not a host name"),
            ("dns", "", "not a host name"),
        ],
    )
    def test_bad_values(self, tmp_path: Path, option: str, value: str, reason: str) -> None:
        """Values that no certificate can have, or none should."""
        error = kes("identity", "new", *PAIR, f"--{option}={value}", cwd=tmp_path).error
        assert error == f'invalid argument "{value}" for "--{option}" flag: {reason}. See \'kes identity new --help\''

    def test_unused_subject(self, tmp_path: Path) -> None:
        """A subject without a certificate to be in is worth a warning, as the manual's example has one."""
        result = kes("identity", "new", "app", cwd=tmp_path)
        assert result.status == 0
        assert result.err.startswith("WARNING: ")

    def test_unwritable_folder(self, tmp_path: Path) -> None:
        """A directory that cannot be written is named with the reason; the key beside it is not left behind."""
        folder = tmp_path / "folder"
        folder.mkdir(mode=0o500)
        command = [KES, "identity", "new", "--key", "k.key", "--cert", "folder/c.crt"]
        if os.geteuid() == 0:  # who may write everywhere, unless that is taken away
            command = [require_tool("setpriv"), "--bounding-set=-dac_override,-dac_read_search", *command]
        result = run(*command, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (1, 'Error: cannot write "folder/c.crt": Permission denied\n')
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_odd_names(self, tmp_path: Path) -> None:
        """File names may hold blanks and what is no text; the command shown is one that a shell takes."""
        result = kes("identity", "new", "--key", b"\xff", "--cert", "a b", cwd=tmp_path)
        assert result.status == 0
        assert b"    kes identity of 'a b'\n" in result.out
        assert b"\\udcff" in result.out
        assert sorted(os.fsencode(path.name) for path in tmp_path.iterdir()) == [b"a b", b"\xff"]


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class TestEncrypted:
    @pytest.mark.parametrize("option", ["--encrypt", "--pbes2"])
    def test_unattended(self, tmp_path: Path, option: str) -> None:
        """With a password from a file the key is encrypted, is read back with it, and is nowhere in the output."""
        (tmp_path / "password").write_text(f"{PASSWORD}\nsecond line\n")
        with_file = ("--password-file", "password")
        result = kes("identity", "new", *PAIR, option, *with_file, "--dns", "a", cwd=tmp_path)
        assert (result.status, result.err) == (0, "")
        assert "kes:v1:" not in result.text
        pem = (tmp_path / "k.key").read_bytes()
        key = APIKey(load_private_key(pem, PASSWORD.encode()).private_bytes_raw())
        assert f"   {key.identity}\n" in result.text
        assert kes("identity", "k.key", *with_file, cwd=tmp_path).text == f"{key}\n"
        assert kes("identity", "k.key", cwd=tmp_path, env={"KES_KEY_PASSWORD": PASSWORD}).text == f"{key}\n"
        variable = {"KES_KEY_PASSWORD_FILE": "password", "KES_KEY_PASSWORD": "wrong"}
        assert kes("identity", "of", "k.key", cwd=tmp_path, env=variable).text == f"{key.identity}\n"
        wrong = kes("identity", "k.key", cwd=tmp_path, env={"KES_KEY_PASSWORD": "wrong"})
        assert wrong.error.startswith('"k.key": incorrect password')

    @pytest.mark.parametrize("option", ["--encrypt", "--pbes2"])
    def test_openssl(self, tmp_path: Path, option: str) -> None:
        """openssl reads what is written."""
        openssl = require_tool("openssl")
        assert kes("identity", "new", *PAIR, option, cwd=tmp_path, env={"KES_KEY_PASSWORD": PASSWORD}).status == 0
        key = run(openssl, "pkey", "-in", "k.key", "-passin", f"pass:{PASSWORD}", "-pubout", cwd=tmp_path)
        cert = run(openssl, "x509", "-in", "c.crt", "-noout", "-pubkey", cwd=tmp_path)
        assert key.stdout == cert.stdout != ""

    def test_json(self, tmp_path: Path) -> None:
        """With --json the API key is there, encrypted or not: whoever asks for it gets it."""
        options = (*PAIR, "--encrypt", "--json", "--dns", "a")
        result = kes("identity", "new", *options, cwd=tmp_path, env={"KES_KEY_PASSWORD": PASSWORD})
        assert "api_key" in json.loads(result.text)

    def test_terminal(self, tmp_path: Path) -> None:
        """On a terminal the password is asked for twice, and not shown; there the API key is printed."""
        answers = {"Enter password": f"{PASSWORD}\n", "Confirm password": f"{PASSWORD}\n"}
        status, shown = on_terminal(KES, "identity", "new", *PAIR, "--encrypt", cwd=tmp_path, answers=answers)
        assert status == 0
        assert PASSWORD not in shown
        assert shown.startswith("Enter password for private key: \nConfirm password for private key: \n")
        assert "   \x1b[1mkes:v1:" in shown
        load_private_key((tmp_path / "k.key").read_bytes(), PASSWORD.encode())
        answers = {"Enter password for private key: ": f"{PASSWORD}\n"}
        status, shown = on_terminal(KES, "identity", "of", "k.key", cwd=tmp_path, answers=answers)
        assert (status, "Identity:" in shown) == (0, True)

    @pytest.mark.parametrize(
        ("first", "second", "error"), [("a\n", "b\n", "passwords don't match"), ("\n", "\n", "the password is empty")]
    )
    def test_refused_passwords(self, tmp_path: Path, first: str, second: str, error: str) -> None:
        """Two passwords that differ, or an empty one, write nothing."""
        answers = {"Enter password": first, "Confirm password": second}
        status, shown = on_terminal(KES, "identity", "new", *PAIR, "--encrypt", cwd=tmp_path, answers=answers)
        assert (status, shown.splitlines()[-1]) == (1, f"\x1b[38;2;172;0;0mError:\x1b[0m {error}")
        assert list(tmp_path.iterdir()) == []

    def test_interrupted(self, tmp_path: Path) -> None:
        """Ctrl-C at the prompt ends with status 130 and no word, and the terminal echoes again."""
        script = '"$0" identity new --key k.key --cert c.crt --encrypt; echo "$?"; stty -a'
        answers = {"Enter password": "\x03"}
        status, shown = on_terminal("/bin/sh", "-c", f"trap : INT; {script}", KES, cwd=tmp_path, answers=answers)
        assert status == 0
        lines = shown.splitlines()
        assert lines[:2] == ["Enter password for private key: ", "130"]
        assert " echo " in shown.replace(";", " ")
        assert list(tmp_path.iterdir()) == []

    def test_empty_sources(self, tmp_path: Path) -> None:
        """An empty password file is an error, an empty variable is not; without a terminal one line says what to do."""
        (tmp_path / "empty").touch()
        error = kes("identity", "new", *PAIR, "--encrypt", "--password-file", "empty", cwd=tmp_path).error
        assert error == "the password file 'empty' is empty"
        error = kes("identity", "new", *PAIR, "--encrypt", "--password-file", "none", cwd=tmp_path).error
        assert error == "cannot read the password file 'none': No such file or directory"
        result = run(
            "setsid", "--wait", KES, "identity", "new", *PAIR, "--encrypt", cwd=tmp_path,
            env={**os.environ, "KES_KEY_PASSWORD": "", "KES_KEY_PASSWORD_FILE": ""},
        )  # fmt: skip
        assert result.returncode == 1
        assert result.stderr == (
            "Error: no terminal to ask for the password: set KES_KEY_PASSWORD_FILE or KES_KEY_PASSWORD\n"
        )


class TestPair:
    """Where the second file cannot be put in place, the first is as it was."""

    @pytest.mark.parametrize("force", [False, True])
    def test_second_fails(self, tmp_path: Path, force: bool) -> None:
        """A certificate's place that has become a directory: the key is not there, or still the old one."""
        key, cert = tmp_path / "k.key", tmp_path / "c.crt"
        if force:
            key.write_text("old")
        cert.mkdir()
        with pytest.raises(CommandError, match="cannot write"):
            pair.write(b"new key", str(key), b"new cert", str(cert), force=force)
        assert (key.read_text() if key.exists() else None) == ("old" if force else None)
        assert {path.name for path in tmp_path.iterdir()} - {"k.key"} == {"c.crt"}

    def test_made_meanwhile(self, tmp_path: Path) -> None:
        """A file that somebody has made since the check is not replaced without --force."""
        key, cert = tmp_path / "k.key", tmp_path / "c.crt"
        pair.check(str(key), str(cert), force=False)
        cert.write_text("theirs")
        with pytest.raises(CommandError, match="File exists"):
            pair.write(b"key", str(key), b"cert", str(cert), force=False)
        assert [path.name for path in tmp_path.iterdir()] == ["c.crt"]
        assert cert.read_text() == "theirs"

    def test_symbolic_link(self, tmp_path: Path) -> None:
        """A link is not replaced, with --force neither: what it stands for may be in use under its own name."""
        (tmp_path / "k.key").symlink_to("elsewhere")
        with pytest.raises(CommandError, match="no regular file"):
            pair.check(str(tmp_path / "k.key"), str(tmp_path / "c.crt"), force=True)


def test_admin_round_trip(tmp_path: Path) -> None:
    """A key file made of an API key by other tools gives that API key again."""
    (tmp_path / "admin.key").write_bytes(encode_private_key(ADMIN.private_key))
    assert kes("identity", "admin.key", cwd=tmp_path).text == f"{ADMIN}\n"
