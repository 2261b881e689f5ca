"""A private key and its certificate as two files (cli.md 5.6, D17): both are new, or both are as they were.

They are written beside their places, with their final modes, and then moved there, so that no reader ever finds half a
file, a key that others can read, or a new key with an old certificate where the second file could not be put in place.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path

from kes.cli.command import shown
from kes.cli.errors import CommandError

_KEY_MODE = 0o600
_CERT_MODE = 0o644  # less the umask


def check(key_path: str, cert_path: str, *, force: bool) -> None:
    """Raise CommandError if the files cannot be written there; called before anybody is asked for a password."""
    if not (key_path and cert_path):
        raise CommandError("--key and --cert need the path of a file: one of them is empty")
    if os.path.realpath(key_path) == os.path.realpath(cert_path) or _is_same(key_path, cert_path):
        raise CommandError("--key and --cert are the same file")
    for what, path in (("private key", key_path), ("certificate", cert_path)):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _unwritable(path, error) from None
        if not force:
            raise CommandError(f"{what} already exists. Use --force to overwrite it")
        if not stat.S_ISREG(mode):
            raise CommandError(f"cannot replace {shown(path)}: it is no regular file")


def write(key: bytes, key_path: str, cert: bytes, cert_path: str, *, force: bool) -> None:
    """Put both files in place. CommandError if that fails, with everything as it was before."""
    with ExitStack() as temporary, ExitStack() as undo:
        staged = [
            (_stage(temporary, content, mode, path), path)
            for content, mode, path in ((key, _KEY_MODE, key_path), (cert, _CERT_MODE & ~_umask(), cert_path))
        ]
        for new, path in staged:
            try:
                _put(new, path, temporary, undo, force=force)
            except OSError as error:
                raise _unwritable(path, error) from None
        undo.pop_all()


def _stage(temporary: ExitStack, content: bytes, mode: int, path: str) -> str:
    """The name of a file with `content` beside `path`; it is removed with `temporary` if it is still there."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".kes-", dir=Path(path).parent)
        temporary.callback(_remove, name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None
    return name


def _put(new: str, path: str, temporary: ExitStack, undo: ExitStack, *, force: bool) -> None:
    """Move `new` to `path`, and tell `undo` how to take that back."""
    old = f"{new}.old"
    if force and _link(path, old):
        temporary.callback(_remove, old)
        Path(new).replace(path)
        undo.callback(Path(old).replace, path)
        return
    # Unlike a rename, a link never goes over a file that somebody has made meanwhile.
    if force or not _link(new, path):
        Path(new).replace(path)
    undo.callback(_remove, path)


def _link(old: str, new: str) -> bool:
    """Give a file a second name; False if there is no such file, or the file system cannot. OSError if `new` exists."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _is_same(one: str, other: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(one).samefile(other)
    return False


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _unwritable(path: str, error: Exception) -> CommandError:
    reason = error.strerror if isinstance(error, OSError) else "not a file name"
    return CommandError(f"cannot write {shown(path)}: {reason}")
