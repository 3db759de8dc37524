"""Rows of frontier.py and frontier_driving.py as a table, plots and a verdict at every budget. Needs matplotlib for the plots.

Measures go by their names in the rows. Less is better of those that are judged by; the first one's range over the draws is shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BUDGETS = tuple(round(0.25 + 0.05 * step, 2) for step in range(8))  # bytes a weight
BEYOND = 30  # times the least of a measure: what has more is useless, and left out of the plots
PERPLEXITY = {"driving": "perplexity, driving text", "general": "perplexity, general text"}
Rows = Mapping[str, Mapping[str, Any]]
Measures = Mapping[str, str]  # what is written beside each


def write_report(
    rows: Rows, base: Path, title: str, measures: Measures = PERPLEXITY, judged: Sequence[str] = tuple(PERPLEXITY)
) -> None:
    """Write base.md, headed by the title, and base.png."""
    points = merged(rows, measures)
    table = markdown(points, rows, measures, judged)
    base.with_suffix(".md").write_text(f"# {title}\n\n![frontier]({base.with_suffix('.png').name})\n\n{table}")
    plot(points, rows, base.with_suffix(".png"), measures, judged)


def merged(rows: Rows, measures: Measures) -> list[dict[str, Any]]:
    """Join the draws of a point: means, and the least and largest of the first measure."""
    first = next(iter(measures))
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.values():
        if row["family"] in ("ours", "llama.cpp", "dense", "stbllm"):
            groups.setdefault(row["key"].split("/draw")[0], []).append(row)
    points = []
    for key, found in groups.items():
        point: dict[str, Any] = {"key": key, "family": found[0]["family"], "draws": len(found)}
        for name in ("bytes", "block_bytes", "memory_bytes", *measures):
            values = [row[name] for row in found if name in row]
            point[name] = statistics.mean(values) if values else None
        point["range"] = (min(row[first] for row in found), max(row[first] for row in found))
        points.append(point)
    return sorted(points, key=lambda point: -point["bytes"])


def verdicts(
    points: list[dict[str, Any]], measure: str, budgets: tuple[float, ...] = BUDGETS
) -> list[tuple[float, Any, Any, str]]:
    """At every budget: our best point and llama.cpp's of no more bytes, and whether ours is better; None where there is none."""
    found = []
    for budget in budgets:
        best: list[dict[str, Any] | None] = []
        for family in ("ours", "llama.cpp"):
            inside = [p for p in points if p["family"] == family and p["bytes"] <= budget]
            best.append(min(inside, key=lambda p: p[measure]) if inside else None)
        ours, theirs = best
        if ours is None:
            word = "no file of either" if theirs is None else "does not hold: no file of ours"
        elif theirs is None:
            word = "no file of llama.cpp's"
        else:
            word = "holds" if ours[measure] < theirs[measure] else "does not hold"
        found.append((budget, ours, theirs, word))
    return found


def markdown(points: list[dict[str, Any]], rows: Rows, measures: Measures, judged: Sequence[str]) -> str:
    """Lay out all points and the verdicts."""
    first, *others = measures
    speed = {
        row["of"].split("/draw")[0]: statistics.median(row["ms"]) for row in rows.values() if row["family"] == "speed"
    }
    lines = [
        f"| file | bytes a weight | blocks alone | in memory, AVX2 | {' | '.join(measures.values())} | ms per token |",
        "|---" * (5 + len(measures)) + "|",
    ]
    for p in points:
        low, high = p["range"]
        spread = f" ({low:.2f} to {high:.2f})" if f"{low:.2f}" != f"{high:.2f}" else ""
        cells = [f"{p[name]:.3f}" if p[name] is not None else "" for name in ("bytes", "block_bytes", "memory_bytes")]
        ms = f"{speed[p['key']]:.2f}" if p["key"] in speed else ""
        measured = " | ".join([f"{p[first]:.2f}{spread}", *(f"{p[name]:.3f}" for name in others)])
        lines.append(f"| {p['key']} | {' | '.join(cells)} | {measured} | {ms} |")
    for name in judged:
        lines += [
            "",
            f"| at most | our best | llama.cpp's best | ours is better ({measures[name]}) |",
            "|---|---|---|---|",
        ]
        for budget, ours, theirs, word in verdicts(points, name):
            cells = [f"{p['key']}: {p[name]:.3g}" if p else "" for p in (ours, theirs)]
            lines.append(f"| {budget:.2f} | {cells[0]} | {cells[1]} | {word} |")
    refused = [f"{row['key']}: {row['why']}" for row in rows.values() if row["family"] == "refused"]
    return "\n".join([*lines, "", *refused]) + "\n"


def plot(points: list[dict[str, Any]], rows: Rows, file: Path, measures: Measures, judged: Sequence[str]) -> None:
    """Draw what is judged by over bytes, and the first of it over ms per token where it was timed; lines join the best of each.

    Points BEYOND the rest stand in the table only, and the legend counts them.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    speed = {
        row["of"].split("/draw")[0]: statistics.median(row["ms"]) for row in rows.values() if row["family"] == "speed"
    }
    drawn = [*((name, "bytes") for name in judged), *([(judged[0], "ms")] if speed else [])]
    figure, axes = pyplot.subplots(1, len(drawn), figsize=(7 * len(drawn), 6))
    for axis, (kind, along) in zip(axes, drawn, strict=True):
        limit = BEYOND * min(p[kind] for p in points)
        for family, mark in (("ours", "o"), ("llama.cpp", "x"), ("stbllm", "^")):
            part = [
                (p["bytes"] if along == "bytes" else speed.get(p["key"]), p[kind], p["key"])
                for p in points
                if p["family"] == family
            ]
            known = [entry for entry in part if entry[0] is not None]
            placed = sorted(entry for entry in known if entry[1] <= limit)
            if not placed:
                continue
            label = family + f", {len(known) - len(placed)} above" * (len(placed) < len(known))
            best = [entry for i, entry in enumerate(placed) if all(entry[1] < before[1] for before in placed[:i])]
            colour = axis.scatter(
                *zip(*(entry[:2] for entry in placed), strict=True), marker=mark, s=14, label=label
            ).get_facecolor()
            axis.step(*zip(*(entry[:2] for entry in best), strict=True), where="post", color=colour, linewidth=1)
            for x, y, key in best:
                axis.annotate(key.removeprefix(family).split("/ends")[0].strip(), (x, y), fontsize=6, rotation=30)
        for scale, setter in ((axis.xaxis, axis.set_xscale), (axis.yaxis, axis.set_yscale)):
            setter("log")
            scale.set_major_formatter("{x:.3g}")
            scale.set_minor_formatter("{x:.2g}")
        axis.tick_params(which="both", labelsize=6)
        axis.set_xlabel("bytes a weight" if along == "bytes" else "ms per token, two threads")
        axis.set_ylabel(measures[kind])
        if along == "bytes":
            lost = [f"{budget:.2f}" for budget, _, _, word in verdicts(points, kind) if word.startswith("does not")]
            axis.set_title(
                "ours is not better at " + ", ".join(lost) if lost else "no budget at which llama.cpp is better",
                fontsize=9,
            )
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120)
