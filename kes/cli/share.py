"""What of the program lies under `share/`: files made of the table of commands, and files that come as they are.

setup.py packs both, and `kes install` puts them in their places. Building a package has nothing but the standard
library, so nothing here imports more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kes.cli import man
from kes.cli.completion import SCRIPTS

FISH: Final = "fish/vendor_completions.d/kes.fish"
# Where each shell looks for the completion of `kes`, below any `share` folder that it knows.
_COMPLETIONS: Final = {
    "bash": "bash-completion/completions/kes",
    "zsh": "zsh/site-functions/_kes",
    "fish": FISH,
}
_MARK: Final = Path("systemd", "kes.service")  # by which `folder` knows the right place


def generated() -> Iterator[tuple[str, str]]:
    """Path below `share` and text of each manual page and completion script."""
    for name, text in man.pages():
        yield f"man/man1/{name}.1", text
    for shell, path in _COMPLETIONS.items():
        yield path, SCRIPTS[shell]


def folder() -> Path | None:
    """The folder with `systemd/` and `etc/` as they came with this program: the source tree if it runs from one, else
    `share/kes` of the environment. None if there is neither.
    """
    package = Path(__file__).parents[1]
    places = [package.parent]
    if len(package.parents) > 3:
        # A package lies in lib/pythonX.Y/site-packages of what has a `share`, wherever that is.
        places.append(package.parents[3] / "share" / "kes")
    return next((place for place in places if (place / _MARK).is_file()), None)
