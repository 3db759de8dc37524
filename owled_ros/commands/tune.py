"""`owled tune`: make any VLM a driving VLM on the operator's own drives. Needs typer; the rest when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from owled_ros.commands import Device


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(tune)


def tune(
    model: Annotated[Path, typer.Argument(help="Hugging Face VLM directory, or a pruned artifact (recovery).")],
    bags: Annotated[list[Path], typer.Argument(help="rosbag2 directories, .mcap or .db3 files that are learned from.")],
    out: Annotated[Path, typer.Option(help="The tuned model; the run itself lives beside it in OUT.run.")],
    profile: Annotated[
        str,
        typer.Option(
            help="How it is asked and answers: a driving.json, a model that has one, or a preset (`owled profile new`); empty: its own."
        ),
    ] = "",
    held_out: Annotated[
        list[Path], typer.Option(help="Bag that only judges; may be repeated. None: some drives of the others.")
    ] = [],  # noqa: B006
    weights: Annotated[
        str,
        typer.Option(help="lora (needs peft), all, or auto: all of models up to 0.5 billion weights and of artifacts."),
    ] = "auto",
    rank: Annotated[int, typer.Option(min=1, help="Of LoRA.")] = 16,
    steps: Annotated[int, typer.Option(min=0, help="0: three times through the frames.")] = 0,
    minutes: Annotated[float, typer.Option(min=0.0, help="Instead of steps: so many as fit into this time.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="0: by method and size of the model.")] = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames per step.")] = 8,
    micro_batch: Annotated[int, typer.Option(min=0, help="Frames in memory at once; 0: by the size of the model.")] = 0,
    frames: Annotated[int, typer.Option(min=1, help="At most so many, spread over speeds, turns and lights.")] = 2000,
    held_out_frames: Annotated[int, typer.Option(min=2, help="Frames of every measurement.")] = 32,
    held_out_share: Annotated[
        float, typer.Option(min=0.01, max=0.95, help="Share of the drives that judges, where no bag was named.")
    ] = 0.2,
    measure_every: Annotated[int, typer.Option(min=0, help="Steps between two measurements; 0: a tenth of all.")] = 0,
    save_every_s: Annotated[float, typer.Option(min=0.0, help="Time between two states on the disk [s].")] = 240.0,
    cut_single_drive: Annotated[
        bool, typer.Option("--cut-single-drive", help="Cut a lone drive in two, with a guard between.")
    ] = False,
    accept_little: Annotated[
        bool, typer.Option("--accept-little", help="Go on although the drives hold too little driving, turns or stops.")
    ] = False,
    image_topic: Annotated[str, typer.Option(help="Camera, or front=/a,left=/b for several.")] = "",
    ego_topic: Annotated[str, typer.Option(help="Ego motion, where the bags have several.")] = "",
    ego_from: Annotated[str, typer.Option(help="What tells the ego motion (docs/bags.md).")] = "",
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Order of the frames, drives that judge, LoRA's first weights.")] = 0,
) -> None:
    """Tune a model on recorded drives, asked as its profile says; the right answer is what the vehicle did next.

    Killed at any moment, the same command goes on to the same weights. A pruned artifact learns with the weights that are left,
    its zeros stay zero. Then prune, pack and evaluate as usual; the whole way: docs/your_model.md.

    Example:  owled tune my-vlm/ drive1/ drive2/ drive3/ --profile points --out my-driver
    """
    from rich.console import Console
    from rich.markup import escape

    from owled_ros.tuning.settings import TuneRequest, TuneSettings
    from owled_ros.tuning.tune import tune as run

    settings = TuneSettings(
        method=weights, rank=rank, steps=steps, minutes=minutes, learning_rate=learning_rate, batch_size=batch_size,
        micro_batch=micro_batch, frames=frames, held_out_frames=held_out_frames, held_out_share=held_out_share,
        measure_every=measure_every, save_every_s=save_every_s, seed=seed, device=device, threads=threads,
    )  # fmt: skip
    request = TuneRequest(
        model, tuple(bags), out, profile, tuple(held_out), cut_single_drive, accept_little, image_topic, ego_topic, ego_from, settings
    )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    with _Progress(console) as progress:
        tuned = run(request, progress)
    console.print(_table(tuned))
    for note in tuned.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    console.print(f"written: {escape(str(tuned.model))}; curves: {escape(str(tuned.curves))}")
    then = "owled pack MODEL, owled calibrate MODEL DRIVE DRIVE" if tuned.artifact else "owled prune MODEL --bag BAG"
    console.print(escape(f"next: owled try MODEL BAG, {then}".replace("MODEL", str(tuned.model))))


class _Progress:
    """A bar on a terminal, log lines otherwise."""

    def __init__(self, console: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("tuning"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        err = Console(stderr=True)
        self._bar = Progress(*columns, console=err) if err.is_terminal else None
        self._task = self._bar.add_task("", total=None) if self._bar else None

    def __enter__(self) -> _Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done: int, total: int, detail: str) -> None:
        import logging

        if self._bar is None or self._task is None:
            logging.getLogger("owled_ros.tuning").info("step %d of %d: %s", done, total, detail)
        elif detail.startswith("held out"):
            self._bar.console.print(f"step {done}: {detail}", highlight=False)
        else:
            self._bar.update(self._task, completed=done, total=total, description=detail)


def _table(tuned: Any) -> Any:
    from rich.table import Table

    measure = tuned.measure
    table = Table(show_header=False, box=None)
    table.add_row("steps", str(tuned.steps))
    table.add_row(
        "held-out answers in the form", f"{measure.in_form:.0%} of {measure.frames}; {measure.valid:.0%} may be driven"
    )
    for name, value in (
        (f"displacement over {measure.seconds:g} s", measure.displacement), ("hold (keep on as now)", measure.hold), ("constant velocity", measure.constant_velocity)
    ):  # fmt: skip
        table.add_row(name, "-" if value is None else f"{value:.2f} m")
    return table
