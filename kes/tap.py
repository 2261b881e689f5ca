"""Options and makeService: the one place where everything is put together, for `kes server` and `twistd kes` alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python import usage
from zope.interface import provider

from kes.config import address
from kes.config.address import Address
from kes.config.errors import InvalidTextError
from kes.server.build import Arguments, StartError, load
from kes.server.process import forbid_core_dumps, raise_file_limit
from kes.server.service import Console, KESService, Reactor
from kes.server.writer import LineWriter, to_descriptor
from kes.version import VERSION

_TRUTH = {"true": True, "false": False, "1": True, "0": False, "t": True, "f": False}
_DISCARD = "kes.tap.discard"
_HINT = "See 'kes server --help'"

log = Logger()


@provider(ILogObserver)
def _discard(event: LogEvent) -> None:
    """Twisted's own observer under `twistd -n`: the service logs to standard error itself."""


def discard() -> ILogObserver:
    """The observer factory that `Options` gives to twistd."""
    return cast(ILogObserver, _discard)


class Options(usage.Options):
    """The options of the server (contract section 1)."""

    synopsis = "[options]"
    longdesc = "Start a key-encryption server. Without --dev it needs --config."
    optFlags = (
        ["dev", None, "Start in development mode: no config file, keys in memory, a fresh admin API key"],
        ["mlock", None, "Lock memory (done wherever it is permitted; accepted for older scripts)"],
    )
    optParameters = (
        ["addr", None, None, "The address to listen on, [IP]:PORT (default: the config's, else 0.0.0.0:7373)"],
        ["config", None, None, "Path to the config file"],
        ["auth", None, None, "Deprecated: verify client certificates, on or off (tls.auth of the config file)"],
        ["cert", None, None, "Deprecated: path to the server's certificate (tls.cert of the config file)"],
        ["key", None, None, "Deprecated: path to the server's private key (tls.key of the config file)"],
    )

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse GNU style options, as every kes command has them (cli.md 1.2): no abbreviations, `--dev=false`."""
        arguments = list(sys.argv[1:] if options is None else options)
        known = {name.rstrip("=") for name in self.longOpt}
        plain = []
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if name.startswith("--") and name != "--" and name[2:] not in known:
                raise usage.UsageError(f"unknown flag: {name}. {_HINT}")
            if equals and name[2:] in self.longOpt and name.startswith("--"):
                if value.lower() not in _TRUTH:
                    raise usage.UsageError(f'invalid argument "{value}" for "{name}" flag: not true or false. {_HINT}')
                if _TRUTH[value.lower()]:
                    plain.append(name)
                continue
            plain.append(argument)
        if plain and plain[-1].startswith("--") and f"{plain[-1][2:]}=" in self.longOpt:
            raise usage.UsageError(f"flag needs an argument: {plain[-1]}. {_HINT}")
        try:
            super().parseOptions(plain)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            raise usage.UsageError(f"{error}. {_HINT}") from None

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}")

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"kes {VERSION}")  # noqa: T201 - what the option is for
        sys.exit(0)

    def postOptions(self) -> None:
        self.arguments = self._arguments()
        parent: Any = self.parent
        if parent is not None and _logs_to_console(parent):
            parent["logger"] = _DISCARD

    def _arguments(self) -> Arguments:
        if self["config"] is None and not self["dev"]:
            raise usage.UsageError("no configuration: give a config file with --config, or start with --dev")
        if self["config"] is not None and self["dev"]:
            raise usage.UsageError("--config and --dev exclude each other: development mode has no config file")
        if self["config"] == "":
            raise usage.UsageError("--config is empty: give the path of a config file")
        if self["auth"] is not None and self["auth"].lower() not in ("on", "off"):
            raise usage.UsageError(f'invalid argument "{self["auth"]}" for "--auth" flag: write on or off')
        return Arguments(
            address=None if self["addr"] is None else _address(self["addr"]),
            # A daemon changes its working directory before the file is read again.
            config=None if self["config"] is None else os.path.abspath(self["config"]),  # noqa: PTH100
            auth=None if self["auth"] is None else self["auth"].lower() == "on",
            cert=self["cert"],
            key=self["key"],
        )

    def warnings(self) -> list[str]:
        """One line for each deprecated option that is given."""
        return [
            f"WARNING: --{name} is deprecated: use tls.{name} in the config file"
            for name in ("auth", "cert", "key")
            if self[name] is not None
        ]


def _address(text: str) -> Address:
    try:
        return address.parse(text)
    except InvalidTextError as error:
        raise usage.UsageError(f"--addr: {error}") from None


def _logs_to_console(twistd: Any) -> bool:
    """Whether the user has asked twistd for no other place for the log than the terminal."""
    return bool(twistd["nodaemon"]) and not (twistd["logfile"] or twistd["syslog"] or twistd["logger"])


def _console(twistd: Any) -> Console:
    """The process's standard streams; under twistd with a log of its own, that log."""
    if twistd is not None and twistd["logger"] != _DISCARD:
        # twistd's observer writes the error log, and turns what is written to sys.stdout into events.
        return Console(lambda: sys.stdout, None, lambda line: _ignore(sys.stdout.write(line.decode())), _ignore)
    errors = LineWriter(to_descriptor(2), lambda _lost, _error: None)
    audit = LineWriter(to_descriptor(1), _audit_lost)

    def flush(timeout: float) -> None:
        audit.flush(timeout)
        errors.flush(timeout)

    return Console(lambda: sys.stdout, errors.line, audit.line, flush)


def _ignore(_: object) -> None:
    pass


def _audit_lost(lost: int, error: OSError | None) -> None:
    if error is None:
        log.error("{lost} audit events were not written: standard output was not read for too long", lost=lost)
    else:
        log.error("the audit log is no longer written to standard output: {reason}", reason=error.strerror)


class _TerminalService(KESService):
    """The service where somebody sees standard error: a failed start is one line there, not a traceback."""

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except StartError as error:
            raise SystemExit(f"Error: {error}") from None


def makeService(options: Options) -> KESService:
    """The service for parsed options, with its config read and its key store open.

    SystemExit with one line, and so exit status 1, when that fails.
    """
    from twisted.internet import reactor

    for warning in options.warnings():
        print(warning, file=sys.stderr)  # noqa: T201 - there is no log yet
    forbid_core_dumps()
    raise_file_limit()
    environ = dict(os.environ)
    try:
        parts = load(options.arguments, environ)
    except StartError as error:
        raise SystemExit(f"Error: {error}") from None
    twistd: Any = options.parent
    kind = KESService if twistd is not None and not twistd["nodaemon"] else _TerminalService
    return kind(cast(Reactor, reactor), options.arguments, environ, parts, _console(twistd))
