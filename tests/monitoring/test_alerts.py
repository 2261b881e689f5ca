"""The alerts: promtool checks and tests them; each has what operators need, and speaks of metrics that there are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.prometheus import ALERTS, CONFIG, ROOT
from tests.support import require_tool

UNIT_TESTS = Path(__file__).with_name("alerts_test.yml")
GUIDE = (ROOT / "docs" / "monitoring.md").read_text()
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
ALERT_RULES = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def promtool(*arguments: str) -> None:
    result = subprocess.run(
        [require_tool("promtool"), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_check() -> None:
    """The rules and the sample config are valid."""
    promtool("check", "rules", str(ALERTS))
    promtool("check", "config", "--syntax-only", str(CONFIG))


def test_promtool_test() -> None:
    """Each alert fires when it should, with the text that it should have, and not before."""
    promtool("test", "rules", str(UNIT_TESTS))


def test_every_alert_is_tested() -> None:
    """There is a case in which it fires, and one in which it does not."""
    fires: dict[str, set[bool]] = {}
    for group in yaml.safe_load(UNIT_TESTS.read_text())["tests"]:
        for case in group["alert_rule_test"]:
            fires.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert fires == {name: {True, False} for name in ALERT_RULES}


@pytest.mark.parametrize("name", ALERT_RULES)
def test_what_an_alert_has(name: str) -> None:
    """A severity, a summary, a description, and a place in the guide that says what to do."""
    rule = ALERT_RULES[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook"}
    assert not annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")
    assert annotations["runbook"] == f"docs/monitoring.md#{name.lower()}"
    assert f"\n### {name}\n" in GUIDE


def test_the_guide_has_no_other_alerts() -> None:
    """What the guide explains can fire."""
    assert re.findall(r"^### (Kes\w+)$", GUIDE, re.MULTILINE) == list(ALERT_RULES)


def test_metrics_exist() -> None:
    """The rules name metrics of the guide's table, which are those of a running server, or of Prometheus itself."""
    known = {"up", *re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE)}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = {
        name
        for rule in RULES
        for name in re.findall(r"\b(?:job:)?(?:kes|process)_[\w:]+|\bup\b", re.sub(r'"[^"]*"', '""', rule["expr"]))
    }
    assert {re.sub("_bucket$", "", name) for name in used} - recorded <= known
    assert used >= recorded
