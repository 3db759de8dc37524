"""The plots of the report as SVG texts. Needs matplotlib.

Every plot is a function of results that returns one SVG, or None where there is nothing to draw. No window, no files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from owled_ros.driving.frame import NANOSECONDS
from owled_ros.evaluation.result import ResultFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2463ab", "#d1591c", "#2e8b57", "#8e44ad", "#b8860b", "#c0392b", "#16a0a0", "#555555")
TRUTH_COLOUR = "#111111"
WIDTH, HEIGHT = 5.6, 2.8  # [inch]
MAX_POINTS = 1500  # per line
GAP_S = 2.0  # between drives on the time axis
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.alpha": 0.25, "font.family": "sans-serif", "figure.autolayout": True}  # fmt: skip


def name_of(result: ResultFile) -> str:
    """Return the name of the model of a result."""
    return str(result.condition.get("Model", {}).get("name") or result.path.parent.name)


def action_over_time(results: Sequence[ResultFile]) -> str | None:
    """Draw acceleration of truth and answers over the time of all drives, one after the other."""
    if not any(record.truth.acceleration is not None for result in results for record in result.records):
        return None

    def draw(axes: Axes) -> None:
        seconds = _time_axis(results[0])
        truth = [record.truth.acceleration for record in results[0].records]
        axes.plot(*_thinned(seconds, truth), color=TRUTH_COLOUR, linewidth=1.4, label="truth")
        for number, result in enumerate(results):
            answers = [record.acceleration for record in result.records]
            axes.plot(*_thinned(_time_axis(result), answers), color=colour_of(number), linewidth=1.0, alpha=0.85,
                      label=name_of(result))  # fmt: skip
        axes.set(xlabel="time [s]", ylabel="acceleration [m/s²]")
        axes.legend(loc="lower left", ncols=4, fontsize=8, framealpha=0.8)

    return draw_svg(draw)


def error_over_time(results: Sequence[ResultFile]) -> str | None:
    """Draw the absolute acceleration error over time, averaged over two seconds."""
    if not any(record.truth.acceleration is not None for result in results for record in result.records):
        return None

    def draw(axes: Axes) -> None:
        for number, result in enumerate(results):
            seconds = _time_axis(result)
            errors = np.array([_error(record.acceleration, record.truth.acceleration) for record in result.records])
            axes.plot(*_thinned(seconds, _smoothed(seconds, errors)), color=colour_of(number), label=name_of(result))
        axes.set(xlabel="time [s]", ylabel="|error| [m/s²]", ylim=(0, None))
        axes.legend(loc="upper left", ncols=4, fontsize=8, framealpha=0.8)

    return draw_svg(draw)


def error_by_speed(results: Sequence[ResultFile]) -> str | None:
    """Draw the acceleration error per bin of speed as bars."""
    rows = results[0].metrics.get("by_speed_mps") or []
    if not any(row["frames"] for row in rows):
        return None

    def draw(axes: Axes) -> None:
        width = 0.8 / len(results)
        for number, result in enumerate(results):
            heights = [row["acceleration_mae_mps2"] or 0.0 for row in result.metrics.get("by_speed_mps", [])]
            places = np.arange(len(heights)) + (number - (len(results) - 1) / 2) * width
            axes.bar(places, heights, width * 0.95, color=colour_of(number), label=name_of(result))
        labels = [
            f"{limit_text(row['from'], '0')}–{limit_text(row['to'], '∞')}\n{row['frames']} frames" for row in rows
        ]
        axes.set_xticks(np.arange(len(rows)), labels, fontsize=8)
        axes.set(xlabel="speed [m/s]", ylabel="acc. MAE [m/s²]")
        axes.legend(fontsize=8)

    return draw_svg(draw)


def latency_histogram(results: Sequence[ResultFile]) -> str | None:
    """Draw how long the action took, per model."""
    columns = [[record.timing.action_latency_s * 1e3 for record in result.records] for result in results]
    values = [value for column in columns for value in column]
    if not values or max(values) <= 0:
        return None

    def draw(axes: Axes) -> None:
        edges = np.linspace(0, float(np.percentile(values, 99.5)) * 1.05, 50).tolist()
        for number, (result, column) in enumerate(zip(results, columns, strict=True)):
            clipped = np.minimum(column, edges[-1])
            axes.hist(clipped, edges, histtype="stepfilled", alpha=0.45, color=colour_of(number), label=name_of(result))
        axes.set(xlabel="image to action [ms], offline", ylabel="frames")
        axes.legend(fontsize=8)

    return draw_svg(draw)


def sparsity_per_block(results: Sequence[ResultFile]) -> str | None:
    """Draw the share of zeros in every block of the pruned models."""
    pruned = [(number, result) for number, result in enumerate(results) if _blocks(result)]
    if not pruned:
        return None

    def draw(axes: Axes) -> None:
        for number, result in pruned:
            values = [block["sparsity"] for block in _blocks(result)]
            axes.step(
                range(len(values)), values, where="mid", marker="o", color=colour_of(number), label=name_of(result)
            )
        names = [f"{block['component']} {block['name'].rpartition('.')[2]}" for block in _blocks(pruned[0][1])]
        if len(names) <= 24:
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        axes.set(ylabel="zeros in the block", ylim=(0, 1))
        axes.legend(fontsize=8)

    return draw_svg(draw, height=HEIGHT * 1.4)


def accuracy_against_cost(results: Sequence[ResultFile]) -> str | None:
    """Draw the error of every model against its size on the disk and its latency."""
    costs: list[tuple[str, Callable[[ResultFile], float | None]]] = [
        ("size on disk [MB]", lambda result: _megabytes(result)),
        ("action p50 [ms], offline", lambda result: result.metrics.get("timing", {}).get("action_latency_p50_ms")),
    ]
    points = [(_mae(result), [cost(result) for _, cost in costs]) for result in results]
    if not any(error is not None for error, _ in points):
        return None

    def draw(all_axes: Any) -> None:
        for position, axes in enumerate(all_axes):
            for number, (result, (error, values)) in enumerate(zip(results, points, strict=True)):
                if error is not None and values[position] is not None:
                    axes.scatter(
                        values[position], error, color=colour_of(number), s=45, label=name_of(result), zorder=3
                    )
            axes.margins(0.15)  # room for the dots, taken before the axes are made to begin at zero
            axes.autoscale_view()
            axes.set(xlabel=costs[position][0], xlim=(0, None), ylim=(0, None))
        all_axes[0].set_ylabel("acc. MAE [m/s²]")
        all_axes[0].legend(fontsize=8)

    return draw_svg(draw, columns=len(costs))


def reliability(results: Sequence[ResultFile]) -> str | None:
    """Draw how often an action is good against the confidence that the model states."""
    if not any(result.metrics.get("confidence", {}).get("bins") for result in results):
        return None

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="calibrated")
        for number, result in enumerate(results):
            bins = result.metrics.get("confidence", {}).get("bins", [])
            axes.plot([entry["confidence"] for entry in bins], [entry["good_share"] for entry in bins], marker="o",
                      color=colour_of(number), label=name_of(result))  # fmt: skip
        axes.set(xlabel="stated confidence", ylabel="share of good actions", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(fontsize=8)

    return draw_svg(draw)


PLOTS: dict[str, Callable[[Sequence[ResultFile]], str | None]] = {
    "What was done and what was answered": action_over_time,
    "Error over time (two-second mean)": error_over_time,
    "Error by speed": error_by_speed,
    "Latency": latency_histogram,
    "Accuracy against size and speed": accuracy_against_cost,
    "Confidence": reliability,
    "Sparsity per block": sparsity_per_block,
}


def draw_svg(draw: Callable[[Any], None], height: float = HEIGHT, columns: int = 1, sharey: bool = False) -> str:
    """Let `draw` fill one or several axes side by side; returns the SVG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": draw.__qualname__}):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, columns, sharey=sharey)
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _time_axis(result: ResultFile) -> np.ndarray:
    """Put the drives of a result one behind the other: (N,) [s]."""
    seconds, offset = np.zeros(len(result.records)), 0.0
    before = None
    for row, record in enumerate(result.records):
        if before is not None:
            same = (before.bag, before.drive) == (record.bag, record.drive)
            offset += (record.stamp - before.stamp) / NANOSECONDS if same else GAP_S
        seconds[row] = offset
        before = record
    return seconds


