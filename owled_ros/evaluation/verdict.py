"""From metrics and conditions to a verdict that says why. Needs evaluation.scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from owled_ros.evaluation.scenario import Scenario

# condition -> where its value is in the metrics
VALUES: dict[str, tuple[str, ...]] = {
    "min_evaluated_frames": ("frames",),
    "min_evaluated_share": ("coverage", "evaluated_share"),
    "min_valid_share": ("answers", "valid_share"),
    "min_parse_share": ("answers", "parse_share"),
    "max_most_common_share": ("answers", "most_common_share"),
    "max_acceleration_mae_mps2": ("means", "acceleration_mae_mps2"),
    "max_acceleration_filled_mae_mps2": ("means", "acceleration_filled_mae_mps2"),
    "max_steering_mae_rad": ("means", "steering_mae_rad"),
    "max_E_lon": ("means", "E_lon"),
    "max_E_lat": ("means", "E_lat"),
    "max_path_ade_m": ("means", "path_ade_3s_m"),
    "max_path_ade_3s_m": ("means", "path_ade_3s_m"),
    "max_path_fde_3s_m": ("means", "path_fde_3s_m"),
    "max_path_ade_horizon_m": ("means", "path_ade_horizon_m"),
    "max_path_lateral_m": ("means", "path_lateral_m"),
    "max_path_longitudinal_m": ("means", "path_longitudinal_m"),
    "max_miss_share": ("means", "miss_share"),
    "max_collision_share": ("means", "collision_share"),
    "max_E_car": ("means", "E_car"),
    "max_E_ped": ("means", "E_ped"),
    "min_Acc_TL": ("means", "Acc_TL"),
    "max_D_TL_m": ("means", "D_TL_m"),
    "min_good_action_share": ("means", "good_action_share"),
    "min_brake_onset_precision": ("brake_onset", "precision"),
    "min_brake_onset_recall": ("brake_onset", "recall"),
    "min_comfortable_share": ("comfort", "comfortable_share"),
    "max_confidence_ece": ("confidence", "ece"),
    "max_action_latency_p99_ms": ("timing", "action_latency_p99_ms"),
    "max_deadline_miss_share": ("timing", "deadline_miss_share"),
}


WITHOUT_ACTION = (  # conditions that mean something where nothing acted
    "min_evaluated_frames", "min_evaluated_share", "min_valid_share", "min_parse_share", "max_E_car", "max_E_ped", "min_Acc_TL",
    "max_D_TL_m", "max_action_latency_p99_ms", "max_deadline_miss_share",
)  # fmt: skip
ACTED = "acted_frames"
NOTHING_ACTED = "nothing acted"


@dataclass(frozen=True)
class Judgement:
    """One condition and what became of it."""

    condition: str
    limit: float | str | bool
    value: float | str | None
    passed: bool
    note: str = ""  # why it says nothing


def judge(metrics: Mapping[str, Any], scenario: Scenario) -> list[Judgement]:
    """Hold the metrics of one model against every condition that is set."""
    conditions = scenario.conditions
    valid_share = _value_at(metrics, ("answers", "valid_share")) or 0.0
    acted = round(valid_share * (metrics.get("frames") or 0))
    judgements = [Judgement(ACTED, 1, acted, acted > 0)]
    for name, path in VALUES.items():
        limit = getattr(conditions, name)
        if limit is None:
            continue
        value = _value_at(metrics, path)
        if not acted and name not in WITHOUT_ACTION:
            judgements.append(Judgement(name, limit, None, False, NOTHING_ACTED))
            continue
        fits = value is not None and (value >= limit if name.startswith("min_") else value <= limit)
        judgements.append(Judgement(name, limit, value, fits))
    for name in conditions.must_beat:
        ours = _value_at(metrics, ("means", conditions.must_beat_in))
        theirs = _value_at(metrics, ("baselines", name, conditions.must_beat_in))
        if not acted:
            judgements.append(
                Judgement(f"must_beat {name}", "unknown" if theirs is None else theirs, None, False, NOTHING_ACTED)
            )
            continue
        beaten = ours is not None and theirs is not None and ours < theirs
        judgements.append(Judgement(f"must_beat {name}", theirs if theirs is not None else "unknown", ours, beaten))
    if conditions.require_disjoint_calibration:
        shared = _value_at(metrics, ("calibration", "shared_drives"))
        judgements.append(Judgement("calibration_drives_in_evaluation", 0, shared, not shared))
    failed = _value_at(metrics, ("coverage", "failed_bags")) or 0
    judgements.append(Judgement("bags_that_failed", 0, failed, not failed))
    return judgements


def verdict_line(judgements: list[Judgement]) -> tuple[bool, str]:
    """Return whether everything passed and one sentence that says what did not."""
    failed = [item for item in judgements if not item.passed]
    if not failed:
        return True, f"Passed: {len(judgements)} conditions hold"
    reasons = "; ".join(
        f"{item.condition} {_shown(item.limit)}, measured {_shown(item.value)}" for item in failed if not item.note
    )
    return False, f"Failed: {reasons}"


def judgements_as_json(judgements: list[Judgement]) -> list[dict[str, Any]]:
    """Return what the result file holds."""
    return [asdict(item) for item in judgements]


def _value_at(metrics: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = metrics
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _shown(value: float | str | bool | None) -> str:
    if value is None:
        return "nothing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
