"""The report at the end: a table on the console, report.json and report.md on disk. Needs rich."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from owled_ros.demo.tally import VALID, Tally, percentiles
from owled_ros.files import write_atomic, write_json
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.closed_loop import drive_route
from owled_ros.scenes.player import Driver, constant_driver, expert_driver

JSON_REPORT, TEXT_REPORT = "report.json", "report.md"
OTHERS: dict[str, Driver] = {"expert": expert_driver, "constant speed": constant_driver}


def compare_routes(tally: Tally, period: float, turns: bool = False) -> list[dict[str, Any]]:
    """Drive the same routes with the expert and at constant speed; a row per driver and route that the model drove to its end."""
    rows = []
    camera = Camera().resized(192, 192)
    for route in tally.routes:
        if route["outcome"] == "stopped":
            continue
        rows.append(_row(route["seed"], "model", route["outcome"], route["progress"], route["mean_speed"]))
        for name, driver in OTHERS.items():
            driven = drive_route(route["seed"], driver, camera, period, turns)
            rows.append(_row(route["seed"], name, driven.outcome.value, driven.progress, driven.mean_speed))
    return rows


def _row(seed: int, driver: str, outcome: str, progress: float, mean_speed: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "driver": driver,
        "outcome": outcome,
        "driven": f"{progress:.0%}",
        "mean speed": f"{mean_speed:.1f} m/s",
    }


def rows_of(tally: Tally) -> list[tuple[str, str]]:
    """Return the report's lines: name and value."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally.reasons.most_common() if reason != VALID)
    rows = [
        ("images sent", str(tally.sent)),
        ("passed over for a newer one", str(tally.passed_over)),
        ("answered", str(tally.answered)),
        ("actions published", str(tally.reasons[VALID])),
        ("without action", f"{tally.withheld}{f' ({reasons})' if reasons else ''}"),
        ("scene descriptions", str(tally.scenes)),
        ("camera stamp to action", _spread(tally.camera_to_action_ms)),
        ("inside the node", _spread(tally.node_ms)),
    ]
    if tally.end.get("slipped_s"):
        rows.append(("the world fell behind by", f"{tally.end['slipped_s']:.1f} s"))
    if tally.end.get("left_out"):
        rows.append(("left out of film or recording", str(tally.end["left_out"])))
    return rows


def write_report(directory: Path, tally: Tally, routes: list[dict[str, Any]], title: str) -> None:
    """Write both files."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / JSON_REPORT, {"title": title, **tally.as_json(), "comparison": routes})
    lines = [
        f"# {title}",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows_of(tally)),
        "",
    ]
    if routes:
        names = list(routes[0])
        lines += [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
        lines += [f"| {' | '.join(str(row[name]) for name in names)} |" for row in routes]
    write_atomic(directory / TEXT_REPORT, "\n".join(lines) + "\n")


def print_report(console: Console, tally: Tally, routes: list[dict[str, Any]], title: str) -> None:
    """Print the tables."""
    table = Table(title=title, show_header=False)
    for name, value in rows_of(tally):
        table.add_row(name, value)
    console.print(table)
    if routes:
        driven = Table(title="Routes in closed loop")
        for name in routes[0]:
            driven.add_column(name)
        for row, following in zip(routes, [*routes[1:], None], strict=True):
            last = following is not None and following["seed"] != row["seed"]
            driven.add_row(*(str(value) for value in row.values()), end_section=last)
        console.print(driven)


def _spread(values: list[float]) -> str:
    spread = percentiles(values)
    return ", ".join(f"{name} {value:.0f} ms" for name, value in spread.items()) or "no action was published"
