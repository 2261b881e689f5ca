"""YAML text as a tree in which every scalar is still text and every node knows its line.

Nothing is resolved to numbers, booleans or times: `on`, `0123` and `12e45` stay as written. Aliases and merge keys are
followed; a key given twice, a second document, an alias that contains itself, a foreign tag, and nesting or a number
of values beyond any sensible file are refused. The only error is ConfigError, whatever the text, and it repeats keys
and anchors but never a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from kes.config.errors import ConfigError, quote

# The tree is made from parser events and a stack of its own, as PyYAML composes nodes recursively: a file of nothing
# but brackets would end in a RecursionError.
_MAX_DEPTH = 32  # levels; the deepest field is at six
_TOO_DEEP = f"nested deeper than {_MAX_DEPTH} levels"
_MAX_NODES = 200_000  # keys and values, with what aliases repeat; some ten thousand policies

_Loader: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Tags that say of a value what it is as text anyway.
_TAGS = {"!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map"))}
_NULLS = {"", "~", "null", "Null", "NULL"}
_SEGMENT = re.compile(r"[0-9A-Za-z_/*.-]{1,80}")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text. `null` says that it is the plain, untagged spelling of nothing: empty, `~` or `null`."""

    line: int
    text: str
    null: bool = False
    merge: bool = False  # the plain `<<`


@dataclass(frozen=True, slots=True)
class Sequence:
    line: int
    items: list[Node]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys in the file's order, each with its own line and its value."""

    line: int
    entries: dict[str, tuple[int, Node]]


Node = Scalar | Sequence | Mapping


def extend(path: str, key: str) -> str:
    """Return the path of the entry `key` of the mapping at `path`."""
    segment = key if _SEGMENT.fullmatch(key) else quote(key)
    return f"{path}.{segment}" if path else segment


def compose(text: str, file: str) -> Node | None:
    """Return the only document in `text`, None if there is none; `file` is for errors. Raises ConfigError."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ConfigError(file, line, "", "not valid Unicode text") from None
    try:
        return _Composer(file).document(yaml.parse(text, Loader=_Loader))
    except yaml.reader.ReaderError as error:
        # Its position counts bytes or characters, depending on the parser; the character is the first of its kind.
        line = text.count("\n", 0, max(text.find(chr(error.character)), 0)) + 1
        problem = f"the control character U+{error.character:04X}, which YAML forbids"
        raise ConfigError(file, line, "", problem) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"not valid YAML: {error.problem or error.context}"
        if mark is not None and text[mark.index : mark.index + 1] == "\t":
            problem = "not valid YAML: a tab where only spaces may indent or separate"
        elif error.problem == "exceeded maximum nesting depth":
            # The parser of newer packages has a limit of its own, and meets it where it looks far ahead.
            problem = _TOO_DEEP
        raise ConfigError(file, None if mark is None else mark.line + 1, "", problem) from None


@dataclass(slots=True)
class _OpenSequence:
    node: Sequence
    anchor: str | None
    before: int  # values that were counted when it began

    def step(self, path: str) -> str:
        return f"{path}[{len(self.node.items)}]"


@dataclass(slots=True)
class _OpenMapping:
    node: Mapping
    anchor: str | None
    before: int
    key: Scalar | None = None  # the key whose value comes next
    merges: list[tuple[int, Node]] = field(default_factory=list)

    def step(self, path: str) -> str:
        return path if self.key is None else extend(path, self.key.text)


class _Composer:
    def __init__(self, file: str) -> None:
        self._file = file
        self._open: list[_OpenSequence | _OpenMapping] = []
        self._anchors: dict[str, tuple[Node, int] | None] = {}  # and its number of values; None while it is open
        self._count = 0

    def document(self, events: Iterator[yaml.Event]) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in events:
            assert event.start_mark is not None  # every parser sets it
            line = event.start_mark.line + 1
            node: Node
            anchor: str | None = None
            size = 1
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise self._error(line, "a second document begins here; a config file is a single one")
                    continue
                case yaml.SequenceStartEvent():
                    self._begin(_OpenSequence(Sequence(line, []), event.anchor, self._count), event.tag)
                    continue
                case yaml.MappingStartEvent():
                    self._begin(_OpenMapping(Mapping(line, {}), event.anchor, self._count), event.tag)
                    continue
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    opened = self._end()
                    node, anchor = opened.node, opened.anchor
                    self._spend(1, line)
                    size = self._count - opened.before
                case yaml.ScalarEvent():
                    self._check_tag(line, event.tag)
                    plain = bool(event.implicit[0])
                    self._spend(1, line)
                    node = Scalar(line, event.value, plain and event.value in _NULLS, plain and event.value == "<<")
                    anchor = event.anchor
                case yaml.AliasEvent(anchor=str(name)):
                    # As large as what it stands for: a short file could otherwise mean an endless one.
                    node, repeated = self._alias(line, name)
                    self._spend(repeated, line)
                case _:
                    continue
            if anchor is not None:
                self._anchors[anchor] = node, size
            if self._open:
                self._add(node, line)
            else:
                root = node
        return root

    def _begin(self, opened: _OpenSequence | _OpenMapping, tag: str | None) -> None:
        line = opened.node.line
        self._check_tag(line, tag)
        if len(self._open) >= _MAX_DEPTH:
            raise self._error(line, _TOO_DEEP)
        if opened.anchor is not None:
            self._anchors[opened.anchor] = None
        self._open.append(opened)

    def _end(self) -> _OpenSequence | _OpenMapping:
        opened = self._open[-1]
        if isinstance(opened, _OpenMapping):
            for line, node in opened.merges:
                for source in node.items if isinstance(node, Sequence) else [node]:
                    if not isinstance(source, Mapping):
                        raise self._error(line, "'<<' takes a mapping, or a list of mappings, to merge")
                    for key, entry in source.entries.items():
                        opened.node.entries.setdefault(key, entry)
        return self._open.pop()

    def _add(self, node: Node, line: int) -> None:
        opened = self._open[-1]
        if isinstance(opened, _OpenSequence):
            opened.node.items.append(node)
        elif opened.key is None:
            if not isinstance(node, Scalar):
                raise self._error(line, "a list or mapping as a key; write a text")
            # The line is that of the key itself, also where the key is an alias.
            opened.key = Scalar(line, node.text, node.null, node.merge)
            first = opened.merges[0][0] if node.merge and opened.merges else opened.node.entries.get(node.text, (0,))[0]
            if first:
                raise self._error(line, f"given twice, first in line {first}; write it once")
        elif opened.key.merge:
            opened.merges.append((opened.key.line, node))
            opened.key = None
        else:
            opened.node.entries[opened.key.text] = (opened.key.line, node)
            opened.key = None

    def _alias(self, line: int, name: str) -> tuple[Node, int]:
        if name not in self._anchors:
            raise self._error(line, f"the alias {quote(name)} has no anchor before it")
        anchored = self._anchors[name]
        if anchored is None:
            raise self._error(line, f"the alias {quote(name)} stands inside what it refers to")
        return anchored

    def _check_tag(self, line: int, tag: str | None) -> None:
        if tag is not None and tag not in _TAGS:
            raise self._error(line, f"the tag {quote(tag)} means nothing here; every value is a text")

    def _spend(self, nodes: int, line: int) -> None:
        self._count += nodes
        if self._count > _MAX_NODES:
            raise self._error(line, f"more than {_MAX_NODES} values")

    def _error(self, line: int, problem: str) -> ConfigError:
        path = ""
        for opened in self._open:
            path = opened.step(path)
        return ConfigError(self._file, line, path, problem)
