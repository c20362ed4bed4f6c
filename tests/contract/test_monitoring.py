"""The alerting rules and the page about monitoring name only metrics that a worker has, and the page names all."""

import re
from pathlib import Path
from typing import Any

import yaml

from operators.effects import Counts
from streams.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "infra" / "monitoring" / "alerts.yml"
PAGE = (ROOT / "infra" / "docs" / "MONITORING.md").read_text()
NAME = re.compile(r"headwater_[a-z_]+")
PARTS = re.compile("_(bucket|sum|count)$")


def exported() -> set[str]:
    """Every metric of the worker's code: what ``Metrics`` has, and the gauges that others set."""
    metrics = Metrics()
    metrics.batch(Counts(), 0, {"decode": 0.0})
    names = {PARTS.sub("", name) for name in NAME.findall(metrics.prometheus())}
    code = "".join(path.read_text() for path in (ROOT / "streams").glob("*.py"))
    gauges = re.findall(r'metrics\.(?:gauges|watched)\["([a-z_]+)"\]', code)
    return names | {f"headwater_{name}" for name in [*gauges, "restored_records", "restore_seconds"]}


def test_the_rules_are_rules_of_metrics_that_there_are() -> None:
    rules: list[dict[str, Any]] = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        named = NAME.findall(rule["expr"])
        assert named, rule["alert"]
        assert {PARTS.sub("", name) for name in named} <= exported(), rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_the_page_names_every_metric_and_no_other() -> None:
    assert {PARTS.sub("", name) for name in NAME.findall(PAGE)} == exported()
