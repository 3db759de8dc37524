"""Train an LlmDriver in two stages (arXiv 2310.01957, section IV-B) and settle it: seeded, restartable, CPU or GPU. Needs torch.

Stage 1 teaches encoder and adapter to say what the vectors hold; a host that can already speak stays as it is. Stage 2 teaches
the questions and the action, host included: whole where it is the tiny one, by low-rank updates (llm_driver.low_rank) otherwise.
Schedule: warm-up, constant, linear decay over the last part; weights are averaged. Then what is likeliest to be said of a pedal is
moved to the middle of what is likely: an answer is decoded greedily, and "0 %" of a pedal is often the likeliest single number where
any other is likelier together. The loss for it is the expected distance (number token loss, arXiv 2411.02083, Wasserstein form),
whose optimum is the median.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from owled_ros.compute_type import autocast
from owled_ros.devices import on_device, resolve_device
from owled_ros.driving.vector_words import DRIVE
from owled_ros.errors import OwledError
from owled_ros.llm_driver.batches import IGNORE, Batch, NumberWords, collate, training_batches
from owled_ros.llm_driver.examples import (
    DRIVING_STAGE,
    ENCODER_STAGE,
    HELD_OUT_SEEDS,
    ActedScene,
    ask,
    world_scene,
)
from owled_ros.llm_driver.host import TINY
from owled_ros.models.llm_driver_processor import LlmDriverProcessor
from owled_ros.scenes.mini_checkpoint import resume, save, use

logger = logging.getLogger(__name__)
WARM_UP_STEPS = 100
FINAL_RATE = 0.02  # of the full learning rate
AVERAGE = 0.998  # decay of the averaged weights, per step
CLIP_NORM = 1.0
VALIDATION_SCENES = 48
NEW_PARTS = ("vector_encoder", "adapter")  # of a parameter's path: what no host brings along
LOW_RANK = "lora_"
SETTLING = 3  # the stage after the paper's two
SETTLING_RATE = 0.15  # of the full learning rate
DISTANCE = 0.1  # loss of one percent beside the truth, of an amount that is settled
LIKELIHOOD = 0.1  # share of the usual loss that it keeps
FIXED = (
    "host",
    "seed",
    "batch_size",
    "encoder_samples",
    "lora_rank",
    "released",
    "start",
    "skip",
)  # settings that a resumed run must keep


@dataclass(frozen=True)
class TrainConfig:
    """One training run; a run resumes from its directory's checkpoint."""

    encoder_samples: int = 140_800  # scenes of stage 1
    driving_samples: int = 80_000  # scenes of stage 2
    settling_samples: int = 20_000  # and of what follows
    batch_size: int = 32  # scenes of a step, each with several questions
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    decay_share: float = 0.3  # last part of the run in which the learning rate falls
    host: str = TINY  # or a directory of a causal LM
    lora_rank: int = 16  # of a host that is not the tiny one; 0: it stays as it is
    released: str = ""  # which released scenes are trained on, "first:last"; empty: none
    start: str = ""  # directory of a trained model that learns on, whole; empty: random weights
    skip: int = 0  # scenes left out before the first one: those that `start` has seen
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    checkpoint_every_s: float = 120.0
    log_every_steps: int = 25

    @property
    def samples(self) -> int:
        """Scenes of both stages."""
        return self.encoder_samples + self.driving_samples


def train(
    config: TrainConfig,
    model: torch.nn.Module,
    processor: LlmDriverProcessor,
    directory: Path,
    released: Sequence[ActedScene] = (),
) -> torch.nn.Module:
    """Train until all samples are seen and return the model with the averaged weights.

    The directory holds `checkpoint/` (safetensors and json, replaced whole) and `learning.jsonl`; a killed run resumes from
    there and sees the same examples.
    """
    config = replace(config, device=resolve_device(config.device))
    torch.set_num_threads(config.threads)
    _check_same_run(config, directory)
    run = _Run(config, model.to(config.device).train(), processor, directory)
    settled = config.samples + config.settling_samples
    for stage, end in ((1, config.encoder_samples), (2, config.samples), (SETTLING, settled)):
        mix = ENCODER_STAGE if stage == 1 else DRIVING_STAGE
        choose(model, config, stage)
        if run.seen < end:
            for batch in training_batches(processor, mix, released, config.batch_size, config.skip + run.seen):
                run.learn(batch, stage)
                if run.seen >= end:
                    break
    run.keep({"done": True})
    use(model, run.average)
    return model.eval()


