"""The gate's margins: worked by hand, in a chain of promotions, and on models whose words are fine and whose paths are not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from owled_ros.bags.frames import Sample
from owled_ros.driving.answer import Action, Manoeuvre, format_action
from owled_ros.driving.confidence import Calibration
from owled_ros.driving.frame import EgoState, Frame
from owled_ros.driving.prediction import Generation, ModelIdentity, judge_action
from owled_ros.errors import OwledError
from owled_ros.evaluation.bootstrap import interval_of_mean
from owled_ros.evaluation.record import Truth
from owled_ros.recalibration import gate
from owled_ros.recalibration.gate import HeldOut, judge_candidate, reasons_of
from owled_ros.recalibration.gate_rules import GateRules, apply_rules, packaged_rules, read_rules
from owled_ros.recalibration.noninferiority import Comparison, Supply, comparison_of, judge_margin

SECOND = 1_000_000_000
ROLES = ("candidate", "running", "dense")


def entry(difference: float, low: float, high: float, clips: int = 10_000) -> dict[str, Any]:
    return {"difference": difference, "interval_95": [low, high], "clips": clips}


@pytest.mark.parametrize(
    ("found", "holds", "clips"),
    [
        (Comparison(0.05, 0.09, 40), True, 0),
        (Comparison(-0.3, 0.1, 40), True, 0),  # just met
        (Comparison(0.11, 0.2, 40), False, 0),  # worse by more than the margin: no lack of evidence
        (Comparison(0.05, 0.15, 40), False, 160),  # the interval must shrink from 0.1 to 0.05: four times the clips
        (Comparison(0.0, 0.05, 5), False, 12),  # the margin holds, but five clips are no evidence
        (Comparison(0.0, None, 1), False, 12),
        (Comparison(0.099, 0.2, 40), False, 0),  # at the margin: 10 000 times the clips would be needed
    ],
)
def test_margins_by_hand(found: Comparison, holds: bool, clips: int) -> None:
    judged = judge_margin(found, 0.1, 12)
    assert (judged.holds, round(judged.clips_needed)) == (holds, clips)
    assert judged.hopeless == (found.worse == 0.099)


def test_the_bad_side_of_a_share_is_down() -> None:
    found = comparison_of(entry(-0.02, -0.06, 0.01), "valid_share")
    assert (found.worse, found.most, found.least) == (
        pytest.approx(0.02), pytest.approx(0.06, rel=1e-3), pytest.approx(-0.01, rel=1e-2),
    )  # fmt: skip
    assert comparison_of(entry(0.02, -0.01, 0.06), "path_ade_3s_m").most == pytest.approx(0.06, rel=1e-3)


def test_few_clips_widen_the_interval_like_students_t() -> None:
    # t with 11 degrees of freedom is 2.201 at 97.5 %, the normal one 1.960; n - 1 in the variance: sqrt(12 / 11)
    found = comparison_of(entry(0.0, -0.1, 0.1, clips=12), "path_ade_3s_m")
    assert found.most == pytest.approx(0.1 * 2.201 / 1.960 * math.sqrt(12 / 11), rel=2e-3)


def test_missing_evidence_says_how_much_to_record() -> None:
    # 10 clips of 5 s judged, all that were held out; 34 needed: 24 more are 2 minutes, of which 30 % are held out: 6.7
    assert Supply(10, 10, 0.3, 100).advice(34) == "record about 7 more minutes of driving"
    assert Supply(10, 20, 0.5, 100).advice(44) == (
        "record about 4 more minutes of driving, and judge about 440 frames (gate_frames)"
    )
    assert Supply(10, 50, 0.3, 100).advice(34) == (
        "judge about 340 frames instead of 100 (gate_frames): the held-out drives hold more"
    )


def rule(**values: Any) -> GateRules:
    base = {"name": "path", "unit": "m", "metric": "path_ade_3s_m", "against": "running", "max_worse": 0.1}
    return GateRules.model_validate({"format_version": 2, "rules": [{**base, **values}]})


def numbers(candidate: float | None, other: float | None) -> dict[str, Any]:
    return {
        "candidate": {"means": {"path_ade_3s_m": candidate}}, "running": {"means": {"path_ade_3s_m": other}},
    }  # fmt: skip


def test_reasons_tell_worse_from_unknown() -> None:
    def reasons(found: dict[str, Any] | None, **values: Any) -> list[str]:
        paired = {"paired": {"path_ade_3s_m": found}} if found else {}
        findings = apply_rules(rule(**values), numbers(0.5, 0.4), {"running": paired})
        return reasons_of([finding for finding in findings if not finding.passed], Supply(40, 40, 0.5, 400))

    assert reasons(entry(0.02, -0.05, 0.09)) == []
    assert reasons(entry(0.2, 0.1, 0.3)) == [
        "path: path_ade_3s_m is 0.2 m worse than running, at most 0.3 (95 %), allowed 0.1"
    ]
    # the interval reaches 0.1 m from its mean, with 40 clips 1.045 times that; it must shrink to 0.05: 4.37 times the clips.
    # 135 more are 11.2 minutes, half of the recording is held out
    assert reasons(entry(0.05, -0.05, 0.15, clips=40)) == [
        "evidence: too little to tell for path; record about 23 more minutes of driving"
    ]
    assert reasons(entry(0.0, -0.01, 0.01, clips=5))[0].startswith("evidence: too little to tell for path")
    assert reasons(None)[0].startswith("evidence: too little to tell for path")


def test_nothing_to_compare_is_no_pass() -> None:
    lost = apply_rules(rule(optional=True), numbers(None, 0.4), {"running": {}})[0]
    assert (lost.passed, lost.inconclusive) == (False, False)
    nothing = apply_rules(rule(), numbers(None, None), {"running": {}})[0]
    assert (nothing.passed, nothing.inconclusive) == (False, True)
    optional = apply_rules(rule(optional=True), numbers(None, None), {"running": {}})[0]
    assert (optional.passed, optional.skipped) == (True, True)
    apart = apply_rules(rule(optional=True), numbers(0.5, 0.4), {"running": {}})[0]  # never on the same frame
    assert (apart.passed, apart.inconclusive) == (False, True)


def paired(candidate: np.ndarray, other: np.ndarray, clips: np.ndarray) -> dict[str, Any]:
    difference = candidate - other
    return {
        "difference": float(difference.mean()), "interval_95": interval_of_mean(difference, clips),
        "clips": len(np.unique(clips)),
    }  # fmt: skip


def chain(rules: GateRules, metric: str, promotions: int = 10) -> list[float]:
    """Promote whatever is as much worse as the gate lets through, on new drives each time; returns the true drifts."""
    rng = np.random.default_rng(4)
    clips = np.repeat(np.arange(100), 4)
    margin = max(r.max_worse or 0.0 for r in rules.rules if r.against == "running")
    drift, promoted = 0.0, []
    for _ in range(promotions):
        for step in margin * np.linspace(1.0, 0.02, 12):
            scene = np.repeat(rng.normal(0.6, 0.2, 100), 4)  # how hard the drives are, for all models alike
            errors = [scene + offset + rng.normal(0.0, 0.05, 400) for offset in (drift + step, drift, 0.0)]
            models = {
                role: {"means": {metric: float(e.mean())}} for role, e in zip(ROLES, errors, strict=True)
            }  # fmt: skip
            comparisons = {
                role: {"paired": {metric: paired(errors[0], e, clips)}}
                for role, e in zip(ROLES[1:], errors[1:], strict=True)
            }
            if all(finding.passed for finding in apply_rules(rules, models, comparisons)):
                drift += step
                promoted.append(drift)
                break
    return promoted


@pytest.mark.parametrize("metric", ["path_ade_3s_m", "path_fde_3s_m", "path_ade_filled_3s_m"])
def test_ten_promotions_at_the_edge_end_inside_the_anchors_margin(metric: str) -> None:
    shipped = read_rules(packaged_rules())
    about = [r for r in shipped.rules if r.metric.removeprefix("means.") == metric]
    anchor = next(r.max_worse for r in about if r.against == "dense" and r.max_worse)
    drifts = chain(GateRules(format_version=2, rules=about), metric)
    assert drifts
    assert drifts[-1] <= anchor
    free = chain(GateRules(format_version=2, rules=[r for r in about if r.against == "running"]), metric)
    assert len(free) == 10
    assert free[-1] > 2 * anchor  # without the anchor it drifts away, each step within the margin


class Driver:
    """Answers the expert's action, but for errors of its own."""

    def __init__(self, name: str, acceleration: float = 0.0, steering: float = 0.0, silent: float = 0.0) -> None:
        self.identity = ModelIdentity(f"{name}@0123456789ab", name if name != "dense" else "")
        self.facts: dict[str, Any] = {}
        self.errors = (acceleration, steering)
        self.silent = silent

    def see(self, frame: Frame) -> Frame:
        return frame

    def act(self, frame: Frame) -> Any:
        if frame.stamp // (SECOND // 5) % 100 < 100 * self.silent:
            return judge_action(Generation("unknown", True, 0.9, 1, 0.0))
        number = frame.stamp // (SECOND // 5)
        text = format_action(
            Action(0.2 * (number % 5 - 2) + self.errors[0], 0.01 * (number % 3 - 1) + self.errors[1], Manoeuvre.CRUISE)
        )
        return judge_action(Generation(text, True, 0.9, 12, 0.01))

    def describe(self, frame: Frame, cancelled: Any = None) -> Any:
        return None

    def close(self) -> None:
        pass


