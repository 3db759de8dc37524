"""The gate's rules: a yaml file with limits and units, held against measured numbers. Needs pydantic and PyYAML.

A rule looks up one number of the candidate, and of the model it is compared with where `against` names one: `running`, what drives
now, or `dense`, the fixed anchor that no chain of promotions can drift away from. A number that could not be measured fails its
rule, unless the rule is `optional` and the other model has no such number either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from owled_ros.errors import OwledError
from owled_ros.recalibration.noninferiority import comparison_of, judge_margin
from owled_ros.shipped import shipped

RULES_NAME = "config/gate.yaml"
ROUNDING = 1e-9  # 0.90 - 0.85 is a little more than 0.05 in binary
LIMITS = ("min", "max", "max_worse", "max_increase", "max_decrease", "max_ratio")
RELATIONS = ("agreement.", "paired.")  # numbers that only exist between two models
Number = Annotated[float, Field(allow_inf_nan=False)]


class Rule(BaseModel):
    """One condition; exactly one of the limits, or `not_worse`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    metric: str = Field(min_length=1)  # dotted path into the numbers of a model, or of a comparison
    unit: str  # of the limit, for the reader
    against: Literal["", "running", "dense"] = ""
    min: Number | None = None  # the candidate's value is at least this
    max: Number | None = None  # the candidate's value is at most this
    max_worse: Number | None = (
        None  # non-inferiority: the 95 % interval of the paired difference is at most this much worse
    )
    max_increase: Number | None = None  # candidate - other is at most this
    max_decrease: Number | None = None  # other - candidate is at most this
    max_ratio: Number | None = None  # candidate / other is at most this
    not_worse: bool = False  # the paired 95 % interval does not say "worse"
    optional: bool = False  # passes when there is nothing to measure it from

    @model_validator(mode="after")
    def _one_limit(self) -> Rule:
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if len(given) + self.not_worse != 1:
            raise ValueError(f"rule {self.name} needs exactly one of {', '.join(LIMITS)} or not_worse")
        relative = (
            self.not_worse
            or self.metric.startswith(RELATIONS)
            or bool({"max_worse", "max_increase", "max_decrease", "max_ratio"} & set(given))
        )
        if relative and not self.against:
            raise ValueError(f"rule {self.name} compares: say against running or dense")
        return self

    @property
    def limit(self) -> tuple[str, float | None]:
        """Return the kind of the limit and its value."""
        if self.not_worse:
            return "not_worse", None
        return next((name, getattr(self, name)) for name in LIMITS if getattr(self, name) is not None)


class EvidenceRules(BaseModel):
    """What a margin must be judged from at least."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_clips: int = Field(default=12, ge=2)  # of five seconds; fewer are no evidence, whatever they say


class GateRules(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1, 2]  # 2 adds evidence and max_worse
    evidence: EvidenceRules = EvidenceRules()
    rules: list[Rule] = Field(min_length=1)


@dataclass(frozen=True)
class RuleResult:
    """A rule and what became of it."""

    name: str
    metric: str
    unit: str
    against: str
    kind: str
    limit: float | None
    candidate: float | str | None
    other: float | None
    passed: bool
    skipped: bool = False  # optional and not measurable
    worse: float | None = None  # for max_worse: mean of the paired differences, positive: the candidate is worse
    worse_most: float | None = None  # upper end of its 95 % interval
    clips: int | None = None  # that it was measured from
    clips_needed: float = 0.0  # above 0: fails for lack of evidence, and so many would tell
    note: str = ""

    @property
    def inconclusive(self) -> bool:
        """True when it failed for lack of evidence, not for what the candidate did."""
        return not self.passed and self.clips_needed > 0.0

    def sentence(self) -> str:
        """Say in one line what was measured and what was allowed."""
        if self.kind == "max_worse" and self.worse is not None:
            most = "" if self.worse_most is None else f", at most {self.worse_most:.3g} (95 %)"
            note = f"; {self.note}" if self.note else ""
            return (
                f"{self.name}: {self.metric} is {self.worse:.3g} {self.unit} worse than {self.against}{most}, "
                f"allowed {self.limit:g}{note}"
            )
        other = "" if self.other is None else f", {self.against} {self.other:.4g}"
        value = f"{self.candidate:.4g}" if isinstance(self.candidate, float | int) else str(self.candidate)
        limit = "" if self.limit is None else f" {self.limit:g}"
        note = f"; {self.note}" if self.note else ""
        return f"{self.name}: {self.metric} {value}{other} [{self.unit}], {self.kind.replace('_', ' ')}{limit}{note}"


def packaged_rules() -> Path:
    """Return the rules that come with the package."""
    return shipped(RULES_NAME)


def read_rules(path: Path) -> GateRules:
    """Read a gate file; raises OwledError that names what is wrong."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OwledError(f"gate file {path} cannot be read ({error}); expected yaml as in config/gate.yaml") from error
    try:
        return GateRules.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OwledError(f"gate file {path} is not valid at {where or 'its top'}: {first['msg']}") from error


