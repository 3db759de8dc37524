"""`owled calibrate`: fit what a model's confidence means on drives, and write it beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from owled_ros.commands import Device


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    model: Annotated[Path, typer.Argument(help="Model directory or artifact; its driving.json is rewritten.")],
    bags: Annotated[list[Path], typer.Argument(help="rosbag2 directories, .mcap or .db3 files: two drives or more.")],
    frames: Annotated[
        int, typer.Option(min=40, help="Frames answered for the fit, and half as many to judge it.")
    ] = 300,
    held_out_share: Annotated[float, typer.Option(min=0.05, max=0.95, help="Share whose drives only judge.")] = 0.3,
    floor: Annotated[
        float,
        typer.Option(
            min=-1.0, max=1.0, help="Confidence below which the node withholds; negative: as it is, 0.5 at first."
        ),
    ] = -1.0,
    tolerance_m: Annotated[
        float, typer.Option(min=0.0, help="Mean distance over 2 s within which a path is good; 0: the profile's.")
    ] = 0.0,
    familiar_images: Annotated[int, typer.Option(min=0, help="Images that familiarity is fitted on; 0: none.")] = 800,
    cut_single_drive: Annotated[
        bool, typer.Option("--cut-single-drive", help="Cut a lone drive in two, with a guard between.")
    ] = False,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Go on although none of the first 16 answers is in the form.")
    ] = False,
    image_topic: Annotated[str, typer.Option(help="Camera, or front=/a,left=/b for several.")] = "",
    ego_topic: Annotated[str, typer.Option(help="Ego motion, where the bags have several.")] = "",
    ego_from: Annotated[str, typer.Option(help="What tells the ego motion (docs/bags.md).")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and show, write nothing.")] = False,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Which drives are held out.")] = 0,
) -> None:
    """Fit the confidence of a model on recorded drives: how probable is it that an answer is good?

    Good means within the tolerances of what was driven. Fitted on some drives, judged on others; after pruning, do it again.

    Example:  owled calibrate my-model/ drive1/ drive2/ drive3/
    """
    from rich.console import Console
    from rich.markup import escape

    from owled_ros.models.driving_model import resolve_model
    from owled_ros.recalibration.calibrating import FitRequest, fit_confidence, write_confidence

    directory = resolve_model(model)
    request = FitRequest(
        model=directory, bags=bags, frames=frames, familiar_images=familiar_images, held_out_share=held_out_share,
        floor=None if floor < 0 else floor, displacement_tolerance=tolerance_m or None, cut_single=cut_single_drive, go_on=go_on,
        image_topic=image_topic, ego_topic=ego_topic, ego_from=ego_from, device=device, threads=threads, seed=seed,
    )  # fmt: skip
    result = fit_confidence(request)
    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(result))
    for note in result.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    if dry_run:
        console.print("nothing was written")
        return
    write_confidence(directory, result)
    console.print(f"written: {escape(str(directory))}/driving.json")


def _table(result: Any) -> Any:
    from rich.table import Table

    fitted, numbers = result.calibration, result.numbers
    kept = numbers["good_share_kept"]
    table = Table(show_header=False, box=None)
    table.add_row("fitted on", f"{numbers['answers']} usable answers of {numbers['frames']} frames")
    table.add_row("map", f"sigmoid({fitted.slope:.3f} logit(raw) {fitted.offset:+.3f})")
    table.add_row("held out", f"{numbers['held_out_answers']} usable answers of {numbers['held_out_frames']} frames")
    table.add_row("good, confidence", f"{numbers['good_share']:.1%}, {numbers['mean_confidence']:.1%} on average")
    table.add_row("Brier score", f"{numbers['brier']:.4f}; a constant has {numbers['brier_constant']:.4f}")
    table.add_row(
        f"floor {fitted.floor:.2f} keeps",
        f"{numbers['kept_share']:.1%} of them" + ("" if kept is None else f", {kept:.1%} good"),
    )
    table.add_row(
        "familiarity",
        "as before" if result.familiarity is None else f"fitted; {numbers['mean_familiarity']:.2f} held out",
    )
    return table
