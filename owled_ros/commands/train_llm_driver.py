"""`owled train-llm-driver`: train LLM-Driver on our own world and, where they are at hand, on the released scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from owled_ros.commands import Device

if TYPE_CHECKING:
    from owled_ros.llm_driver.released import Scenario

HELD_OUT_SCENES = 200
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [driving, ros2, owled_ros, llm_driver]
---
# LLM-Driver of owled_ros

LLM-Driver (arXiv 2310.01957): a Perceiver over the objects, lights and route around the vehicle before a language model ({host}), {parameters:.1f} M
parameters, trained by `owled train-llm-driver` in {hours:.1f} h ({device}) on {encoder} scenes for what is to be seen and {driving} for what to do{start}, each with several
questions: moments of the world of owled_ros/scenes (seeds from 10 000 000), scenes drawn at random{released}. Weights are stored as bfloat16.

**It knows the worlds that it was trained on, not your roads.** It is here so that everything can be tried, not to drive a vehicle. docs/llm_driver.md
of owled_ros says how it is asked and what it can do.

## Licence and origin
Weights and configuration, and those of a host that was made for it, are under the Apache License 2.0; a host of others keeps its own licence.
The released scenes are those of wayveai/Driving-with-LLMs, under the Apache License 2.0 too.
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-llm-driver")(train_llm_driver)


def train_llm_driver(
    out: Path = typer.Argument(..., help="Directory of the run: checkpoint, learning curve and the finished model."),
    host: str = typer.Option(
        "tiny", help="tiny (from scratch), or a directory or GGUF file of a causal language model."
    ),
    encoder_samples: int = typer.Option(140_800, min=0, help="Scenes of the first stage: what the vectors hold."),
    driving_samples: int = typer.Option(80_000, min=32, help="Scenes of the second stage: questions and actions."),
    settling_samples: int = typer.Option(20_000, min=0, help="Scenes after them in which pedals move to their median."),
    start: Path | None = typer.Option(
        None,
        help="A trained LlmDriver that learns on, whole; it brings its host along.",
    ),
    skip: int = typer.Option(0, min=0, help="Scenes left out before the first one: those that --start has seen."),
    lora_rank: int = typer.Option(16, min=0, help="Of a host that is not the tiny one; 0 leaves it as it is."),
    data: Path | None = typer.Option(
        None, help="Released scenes to train on too (docs/llm_driver.md); none: our world."
    ),
    first: int = typer.Option(0, min=0, help="First released scene to train on."),
    last: int = typer.Option(599, min=0, help="Last released scene to train on; later ones, ten left out, are scored."),
    batch_size: int = typer.Option(32, min=1, help="Scenes per step, each with several questions."),
    learning_rate: float = typer.Option(2e-3, min=1e-7, max=1.0, help="Highest rate of the schedule."),
    seed: int = typer.Option(0, help="Start weights; training examples are numbered and the same for every run."),
    device: Device = "auto",
    threads: int = typer.Option(1, min=1, help="CPU threads."),
) -> None:
    """Train LLM-Driver: first encoder and adapter, then questions and actions with the host.

    Killed at any moment it resumes from its last checkpoint. OUT/model is a Hugging Face directory, OUT/learning.png shows the
    curves, OUT/scores.json how it answers about unseen scenes, beside the best constant answer.
    """
    import torch

    from owled_ros.llm_driver.examples import acted_of
    from owled_ros.llm_driver.host import TINY, build_on, build_tiny, save
    from owled_ros.llm_driver.low_rank import add_low_rank, merge_low_rank
    from owled_ros.llm_driver.train import TrainConfig, hours_of, plot_learning, train
    from owled_ros.models.driving_model import resolve_model

    begun = None if start is None else resolve_model(start)
    scenes, scored = _released(data, first, last)
    config = TrainConfig(
        encoder_samples=encoder_samples, driving_samples=driving_samples, settling_samples=settling_samples,
        batch_size=batch_size, learning_rate=learning_rate, host=host, lora_rank=0 if host == TINY else lora_rank, released=f"{first}:{last}" if data else "", seed=seed,
        device=device, threads=threads, start=str(begun or ""), skip=skip,
    )  # fmt: skip
    shown = [scene.vectors for scene in scenes if scene.vectors is not None]
    if begun is not None:
        model, processor = _trained(begun, host)
    else:
        model, processor = build_tiny(seed, scenes=shown) if host == TINY else build_on(Path(host), seed, scenes=shown)
    if config.lora_rank:
        add_low_rank(model, config.lora_rank, seed)
    train(config, model, processor, out, [acted_of(scene) for scene in scenes])
    merge_low_rank(model)
    plot_learning(out)
    card = CARD.format(
        host=Path(host).name, parameters=sum(p.numel() for p in model.parameters()) / 1e6, encoder=encoder_samples,
        driving=driving_samples, hours=hours_of(out), device=config.device, released=f", and released scenes {first} to {last}" if data else "",
        start=f", from the weights of {begun.resolve().name} on" if begun else "",
    )  # fmt: skip
    model.cpu()
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16)  # what the encoder measures features by stays exact
    save(model, processor, out / "model", card)
    _score(model.float(), processor, scored, out)


def _trained(start: Path, host: str) -> tuple[Any, Any]:
    """Load the model that learns on, in float32."""
    from owled_ros.errors import OwledError
    from owled_ros.llm_driver.host import TINY
    from owled_ros.models.load import load_model
    from owled_ros.models.processor import load_processor

    if host != TINY:
        raise OwledError("--start brings its host along: give --start or --host, not both")
    model = load_model(start, dtype="float32")
    if model.config.model_type != "llm_driver":
        raise OwledError(
            f"{start} holds a {model.config.model_type} model; expected an LlmDriver (`owled train-llm-driver`)"
        )
    return model, load_processor(start)


def _released(data: Path | None, first: int, last: int) -> tuple[list[Scenario], list[Scenario]]:
    """Return the released scenes to train on and those to score."""
    if data is None:
        return [], []
    from owled_ros.errors import OwledError
    from owled_ros.llm_driver.examples import GAP, check_apart
    from owled_ros.llm_driver.released import read_scenarios

    scenes = read_scenarios(data)
    if not first <= last < len(scenes) or any(scene.vectors is None for scene in scenes):
        raise OwledError(
            f"{data} holds {len(scenes)} scenes; expected vectors of all, and --first to --last among them"
        )
    scored = scenes[last + 1 + GAP :]
    check_apart(range(first, last + 1), range(last + 1 + GAP, len(scenes)))
    return scenes[first : last + 1], scored


def _score(model: Any, processor: Any, released: list[Scenario], out: Path) -> None:
    """Answer about unseen scenes and show the paper's metrics beside the best constant."""
    from rich.console import Console
    from rich.table import Table

    from owled_ros.evaluation import drivingqa
    from owled_ros.evaluation.vector_answers import answer_scenes, before_answers
    from owled_ros.files import write_json
    from owled_ros.llm_driver.held_out import held_out_scenarios

    scores: dict[str, dict[str, Any]] = {}
    for name, scenes in (("own world", held_out_scenarios(HELD_OUT_SCENES)), ("released", released)):
        if scenes:
            said = {"model": answer_scenes(model, processor, scenes), "constant": drivingqa.constant_answers(scenes)}
            if name == "released":
                said["scene before"] = before_answers(scenes[1:], scenes[0])
            for who, answers in said.items():
                scores[f"{name}, {who}"] = drivingqa.score(answers, scenes[len(scenes) - len(answers) :])
    write_json(out / "scores.json", scores)
    table = Table("metric", *scores)
    for metric, value in next(iter(scores.values())).items():
        if not isinstance(value, dict):
            table.add_row(metric, *("-" if s[metric] is None else f"{s[metric]:.4g}" for s in scores.values()))
    Console().print(table)
