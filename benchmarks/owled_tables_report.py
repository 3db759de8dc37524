"""What the rows of owled_tables say: metrics of answers, tables and comparisons in markdown, a figure. Needs numpy and matplotlib.

Every sentence with a number is made from the rows. Letters: N scenes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.evaluation.bootstrap import interval_of_mean
from owled_ros.evaluation.drivingqa import LIGHTS, QaAnswer, score
from owled_ros.llm_driver.released import Scenario

Rows = Mapping[str, dict[str, Any]]

METRICS = {  # name: (heading, what makes it better: -1 less, 1 more)
    "E_car": ("E_car", -1),
    "E_ped": ("E_ped", -1),
    "Acc_TL": ("Acc_TL", 1),
    "D_TL_m": ("D_TL [m]", -1),
    "L_token": ("L_token", -1),
    "E_lon": ("E_lon", -1),
    "E_lat": ("E_lat", -1),
}
RECALLS = {f"recall_{light}": light for light in LIGHTS}
READ = "read"  # share of answers that can be read whole
ENOUGH_READ = 0.99  # below it the other metrics are of a choice of scenes
BASELINES = {"constant": "best constant", "before": "scene before"}
NAMES = {
    "magnitude": "magnitude", "wanda": "Wanda", "sparsegpt": "SparseGPT", "owl": "OWL", "owled": "OWLed", "ours": "ours",
    "wanda-driving": "Wanda, driving", "sparsegpt-driving": "SparseGPT, driving",
    "ours-reconstructed": "ours, reconstructed",
}  # fmt: skip
PARTS = {"both": "Encoder and language model", "encoder": "Encoder only", "llm": "Language model only"}
ORDERED = (50, 70)  # percent of zeros at which the methods are put in order
UNCOMPARED = ("prune_s", "score_s")  # of a row: differ from run to run


def metrics_of(answers: Sequence[QaAnswer], scenes: Sequence[Scenario], blocks: np.ndarray | None) -> dict[str, Any]:
    """Return the metrics of one row; with blocks (N,) also the 95 % interval of each."""
    found = score(answers, scenes)
    read = [said.perception is not None and said.action is not None for said in answers]
    row = {name: found[name] for name in METRICS} | {READ: float(np.mean(read))}
    row |= {name: found["traffic_light_recall"][light] for name, light in RECALLS.items()}
    if blocks is not None:
        values = values_of(answers, scenes)
        row["intervals"] = {name: interval_of_mean(values[name], blocks) for name in (*METRICS, *RECALLS)}
    return row


def values_of(answers: Sequence[QaAnswer], scenes: Sequence[Scenario]) -> dict[str, np.ndarray]:
    """Return each metric scene by scene, (N,); NaN where a scene says nothing about it."""
    single = [score([said], [scene]) for said, scene in zip(answers, scenes, strict=True)]
    values = {name: np.array([one[name] for one in single], float) for name in METRICS}
    return values | {
        name: np.array([one["traffic_light_recall"][light] for one in single], float) for name, light in RECALLS.items()
    }


def unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name what differs between two makings of a row."""
    return [name for name in sorted({*one, *other}) if name not in UNCOMPARED and one.get(name) != other.get(name)]


def markdown(rows: Rows, figure: str = "") -> str:
    """Write all that the rows say; `figure` is the address of what `draw` drew."""
    table = Table(rows)
    parts = [part for part in PARTS if any(cell["part"] == part for cell in table.cells)]
    lines = ["# OWLed's tables on our LlmDriver", "", *_opening(table), ""]
    lines += ["## Dense model and baselines", "", *_baselines(table), ""]
    if parts:
        lines += ["## What the numbers say", "", *_comparisons(table, parts), ""]
    if figure:
        lines += [f"![Metrics over the sparsity of encoder, language model and both]({figure})", ""]
    for part in parts:
        lines += [f"## {PARTS[part]}", "", *_table(table, part, METRICS), ""]
        lines += ["Recall of the traffic light by class:", "", *_table(table, part, RECALLS), ""]
    return "\n".join(lines).rstrip()