def held_out(count: int = 600, gap: int = 1) -> Iterator[HeldOut]:
    """Frames five times a second at 8 m/s; the truth goes on as it is."""
    for number in range(0, count * gap, gap):
        stamp = number * SECOND // 5
        image = np.full((4, 4, 3), number % 256, np.uint8)
        path = tuple((t / 2, 4.0 * t, 0.0, 0.0, 8.0) for t in range(1, 13))
        truth = Truth(acceleration=0.2 * (number % 5 - 2), steering=0.01 * (number % 3 - 1), source="expert", path=path)
        yield HeldOut("bag", Sample(Frame(image, stamp, EgoState(stamp, 8.0)), 0, 0, number), truth)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Judge drivers by the shipped rules; sizes and latencies, which are not theirs, are left out."""
    rules = read_rules(packaged_rules())
    about = [r for r in rules.rules if not r.metric.startswith(("size.", "timing."))]
    floor = type("Profile", (), {"confidence": Calibration(floor=0.0)})
    monkeypatch.setattr(gate, "read_profile", lambda path: floor)
    monkeypatch.setattr(gate, "sizes_of", lambda path: {})

    def judge(candidate: Driver, frames: int = 600, **more: Any) -> dict[str, Any]:
        engines = {"candidate": candidate, "running": Driver("running", acceleration=0.02), "dense": Driver("dense")}
        directories = {role: tmp_path / role for role in engines}
        for path in directories.values():
            path.mkdir(exist_ok=True)
        monkeypatch.setattr(gate, "load_engine", lambda path, **settings: engines[path.name])
        return judge_candidate(
            directories, held_out(frames), rules.model_copy(update={"rules": about}), {}, held_out_share=0.3, **more
        )

    return judge


def test_a_good_candidate_passes(judged: Any) -> None:
    verdict = judged(Driver("candidate"))
    assert verdict["passed"], verdict["reasons"]
    assert verdict["evidence"]["clips"] == 24  # 600 frames at five a second
    assert verdict["models"]["candidate"]["means"]["path_ade_3s_m"] is not None


def test_fine_words_and_bad_paths_are_refused(judged: Any) -> None:
    # nearly every token is what the dense model says: of each answer one digit differs. The paths end metres away
    bad = Driver("candidate", steering=0.03)
    for item in held_out(30):
        said, right = (driver.act(item.sample.frame).generation.text for driver in (bad, Driver("dense")))
        assert sum(a == b for a, b in zip(said, right, strict=True)) >= len(right) - 2  # perplexity hardly sees it
    verdict = judged(bad)
    assert not verdict["passed"]
    assert {"path_error", "path_error_anchor", "path_end", "path_end_anchor", "lateral_error"} <= set(
        verdict["failed_rules"]
    )
    assert verdict["evidence"]["minutes_to_record"] == 0  # it is worse, whatever is recorded
    assert any("worse than running" in reason for reason in verdict["reasons"])


def test_a_candidate_that_withholds_more_is_refused(judged: Any) -> None:
    verdict = judged(Driver("candidate", silent=0.2))
    assert {"acts_as_often_as_running", "acts_as_often_as_dense"} <= set(verdict["failed_rules"])


def test_too_little_evidence_is_a_refusal_that_says_how_much_to_record(judged: Any) -> None:
    verdict = judged(Driver("candidate"), frames=40)  # 8 s: two clips
    assert not verdict["passed"]
    assert [reason.split(":")[0] for reason in verdict["reasons"]] == ["evidence"]
    # 12 clips are needed, 10 are missing: 50 s, of which 30 % are held out
    assert verdict["reasons"][0].endswith("record about 3 more minutes of driving")
    assert verdict["evidence"]["minutes_to_record"] == 3
    longer = judged(Driver("candidate"), frames=40, held_out_s=100.0)
    assert "judge about 240 frames instead of 40" in longer["reasons"][0]


def test_the_gate_compares_with_what_drives_and_nothing_else(judged: Any) -> None:
    assert judged(Driver("candidate"), drives="running")["passed"]
    assert judged(Driver("candidate"), drives="0123456789ab")["passed"]
    with pytest.raises(OwledError, match="driven by fedcba987654, but the gate was given running"):
        judged(Driver("candidate"), drives="fedcba987654")
