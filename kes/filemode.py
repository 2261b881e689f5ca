"""Whether a file or folder that holds secrets is open to others, by its mode. Nothing is changed and nothing refused:
that would stop servers that have worked so far. The operator is told; docs/security.md has the rule."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path


def key_file_warning(path: str) -> str | None:
    """What is wrong with the mode of a private key file: others may read it, or others than its owner write it.

    Its group may read it, as a service's group has to where root owns the file. None if all is well, or not known.
    """
    return _warning(path, stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP, "chmod o=,g-w")


def key_folder_warning(path: str) -> str | None:
    """What is wrong with the mode of a folder of key files: others than its owner may put files there or remove some.

    Who may list it is no matter: its files have modes of their own.
    """
    return _warning(path, stat.S_IWOTH | stat.S_IWGRP, "chmod go-w")


def _warning(path: str, forbidden: int, remedy: str) -> str | None:
    try:
        mode = stat.S_IMODE(Path(path).stat().st_mode)
    except OSError:
        return None
    excess = mode & forbidden
    if not excess:
        return None
    who = "everybody on this machine" if excess & stat.S_IRWXO else "its group"
    what = "change" if excess & (stat.S_IWOTH | stat.S_IWGRP) else "read"
    return f"{path}: {who} may {what} it (mode {mode:04o}); run {remedy} {shlex.quote(path)}"
