"""`kes key create|import|info|rm|encrypt|decrypt|dek` (cli.md 5.4). What is not base64 is refused before a request."""

from __future__ import annotations

import binascii
import os
import sys
from typing import Final

from kes.cli.client import attempt, connect
from kes.cli.command import Given, shown
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal
from kes.cli.text import UNKNOWN, rfc3339, timestamp
from kes.client import KeyExists

_MAX_INPUT: Final = 2 * 1024 * 1024  # bytes of standard input; a request is limited to 1 MiB


def create(given: Given, terminal: Terminal) -> None:
    """Create keys in order, up to the first that fails."""
    created = []
    with connect(given, terminal) as client:
        for name in given.words:
            with attempt(client, f"create key {shown(name)}"):
                try:
                    client.create_key(name)
                except KeyExists:
                    if not given.flag("if-not-exists"):
                        raise
                else:
                    created.append(name)
    if terminal.wants_json:
        terminal.json({"created": created})


def delete(given: Given, terminal: Terminal) -> None:
    """Delete keys in order, up to the first that fails."""
    with connect(given, terminal) as client:
        for name in given.words:
            with attempt(client, f"remove key {shown(name)}"):
                client.delete_key(name)
    if terminal.wants_json:
        terminal.json({"deleted": list(given.words)})


def import_(given: Given, terminal: Terminal) -> None:
    name, *words = given.words
    algorithm = given.text("algorithm")
    assert algorithm is not None
    with connect(given, terminal) as client:
        if words and words[0] != "-":
            text = os.fsencode(words[0])
        elif sys.stdin is not None and sys.stdin.isatty():
            text = terminal.ask("Enter key (base64): ")
        else:
            text = _standard_input()
        key = _from_base64("key", text)
        with attempt(client, f"import {shown(name)}"):
            client.import_key(name, key, algorithm)
    if terminal.wants_json:
        terminal.json({"imported": [name]})


def info(given: Given, terminal: Terminal) -> None:
    name = given.words[0]
    with connect(given, terminal) as client, attempt(client, "describe keys", name):
        key = client.describe_key(name)
    if terminal.wants_json:
        terminal.json(
            {
                "name": key.name,
                "algorithm": key.algorithm,
                "created_at": rfc3339(key.created_at),
                "created_by": key.created_by,
            }
        )
        return
    terminal.rows(
        ("Name", key.name),
        ("Algorithm", key.algorithm or UNKNOWN),
        ("Date", timestamp(key.created_at)),
        ("Owner", key.created_by or UNKNOWN),
    )


def encrypt(given: Given, terminal: Terminal) -> None:
    name, message, *context = given.words
    associated = _context(context)
    plaintext = _standard_input() if message == "-" else os.fsencode(message)
    with connect(given, terminal) as client, attempt(client, "encrypt message", name):
        ciphertext = client.encrypt(name, plaintext, associated)
    _print(terminal, ciphertext=ciphertext)


def decrypt(given: Given, terminal: Terminal) -> None:
    name, text, *context = given.words
    raw = given.flag("raw")
    if raw and terminal.wants_json:
        raise CommandError("--raw and --json exclude each other")
    associated = _context(context)
    ciphertext = _from_base64("ciphertext", _standard_input() if text == "-" else os.fsencode(text))
    with connect(given, terminal) as client, attempt(client, "decrypt ciphertext", name):
        plaintext = client.decrypt(name, ciphertext, associated)
    if raw:
        terminal.write_bytes(plaintext)
    else:
        _print(terminal, plaintext=plaintext)


def dek(given: Given, terminal: Terminal) -> None:
    name, *context = given.words
    associated = _context(context)
    with connect(given, terminal) as client, attempt(client, "derive key", name):
        key = client.generate_key(name, associated)
    _print(terminal, plaintext=key.plaintext, ciphertext=key.ciphertext)


def _print(terminal: Terminal, **values: bytes) -> None:
    """Values as base64: an empty line and aligned lines for a person, else a JSON object."""
    texts = {label: binascii.b2a_base64(value, newline=False).decode() for label, value in values.items()}
    if terminal.wants_prose:
        width = max(map(len, texts)) + 1
        terminal.print("", *(f"{f'{label}:':<{width}} {text}" for label, text in texts.items()))
    else:
        terminal.json(texts)


def _context(words: list[str]) -> bytes:
    return _from_base64("context", os.fsencode(words[0])) if words else b""


def _from_base64(what: str, text: bytes) -> bytes:
    """The bytes that base64 stands for; white space does not count. `what` is in errors, and `text` never is."""
    try:
        return binascii.a2b_base64(b"".join(text.split()), strict_mode=True)
    except binascii.Error as error:
        raise CommandError(f"invalid {what}: not base64: {str(error)[:1].lower()}{str(error)[1:]}") from None


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise CommandError("cannot read standard input: it is closed")
    try:
        data = sys.stdin.buffer.read(_MAX_INPUT + 1)
    except OSError as error:
        raise CommandError(f"cannot read standard input: {error.strerror}") from None
    if len(data) > _MAX_INPUT:
        raise CommandError("standard input is too large: a request holds at most 1 MiB")
    return data
