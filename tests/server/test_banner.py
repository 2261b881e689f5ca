"""The start-up output as text. That a server prints it: tests/cli/test_server.py."""

from __future__ import annotations

import errno
import io
import os
import re

import ifaddr
import pytest

from kes.server.banner import READY, Banner, addresses, program_rows, render, wants_colour

BANNER = Banner(
    kms="Filesystem: /keys",
    urls=("https://127.0.0.1:7373/", "https://192.0.2.1:7373/"),
    api_key="kes:v1:key",
    admin="<disabled>",
    auth=None,
    error_level="INFO",
    audit_level="INFO",
    mlock=True,
)


def test_all_labels() -> None:
    """Every label in its place; a second address or log is on a line without one; blank lines as in the contract."""
    lines = render(BANNER, READY, colour=False).split("\n")
    assert [line[:12].rstrip() for line in lines] == [
        "", "Version", "Runtime", "License", "Copyright", "", "KMS", "API", "", "", "Docs", "", "API Key", "Admin",
        "Auth", "Logs", "", "MLock", "", READY[:12], "",
    ]  # fmt: skip
    assert lines[7:9] == ["API         · https://127.0.0.1:7373/", "            · https://192.0.2.1:7373/"]
    assert lines[13] == "Admin       <disabled>"
    assert lines[15:18] == [
        "Logs        error=stderr level=INFO",
        "            audit=stdout level=INFO",
        "MLock       enabled",
    ]


def test_notes_are_in_one_column() -> None:
    """The notes of the first lines stand below each other, at column 36 unless a value is longer."""
    lines = render(BANNER, READY, colour=False).splitlines()[1:5]
    found = {line.index(note) for line in lines for _, _, note in program_rows() if note and line.endswith(note)}
    assert len(found) == 1
    assert found.pop() >= 36


def test_colours_change_no_column() -> None:
    """Escape sequences take no room: without them the coloured output is the plain one."""
    coloured = render(BANNER, READY, colour=True)
    assert "\x1b[38;2;38;139;210mKMS\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render(BANNER, READY, colour=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("out", "environ", "wanted"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (io.StringIO(), {"CLICOLOR_FORCE": "1"}, True),
        (io.StringIO(), {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_when_coloured(out: io.StringIO, environ: dict[str, str], *, wanted: bool) -> None:
    """Colours are for terminals; NO_COLOR and CLICOLOR_FORCE say otherwise if they are not empty."""
    assert wants_colour(out, environ) is wanted


def test_addresses() -> None:
    """A bound address is shown as it is, IPv6 in brackets."""
    assert addresses("192.0.2.7", 1) == ("https://192.0.2.7:1/",)
    assert addresses("2001:db8::1", 2) == ("https://[2001:db8::1]:2/",)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_addresses_of_every_interface(host: str) -> None:
    """For an unspecified address those of all interfaces are shown, none twice, none that is link-local."""
    found = addresses(host, 7373)
    assert "https://127.0.0.1:7373/" in found
    assert len(set(found)) == len(found)
    assert not [url for url in found if "169.254." in url or "[fe80" in url or "//0.0.0.0" in url or "[::]" in url]


@pytest.mark.parametrize("interface", ["0.0.0.0", "::"])
def test_addresses_that_are_not_told(monkeypatch: pytest.MonkeyPatch, interface: str) -> None:
    """Where the system does not tell its addresses, as without netlink sockets, the bound one stands for them."""

    def refuse() -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(ifaddr, "get_adapters", refuse)
    host = f"[{interface}]" if ":" in interface else interface
    assert addresses(interface, 7373) == (f"https://{host}:7373/",)
