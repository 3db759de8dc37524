"""`owled train-mini`: train the bundled model from scratch on rendered scenes."""

from __future__ import annotations

from pathlib import Path

import typer

from owled_ros.commands import Device


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-mini")(train_mini)


def train_mini(
    out: Path = typer.Argument(..., help="Directory of the run: checkpoint, learning curve and the finished model."),
    samples: int = typer.Option(
        400_000, min=32, help="Images to see in all; a restarted run resumes where it stopped."
    ),
    seed: int = typer.Option(0, help="Start weights; training scenes are numbered and the same for every run."),
    device: Device = "auto",
    threads: int = typer.Option(1, min=1, help="CPU threads of the trainer (one more process renders)."),
    loaders: int = typer.Option(-1, min=-1, help="Processes that render scenes; -1: every core for a GPU, else one."),
    batch_size: int = typer.Option(32, min=1, help="Images per step."),
    decay_share: float = typer.Option(
        0.25, min=0.01, max=1.0, help="Last part of the run in which the learning rate falls."
    ),
    learning_rate: float = typer.Option(1e-3, min=1e-6, max=1.0, help="Before it falls."),
    paths: bool = typer.Option(False, help="Answer trajectories and follow left, right and straight at junctions too."),
    start: str = typer.Option(
        "", help="Take up the weights of this model: a directory, mini or mini-turns. Empty: random weights."
    ),
    export_only: bool = typer.Option(
        False, help="Do not train; export the averaged weights of the checkpoint as they are."
    ),
    calibration_scenes: int = typer.Option(600, min=50, help="Unseen scenes on which the confidence is calibrated."),
) -> None:
    """Train the bundled model (a small LLaVA) on rendered scenes, calibrate its confidence and write it as a model directory.

    Killed at any moment it resumes from its last checkpoint. OUT/model is a Hugging Face directory ready for
    `owled demo --model OUT/model`; OUT/learning.png shows the curves. About 25 images/s on one core.
    """
    from owled_ros.models.driving_model import resolve_model
    from owled_ros.models.packed_weights import vouch
    from owled_ros.models.packing import pack_directory
    from owled_ros.scenes import mini_train
    from owled_ros.scenes.mini_export import export
    from owled_ros.sparse.pack import PACKED_NAME

    config = mini_train.TrainConfig(
        samples=samples,
        seed=seed,
        device=device,
        threads=threads,
        loaders=mini_train.renderers(device) if loaders < 0 else loaders,
        batch_size=batch_size,
        decay_share=decay_share,
        learning_rate=learning_rate,
        paths=paths,
        start=str(resolve_model(start)) if start else "",
    )
    module = mini_train.load_average(config, out) if export_only else mini_train.train(config, out)
    mini_train.plot_learning(out)
    model = export(module.model.float().cpu(), out, calibration_scenes, mini_train.samples_seen(out), start)
    pack_directory(model, model / PACKED_NAME, vision=False)
    vouch(model)
