"""What a run looked like: one JSON line per entry, and a drawing. Needs matplotlib for the drawing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError

LINES, DRAWING = "learning.jsonl", "learning.png"


def add_entry(directory: Path, entry: dict[str, Any]) -> None:
    """Append a line."""
    try:
        with open(directory / LINES, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, allow_nan=False) + "\n")
    except OSError as error:
        raise _full(directory, error) from error


def read_entries(directory: Path) -> list[dict[str, Any]]:
    """Read the lines; one that a kill cut off is left out."""
    path = directory / LINES
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [entry for entry in found if isinstance(entry, dict)]


def last_loss(directory: Path) -> float | None:
    """Return the loss per token that was told last."""
    told = [float(entry["loss"]) for entry in read_entries(directory) if "loss" in entry]
    return told[-1] if told else None


def cut_back(directory: Path, step: int, steps: int = -1) -> None:
    """Take away what a run that goes on from a step writes again: all behind it, and at its end, `steps`, what was measured."""
    from owled_ros.files import write_atomic

    def stays(entry: dict[str, Any]) -> bool:
        at = entry.get("step", 0)
        return at <= step and not (at == steps and "in_form" in entry)

    entries = [entry for entry in read_entries(directory) if stays(entry)]
    if entries or (directory / LINES).exists():
        try:
            write_atomic(directory / LINES, "".join(json.dumps(entry) + "\n" for entry in entries))
        except OSError as error:
            raise _full(directory, error) from error


def draw(directory: Path) -> Path:
    """Draw loss, share of answers in the form, and displacement beside the trivial answers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = read_entries(directory)
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4), layout="constrained")
    panels = (
        (("loss",), "loss per token [nat]"),
        (("in_form", "valid"), "share of held-out answers"),
        (("displacement_m", "hold_m", "constant_velocity_m"), "mean displacement over 3 s [m], held out"),
    )
    for axis, (names, title) in zip(axes, panels, strict=True):
        for name in names:
            points = [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.removesuffix("_m").replace("_", " "))
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    axes[0].set_yscale("log")
    axes[1].set_ylim(-0.02, 1.02)
    figure.savefig(directory / DRAWING, dpi=100)
    pyplot.close(figure)
    return directory / DRAWING


def _full(directory: Path, error: OSError) -> OwledError:
    return OwledError(
        f"cannot write {directory / LINES} ({error}); the last state is whole: free some disk space and run the same command again"
    )
