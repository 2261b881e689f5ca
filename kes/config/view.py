"""Typed reading of a YAML tree: each getter returns a checked value or raises ConfigError at its line and path.

A `View` is one value in the file and where it stands, `Fields` a mapping with a fixed set of names. Texts that are
exactly `${NAME}` are replaced here and nowhere else (kes.config.variables); from then on their values are not quoted.
A field that is null is absent, and an optional one that is the empty text counts as absent as well, so that a variable
may be set to nothing (contract section 6; keystores.md 1.7).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from kes.config import tree
from kes.config.errors import ConfigError, InvalidTextError, quote
from kes.config.variables import VariableError, look_up

T = TypeVar("T")

_VARIABLE = re.compile(r"\s*\$\{([^{}]*)\}\s*")
_KINDS = {tree.Scalar: "a text", tree.Sequence: "a list", tree.Mapping: "a mapping"}


@dataclass(frozen=True, slots=True)
class Source:
    """What all views of one file share. `warnings` collects what is odd but harmless, in the file's order."""

    file: str
    environ: Mapping[str, str]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class View:
    """One value: `line` is that of its key or list item, counted from 1; `path` is the field's, `""` for the file."""

    source: Source
    node: tree.Node
    path: str
    line: int

    def error(self, problem: str) -> ConfigError:
        return ConfigError(self.source.file, self.line, self.path, problem)

    def warn(self, problem: str) -> None:
        self.source.warnings.append(str(self.error(problem)))

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, tree.Scalar) and self.node.null

    def literal(self) -> str:
        """Return the text as written, without the environment."""
        if not isinstance(self.node, tree.Scalar):
            self._wrong_kind("a text")
        return self.node.text

    def text(self) -> str:
        """Return the text, or the value of the variable that it names. Raises ConfigError if there is none."""
        text = self.literal()
        variable = _VARIABLE.fullmatch(text)
        if variable is None:
            return text
        try:
            return look_up(variable[1].strip(), self.source.environ)
        except VariableError as error:
            raise self.error(str(error)) from None

    def quoted(self) -> str:
        """Return the text as a message may show it; what a variable stands for is only named."""
        text = self.literal()
        return f"the value of {quote(text.strip())}" if _VARIABLE.fullmatch(text) else quote(text)

    def parse(self, parse: Callable[[str], T]) -> T:
        """Return what `parse` makes of the text; its InvalidTextError becomes a ConfigError."""
        text = self.text()
        try:
            return parse(text)
        except InvalidTextError as error:
            from_environ = _VARIABLE.fullmatch(self.literal())
            # Unchained: the cause quotes the text, which a traceback would then show.
            raise self.error(f"{self.quoted()} {error.problem}" if from_environ else str(error)) from None

    def items(self) -> Iterator[View]:
        """Return the list's items, null ones included."""
        if not isinstance(self.node, tree.Sequence):
            self._wrong_kind("a list")
        for index, item in enumerate(self.node.items):
            yield View(self.source, item, f"{self.path}[{index}]", item.line)

    def entries(self) -> Iterator[tuple[str, View]]:
        """Return the entries of a mapping whose keys are free, null values included."""
        if not isinstance(self.node, tree.Mapping):
            self._wrong_kind("a mapping")
        for key, (line, node) in self.node.entries.items():
            yield key, View(self.source, node, tree.extend(self.path, key), line)

    def fields(self, *known: str) -> Fields:
        """Return the mapping's fields. Raises ConfigError for one that is not `known`, with the nearest that is."""
        present = {}
        for key, view in self.entries():
            if key not in known:
                raise ConfigError(self.source.file, view.line, self.path, f"unknown field {nearest(key, known)}")
            if not view.is_null:
                present[key] = view
        return Fields(self, present)

    def _wrong_kind(self, wanted: str) -> NoReturn:
        hint = {
            "a text": "write a single value",
            "a list": "write each entry on a line of its own, after '- '",
            "a mapping": "write 'name: value' lines",
        }[wanted]
        raise self.error(f"expected {wanted}, found {_KINDS[type(self.node)]}; {hint}")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields that a mapping has, without those that are null. `view` is the mapping, for errors about it."""

    view: View
    present: Mapping[str, View]

    def get(self, name: str) -> View | None:
        return self.present.get(name)

    def section(self, name: str, *known: str) -> Fields:
        """Return the fields of the mapping `name`, none if it is absent; then errors point to the mapping around it."""
        view = self.present.get(name)
        if view is not None:
            return view.fields(*known)
        absent = View(
            self.view.source, tree.Mapping(self.view.line, {}), tree.extend(self.view.path, name), self.view.line
        )
        return Fields(absent, {})

    def optional(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """Return what `parse` makes of the field, `default` if it is absent or empty."""
        view = self.present.get(name)
        return view.parse(parse) if view is not None and view.text() else default

    def text(self, name: str) -> str:
        """Return the field's text, empty if it is absent."""
        return self.optional(name, str, "")

    def required(self, name: str, hint: str) -> View:
        """Return the field. Raises ConfigError, which ends in `hint`, if it is absent or empty."""
        view = self.present.get(name)
        if view is None:
            path = tree.extend(self.view.path, name)
            raise ConfigError(self.view.source.file, self.view.line, path, f"missing; {hint}")
        if not view.text():
            raise view.error(f"empty; {hint}")
        return view


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `name` quoted, with the known name that was probably meant, or with all of them."""
    spellings = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name[:128].casefold(), spellings, n=1)
    if close:
        return f"{quote(name)}; did you mean {spellings[close[0]]!r}?"
    return f"{quote(name)}; known are {', '.join(spellings.values())}"
