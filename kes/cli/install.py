"""`kes install`: puts units, user, folders, manual and completion of this program in their places on a machine.

What belongs to the program is replaced by what this version has. It goes where an administrator's own files win over
it: /etc/systemd/system over /usr/local/lib/systemd/system. What belongs to the administrator, /etc/kes, is made where
it is missing and never changed. A second run changes nothing, and completes one that was interrupted: a file is put in
place whole, and what systemd has to be told is told each time. Nothing is started.

With --root, everything goes below a folder, where a package has it (/usr in place of /usr/local), and nothing is run.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kes.cli import share
from kes.cli.command import Given
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal

_CONFIG_FOLDER: Final = "/etc/kes"
_CONFIG: Final = f"{_CONFIG_FOLDER}/config.yml"
_CONFIG_FOLDER_MODE: Final = 0o750  # as systemd/tmpfiles.d/kes.conf has it, which also gives it its group
_MODE: Final = 0o644  # of files, whatever the umask is; those of the configuration are locked by their folder
_CHANGES: Final = {
    "created": "would create",
    "updated": "would update",
}  # states, and what a dry run says in their place
_UNITS: Final = ("kes.service", "kes.socket", "kes@.service")
_SNIPPETS: Final = ("sysusers.d/kes.conf", "tmpfiles.d/kes.conf")
_LOCAL: Final = "/usr/local"
_LOCAL_FISH: Final = "/etc/fish/completions/kes.fish"
_PYTHON: Final = "/opt/kes/bin/python"  # in the units as they come
# What the units keep from the server: ProtectHome=, PrivateTmp=.
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108
_SYSTEMD_RUNS: Final = "/run/systemd/system"  # sd_booted(3)
_TIMEOUT: Final = 60  # seconds that a program of systemd's may take


@dataclass(frozen=True, slots=True)
class _File:
    """A file to put in place. One to `keep` is only made where there is none."""

    path: str  # absolute, below the root
    content: bytes
    keep: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """What was done, or in a dry run would be: the state of a file or folder, or of a command."""

    state: str
    what: str


def run(given: Given, terminal: Terminal) -> None:
    """Install. CommandError if something is missing or cannot be written; another run then completes it."""
    root, dry = _root(given.text("root")), given.flag("dry-run")
    here = root == "/"
    if here and not dry and os.geteuid() != 0:
        raise CommandError("installing on this machine needs root; --root DIR and --dry-run do not")
    source = share.folder()
    if source is None:
        raise CommandError(f"the files that come with kes are not in '{sys.prefix}': install it there with pip")
    prefix = _LOCAL if here else "/usr"
    sample = source / "etc" / "kes" / "config.yml"
    files = [*_own_files(source, prefix, root), _File(_CONFIG, _read(sample), keep=True)]
    if here:
        _warn_if_hidden(terminal)
    done = [_place_folder(_below(root, _CONFIG_FOLDER), dry=dry)]
    done += [_place(file, _below(root, file.path), dry=dry) for file in files]
    told = [_tell(command, run=here, dry=dry) for command in _commands(prefix)]
    if given.flag("json"):
        terminal.json(_document(done, told))
    else:
        terminal.print(*_report(done, told, root, sample, dry=dry))
    for unit in _UNITS:
        if os.path.lexists(other := _below(root, f"/etc/systemd/system/{unit}")):
            terminal.warning(f"{other} wins over the unit of this version: remove it, unless it is meant to")


def _root(text: str | None) -> str:
    if text is None:
        return "/"
    if not text:
        raise CommandError("--root needs the path of a folder, and was given none")
    return os.path.abspath(text)  # noqa: PTH100


def _own_files(source: Path, prefix: str, root: str) -> Iterator[_File]:
    """What belongs to the program."""
    python = _interpreter(root)
    for unit in _UNITS:
        text = _read(source / "systemd" / unit).replace(f"={_PYTHON} ".encode(), f"={python} ".encode())
        yield _File(f"{prefix}/lib/systemd/system/{unit}", text)
    for snippet in _SNIPPETS:
        yield _File(f"{prefix}/lib/{snippet}", _read(source / "systemd" / snippet))
    for name, made in share.generated():
        # fish looks below /usr/local only where XDG_DATA_DIRS says so, but always where an administrator adds to it.
        path = _LOCAL_FISH if name == share.FISH and prefix == _LOCAL else f"{prefix}/share/{name}"
        yield _File(path, made.encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read '{path}': {error.strerror}") from None


def _interpreter(root: str) -> str:
    """The Python that runs this, as it is called on the machine whose root is `root`."""
    # However the environment's Python was called (python, python3), it is one and the same unit.
    python = f"{sys.prefix}/bin/python" if sys.prefix != sys.base_prefix else sys.executable
    if root != "/" and python.startswith(f"{root}/"):
        python = python.removeprefix(root)
    if not re.fullmatch(r"/[\w/.+@=,~-]+", python, re.ASCII):
        raise CommandError(f"a unit cannot run '{python}': install kes into a folder without blanks, as /opt/kes")
    return python


def _warn_if_hidden(terminal: Terminal) -> None:
    for folder in (sys.prefix, os.path.realpath(sys.executable)):
        if folder.startswith(tuple(f"{hidden}/" for hidden in _HIDDEN)):
            terminal.warning(
                f"the server cannot be started from {folder}, which its unit hides from it: install Python and kes "
                "elsewhere, as in /usr and /opt/kes"
            )
            return


def _commands(prefix: str) -> Sequence[tuple[str, ...]]:
    return (
        ("systemd-sysusers", f"{prefix}/lib/sysusers.d/kes.conf"),
        ("systemd-tmpfiles", "--create", f"{prefix}/lib/tmpfiles.d/kes.conf"),
        ("systemctl", "daemon-reload"),
    )


def _tell(command: tuple[str, ...], *, run: bool, dry: bool) -> _Step:
    """Run a command, if its program is there and `systemctl` has somebody to talk to."""
    line = " ".join(command)
    program = shutil.which(command[0])
    if not run or program is None or (command[0] == "systemctl" and not Path(_SYSTEMD_RUNS).is_dir()):
        return _Step("not run", line)
    if dry:
        return _Step("would run", line)
    try:
        result = subprocess.run(  # noqa: S603
            [program, *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"'{line}' did not end within {_TIMEOUT} s") from None
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {result.returncode}"]
        raise CommandError(f"'{line}' failed: {said[-1]}")
    return _Step("ran", line)


def _place_folder(path: str, *, dry: bool) -> _Step:
    """Make the folder of the configuration where there is none."""
    try:
        if Path(path).is_dir():
            return _Step("unchanged", path)
        if not dry:
            _make_folders(Path(path).parent)
            Path(path).mkdir(mode=0)
            Path(path).chmod(_CONFIG_FOLDER_MODE)
    except OSError as error:
        raise _unwritable(path, error) from None
    return _Step(_would("created", dry=dry), path)


def _place(file: _File, path: str, *, dry: bool) -> _Step:
    """Put a file in its place, whole, if it is not there as it should be."""
    try:
        state = _state(file, path)
        if state in _CHANGES and not dry:
            _make_folders(Path(path).parent)
            _write(file, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    return _Step(_would(state, dry=dry), path)


def _state(file: _File, path: str) -> str:
    """What placing the file means: it is created or updated, or left unchanged, or kept as somebody made it."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return "created"
    if file.keep:
        return "kept"
    if info.st_mode != stat.S_IFREG | _MODE:
        return "updated"
    return "unchanged" if Path(path).read_bytes() == file.content else "updated"


