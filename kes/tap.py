"""Options and makeService: the one place where everything is put together, for `kes server` and `twistd kes` alike."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import Any, cast

from twisted.logger import ILogObserver, LimitedHistoryLogObserver, LogEvent, Logger, globalLogPublisher
from twisted.python import usage
from zope.interface import provider

from kes.config import address, level
from kes.config.address import Address
from kes.config.errors import InvalidTextError
from kes.server import banner, librarylog, systemd
from kes.server.build import Arguments, StartError, load
from kes.server.process import harden, raise_file_limit
from kes.server.service import Console, KESService, Reactor
from kes.server.writer import LineWriter, to_descriptor
from kes.version import VERSION

_TRUTH = {"true": True, "false": False, "1": True, "0": False, "t": True, "f": False}
_DISCARD = "kes.tap.discard"
_EARLY = 100  # events of before there is an error log that are kept for it

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

    opt_h = usage.Options.opt_help

    def getSynopsis(self) -> str:
        return "Usage: kes server [options]" if self.parent is None else super().getSynopsis()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse GNU style options, as every kes command has them (cli.md 1.2): no abbreviations, `--dev=false`.

        Raises UsageError; under twistd SystemExit with one line, where Twisted would print its own usage and traceback.
        """
        program = "kes server" if self.parent is None else "twistd kes"
        try:
            super().parseOptions(self._plain(sys.argv[1:] if options is None else options))  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            message = f"{error}. See '{program} --help'"
            if self.parent is not None:
                raise SystemExit(f"Error: {message}") from None
            raise usage.UsageError(message) from None

    def _plain(self, options: Sequence[str]) -> list[str]:
        """The same options in a form that getopt cannot take for anything else."""
        flags: dict[str, bool] = {}
        parameters = []
        rest = iter(options)
        for option in rest:
            option = "--help" if option == "-h" else option
            name, equals, value = option.removeprefix("--").partition("=")
            if option == "--" or not option.startswith("-") or option == "-":
                unexpected = next(rest, None) if option == "--" else option
                if unexpected is not None:
                    raise usage.UsageError(f"unexpected argument {unexpected!r}")
            elif not option.startswith("--"):
                raise usage.UsageError(f"unknown shorthand flag: {option[1]!r} in {option}")
            elif f"{name}=" in self.longOpt:
                given = value if equals else next(rest, None)
                if given is None:
                    raise usage.UsageError(f"flag needs an argument: --{name}")
                parameters.append(f"--{name}={given}")
            elif name not in self.longOpt:
                raise usage.UsageError(f"unknown flag: --{name}")
            elif equals and value.lower() not in _TRUTH:
                raise usage.UsageError(f'invalid argument "{value}" for "--{name}" flag: write true or false')
            else:
                flags[name] = _TRUTH[value.lower()] if equals else True
                if name in ("help", "version") and flags[name]:
                    return [f"--{name}"]
        return [*(f"--{name}" for name, on in flags.items() if on), *parameters]

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"kes {VERSION}")  # noqa: T201 - what the option is for
        sys.exit(0)

    def postOptions(self) -> None:
        self.arguments = self._arguments()
        twistd: Any = self.parent
        self.on_terminal = twistd is None or _logs_to_console(twistd)
        if twistd is not None and self.on_terminal:
            twistd["logger"] = _DISCARD

    def _arguments(self) -> Arguments:
        if self["config"] is None and not self["dev"]:
            raise usage.UsageError("no configuration: give a config file with --config, or start with --dev")
        if self["config"] is not None and self["dev"]:
            raise usage.UsageError("--config and --dev exclude each other: development mode has no config file")
        for name in ("config", "cert", "key"):
            if self[name] == "":
                raise usage.UsageError(f"--{name} is empty: give the path of a file")
        if self["auth"] is not None and self["auth"].lower() not in ("on", "off"):
            raise usage.UsageError(f'invalid argument "{self["auth"]}" for "--auth" flag: write on or off')
        return Arguments(
            address=None if self["addr"] is None else _address(self["addr"]),
            config=_path(self["config"]),
            auth=None if self["auth"] is None else self["auth"].lower() == "on",
            cert=_path(self["cert"]),
            key=_path(self["key"]),
        )

    def warnings(self) -> list[str]:
        """What to say of each deprecated option that is given."""
        return [
            f"--{name} is deprecated: use tls.{name} in the config file"
            for name in ("auth", "cert", "key")
            if self[name] is not None
        ]