def apply_rules(
    rules: GateRules, models: Mapping[str, Mapping[str, Any]], comparisons: Mapping[str, Mapping[str, Any]]
) -> list[RuleResult]:
    """Hold the numbers of "candidate" against every rule, in order.

    Args:
        models: numbers by role: candidate, running, dense.
        comparisons: numbers between the candidate and another role: `agreement`, `paired`.
    """
    return [_apply(rule, models, comparisons, rules.evidence.min_clips) for rule in rules.rules]


def as_json(results: list[RuleResult]) -> list[dict[str, Any]]:
    """Return what the verdict holds."""
    return [asdict(result) for result in results]


def _apply(
    rule: Rule,
    models: Mapping[str, Mapping[str, Any]],
    comparisons: Mapping[str, Mapping[str, Any]],
    min_clips: int,
) -> RuleResult:
    kind, limit = rule.limit
    if rule.max_worse is not None:
        return _hold_margin(rule, rule.max_worse, models, comparisons.get(rule.against, {}), min_clips)
    if rule.not_worse:
        verdict = value_at(comparisons.get(rule.against, {}), f"paired.{rule.metric}.verdict")
        known = verdict in ("better", "same", "worse")
        lost = _lost(models, f"means.{rule.metric}", rule.against)
        return _result(rule, verdict if known else None, None, verdict in ("better", "same"), known or lost)
    source = comparisons.get(rule.against, {}) if rule.metric.startswith(RELATIONS) else models.get("candidate", {})
    value = _number(value_at(source, rule.metric))
    if kind in ("min", "max"):
        assert limit is not None
        fits = value is not None and (value >= limit if kind == "min" else value <= limit)
        return _result(rule, value, None, fits, value is not None or _lost(models, rule.metric, "running"))
    other = _number(value_at(models.get(rule.against, {}), rule.metric))
    if value is None or other is None:
        return _result(rule, value, other, False, known=other is not None)
    return _result(rule, value, other, _within(kind, limit or 0.0, value, other), known=True)


def _hold_margin(
    rule: Rule,
    margin: float,
    models: Mapping[str, Mapping[str, Any]],
    comparison: Mapping[str, Any],
    min_clips: int,
) -> RuleResult:
    found = comparison_of(value_at(comparison, f"paired.{rule.metric}"), rule.metric)
    value, other = (
        _number(value_at(models.get(role, {}), f"means.{rule.metric}")) for role in ("candidate", rule.against)
    )
    if found.worse is None:
        lost = value is None and other is not None  # what it cannot do any more is no lack of evidence
        skipped = rule.optional and other is None
        note = "" if skipped else "the candidate has no value" if lost else "too little evidence: no frame has both"
        return RuleResult(
            rule.name, rule.metric, rule.unit, rule.against, "max_worse", margin, value, other, skipped, skipped, clips=0,
            clips_needed=0.0 if skipped or lost else float(min_clips), note=note,
        )  # fmt: skip
    judged = judge_margin(found, margin, min_clips)
    note = "too close to the margin for any amount of driving to tell" if judged.hopeless else ""
    if judged.inconclusive:
        note = f"too little evidence: {found.clips} clips, {judged.clips_needed:.0f} needed"
    return RuleResult(
        rule.name, rule.metric, rule.unit, rule.against, "max_worse", margin, value, other, judged.holds,
        worse=found.worse, worse_most=found.most, clips=found.clips, clips_needed=judged.clips_needed, note=note,
    )  # fmt: skip


def _lost(models: Mapping[str, Mapping[str, Any]], path: str, against: str) -> bool:
    """Tell whether the other model has a number and the candidate has none: what it cannot do any more is no excuse."""
    other = _number(value_at(models.get(against, {}), path))
    return other is not None and _number(value_at(models.get("candidate", {}), path)) is None


def _within(kind: str, limit: float, value: float, other: float) -> bool:
    if kind == "max_increase":
        return value - other <= limit + ROUNDING
    if kind == "max_decrease":
        return other - value <= limit + ROUNDING
    return value <= limit * other


def _result(rule: Rule, value: float | str | None, other: float | None, passed: bool, known: bool) -> RuleResult:
    kind, limit = rule.limit
    skipped = rule.optional and not known
    return RuleResult(
        rule.name, rule.metric, rule.unit, rule.against, kind, limit, value, other, passed or skipped, skipped
    )


def value_at(content: Any, path: str) -> Any:
    """Follow a dotted path through mappings; None where it ends early."""
    for name in path.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
