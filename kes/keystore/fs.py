"""Keys as files in a directory, one a key, its name the key's, its content the value, mode 0600.

A create is there whole or not at all, whatever is killed or runs full meanwhile; it never replaces an existing file,
also against another process; file and directory are synced before it returns. Where the file system has no hard links
a crash may leave a short file, which then reads as an error and never as another key. Contract: README section 7
"On disk", keystores.md section 2. No file that is not a key is changed, and no mode of an existing directory.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kes.filemode import key_folder_warning
from kes.keystore import (
    MAX_VALUE,
    KeyExists,
    KeyNotFound,
    KeyStore,
    KeyStoreError,
    Unreachable,
    check_value,
    page,
)

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp").fullmatch  # no key can have this name: it holds dots
_ABANDONED = 3600.0  # seconds without a write after which a temporary file has no writer any more
_NOT_IN_A_NAME = frozenset("/\\.\0")

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})  # FAT, SMB, some FUSE
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # SMB, some FUSE
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class FSStore(KeyStore):
    """The keys in the directory `path`, which is made at need, with its parents, each of mode 0700.

    Raises `KeyStoreError` if that fails, or if the directory cannot be listed and written. A full disk is no reason:
    the keys that are there can still be read.
    """

    def __init__(self, path: str) -> None:
        self._directory = Path(path).absolute()  # a daemon changes its working directory later
        self.kms = f"Filesystem: {self._directory}"
        try:
            _make_directory(self._directory)
            self._remove_abandoned()
            self._check_writable()
        except OSError as e:
            raise KeyStoreError(f"key store directory {str(self._directory)!r}: {_reason(e)}") from e
        if warning := key_folder_warning(str(self._directory)):
            self.warnings = (f"key store directory {warning}",)

    def create(self, name: str, value: bytes) -> None:
        path = self._path(name)
        check_value(name, value)
        try:
            # So that a name is known to be taken also where nothing can be written. If it is free, the link decides.
            if os.path.lexists(path):
                raise FileExistsError
            self._publish(path, value)
            self._sync_directory()
        except FileExistsError as e:
            raise KeyExists(f"key {name!r} exists") from e
        except OSError as e:
            raise self._failed(f"create key {name!r}", e) from e

    def get(self, name: str) -> bytes:
        """Raises `KeyStoreError` for what is no key file: empty, over 1 MiB, not a regular file, not readable."""
        path = self._path(name)
        try:
            # A pipe in place of a file must not hold up the open, nor the read.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise KeyStoreError(f"read key {name!r}: not a regular file")
                value = _read(fd, MAX_VALUE + 1)
            finally:
                os.close(fd)
        except FileNotFoundError as e:
            raise self._missing(f"read key {name!r}", path) from e
        except OSError as e:
            raise self._failed(f"read key {name!r}", e) from e
        check_value(name, value)
        return value

    def delete(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink()
            self._sync_directory()
        except FileNotFoundError as e:
            raise self._missing(f"delete key {name!r}", path) from e
        except OSError as e:
            raise self._failed(f"delete key {name!r}", e) from e

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        try:
            return page(self._files(), prefix, start_at, limit)
        except OSError as e:
            raise self._failed("list keys", e) from e

    def status(self) -> float:
        start = time.perf_counter()
        if unreachable := self._unreachable():
            raise unreachable
        return time.perf_counter() - start

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, name: str) -> Path:
        if not name or not _NOT_IN_A_NAME.isdisjoint(name):
            raise KeyStoreError(f"{name!r} cannot be the name of a key file")
        return self._directory / name

    def _files(self) -> Iterator[str]:
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if _is_file(entry):
                    yield entry.name

    def _publish(self, path: Path, value: bytes) -> None:
        """Write a new file `path`, at once whole. FileExistsError if there is one."""
        temporary = self._temporary()
        try:
            _write_new(temporary, value)
            try:
                os.link(temporary, path)
            except FileExistsError:
                # A network file system may have lost the answer, and find the name taken when it asks again: by us.
                if temporary.stat().st_nlink == 1:
                    raise
            except OSError as e:
                if e.errno not in _NO_HARD_LINKS:
                    raise
                _write_new(path, value)
        finally:
            with suppress(OSError):  # it is not there, or is removed as abandoned later
                temporary.unlink()

    def _temporary(self) -> Path:
        return self._directory / f".{secrets.token_hex(16)}.tmp"

    def _sync_directory(self) -> None:
        _sync_directory(self._directory)

    def _remove_abandoned(self) -> None:
        """Remove the temporary files of processes that were killed; not those that another one writes just now.

        Files have wall-clock times only. A create takes milliseconds, so its file could look abandoned only if the
        clock were set forward by more than `_ABANDONED` in the middle of it; the create would then fail.
        """
        oldest = time.time() - _ABANDONED
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if _TEMPORARY(entry.name):
                    with suppress(OSError):  # another process removes it too
                        if entry.stat(follow_symlinks=False).st_mtime < oldest:
                            Path(entry.path).unlink()

    def _check_writable(self) -> None:
        temporary = self._temporary()
        try:
            _write_new(temporary, b"")
        except OSError as e:
            if e.errno not in _NO_SPACE:
                raise
        else:
            temporary.unlink()

    def _unreachable(self) -> Unreachable | None:
        try:
            if stat.S_ISDIR(self._directory.stat().st_mode):
                return None
            reason = os.strerror(errno.ENOTDIR)
        except OSError as e:
            reason = _reason(e)
        return Unreachable(f"key store directory {str(self._directory)!r}: {reason}")

    def _failed(self, attempt: str, error: OSError) -> KeyStoreError:
        """What `error` means: the directory is out of reach, or it is there and would not do as told."""
        return self._unreachable() or KeyStoreError(f"{attempt} in {str(self._directory)!r}: {_reason(error)}")

    def _missing(self, attempt: str, path: Path) -> KeyStoreError:
        """What a missing file means: no such key, but only if the directory is there and no link leads elsewhere."""
        if path.is_symlink():
            return KeyStoreError(f"{attempt} in {str(self._directory)!r}: the symbolic link leads nowhere")
        return self._unreachable() or KeyNotFound(f"{attempt}: it does not exist")


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether `entry` is a regular file, or a link to one; one that leads nowhere or in circles is not."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _make_directory(directory: Path) -> None:
    """Make `directory` and the parents it lacks, and have them on disk: what is in them vanishes with them."""
    missing = [directory, *directory.parents]
    while missing and missing[-1].exists():
        missing.pop()
    for path in reversed(missing):
        with suppress(FileExistsError):  # another process makes it too
            path.mkdir(mode=0o700)
        _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


def _write_new(path: Path, content: bytes) -> None:
    """Make the file `path` with `content`, mode 0600, and have it on disk; on any error there is no such file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _read(fd: int, limit: int) -> bytes:
    """Read to the end of the file, or `limit` bytes."""
    content = bytearray()
    while len(content) < limit and (part := os.read(fd, limit - len(content))):
        content += part
    return bytes(content)