def _address(text: str) -> Address:
    try:
        return address.parse(text)
    except InvalidTextError as error:
        raise usage.UsageError(f"--addr: {error}") from None


def _path(text: str | None) -> str | None:
    """An absolute path: a daemon changes its working directory before it reads the files again."""
    return None if text is None else os.path.abspath(text)  # noqa: PTH100 - `Path` keeps `..`


def _logs_to_console(twistd: Any) -> bool:
    """Whether the user has asked twistd for no other place for the log than the terminal."""
    return bool(twistd["nodaemon"]) and not (twistd["logfile"] or twistd["syslog"] or twistd["logger"])


def _console(*, on_terminal: bool) -> Console:
    """The process's standard streams; under twistd with a log of its own, that log."""
    if not on_terminal:
        # twistd's observer writes the error log, and turns what is written to sys.stdout into events. It has taken
        # its place only after this.
        return Console(
            lambda text: _ignore(sys.stdout.write(text.decode())), None, _ignore, lambda: (0, 0), colour=False
        )
    # A stream that was closed at start is None. Its descriptor may be a socket or a key file by now.
    errors = LineWriter(_nowhere if sys.stderr is None else to_descriptor(2), lambda _lost, _error: None)
    output = LineWriter(_nowhere if sys.stdout is None else to_descriptor(1), _output_lost)

    def flush(timeout: float) -> None:
        output.flush(timeout)
        errors.flush(timeout)

    colour = sys.stdout is not None and banner.wants_colour(sys.stdout, os.environ)
    return Console(
        output.line,
        errors.line,
        flush,
        lambda: (output.lost, errors.lost),
        colour,
        journal=systemd.is_journal(2, os.environ),
    )


def _ignore(_: object) -> None:
    pass


def _nowhere(_: bytes) -> None:
    """In place of a closed stream."""


def _output_lost(lost: int, error: OSError | None) -> None:
    if error is None:
        log.error("{lost} audit events were not written: standard output was not read for too long", lost=lost)
    else:
        log.error("standard output, and so the audit log, is no longer written: {reason}", reason=error.strerror)


def makeService(options: Options) -> KESService:
    """The service for parsed options, with its config read, its key store open and its port bound.

    When that fails: one line on standard error, and SystemExit with status 1; or, under a service manager and if it
    would fail again, with `systemd.REFUSED`.
    """
    from twisted.internet import reactor

    # Twisted's reactor counts seconds on the wall clock, and a step of it would stop all timers or ring them at once.
    # Under `kes server` and `twistd` nothing has been scheduled yet.
    cast(Reactor, reactor).seconds = time.monotonic  # type: ignore[method-assign]
    for warning in options.warnings():
        _complain("WARNING", warning, level.WARN)
    harden()
    raise_file_limit()
    librarylog.install()
    early = LimitedHistoryLogObserver(_EARLY)
    globalLogPublisher.addObserver(early)
    environ = dict(os.environ)
    twistd: Any = options.parent
    try:
        # Relative paths of the config file mean the same now as on a reload, when twistd has changed to its --rundir.
        with nullcontext() if twistd is None else _rundir(twistd["rundir"]):
            parts = load(options.arguments, environ)
        console = _console(on_terminal=options.on_terminal)
        service = KESService(cast(Reactor, reactor), options.arguments, environ, parts, console)
        # Not left to twistd: here a failure is still one line on the terminal, with no pid file and no fork behind us.
        service.privilegedStartService()
    except StartError as error:
        _complain("Error", str(error), level.ERROR)
        lasting = systemd.is_manager(environ) and not error.temporary
        raise SystemExit(systemd.REFUSED if lasting else 1) from None
    finally:
        globalLogPublisher.removeObserver(early)
    early.replayTo(service.error_log)
    return service


def _rundir(folder: str) -> chdir[str]:
    if not Path(folder).is_dir():
        raise StartError(f"--rundir: {folder!r} is no directory")
    return chdir(folder)


def _complain(label: str, text: str, severity: int) -> None:
    """Write a line to standard error, as there is no log yet."""
    mark = systemd.priority(severity) if systemd.is_journal(2, os.environ) else ""
    if sys.stderr is not None:
        print(f"{mark}{label}: {text}", file=sys.stderr)  # noqa: T201
