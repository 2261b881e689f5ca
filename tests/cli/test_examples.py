"""The examples in the documentation of the commands print what stands there."""

from __future__ import annotations

from kes.cli import examples
from kes.cli.table import ROOT
from tests.support import require_tool


def test_examples_are_true() -> None:
    """Each example, run as on a terminal, prints what docs/cli.md says. If not: python -m kes.cli.examples"""
    require_tool("jq")
    assert examples.run_all() == examples.recorded()


def test_commands_have_examples() -> None:
    """Every command but `help`, and `kes` itself, shows how it is used."""
    without = {command.name for command in ROOT.tree() if command.run and not command.examples}
    assert without == {"kes", "help"}
