"""Completion in bash, zsh and fish (cli.md 5.12).

The shells all ask the program itself: with COMP_LINE set it prints what may come next, one candidate a line, read from
the table, and does nothing else. It offers names and fixed values, never what a server or a variable holds.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from kes.cli.command import Command, Given, find, shown
from kes.cli.errors import CommandError
from kes.cli.table import ROOT
from kes.cli.terminal import Terminal
from kes.cli.usage import options

SCRIPTS: Final = {  # what `kes completion` prints, by shell
    "bash": "complete -o default -C kes kes\n",
    "zsh": """\
#compdef kes
_kes() {
  local -a candidates
  candidates=("${(@f)$(COMP_LINE="${(j: :)words[1,CURRENT]}" "${words[1]}" 2>/dev/null)}")
  if [[ -n "${candidates[1]}" ]]; then
    compadd -a candidates
  else
    _files
  fi
}
if [[ "${funcstack[1]}" = _kes ]]; then
  _kes "$@"
else
  compdef _kes kes
fi
""",
    "fish": """\
function __kes_candidates
    set -lx COMP_LINE (commandline -cp)
    kes 2>/dev/null
end
complete -c kes -a '(__kes_candidates)'
""",
}


def answer(environ: Mapping[str, str], arguments: Sequence[str], terminal: Terminal) -> None:
    """Print the candidates for the command line in COMP_LINE, up to the cursor if COMP_POINT says where it is.

    `arguments` are what bash gives: the command, the word to complete and the one before.
    """
    line = os.fsencode(environ["COMP_LINE"])
    if environ.get("COMP_POINT", "").isdecimal():
        line = line[: int(environ["COMP_POINT"])]
    *words, word = _split(os.fsdecode(line))
    found = candidates(words[1:], word)
    # bash ends words also at `=` and `:` and replaces only what comes after.
    part = arguments[1] if len(arguments) > 1 else word
    skip = len(word) - len(part) if word.endswith(part) else 0
    terminal.print(*(candidate[skip:] for candidate in found))


def candidates(words: Sequence[str], word: str) -> list[str]:
    """What `word`, begun but not ended, can become after `words`; sorted. Empty where a file name belongs."""
    path, _, rest = find(ROOT, words)
    command = path[-1]
    if "--" in rest:
        return []
    name, equals, _ = word.partition("=")
    if word.startswith("--") and equals:
        option = command.option(name[2:])
        return _matching((f"{name}={choice}" for choice in option.choices), word) if option else []
    last = words[-1] if words else ""
    if last.startswith("-") and last != "-":
        option = command.option(last[2:]) if last.startswith("--") else command.shorthand(last[-1])
        if option is not None and option.value:
            return _matching(option.choices, word)
    if word.startswith("-"):
        return _matching(_option_names(command), word)
    if command.name == "help":
        named, _, unknown = find(ROOT, rest)
        return [] if unknown else _matching((c.name for c in named[-1].commands), word)
    names = [c.name for c in command.commands] if not rest else []
    choices = [choice for a in command.arguments for choice in a.choices] if not rest else []
    return _matching((*names, *choices), word)


def script(given: Given, terminal: Terminal) -> None:
    """`kes completion SHELL`."""
    shell = given.words[0]
    if shell not in SCRIPTS:
        raise CommandError(f"there is no completion for {shown(shell)}: write bash, zsh or fish")
    if given.flag("json"):
        terminal.json({"shell": shell, "script": SCRIPTS[shell]})
    else:
        terminal.write(SCRIPTS[shell])


def install(environ: Mapping[str, str], program: str, terminal: Terminal) -> None:
    """`kes --auto-completion`: add completion of `program` to the start-up file of the shell that SHELL names."""
    shell = environ.get("SHELL", "")
    name = os.path.basename(program)  # noqa: PTH119 - see terminal.py on pathlib
    absolute = os.path.abspath(program)  # noqa: PTH100
    # The shell runs what follows -C as a command line of its own, so a path with blanks has to be quoted for it too.
    line = f"complete -o default -C {shlex.quote(shlex.quote(absolute))} {shlex.quote(name)}\n"
    home = os.path.expanduser("~")  # noqa: PTH111
    match shell.rpartition("/")[2]:
        case "bash":
            path, lines = f"{home}/.bashrc", line
        case "zsh":
            path, lines = f"{home}/.zshrc", f"autoload -U +X bashcompinit && bashcompinit\n{line}"
        case "fish":
            config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
            path, lines = f"{config}/fish/completions/kes.fish", SCRIPTS["fish"]
        case _:
            raise CommandError(f"there is completion for bash, zsh and fish, but SHELL is {shown(shell)}")
    if _append(path, lines):
        terminal.print(f"Added completion to {path}. To remove it, delete these lines:", "")
    else:
        terminal.print("Completion is already installed.", f"To remove it, delete these lines from {path}:", "")
    terminal.print(*(f"    {added}" for added in lines.splitlines()))


def _append(path: str, lines: str) -> bool:
    """Add `lines` to the file at `path`, which is made at need; False if they are in it."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        with open(path, "a+", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
            file.seek(0)
            text = file.read()
            if lines in text:
                return False
            file.write(lines if not text or text.endswith("\n") else f"\n{lines}")
    except OSError as error:
        raise CommandError(f"cannot write '{path}': {error.strerror}") from None
    return True


def _option_names(command: Command) -> Iterable[str]:
    for option in options(command):
        yield f"--{option.name}"
        if option.short:
            yield f"-{option.short}"


def _matching(names: Iterable[str], word: str) -> list[str]:
    return sorted(name for name in names if name.startswith(word))


def _split(line: str) -> list[str]:
    """The words of a line that may end within one, also within quotes; the last is the one to complete."""
    end = "\0"  # keeps an empty last word
    for quote in ("", '"', "'"):
        try:
            words = shlex.split(f"{line}{end}{quote}")
        except ValueError:
            continue
        return [*words[:-1], words[-1].removesuffix(end)]
    return [line]
