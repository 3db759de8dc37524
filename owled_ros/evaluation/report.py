"""One HTML page about one or several results, with everything inside it: it opens anywhere, without network. Needs jinja2.

What models said is foreign text: the template escapes everything but the plots that are drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.evaluation.beside import DENSE, JUDGED, UNIFORM
from owled_ros.evaluation.birds_eye import HOLD, STRAIGHT, TRUTH
from owled_ros.evaluation.compare import paired_difference
from owled_ros.evaluation.evaluate import scenario_of
from owled_ros.evaluation.frame_values import LOWER_IS_BETTER
from owled_ros.evaluation.headline import segments_of, status_of, title_of, why_of
from owled_ros.evaluation.images import random_records, show, worst_records
from owled_ros.evaluation.metrics import NO_COMMAND
from owled_ros.evaluation.path_plots import PATH_PLOTS
from owled_ros.evaluation.plots import COLOURS, PLOTS, limit_text, name_of
from owled_ros.evaluation.result import ResultFile
from owled_ros.evaluation.running_cost import CostTable, table_of
from owled_ros.files import write_atomic

TEMPLATE = Path(__file__).with_name("report.html.j2")
METRICS = (  # metric, heading, what it says
    ("acceleration_mae_mps2", "Acceleration error [m/s²]", "mean absolute error of valid answers"),
    ("acceleration_filled_mae_mps2", "… withheld as 0 [m/s²]", "a withheld answer counts as keeping the speed"),
    ("acceleration_raw_mae_mps2", "… without floor [m/s²]", "also answers whose confidence is under the floor"),
    ("steering_mae_rad", "Steering error [rad]", "mean absolute error of the tire angle"),
    ("E_lon", "E_lon", "normalised pedal error (LLM-Driver)"),
    ("E_lat", "E_lat", "normalised steering error (LLM-Driver)"),
    ("good_action_share", "Good actions", "both parts within the tolerance"),
    ("manoeuvre_accuracy", "Manoeuvre", "the right reason"),
    ("path_ade_1s_m", "ADE 1 s [m]", "mean distance to the path that was driven, every half second for one second"),
    ("path_ade_2s_m", "ADE 2 s [m]", "the same for two seconds"),
    ("path_ade_3s_m", "ADE 3 s [m]", "the same for three seconds"),
    ("path_ade_filled_3s_m", "… withheld as continuing [m]", "a withheld answer counts as keeping speed and curvature"),
    ("path_fde_1s_m", "FDE 1 s [m]", "distance after one second"),
    ("path_fde_2s_m", "FDE 2 s [m]", "after two seconds"),
    ("path_fde_3s_m", "FDE 3 s [m]", "after three seconds"),
    ("path_ade_horizon_m", "ADE, whole path [m]", "over everything that the model predicts"),
    ("path_fde_horizon_m", "FDE, whole path [m]", "at the end of what the model predicts"),
    ("path_lateral_m", "Lateral error [m]", "across the path that was driven, mean over three seconds"),
    ("path_longitudinal_m", "Longitudinal error [m]", "along the path that was driven, mean over three seconds"),
    ("miss_share", "Misses", "paths that end too far off after three seconds"),
    ("collision_share", "Collisions", "paths that run into a true car ahead or a person on the road (approximation)"),
    ("path_ade_m", "ADE at 1, 2, 3 s [m]", "as older results give it"),
    ("E_car", "E_car", "error in the number of cars (LLM-Driver)"),
    ("E_ped", "E_ped", "error in the number of pedestrians (LLM-Driver)"),
    ("Acc_TL", "Acc_TL", "traffic light state right (LLM-Driver)"),
    ("D_TL_m", "D_TL [m]", "error in the distance to the light (LLM-Driver)"),
    ("valid_share", "Usable answers", "share of frames with an action"),
)

GROUPED = (  # metric, heading of the tables by command and speed
    ("path_ade_3s_m", "ADE 3 s"),
    ("path_fde_3s_m", "FDE 3 s"),
    ("miss_share", "misses"),
    ("path_lateral_m", "lateral"),
    ("path_longitudinal_m", "longitudinal"),
    ("collision_share", "collisions"),
)
KINDS = {"acted": "#1a7f4b", "withheld": "#b8860b", "invalid": "#b3261e"}  # colours of the bar of reasons
LINES = (
    ("driven", TRUTH, ""),
    ("hold", HOLD, "4 3"),
    ("constant velocity", STRAIGHT, "1 3"),
)  # legend of paths from above
NO_COMMAND_WORDS = "no command"
UNFILLED = ("E_car", "E_ped", "Acc_TL", "D_TL_m", "valid_share")  # metrics that compare models of which one never acted


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    text: str
    interval: str = ""
    best: bool = False


def write_html(results: Sequence[ResultFile], path: Path) -> Path:
    """Write the report of some results; returns its path."""
    import jinja2
    from markupsafe import Markup

    if not results:
        raise OwledError("there is no result to report about; give at least one result.jsonl")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    every = {**PATH_PLOTS, **PLOTS}
    plots = {title: Markup(svg) for title, draw in every.items() if (svg := draw(results))}
    html = template.render(
        title=title_of(results),
        scenario=results[0].condition.get("Scenario", {}).get("name", "default"),
        models=[_model(number, results) for number in range(len(results))],
        kinds=KINDS,
        lines=LINES,
        grouped=GROUPED,
        columns=[name_of(result) for result in results],
        baselines=list(results[0].metrics.get("baselines", {})),
        rows=_rows(results),
        comparisons=_comparisons(results),
        plots=plots,
        colours=COLOURS,
        success=all(result.success for result in results if result.role == JUDGED),
    )
    write_atomic(path, html)
    return path


def _model(number: int, results: Sequence[ResultFile]) -> dict[str, Any]:
    from markupsafe import Markup

    result = results[number]
    scenario = scenario_of(result)
    vehicle = scenario.vehicle_parameters()
    worst = worst_records(result.records, scenario.tolerance(), vehicle=vehicle)
    random = random_records(result.records)
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(results))]
    others = [
        ({record.key: record for record in other.records}, colours[place])
        for place, other in enumerate(results)
        if place != number
    ]
    frames = [
        (shown, Markup(shown.above))
        for shown in show(result, [*worst, *random], scenario.read_options(), vehicle, colours[number], others)
    ]
    metrics = result.metrics
    segments = segments_of(result)
    return {
        "name": name_of(result),
        "colour": colours[number],
        "result": result,
        "metrics": metrics,
        "segments": segments,
        "why": why_of(result),
        "conditions": [(item, *status_of(item, acted(result))) for item in metrics.get("conditions", [])],
        "groups": _groups(metrics),
        "notes": _notes(result, results),
        "collisions_known": (metrics.get("counted_frames") or {}).get("collision_share") or 0,
        "coverage": metrics.get("coverage", {}),
        "answers": metrics.get("answers", {}),
        "timing": metrics.get("timing", {}),
        "camera_test": metrics.get("camera_test") or {},
        "recall": metrics.get("traffic_light_recall", {}),
        "brake": metrics.get("brake_onset", {}),
        "comfort": metrics.get("comfort", {}),
        "facts": metrics.get("model", {}).get("facts", {}),
        "identity": metrics.get("model", {}),
        "costs": _costs(metrics),
        "galleries": [("Worst frames", frames[: len(worst)]), ("Random frames", frames[len(worst) :])],
        "confidence": metrics.get("confidence", {}),
        "calibration": metrics.get("calibration", {}),
        "role": result.role,
        "beside": metrics.get("beside") or {},
    }


def _groups(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of path errors by command and by speed, as far as the result holds them."""
    tables = []
    for key, heading in (("by_command", "By command"), ("by_speed_mps", "By speed [m/s]")):
        rows = [row for row in metrics.get(key) or [] if row["frames"] and "path_ade_3s_m" in row]
        named = [(_group_name(row), row) for row in rows]
        if named and not (key == "by_command" and [name for name, _ in named] == [NO_COMMAND_WORDS]):
            tables.append({"heading": heading, "rows": named})
    return tables


