"""Plots of paths for the report: from above, how far off with time, by command and by speed. Needs matplotlib.

Each is a function of results that returns one SVG or None, like those of evaluation.plots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from owled_ros.evaluation.baselines import baseline_records
from owled_ros.evaluation.birds_eye import HOLD, STRAIGHT, path_of
from owled_ros.evaluation.displacement import JUDGED_S, distance_by_time, offsets_of
from owled_ros.evaluation.evaluate import scenario_of
from owled_ros.evaluation.metrics import NO_COMMAND
from owled_ros.evaluation.plots import HEIGHT, TRUTH_COLOUR, colour_of, draw_svg, limit_text, name_of
from owled_ros.evaluation.record import Record, Row
from owled_ros.evaluation.result import ResultFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PATHS = 60  # of each kind, evenly chosen
BESIDE = {"hold": HOLD, "constant_velocity": STRAIGHT}  # baselines and their colours
METRIC = "path_ade_3s_m"


def paths_from_above(results: Sequence[ResultFile]) -> str | None:
    """Draw the ways that were driven, beside what the models and the trivial answers would have driven."""
    if not _known(results):
        return None
    vehicle = scenario_of(results[0]).vehicle_parameters()
    chosen = _evenly([record for record in results[0].records if record.truth.path])
    keys = {record.key for record in chosen}
    trivial = baseline_records(chosen, vehicle)
    panels: list[tuple[str, str, list[tuple[Row, ...]]]] = [
        ("driven", TRUTH_COLOUR, [((0.0, 0.0, 0.0), *record.truth.path) for record in chosen if record.truth.path])
    ]
    for number, result in enumerate(results):
        said = [path_of(record, vehicle) for record in result.records if record.key in keys]
        panels.append((name_of(result), colour_of(number), [path for path in said if path]))
    panels.append(("hold", HOLD, [path for record in trivial["hold"] if (path := path_of(record, vehicle))]))

    def draw(all_axes: Any) -> None:
        shown = [row for _, _, paths in panels for path in paths for row in path if row[0] <= JUDGED_S + 1e-6]
        side = max(2.0, max(abs(row[2]) for row in shown)) * 1.05
        far = max(5.0, max(row[1] for row in shown)) * 1.05
        for axes, (title, colour, paths) in zip(np.ravel(all_axes), panels, strict=True):
            for path in paths:
                rows = np.array([row[:3] for row in path if row[0] <= JUDGED_S + 1e-6])
                axes.plot(-np.round(rows[:, 2], 2), np.round(rows[:, 1], 2), color=colour, linewidth=0.8, alpha=0.5)
            axes.set(xlim=(-side, side), ylim=(-0.5, far), xlabel="right [m]")
            axes.set_title(_short(title), fontsize=8)
        np.ravel(all_axes)[0].set_ylabel("forward [m]")

    return draw_svg(draw, height=HEIGHT * 1.2, columns=len(panels), sharey=True)


def distance_over_time(results: Sequence[ResultFile]) -> str | None:
    """Draw how far off paths are with time, beside continuing and going straight."""
    if not _known(results):
        return None
    vehicle = scenario_of(results[0]).vehicle_parameters()
    trivial = baseline_records(results[0].records, vehicle)

    def draw(axes: Axes) -> None:
        for name, colour in BESIDE.items():
            table = distance_by_time(trivial[name], vehicle)
            axes.plot(*_columns(table), color=colour, linestyle="--", linewidth=1.2, label=name.replace("_", " "))
        for number, result in enumerate(results):
            table = distance_by_time(result.records, vehicle)
            axes.plot(*_columns(table), color=colour_of(number), marker="o", markersize=3, label=name_of(result))
        axes.set(xlabel="time after the image [s]", ylabel="distance [m]", ylim=(0, None), xlim=(0, None))
        axes.legend(fontsize=8)

    return draw_svg(draw)


def ends_of_paths(results: Sequence[ResultFile]) -> str | None:
    """Draw where paths end after three seconds, seen from where the vehicle was; the circle is what counts as a miss."""
    if not _known(results):
        return None
    scenario = scenario_of(results[0])
    vehicle, miss = scenario.vehicle_parameters(), scenario.tolerance().miss

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Circle

        for number, result in enumerate(results):
            found = [offsets.until(JUDGED_S) for record in _evenly(result.records, 400)
                     if (offsets := offsets_of(record, vehicle))]  # fmt: skip
            ends = np.array([(-part.lateral[-1], part.longitudinal[-1]) for part in found if part]).reshape(-1, 2)
            axes.scatter(
                np.round(ends[:, 0], 2),
                np.round(ends[:, 1], 2),
                s=8,
                alpha=0.5,
                color=colour_of(number),
                label=name_of(result),
            )
        axes.add_patch(Circle((0.0, 0.0), miss, fill=False, color="#999999", linestyle="--"))
        axes.axhline(0, color="#cccccc", linewidth=0.8)
        axes.axvline(0, color="#cccccc", linewidth=0.8)
        axes.set(xlabel="to the right of the truth [m]", ylabel="ahead of the truth [m]")
        axes.axis("equal")
        axes.legend(fontsize=8)

    return draw_svg(draw, height=HEIGHT * 1.3)


def distance_by_command(results: Sequence[ResultFile]) -> str | None:
    """Draw the displacement per navigation command; None where no command was ever given."""
    rows = results[0].metrics.get("by_command") or []
    if not any(row["group"] != NO_COMMAND for row in rows):
        return None
    names = [str(row["group"]) for row in rows]

    def value(result: ResultFile, name: str) -> float:
        found: dict[str, Any] = next(
            (row for row in result.metrics.get("by_command") or [] if row["group"] == name), {}
        )
        return float(found.get(METRIC) or 0.0)

    labels = [
        f"{name.lower().replace('_', ' ')}\n{row['frames']} frames" for name, row in zip(names, rows, strict=True)
    ]
    return _bars(results, labels, [[value(result, name) for name in names] for result in results], "command")


def distance_by_speed(results: Sequence[ResultFile]) -> str | None:
    """Draw the displacement per bin of speed."""
    rows = results[0].metrics.get("by_speed_mps") or []
    if not any(row.get(METRIC) is not None for row in rows):
        return None
    labels = [f"{limit_text(row['from'], '0')}–{limit_text(row['to'], '∞')}\n{row['frames']} frames" for row in rows]
    heights = [
        [float(row.get(METRIC) or 0.0) for row in result.metrics.get("by_speed_mps") or []] for result in results
    ]
    return _bars(results, labels, heights, "speed [m/s]")


PATH_PLOTS: dict[str, Callable[[Sequence[ResultFile]], str | None]] = {
    "Paths from above, three seconds": paths_from_above,
    "Distance to the path that was driven": distance_over_time,
    "Where paths end after three seconds": ends_of_paths,
    "Path error by command": distance_by_command,
    "Path error by speed": distance_by_speed,
}


def _bars(results: Sequence[ResultFile], labels: list[str], heights: list[list[float]], what: str) -> str:
    def draw(axes: Axes) -> None:
        width = 0.8 / len(results)
        for number, (result, column) in enumerate(zip(results, heights, strict=True)):
            places = np.arange(len(column)) + (number - (len(results) - 1) / 2) * width
            axes.bar(places, column, width * 0.95, color=colour_of(number), label=name_of(result))
        axes.set_xticks(np.arange(len(labels)), labels, fontsize=8)
        axes.set(xlabel=what, ylabel="ADE 3 s [m]")
        axes.legend(fontsize=8)

    return draw_svg(draw)


def _known(results: Sequence[ResultFile]) -> bool:
    vehicle = scenario_of(results[0]).vehicle_parameters()
    return any(offsets_of(record, vehicle) is not None for result in results for record in result.records)


def _evenly(records: Sequence[Record], most: int = MOST_PATHS) -> list[Record]:
    return list(records[:: max(1, -(-len(records) // most))])


def _columns(table: list[dict[str, float | int]]) -> tuple[list[float], list[float]]:
    return [0.0, *(float(row["time_s"]) for row in table)], [0.0, *(float(row["distance_m"]) for row in table)]


def _short(title: str) -> str:
    return title if len(title) <= 18 else f"{title[:17]}…"
