"""The gate's rules on hand-made numbers, and the shipped file against its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from owled_ros.errors import OwledError
from owled_ros.evaluation.frame_values import LOWER_IS_BETTER
from owled_ros.recalibration.gate_rules import GateRules, RuleResult, apply_rules, packaged_rules, read_rules

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "candidate": {"means": {"error": 0.5, "share": 0.9, "nothing": None, "gone": None}, "timing": {"p50": 22.0}},
    "running": {"means": {"error": 0.4, "share": 0.95, "gone": 0.1}, "timing": {"p50": 20.0}},
    "dense": {"means": {"error": 0.3, "share": 1.0}, "timing": {"p50": 40.0}},
}
COMPARISONS = {
    "running": {
        "agreement": {"share": 0.7},
        "paired": {"error": {"verdict": "worse"}, "share": {"verdict": "same"}, "few": {"verdict": "unknown"}},
    },
    "dense": {"agreement": {"share": 0.6}, "paired": {}},
}


def apply(**values: Any) -> RuleResult:
    rules = GateRules.model_validate({"format_version": 1, "rules": [{"name": "r", "unit": "u", **values}]})
    return apply_rules(rules, MODELS, COMPARISONS)[0]


@pytest.mark.parametrize(
    ("rule", "passed"),
    [
        ({"metric": "means.error", "max": 0.5}, True),
        ({"metric": "means.error", "max": 0.49}, False),
        ({"metric": "means.share", "min": 0.9}, True),
        ({"metric": "means.share", "min": 0.91}, False),
        ({"metric": "means.error", "against": "running", "max_increase": 0.11}, True),  # 0.5 - 0.4
        ({"metric": "means.error", "against": "running", "max_increase": 0.09}, False),
        ({"metric": "means.error", "against": "dense", "max_increase": 0.11}, False),  # 0.5 - 0.3
        ({"metric": "means.share", "against": "running", "max_decrease": 0.06}, True),  # 0.95 - 0.9
        ({"metric": "means.share", "against": "dense", "max_decrease": 0.06}, False),
        ({"metric": "timing.p50", "against": "running", "max_ratio": 1.1}, True),  # 22 / 20
        ({"metric": "timing.p50", "against": "running", "max_ratio": 1.09}, False),
        ({"metric": "timing.p50", "against": "dense", "max_ratio": 0.55}, True),
        ({"metric": "agreement.share", "against": "running", "min": 0.7}, True),
        ({"metric": "agreement.share", "against": "dense", "min": 0.7}, False),
        ({"metric": "error", "against": "running", "not_worse": True}, False),
        ({"metric": "share", "against": "running", "not_worse": True}, True),
    ],
)
def test_limits(rule: dict[str, Any], passed: bool) -> None:
    assert apply(**rule).passed is passed


@pytest.mark.parametrize(
    "rule",
    [
        {"metric": "means.nothing", "max": 1.0},
        {"metric": "no.such.number", "min": 0.0},
        {"metric": "means.nothing", "against": "running", "max_increase": 1.0},
        {"metric": "few", "against": "running", "not_worse": True},
        {"metric": "error", "against": "dense", "not_worse": True},
    ],
)
def test_what_cannot_be_measured_fails_unless_it_is_optional(rule: dict[str, Any]) -> None:
    assert not apply(**rule).passed
    optional = apply(**rule, optional=True)
    assert optional.passed
    assert optional.skipped


@pytest.mark.parametrize(
    "rule",
    [
        {"metric": "means.gone", "min": 0.0},
        {"metric": "means.gone", "against": "running", "max_increase": 1.0},
        {"metric": "gone", "against": "running", "not_worse": True},
    ],
)
def test_what_only_the_candidate_cannot_do_any_more_fails_also_optional_rules(rule: dict[str, Any]) -> None:
    assert not apply(**rule, optional=True).passed


def test_an_optional_rule_that_can_be_measured_is_applied() -> None:
    assert not apply(metric="means.error", max=0.1, optional=True).passed


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"metric": "a"}, "exactly one of"),
        ({"metric": "a", "min": 0.0, "max": 1.0}, "exactly one of"),
        ({"metric": "a", "max_ratio": 1.0}, "against"),
        ({"metric": "agreement.share", "min": 1.0}, "against"),
        ({"metric": "a", "min": float("nan")}, "finite"),
        ({"metric": "a", "mim": 0.0}, "Extra inputs"),
    ],
)
def test_unclear_rules_are_refused(rule: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text(yaml.safe_dump({"format_version": 1, "rules": [{"name": "r", "unit": "u", **rule}]}))
    with pytest.raises(OwledError, match=words):
        read_rules(file)


def test_files_that_are_no_rules_are_refused(tmp_path: Path) -> None:
    for text in (
        "",
        "- 1",
        "rules: []\nformat_version: 1",
        "format_version: 2\nrules: [1]",
        "a: [",
        "!!python/object:os.system {}",
    ):
        (tmp_path / "gate.yaml").write_text(text)
        with pytest.raises(OwledError, match="gate file"):
            read_rules(tmp_path / "gate.yaml")
    with pytest.raises(OwledError, match="cannot be read"):
        read_rules(tmp_path / "missing.yaml")


def test_a_finding_says_what_was_measured_and_what_was_allowed() -> None:
    words = apply(metric="means.error", against="running", max_increase=0.05).sentence()
    assert words == "r: means.error 0.5, running 0.4 [u], max increase 0.05"


def test_the_shipped_rules_fit_their_schema_and_name_known_metrics() -> None:
    schema = json.loads((ROOT / "schema" / "gate.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(packaged_rules().read_text()), schema)
    generated = GateRules.model_json_schema()
    assert {key: schema[key] for key in ("$defs", "properties", "required")} == {
        key: generated[key] for key in ("$defs", "properties", "required")
    }
    for rule in read_rules(packaged_rules()).rules:
        if rule.metric.startswith("means.") or rule.max_worse is not None:
            assert rule.metric.removeprefix("means.") in LOWER_IS_BETTER, rule.name


def test_the_shipped_rules_hold_the_margins_against_both() -> None:
    rules = read_rules(packaged_rules()).rules
    margins = {
        role: {r.metric: r.max_worse for r in rules if r.max_worse is not None and r.against == role}
        for role in ("running", "dense")
    }
    assert {"valid_share", "path_ade_3s_m", "path_ade_filled_3s_m", "path_fde_3s_m", "miss_share"} <= set(
        margins["running"]
    )
    assert set(margins["running"]) <= set(margins["dense"])  # else that metric could drift
    capped = {rule.metric for rule in rules if not rule.against}
    assert {"means.path_ade_3s_m", "means.path_fde_3s_m", "answers.valid_share"} <= capped
    assert not any("perplexity" in rule.metric or "quality" in rule.metric for rule in rules)
    required = {rule.metric for rule in rules if not rule.optional}
    assert {"valid_share", "path_ade_3s_m", "path_fde_3s_m"} <= required


def test_drives_on_which_no_model_acts_let_nothing_pass() -> None:
    numbers = {"frames": 100, "answers": {"parse_share": 1.0, "valid_share": 0.0}, "means": {"acceleration_filled_mae_mps2": 1.0},
               "timing": {"action_latency_p50_ms": 10.0}, "size": {"nonzeros": 5}}  # fmt: skip
    dense = {**numbers, "size": {"nonzeros": 10}}
    comparisons = {"dense": {"agreement": {"agreement_share": 1.0}}, "running": {}}  # equally silent
    findings = apply_rules(
        read_rules(packaged_rules()), {"candidate": numbers, "running": dense, "dense": dense}, comparisons
    )
    failed = {finding.name for finding in findings if not finding.passed}
    assert {"acts_at_all", "path_error", "path_error_anchor"} <= failed


def test_a_limit_that_is_just_met_holds_in_binary_too():
    from owled_ros.recalibration.gate_rules import _within

    assert 0.9 - 0.85 > 0.05
    assert _within("max_decrease", 0.05, 0.85, 0.9)
    assert not _within("max_decrease", 0.05, 0.8499, 0.9)
    assert _within("max_increase", 0.05, 0.9, 0.85)
