"""Rows of frontier.py as a table, two plots and a verdict at every budget. Needs matplotlib for the plots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUDGETS = tuple(round(0.25 + 0.05 * step, 2) for step in range(8))  # bytes a weight
Rows = Mapping[str, Mapping[str, Any]]


def write_report(rows: Rows, base: Path) -> None:
    """Write base.md and base.png."""
    points = merged(rows)
    base.with_suffix(".md").write_text(markdown(points, rows))
    plot(points, rows, base.with_suffix(".png"))


def merged(rows: Rows) -> list[dict[str, Any]]:
    """Join the draws of a point: means, and the least and largest driving perplexity."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.values():
        if row["family"] in ("ours", "llama.cpp", "dense"):
            groups.setdefault(row["key"].split("/draw")[0], []).append(row)
    points = []
    for key, found in groups.items():
        point: dict[str, Any] = {"key": key, "family": found[0]["family"], "draws": len(found)}
        for name in ("bytes", "block_bytes", "memory_bytes", "driving", "general"):
            values = [row[name] for row in found if name in row]
            point[name] = statistics.mean(values) if values else None
        point["range"] = (min(row["driving"] for row in found), max(row["driving"] for row in found))
        points.append(point)
    return sorted(points, key=lambda point: -point["bytes"])


def verdicts(points: list[dict[str, Any]], budgets: tuple[float, ...] = BUDGETS) -> list[tuple[float, Any, Any, str]]:
    """At every budget: our best point and llama.cpp's of no more bytes, and whether ours is better; None where there is none."""
    found = []
    for budget in budgets:
        best: list[dict[str, Any] | None] = []
        for family in ("ours", "llama.cpp"):
            inside = [p for p in points if p["family"] == family and p["bytes"] <= budget]
            best.append(min(inside, key=lambda p: p["driving"]) if inside else None)
        ours, theirs = best
        if ours is None:
            word = "no file of either" if theirs is None else "does not hold: no file of ours"
        elif theirs is None:
            word = "no file of llama.cpp's"
        else:
            word = "holds" if ours["driving"] < theirs["driving"] else "does not hold"
        found.append((budget, ours, theirs, word))
    return found


def markdown(points: list[dict[str, Any]], rows: Rows) -> str:
    """Lay out all points and the verdicts."""
    speed = {
        row["of"].split("/draw")[0]: statistics.median(row["ms"]) for row in rows.values() if row["family"] == "speed"
    }
    lines = [
        "| file | bytes a weight | blocks alone | in memory | driving | general | ms per token |",
        "|---" * 7 + "|",
    ]
    for p in points:
        low, high = p["range"]
        spread = f" ({low:.2f} to {high:.2f})" if p["draws"] > 1 else ""
        cells = [f"{p[name]:.3f}" if p[name] is not None else "" for name in ("bytes", "block_bytes", "memory_bytes")]
        ms = f"{speed[p['key']]:.2f}" if p["key"] in speed else ""
        lines.append(f"| {p['key']} | {' | '.join(cells)} | {p['driving']:.2f}{spread} | {p['general']:.2f} | {ms} |")
    lines += [
        "",
        "| at most | our best | llama.cpp's best | lower driving perplexity than llama.cpp |",
        "|---|---|---|---|",
    ]
    for budget, ours, theirs, word in verdicts(points):
        cells = [f"{p['key']}: {p['driving']:.2f}" if p else "" for p in (ours, theirs)]
        lines.append(f"| {budget:.2f} | {cells[0]} | {cells[1]} | {word} |")
    refused = [f"{row['key']}: {row['why']}" for row in rows.values() if row["family"] == "refused"]
    return "\n".join([*lines, "", *refused]) + "\n"


def plot(points: list[dict[str, Any]], rows: Rows, file: Path) -> None:
    """Draw driving and general perplexity over bytes, and driving perplexity over ms per token where it was timed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    speed = {
        row["of"].split("/draw")[0]: statistics.median(row["ms"]) for row in rows.values() if row["family"] == "speed"
    }
    figure, axes = pyplot.subplots(1, 3 if speed else 2, figsize=(15 if speed else 11, 5))
    for axis, (kind, along) in zip(axes, (("driving", "bytes"), ("general", "bytes"), ("driving", "ms")), strict=False):
        for family, mark in (("ours", "o"), ("llama.cpp", "x")):
            part = [p for p in points if p["family"] == family and (along == "bytes" or p["key"] in speed)]
            x = [p["bytes"] if along == "bytes" else speed[p["key"]] for p in part]
            axis.scatter(x, [p[kind] for p in part], marker=mark, label=family)
            for place, p in zip(x, part, strict=True):
                axis.annotate(p["key"].removeprefix(family).split("/ends")[0].strip(), (place, p[kind]), fontsize=5)
        axis.set_yscale("log")
        axis.set_xlabel("bytes a weight" if along == "bytes" else "ms per token, two threads")
        axis.set_ylabel(f"perplexity, {kind} text")
        axis.legend()
    lost = [f"{budget:.2f}" for budget, _, _, word in verdicts(points) if word.startswith("does not")]
    axes[0].set_title(
        "ours is not better at " + ", ".join(lost) if lost else "no budget at which llama.cpp is better", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(file, dpi=150)