def _thinned(seconds: np.ndarray, values: Any) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    step = max(1, len(numbers) // MAX_POINTS)
    return np.round(seconds[::step], 2), np.round(numbers[::step], 3)


def _smoothed(seconds: np.ndarray, values: np.ndarray, width_s: float = 2.0) -> np.ndarray:
    first = np.searchsorted(seconds, seconds - width_s / 2)
    last = np.searchsorted(seconds, seconds + width_s / 2, side="right")
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    covered = counts[last] - counts[first]
    return np.where(covered > 0, (sums[last] - sums[first]) / np.maximum(covered, 1), np.nan)


def _error(answer: float | None, truth: float | None) -> float:
    return np.nan if answer is None or truth is None else abs(answer - truth)


def colour_of(number: int) -> str:
    """Return the colour of a model."""
    return COLOURS[number % len(COLOURS)]


def limit_text(value: float | None, open_text: str) -> str:
    """Write the limit of a bin."""
    return open_text if value is None else f"{value:g}"


def _blocks(result: ResultFile) -> list[dict[str, Any]]:
    return result.metrics.get("model", {}).get("blocks") or []


def _mae(result: ResultFile) -> float | None:
    return result.metrics.get("means", {}).get("acceleration_mae_mps2")


def _megabytes(result: ResultFile) -> float | None:
    size = result.metrics.get("model", {}).get("facts", {}).get("disk_bytes")
    return None if size is None else size / 1e6
