"""What libraries have to say on Python's own `logging`, in the error log: warnings and errors, nothing below.

Below that are debugging aids, some of which write out requests with all that was signed and sent (botocore).
"""

from __future__ import annotations

import logging

from twisted.logger import Logger


def install() -> None:
    """Hand the records of every library on to Twisted's logging system, from now on. May be repeated."""
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLog) for handler in root.handlers):
        root.addHandler(LibraryLog())


class LibraryLog(logging.Handler):
    """Makes an event of Twisted's logging system of each record. May be called in any thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the text: the library's mistake
            message = str(record.msg)
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None:
            # Its type alone: an SDK's text may quote what was signed or sent.
            message = f"{message} ({kind.__name__})"
        log = Logger(record.name)
        emit = log.error if record.levelno >= logging.ERROR else log.warn
        emit("{library}: {message}", library=record.name, message=message)