class Table:
    """The rows, by what is asked of them."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.cells = [row for row in rows.values() if "method" in row]
        self.percents = sorted({cell["percent"] for cell in self.cells})
        self.methods = [name for name in NAMES if any(cell["method"] == name for cell in self.cells)]

    def draws(self, method: str, percent: int, part: str) -> list[dict[str, Any]]:
        """Return the rows of all draws of a setting."""
        wanted = (method, percent, part)
        return [cell for cell in self.cells if (cell["method"], cell["percent"], cell["part"]) == wanted]

    def values(self, method: str, percent: int, part: str, metric: str) -> list[float]:
        """Return a metric of all draws that have it."""
        return [cell[metric] for cell in self.draws(method, percent, part) if cell[metric] is not None]

    def mean(self, method: str, percent: int, part: str, metric: str) -> float | None:
        """Return the mean over the draws."""
        values = self.values(method, percent, part, metric)
        return float(np.mean(values)) if values else None

    def left(self, row: Mapping[str, Any]) -> list[str]:
        """Name the metrics that are worse than the worse end of the dense model's interval."""
        intervals = self.rows["dense"]["intervals"]
        worse = [
            name
            for name, (_, sign) in METRICS.items()
            if (ends := intervals[name]) is not None
            and (row[name] is None or sign * row[name] < sign * ends[0 if sign > 0 else 1])
        ]
        return worse + ([READ] if row[READ] < ENOUGH_READ else [])