def _costs(metrics: Mapping[str, Any]) -> CostTable | None:
    """Return what dense, pruned and packed cost, where the artifact says it."""
    content = (metrics.get("model") or {}).get("cost")
    return None if content is None else table_of(content)


def _group_name(row: Mapping[str, Any]) -> str:
    if "group" in row:
        return NO_COMMAND_WORDS if row["group"] == NO_COMMAND else str(row["group"]).lower().replace("_", " ")
    return f"{limit_text(row['from'], '0')} to {limit_text(row['to'], '∞')}"


def _notes(result: ResultFile, results: Sequence[ResultFile]) -> list[str]:
    """Return what a result says is missing beside it, but for what this very page shows."""
    shown = {name_of(other) for other in results if other is not result and is_dense(other)}
    notes = (result.metrics.get("beside") or {}).get("notes", [])
    return [
        note for note in notes if not any(note.startswith(f"the dense model {name} is not shown") for name in shown)
    ]


def acted(result: ResultFile) -> bool:
    """Tell whether a model acted at all: what never acted is no better than anything."""
    return any(record.valid for record in result.records)


def is_dense(result: ResultFile) -> bool:
    """Tell whether the model of a result was not pruned."""
    return not (result.metrics.get("model") or {}).get("artifact_id")


def _rows(results: Sequence[ResultFile]) -> list[dict[str, Any]]:
    rows = []
    for name, heading, meaning in METRICS:
        values = [result.metrics.get("means", {}).get(name) for result in results]
        baselines = [means.get(name) for means in results[0].metrics.get("baselines", {}).values()]
        if all(value is None for value in values):
            continue
        rivals = [value for value, result in zip(values, results, strict=True) if value is not None and acted(result)]
        lower = LOWER_IS_BETTER.get(name, True)
        best = (min if lower else max)(rivals) if len(rivals) > 1 else None
        cells = [
            Cell(number(value), _interval(result, name), value is not None and value == best and acted(result))
            for value, result in zip(values, results, strict=True)
        ]
        rows.append({
            "heading": heading, "meaning": meaning, "lower": lower, "cells": cells,
            "baselines": [Cell(number(value)) for value in baselines],
        })  # fmt: skip
    return rows


