"""What `${NAME}` in a config file stands for: a variable of the environment, or else a credential of the service.

systemd hands a service its secrets as files (systemd.exec(5): LoadCredential, LoadCredentialEncrypted), in a folder
that only the service can read and that CREDENTIALS_DIRECTORY names. The environment is seen by more, such as whoever
may ask the service manager for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kes.config.errors import quote

MAX_CREDENTIAL: Final = 1 << 20  # bytes; systemd passes no more


class VariableError(Exception):
    """`${NAME}` stands for nothing that can be used. The text says why, in lower case, and never holds a value."""


def look_up(name: str, environ: Mapping[str, str]) -> str:
    """The variable `name`; if there is none, the credential of that name, without a newline at its end.

    Raises VariableError.
    """
    if name in environ:
        return environ[name]
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise VariableError(f"the environment variable {quote(name)} is not set; set it, or write the value here")
    # Only a plain name is a credential's, and a path would lead elsewhere.
    found = _read(Path(folder, name)) if name not in ("", ".", "..") and not {"/", "\0"} & set(name) else None
    if found is None:
        raise VariableError(
            f"there is neither an environment variable nor a credential {quote(name)}; set the one in the unit's "
            "EnvironmentFile or the other by LoadCredential, or write the value here"
        )
    return found


def _read(credential: Path) -> str | None:
    """The text of a credential, None if there is no such file."""
    what = f"the credential {quote(credential.name)}"
    try:
        with credential.open("rb") as file:
            content = file.read(MAX_CREDENTIAL + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VariableError(f"{what} cannot be read: {error.strerror}") from None
    if len(content) > MAX_CREDENTIAL:
        raise VariableError(f"{what} is larger than {MAX_CREDENTIAL} bytes")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise VariableError(f"{what} is not UTF-8 text") from None