def draw(rows: Rows, file: Path) -> None:
    """Draw each metric over the sparsity of encoder, language model and both; bands span the draws."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = Table(rows)
    shown = {"owled": "-", "ours": "--"}
    colours = {"encoder": "tab:red", "llm": "tab:blue", "both": "0.3"}
    labels = {"encoder": "encoder", "llm": "language model", "both": "both"}
    figure, grid = pyplot.subplots(2, 4, figsize=(13, 6), layout="constrained", sharex=True)
    panels = {**{name: heading for name, (heading, _) in METRICS.items()}, READ: "share of answers that can be read"}
    for axes, (metric, heading) in zip(grid.flat, panels.items(), strict=True):
        for part, colour in colours.items():
            for method, style in shown.items():
                points = [(0, [rows["dense"][metric]])] if "dense" in rows else []
                points += [(percent, table.values(method, percent, part, metric)) for percent in table.percents]
                points = [(percent, values) for percent, values in points if values and values[0] is not None]
                if len(points) < 2:
                    continue
                x = [percent for percent, _ in points]
                axes.plot(x, [np.mean(values) for _, values in points], style, color=colour,
                          label=f"{labels[part]}, {NAMES[method]}")  # fmt: skip
                axes.fill_between(
                    x, [min(values) for _, values in points], [max(values) for _, values in points],
                    color=colour, alpha=0.12, linewidth=0,
                )  # fmt: skip
        ends = rows.get("dense", {}).get("intervals", {}).get(metric)
        if ends is not None:
            axes.axhspan(*ends, color="tab:green", alpha=0.12, linewidth=0, label="dense, 95 %")
        for name, style in (("constant", ":"), ("before", "-.")):
            if rows.get(name, {}).get(metric) is not None:
                axes.axhline(rows[name][metric], color="k", linestyle=style, linewidth=0.8, label=BASELINES[name])
        axes.set(title=heading, xlabel="zeros in the pruned part [%]")
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=9)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def _opening(table: Table) -> Iterator[str]:
    setting = table.rows.get("setting", {})
    done = len(table.cells)
    data = "scenes of our own world" if "first" not in setting else f"released scenes, from scene {setting['first']} on"
    calibrated = (
        f"released scenes 0 to {setting['calibrated_to']}" if "first" in setting else "other scenes of our own world"
    )
    yield (
        f"Made by `benchmarks/owled_tables.py`, all of it, from {done} pruned models. Scored: {setting.get('scored', '?')} {data}. "
        f"Calibration: {setting.get('samples', '?')} questions with answers; driving ones are of {calibrated}, general ones "
        "of scenes drawn at random in which nobody drove."
    )
    yield ""
    yield (
        "Cells: mean over the calibrations drawn (lowest to highest). Wanda, SparseGPT and OWL (Wanda's scores) are "
        "calibrated on general scenes, OWLed (OWL with Wanda's scores) on driving ones, and its encoder has a sparsity of its own "
        "where both parts are pruned, from what pruning each alone costs on other training scenes. Ours: what `owled prune` "
        "does when told nothing else (SparseGPT, learned plan, kept weights refined) on the driving scenes. All prune only the "
        "named part; adapter, row embeddings and word embeddings stay dense. `read` is the share of answers that can be read "
        "whole; the other metrics, L_token apart, are of those. The paper's own numbers are of another, far larger host and "
        "stand nowhere here: they were not at hand."
    )


def _baselines(table: Table) -> Iterator[str]:
    rows = {name: table.rows[name] for name in ("dense", *BASELINES) if name in table.rows}
    if "dense" not in rows:
        yield "Not scored yet."
        return
    yield (
        "| metric | dense | 95 % interval | "
        + " | ".join(BASELINES[name] for name in rows if name in BASELINES)
        + " | dense is |"
    )
    yield "| --- " * (len(rows) + 3) + "|"
    for name, heading, sign in _all_metrics():
        dense, ends = rows["dense"][name], rows["dense"]["intervals"][name]
        others = {key: row[name] for key, row in rows.items() if key in BASELINES}
        cells = [heading, _number(dense), _ends(ends), *(_number(value) for value in others.values())]
        yield "| " + " | ".join([*cells, _verdict(ends, others, sign)]) + " |"


def _verdict(ends: list[float] | None, others: Mapping[str, float | None], sign: int) -> str:
    """Say of which baselines the whole interval is on the better or the worse side."""
    found: dict[str, list[str]] = {}
    for name, value in others.items():
        if ends is None or value is None:
            continue
        sides = {np.sign(sign * (end - value)) for end in ends}
        word = {1.0: "better than", -1.0: "worse than"}.get(sides.pop() if len(sides) == 1 else 0.0, "not apart from")
        found.setdefault(word, []).append(BASELINES[name])
    return "; ".join(f"{word} {' and '.join(names)}" for word, names in found.items())


def _comparisons(table: Table, parts: Sequence[str]) -> Iterator[str]:
    if "dense" not in table.rows:
        yield "The dense model is not scored yet."
        return
    yield from _kept(table, parts)
    yield ""
    yield from _order(table, parts)
    yield ""
    yield from _sensitivity(table)


def _kept(table: Table, parts: Sequence[str]) -> Iterator[str]:
    yield (
        "How many of the seven metrics are worse than the dense model's 95 % interval (most over the draws; a row with less than "
        f"{ENOUGH_READ:.0%} of its answers readable counts one more):"
    )
    yield ""
    yield "| part | method | " + " | ".join(f"{percent} %" for percent in table.percents) + " |"
    yield "| --- " * (len(table.percents) + 2) + "|"
    for part in parts:
        for method in table.methods:
            counts = []
            for percent in table.percents:
                draws = table.draws(method, percent, part)
                counts.append(str(max(len(table.left(row)) for row in draws)) if draws else "")
            yield f"| {part} | {NAMES[method]} | " + " | ".join(counts) + " |"
    yield ""
    for part in parts:
        for method in table.methods:
            draws = table.draws(method, 50, part)
            if draws and method in ("owled", "ours"):
                names = sorted({name for row in draws for name in table.left(row)}, key=[*METRICS, READ].index)
                keeps = sum(not table.left(row) for row in draws)
                out = f"; outside in at least one: {', '.join(names)}" if names else ""
                yield f"- {NAMES[method]} at 50 %, {part}: every metric within the interval in {keeps} of {len(draws)} draws{out}."


def _order(table: Table, parts: Sequence[str]) -> Iterator[str]:
    shown = [percent for percent in ORDERED if percent in table.percents]
    where = " and ".join(f"{percent} %" for percent in shown)
    yield (
        f"Order of the methods at {where} by L_token, the one metric that every model has; behind it, in how many of the seven "
        "metrics OWLed is better than that method by the mean, and in how many the draws' ranges do not overlap either:"
    )
    yield ""
    for part in parts:
        for percent in shown:
            known = {m: v for m in table.methods if (v := table.mean(m, percent, part, "L_token")) is not None}
            if len(known) > 1:
                order = sorted(known, key=lambda name: known[name])
                told = [
                    f"{NAMES[m]} {known[m]:.3f}" + ("" if m == "owled" else _beaten(table, m, percent, part))
                    for m in order
                ]
                yield f"- {part}, {percent} %: {', '.join(told)}."


def _beaten(table: Table, method: str, percent: int, part: str) -> str:
    better = clearly = compared = 0
    for metric, (_, sign) in METRICS.items():
        ours = [sign * value for value in table.values("owled", percent, part, metric)]
        theirs = [sign * value for value in table.values(method, percent, part, metric)]
        if ours and theirs:
            compared += 1
            better += float(np.mean(ours)) > float(np.mean(theirs))
            clearly += min(ours) > max(theirs)
    return f" ({better} of {compared}, {clearly} clearly)" if compared else ""


def _sensitivity(table: Table) -> Iterator[str]:
    """Compare what pruning the encoder alone and the language model alone costs."""
    dense = table.rows["dense"]["L_token"]
    yield "What pruning one part alone adds to L_token: encoder / language model (the paper finds the encoder the more sensitive one):"
    yield ""
    yield "| method | " + " | ".join(f"{percent} %" for percent in table.percents) + " |"
    yield "| --- " * (len(table.percents) + 1) + "|"
    more = pairs = 0
    for method in table.methods:
        cells = []
        for percent in table.percents:
            both = [table.mean(method, percent, part, "L_token") for part in ("encoder", "llm")]
            cells.append(" / ".join("" if value is None else f"{value - dense:+.3f}" for value in both))
            if both[0] is not None and both[1] is not None:
                pairs, more = pairs + 1, more + (both[0] > both[1])
        yield f"| {NAMES[method]} | " + " | ".join(cells) + " |"
    yield ""
    yield f"The encoder costs more in {more} of {pairs} pairs."


def _table(table: Table, part: str, metrics: Mapping[str, Any]) -> Iterator[str]:
    """One line per sparsity and method, the baselines above."""
    names = [*metrics, READ] if metrics is METRICS else [*metrics]
    headings = [{name: heading for name, heading, _ in _all_metrics()}.get(name, name) for name in names]
    yield "| zeros | method | " + " | ".join(headings) + " |"
    yield "| --- " * (len(names) + 2) + "|"
    for key, name in {"dense": "dense", **BASELINES}.items():
        if key in table.rows:
            yield f"| | {name} | " + " | ".join(_number(table.rows[key][metric]) for metric in names) + " |"
    for percent in table.percents:
        for method in table.methods:
            if table.draws(method, percent, part):
                cells = [_spread(table.values(method, percent, part, metric)) for metric in names]
                yield f"| {percent} % | {NAMES[method]} | " + " | ".join(cells) + " |"


def _all_metrics() -> Iterator[tuple[str, str, int]]:
    for name, (heading, sign) in METRICS.items():
        yield name, heading, sign
    for name, light in RECALLS.items():
        yield name, f"recall, {light}", 1


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = _number(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ({_number(min(values))}–{_number(max(values))})"


def _ends(ends: Sequence[float] | None) -> str:
    return "–" if ends is None else f"{_number(ends[0])}–{_number(ends[1])}"


_number: Callable[[float | None], str] = lambda value: "–" if value is None or math.isnan(value) else f"{value:.3g}"  # noqa: E731