class _Run:
    """The state of a run: steps, averages, sums of losses."""

    def __init__(
        self, config: TrainConfig, model: torch.nn.Module, processor: LlmDriverProcessor, directory: Path
    ) -> None:
        self.config, self.model, self.directory = config, model, directory
        self.optimizer = _optimizer(model, config)
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.step, self._before = resume(directory, model, self.optimizer, self.average)
        seeds = range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + VALIDATION_SCENES)
        words = len(model.get_parameter("lm_head.weight"))
        self._words = NumberWords.of(processor, words, config.device)
        self._held_out = collate(processor, [ask(world_scene(seed), DRIVE) for seed in seeds])
        self._start = self._saved = time.monotonic()
        self._sum, self._summed = torch.zeros((), device=config.device), 0

    @property
    def seen(self) -> int:
        """Scenes learnt so far."""
        return self.step * self.config.batch_size

    @property
    def seconds(self) -> float:
        """How long the run has taken, over all its starts [s]."""
        return self._before + time.monotonic() - self._start

    def learn(self, batch: Batch, stage: int) -> None:
        """Make one step, tell and keep it where it is time."""
        rate = self.config.learning_rate * schedule(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        words = self._words if stage == SETTLING else None
        loss = learn(self.model, self.optimizer, batch.to(self.config.device), self.config.device, words)
        self.step += 1
        decay = min(AVERAGE, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.model.parameters()), 1 - decay)
            self._sum, self._summed = self._sum + loss, self._summed + 1
        if self.step % self.config.log_every_steps == 0:
            mean = float(self._sum) / self._summed
            if not math.isfinite(mean):
                raise OwledError(
                    f"the loss is {mean} after {self.seen} scenes: start again with a smaller learning rate than "
                    f"{self.config.learning_rate:g}"
                )
            self._log({"stage": stage, "rate": round(rate, 6), "loss": round(mean, 4)})
            self._sum, self._summed = torch.zeros((), device=self.config.device), 0
        if time.monotonic() - self._saved > self.config.checkpoint_every_s:
            self.keep({})

    def keep(self, facts: dict[str, Any]) -> None:
        """Write the checkpoint and score the averaged weights."""
        save(self.directory, self.model, self.optimizer, self.average, self.step, self.seconds, asdict(self.config))
        self._log({**validate(self.model, self.average, self._held_out, self.config.device), **facts})
        self._saved = time.monotonic()

    def _log(self, entry: dict[str, Any]) -> None:
        told = {"samples": self.seen, "seconds": round(self.seconds), **entry}
        logger.info("%s", json.dumps(told))
        with open(self.directory / "learning.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(told) + "\n")


def learn(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    device: str,
    words: NumberWords | None = None,
) -> torch.Tensor:
    """Make one step; returns the loss on the device. Where number words are given, amounts are settled."""
    with on_device(device), autocast("auto", device):
        loss = answer_loss(model, batch, words)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def answer_loss(model: Any, batch: Batch, words: NumberWords | None = None) -> torch.Tensor:
    """Return the weighted mean loss of the answers' tokens; with number words that of amounts is mostly their expected distance."""
    labels = batch.labels[:, 1:]
    known = labels != IGNORE
    weights = batch.weights[:, 1:][known]
    hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[known]).float()
    losses = functional.cross_entropy(logits, labels[known], reduction="none") * weights
    if words is not None:
        true = batch.amounts[:, 1:][known]
        amounts = true.isfinite()
        shares = logits[amounts].masked_fill(words.other, -math.inf).softmax(-1)  # (A, V)
        distance = (shares * (words.values - true[amounts, None]).abs()).sum(-1)
        losses = losses * torch.where(amounts, LIKELIHOOD, 1.0)
        return (losses.sum() + DISTANCE * distance.sum()) / weights.sum()
    return losses.sum() / weights.sum()


@torch.no_grad()
def validate(model: torch.nn.Module, average: dict[str, torch.Tensor], batch: Batch, device: str) -> dict[str, float]:
    """Score the averaged weights on unseen scenes of our own world."""
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    use(model, average)
    model.eval()
    with on_device(device), autocast("auto", device):
        loss = float(answer_loss(model, batch.to(device)))
    model.train()
    use(model, kept)
    return {"held_out_loss": round(loss, 4)}


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the full learning rate at a step: linear warm-up, constant, linear decay; lower once more to settle."""
    total = max(config.samples // config.batch_size, 1)
    if step >= total:
        left = 1.0 - (step - total) * config.batch_size / max(config.settling_samples, 1)
        return max(FINAL_RATE, SETTLING_RATE * left)
    decay_steps = max(int(total * config.decay_share), 1)
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * max(FINAL_RATE, min(1.0, (total - step) / decay_steps))


def choose(model: torch.nn.Module, config: TrainConfig, stage: int) -> None:
    """Say which parameters learn in a stage."""
    for name, parameter in model.named_parameters():
        new = any(part in name for part in NEW_PARTS)
        parameter.requires_grad_(config.host == TINY or new or (LOW_RANK in name and stage > 1))


def hours_of(directory: Path) -> float:
    """Return how long a run has taken, over all its starts [h]."""
    return float(json.loads((directory / "checkpoint" / "state.json").read_text())["seconds"]) / 3600.0


def plot_learning(directory: Path) -> Path:
    """Draw the learning curves of a run into `learning.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = [json.loads(line) for line in (directory / "learning.jsonl").read_text().splitlines()]
    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key in ("loss", "held_out_loss"):
        points = [(entry["samples"], entry[key]) for entry in entries if key in entry]
        if points:
            axis.semilogy(*zip(*points, strict=True), label=key.replace("_", " "))
    axis.set(xlabel="scenes seen", ylabel="loss per token")
    axis.legend()
    axis.grid(alpha=0.3)
    path = directory / "learning.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = config.device.split(":")[0] in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=fused)


def _check_same_run(config: TrainConfig, directory: Path) -> None:
    """Refuse to go on with a run that was begun with other settings of the model or its data."""
    path = directory / "checkpoint" / "state.json"
    if not path.is_file():
        return
    try:
        known = dict(json.loads(path.read_text())["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OwledError(f"{path} cannot be read ({error!r}); delete the checkpoint to start over") from error
    for key in FIXED:
        begun = known.get(key, getattr(TrainConfig(), key))  # a setting that is younger than the run
        if begun != getattr(config, key):
            raise OwledError(
                f"{directory} was begun with {key} {begun!r}, not {getattr(config, key)!r}: take another directory, or "
                "the same settings to resume"
            )
