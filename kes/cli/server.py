"""`kes server`: the service of kes.tap, run in the foreground."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.interfaces import IReactorCore
from twisted.logger import globalLogBeginner
from twisted.python import usage

from kes.cli.errors import CommandError
from kes.tap import Options, makeService


def run(arguments: list[str]) -> int:
    """Serve until a signal says stop; the exit status. Raises CommandError for bad options."""
    options = Options()  # type: ignore[no-untyped-call]
    try:
        options.parseOptions(arguments)
    except usage.UsageError as error:
        raise CommandError(str(error)) from None
    service = makeService(options)
    # The service adds its own observer: nothing else is to write to the terminal.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    service.startService()
    core = IReactorCore(reactor)
    core.addSystemEventTrigger("before", "shutdown", service.stopService)
    core.run()
    return 0
