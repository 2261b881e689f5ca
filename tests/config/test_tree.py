"""YAML as a tree of texts: what is refused, and where the error points."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.config import tree
from kes.config.errors import ConfigError


def plain(node: tree.Node | None) -> object:
    """Return the tree as lists, dicts and texts, None for a null."""
    match node:
        case tree.Mapping(entries=entries):
            return {key: plain(value) for key, (_, value) in entries.items()}
        case tree.Sequence(items=items):
            return [plain(item) for item in items]
        case tree.Scalar(text=text, null=null):
            return None if null else text
    return "no document"


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        tree.compose(text, "c.yml")
    return str(caught.value)


def test_scalars_are_text() -> None:
    """What YAML 1.1 loaders turn into booleans, numbers, times and sums stays as written."""
    texts = [
        "on",
        "off",
        "yes",
        "0123",
        "12e45",
        "0x1F",
        "1:30",
        "2024-01-01",
        ".inf",
        "1_000",
        "123456789012345678901",
    ]
    text = "".join(f"- {t}\n" for t in texts)
    assert plain(tree.compose(text, "c.yml")) == texts


def test_quoted() -> None:
    """Quoted and block texts are texts too, whatever they spell."""
    assert plain(tree.compose("['null', \"~\", '', \"a\\nb\", '<<']", "c.yml")) == ["null", "~", "", "a\nb", "<<"]
    assert plain(tree.compose("a: |\n  b\n  c\n", "c.yml")) == {"a": "b\nc\n"}


def test_null() -> None:
    """The plain spellings of nothing are null; a tag makes one a text."""
    assert plain(tree.compose("[~, null, Null, NULL, nULL, !!str , !!str null]", "c.yml")) == [
        *[None] * 4,
        "nULL",
        "",
        "null",
    ]
    assert plain(tree.compose("a:\nb:\n", "c.yml")) == {"a": None, "b": None}


def test_no_document() -> None:
    """A file of comments has no document."""
    assert tree.compose("", "c.yml") is None
    assert tree.compose("# nothing\n", "c.yml") is None


def test_lines() -> None:
    """A node knows the line it begins in, a key its own."""
    node = tree.compose("# c\na:\n  - b\n\n  - c\nd: e\n", "c.yml")
    assert isinstance(node, tree.Mapping)
    assert {key: line for key, (line, _) in node.entries.items()} == {"a": 2, "d": 6}
    items = node.entries["a"][1]
    assert isinstance(items, tree.Sequence)
    assert [item.line for item in items.items] == [3, 5]


def test_aliases() -> None:
    """An alias stands for what its anchor named last, in values and in keys."""
    assert plain(tree.compose("a: &x b\nc: *x\nd: &x [e]\nf: *x\n", "c.yml")) == {
        "a": "b",
        "c": "b",
        "d": ["e"],
        "f": ["e"],
    }
    assert plain(tree.compose("a: &x k\n*x : v\n", "c.yml")) == {"a": "k", "k": "v"}


def test_merge() -> None:
    """`<<` adds what is not there; of several mappings the first wins; its place among the keys does not count."""
    text = "b: &b {x: 1, y: 1}\nc: &c {y: 2, z: 2}\nm:\n  <<: [*b, *c]\n  x: 0\n"
    merged = plain(tree.compose(text, "c.yml"))
    assert isinstance(merged, dict)
    assert merged["m"] == {"x": "0", "y": "1", "z": "2"}
    assert plain(tree.compose("a: {x: 0, <<: {x: 1}}", "c.yml")) == {"a": {"x": "0"}}
    assert plain(tree.compose("a: {'<<': {x: 1}}", "c.yml")) == {"a": {"<<": {"x": "1"}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yml:3: a: given twice, first in line 1; write it once"),
        ("a:\n  b:\n  - c: 1\n    'c': 2\n", "c.yml:4: a.b[0].c: given twice, first in line 3; write it once"),
        ("<<: {a: b}\n<<: {c: d}\n", "c.yml:2: '<<': given twice, first in line 1; write it once"),
        ("a: 1\n---\nb: 2\n", "c.yml:2: a second document begins here; a config file is a single one"),
        ("a: &x\n  b: *x\n", "c.yml:2: a.b: the alias 'x' stands inside what it refers to"),
        ("&x [*x]", "c.yml:1: [0]: the alias 'x' stands inside what it refers to"),
        ("&x {<<: *x}", "c.yml:1: '<<': the alias 'x' stands inside what it refers to"),
        ("a: b\nc: *x\n", "c.yml:2: c: the alias 'x' has no anchor before it"),
        ("a:\n  <<: b\n", "c.yml:2: a: '<<' takes a mapping, or a list of mappings, to merge"),
        ("a:\n  <<: [b]\n", "c.yml:2: a: '<<' takes a mapping, or a list of mappings, to merge"),
        ("? [a]\n: b\n", "c.yml:1: a list or mapping as a key; write a text"),
        ("? {a: b}\n: b\n", "c.yml:1: a list or mapping as a key; write a text"),
        (
            "a: !!binary aGk=\n",
            "c.yml:1: a: the tag 'tag:yaml.org,2002:binary' means nothing here; every value is a text",
        ),
        ("a: !x [b]\n", "c.yml:1: a: the tag '!x' means nothing here; every value is a text"),
        ("a:\n\t- b\n", "c.yml:2: not valid YAML: a tab where only spaces may indent or separate"),
        ("a: b\nc: \x07\n", "c.yml:2: the control character U+0007, which YAML forbids"),
        ("a: b\nc: \0\n", "c.yml:2: the control character U+0000, which YAML forbids"),
        ("a: b\nc: \ud800\n", "c.yml:2: not valid Unicode text"),
        ('"a\\nb": {c: 1, c: 2}', "c.yml:1: 'a\\nb'.c: given twice, first in line 1; write it once"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """What has no single meaning is an error with its line, and its path where there is one."""
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [b\nc: d\n", 2), ("a: 'b\nc\n", 3), ("a: b: c\n", 1), ("- a\nb: c\n", 2), ("@a", 1), ("x\n: - %", 2)],
)
def test_syntax_errors(text: str, line: int) -> None:
    """A syntax error names a line, and never the text around it."""
    assert refusal(text).startswith(f"c.yml:{line}: not valid YAML: ")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting(opening: str) -> None:
    """Deep nesting is a ConfigError well before anything recurses."""
    assert refusal(opening * 20_000).endswith(": nested deeper than 32 levels")


def test_too_many_values() -> None:
    """The number of values is bounded, with those that aliases repeat: a small file cannot mean an endless one."""
    assert refusal("- a\n" * 200_001).endswith(": more than 200000 values")
    wide = "{" + ", ".join(f"k{i}: v" for i in range(1000)) + "}"
    text = f"a: &a {wide}\nb:\n" + "- <<: *a\n" * 300
    assert refusal(text) == "c.yml:101: b[98].'<<': more than 200000 values"
    laughs = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9))
    assert refusal(laughs).endswith(": more than 200000 values")
    assert tree.compose(f"a: &a {wide}\nb:\n" + "- <<: *a\n" * 90, "c.yml")


FRAGMENTS = st.lists(
    st.sampled_from(
        ["a: ", "- ", "\n", "  ", "[", "]", "{", "}", ",", "&x ", "*x", "<<: ", "? ", "!!str ", "'", '"', "---\n", "b"]
    )
)


@given(st.one_of(st.text(), FRAGMENTS.map("".join), st.text(st.characters(categories=["Cs", "Cc", "Nd"]))))
def test_only_one_error(text: str) -> None:
    """Whatever the text, there is a tree or a ConfigError."""
    with contextlib.suppress(ConfigError):
        tree.compose(text, "c.yml")