def _comparisons(results: Sequence[ResultFile]) -> list[dict[str, Any]]:
    """Compare every pruned model with what stands beside it, and every further one with the first, on shared frames."""
    tables = []
    scenario = scenario_of(results[0])
    for other, base in _pairs(results):
        try:
            found = paired_difference(base.records, other.records, scenario.vehicle_parameters(), scenario.tolerance())
        except OwledError:
            continue  # other bags: nothing to compare
        entries = [
            {"heading": heading, **found[name], "shown": number(found[name]["difference"]),
             "interval": _span(found[name]["interval_95"])}
            for name, heading, _ in METRICS
            if found.get(name, {}).get("frames") and (name in UNFILLED or (acted(other) and acted(base)))
        ]  # fmt: skip
        silent = [name_of(result) for result in (other, base) if not acted(result)]
        what = "" if base.role == JUDGED else f" ({base.role})"
        tables.append({"name": f"{name_of(other)} against {name_of(base)}{what}", "entries": entries, "silent": silent})
    return tables


def _pairs(results: Sequence[ResultFile]) -> list[tuple[ResultFile, ResultFile]]:
    by_name = {name_of(result): result for result in results}
    judged = [result for result in results if result.role == JUDGED]
    pairs = [(result, judged[0]) for result in judged[1:]]
    for result in judged:
        beside = result.metrics.get("beside") or {}
        for name in (beside.get(DENSE), beside.get(UNIFORM)):
            other = by_name.get(name) if name else None
            if other is not None and (result, other) not in pairs:
                pairs.append((result, other))
    return pairs


def number(value: Any) -> str:
    """Write a number with three digits, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _interval(result: ResultFile, name: str) -> str:
    return _span(result.metrics.get("intervals_95", {}).get(name))


def _span(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.3g} … {interval[1]:.3g}" if interval else ""
