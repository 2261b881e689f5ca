"""The identity commands that need no server: API keys, their identities, and key and certificate files (cli.md 5.6)."""

from __future__ import annotations

import os
import re
import ssl
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kes.certificate import (
    PasswordRequiredError,
    PrivateKey,
    PrivateKeyError,
    encode_private_key,
    load_private_key,
    make_identity_certificate,
)
from kes.cli import pair
from kes.cli.command import Given, shown
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal
from kes.identity import APIKey, Identity, of_certificate, of_public_key

_PASSWORD = "Enter password for private key: "  # noqa: S105 - a prompt
_CONFIRM = "Confirm password for private key: "
_MAX_FILE = 1024 * 1024  # bytes; a chain of certificates is a few thousand

_CERTIFICATE = b"CERTIFICATE"
_BLOCK = re.compile(rb"-----BEGIN (CERTIFICATE|(?:[A-Z0-9]+ )*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_LIKE_A_KEY = re.compile(r".*(?:kes|v1):.*|[A-Za-z0-9+/=]{40,}", re.DOTALL)


def identity(given: Given, terminal: Terminal) -> None:
    """`kes identity`: a new API key; `kes identity ARG`: what belongs to ARG."""
    if not given.words:
        _print_new(APIKey.generate(), terminal)
        return
    (argument,) = given.words
    if _is_key(argument):
        _print_found("identity", APIKey.parse(argument).identity, terminal)
        return
    label, block = _first_block(argument)
    if label == _CERTIFICATE:
        _print_found("identity", _identity_of(argument, block), terminal)
        return
    key = _load(argument, block, given.text("password-file"), terminal)
    if not isinstance(key, Ed25519PrivateKey):
        raise CommandError(f"{shown(argument)} is no Ed25519 key, so there is no API key for it")
    _print_found("API key", str(APIKey(key.private_bytes_raw())), terminal)


def _print_found(what: str, value: str, terminal: Terminal) -> None:
    if terminal.wants_json:
        terminal.json({what.lower().replace(" ", "_"): value})
    elif terminal.wants_prose:
        terminal.print("", f"The {what} is:", "", f"   {terminal.style.bold(value)}", "")
    else:
        terminal.print(value)


def of(given: Given, terminal: Terminal) -> None:
    """`kes identity of ARG`: the identity of an API key, a certificate or a private key."""
    (argument,) = given.words
    if _is_key(argument):
        found = APIKey.parse(argument).identity
    else:
        label, block = _first_block(argument)
        if label == _CERTIFICATE:
            found = _identity_of(argument, block)
        else:
            public_key = _load(argument, block, given.text("password-file"), terminal).public_key()
            found = of_public_key(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if terminal.wants_json:
        terminal.json({"identity": found})
    elif terminal.wants_prose:
        terminal.print("Identity:", "", f"   {terminal.style.bold(found)}")
    else:
        terminal.print(found)


def new(given: Given, terminal: Terminal) -> None:
    """`kes identity new`: an API key, and on demand its private key and certificate as files."""
    api_key = APIKey.generate()
    key_path, cert_path = given.text("key"), given.text("cert")
    if key_path is None or cert_path is None:
        _check_no_files(given, terminal)
        _print_made(api_key, None, terminal, secret=True)
        return
    pair.check(key_path, cert_path, force=given.flag("force"))
    certificate = _certificate(given, api_key)
    pbes2 = given.flag("pbes2")
    password = None
    if given.flag("encrypt") or pbes2:
        password = terminal.password(_PASSWORD, file=given.text("password-file"), confirm=_CONFIRM)
    elif given.is_set("password-file"):
        raise CommandError("--password-file needs --encrypt or --pbes2")
    key = encode_private_key(api_key.private_key, password, pbes2=pbes2)
    pair.write(key, key_path, certificate, cert_path, force=given.flag("force"))
    if not given.texts("dns") and not given.texts("ip"):
        terminal.warning("the certificate has no --dns and no --ip: a client can use it, a server cannot")
    # Who has the key encrypted does not want it in a file or a log that standard output goes to.
    _print_made(api_key, (key_path, cert_path), terminal, secret=password is None or terminal.interactive)


def _check_no_files(given: Given, terminal: Terminal) -> None:
    """Raise CommandError if there are options that mean nothing without both files."""
    names = ("ip", "dns", "expiry", "encrypt", "pbes2", "password-file", "force")
    useless = [name for name in names if given.is_set(name)]
    missing = [name for name in ("key", "cert") if not given.is_set(name)]
    if len(missing) == 1:
        raise CommandError(f"--{missing[0]} is missing: give both --key and --cert, or neither")
    if useless:
        raise CommandError(f"--{useless[0]} needs --key and --cert: add --key FILE and --cert FILE")
    if given.words:
        terminal.warning("without --key and --cert there is no certificate that the subject could be in")


def _certificate(given: Given, api_key: APIKey) -> bytes:
    subject = given.words[0] if given.words and given.words[0] else api_key.identity
    if not subject.isprintable() or len(subject.encode(errors="replace")) > 64:
        raise CommandError("the subject has to be 1 to 64 printable characters")
    return make_identity_certificate(
        api_key,
        datetime.now(UTC),
        subject=subject,
        lifetime=timedelta(seconds=given.seconds("expiry")),
        dns=given.texts("dns"),
        addresses=given.texts("ip"),
    )


def _print_new(api_key: APIKey, terminal: Terminal) -> None:
    key, bold = str(api_key), terminal.style.bold
    if terminal.wants_json:
        terminal.json({"api_key": key, "identity": api_key.identity})
    elif terminal.wants_prose:
        terminal.print(
            *("", "Your API key:", "", f"   {bold(key)}", ""),
            *("It is shown only this once. Whoever has it can act as you: keep it secret.", ""),
            *("Your Identity:", "", f"   {bold(api_key.identity)}", ""),
            *("It is no secret. Policies name it. To print it again:", "", f"    kes identity {key}"),
        )
    else:
        terminal.print(key)


def _print_made(api_key: APIKey, paths: tuple[str, str] | None, terminal: Terminal, *, secret: bool) -> None:
    """What `kes identity new` prints; `secret` is whether the API key is part of it, which in JSON it always is."""
    key, bold = str(api_key), terminal.style.bold
    if terminal.wants_json:
        files = dict(zip(("key", "cert"), paths, strict=True)) if paths else {}
        terminal.json({"api_key": key, "identity": api_key.identity, **files})
        return
    if secret:
        terminal.print("Your API key:", "", f"   {bold(key)}", "")
        terminal.print("It is shown only this once. Whoever has it can act as you: keep it secret.", "")
    terminal.print("Your Identity:", "", f"   {bold(api_key.identity)}", "")
    terminal.print("It is no secret. Policies name it.", "")
    if paths:
        terminal.print(f"The private key is in  {paths[0]}", f"The certificate is in  {paths[1]}", "")
    terminal.print("To print the identity again:", "")
    if secret:
        terminal.print(f"    kes identity of {key}")
    if paths:
        import shlex

        terminal.print(f"    kes identity of {shlex.quote(paths[1])}")


def _first_block(path: str) -> tuple[bytes, bytes]:
    """The label and text of the first PEM block in a file that is a certificate or a private key."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a name may have any bytes
            data = file.read(_MAX_FILE)
    except (OSError, ValueError) as error:
        raise CommandError(_unreadable(path, error)) from None
    block = _BLOCK.search(data)
    if block is None:
        raise CommandError(f"{shown(path)} holds neither a certificate nor a private key in PEM format")
    return block[1], block[0]


def _identity_of(path: str, block: bytes) -> Identity:
    try:
        return of_certificate(ssl.PEM_cert_to_DER_cert(block.decode("ascii")))
    except ValueError:  # base64's is one, too
        raise CommandError(f"{shown(path)} holds no valid certificate") from None


def _load(path: str, block: bytes, password_file: str | None, terminal: Terminal) -> PrivateKey:
    try:
        try:
            return load_private_key(block)
        except PasswordRequiredError:
            return load_private_key(block, terminal.password(_PASSWORD, file=password_file))
    except PrivateKeyError as error:
        raise CommandError(f"{shown(path)}: {error}") from None


def _is_key(argument: str) -> bool:
    try:
        APIKey.parse(argument)
    except ValueError:
        return False
    return True


def _unreadable(argument: str, error: Exception) -> str:
    """Why `argument` is no file, without repeating what may be an API key with a slip of the pen."""
    if _LIKE_A_KEY.fullmatch(argument) and not os.path.lexists(argument):
        try:
            APIKey.parse(argument)
        except ValueError as reason:
            return str(reason)
    if isinstance(error, FileNotFoundError):
        return f"{shown(argument)} is neither an API key nor a file"
    return f"cannot read {shown(argument)}: {error.strerror if isinstance(error, OSError) else 'not a file name'}"