def _write(file: _File, path: str) -> None:
    descriptor, new = tempfile.mkstemp(prefix=".kes-", dir=Path(path).parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(file.content)
            stream.flush()
            os.fchmod(stream.fileno(), _MODE)
            os.fsync(stream.fileno())
        if file.keep:
            os.link(new, path)  # unlike a rename, never over a file that somebody has made meanwhile
        else:
            Path(new).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(new).unlink()


def _make_folders(folder: Path) -> None:
    """Make a folder, and those above it, for all to read, whatever the umask is."""
    if folder.is_dir():
        return
    if os.path.lexists(folder):
        raise CommandError(f"cannot make the folder '{folder}': something else is there")
    _make_folders(folder.parent)
    folder.mkdir()
    folder.chmod(0o755)


def _unwritable(path: str, error: OSError) -> CommandError:
    return CommandError(f"cannot install '{path}': {error.strerror}")


def _below(root: str, path: str) -> str:
    return path if root == "/" else root + path


def _would(state: str, *, dry: bool) -> str:
    return _CHANGES[state] if dry and state in _CHANGES else state


def _changes(steps: Sequence[_Step]) -> bool:
    return any(step.state in (*_CHANGES, *_CHANGES.values()) for step in steps)


def _document(done: Sequence[_Step], told: Sequence[_Step]) -> dict[str, object]:
    return {
        "changed": _changes(done),
        "files": [{"path": step.what, "state": step.state} for step in done],
        "commands": [{"command": step.what, "state": step.state} for step in told],
    }


def _report(done: Sequence[_Step], told: Sequence[_Step], root: str, sample: Path, *, dry: bool) -> Iterator[str]:
    """What was done, a line each, and what is left to a person."""
    for step in (*done, *told):
        if step.state not in ("unchanged", "not run"):
            yield f"{step.state:<12} {step.what}"
    unchanged = sum(step.state == "unchanged" for step in done)
    if unchanged:
        yield f"{'unchanged':<12} {unchanged} more"
    if not _changes(done):
        yield "Everything is in place: nothing was changed."
    elif dry:
        yield "This was a dry run: nothing was changed."
    left = [step.what for step in told if step.state == "not run"]
    if left:
        yield from (
            "",
            "Not run; to be run as root on the machine that this is for:",
            *(f"    {line}" for line in left),
        )
    if root != "/" or dry:
        return
    if any(step == _Step("created", _CONFIG) for step in done):
        yield from (
            "",
            "Next, as docs/install.md has it:",
            f"    1. Make a private key and a certificate for the server, and edit {_CONFIG}.",
            f"    2. Put the variables that it names, as KES_ADMIN_IDENTITY, into {_CONFIG_FOLDER}/environment.",
            "    3. systemctl enable --now kes.socket kes.service",
        )
    elif _changes(done):
        yield from ("", "Next: systemctl restart kes.service", f"The config file of this version: {sample}")
