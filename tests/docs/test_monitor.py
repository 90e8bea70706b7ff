"""The alert rules of the how-to: they are rules, and speak of metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from txcoord_server.metrics import METRICS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "how-to" / "monitor.md").read_text()
NAMES = {
    name
    for shown in METRICS
    for name in (
        [f"{shown.name}_{part}" for part in ("bucket", "sum", "count")] if shown.kind == "histogram" else [shown.full_name]
    )
}


def test_every_metric_that_is_named_exists() -> None:
    named = set(re.findall(r"\btxcoord_[a-z_]+", PAGE))
    assert len(named) > 10
    assert named <= NAMES


def test_the_rules_are_rules() -> None:
    found: list[dict[str, Any]] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    rules = [rule for document in found for group in document.get("groups", ()) for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "annotations"}
        assert rule["annotations"]["summary"].endswith((".", "reason }}."))
        assert re.findall(r"\btxcoord_[a-z_]+", rule["expr"]), rule["alert"]
