"""Train the bundled model from scratch: seeded, restartable, CPU or GPU. Needs torch, transformers and matplotlib.

Loss: cross entropy of the answers with soft labels for numbers, plus a patch loss (class and distance of what a patch
shows) whose head is thrown away afterwards. The patch loss is what makes small things (lamps, people) readable early.
Schedule: warm-up, constant, linear decay over the last part (Haegele et al. 2024, arXiv 2405.18392); weights are averaged (EMA).

Shape letters: B batch, T tokens, V vocabulary, C width, G patches per side.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import torch
from safetensors.torch import load_file
from torch.nn import functional

from owled_ros.compute_type import autocast
from owled_ros.devices import on_device, resolve_device
from owled_ros.driving.answer import PEDESTRIAN_KINDS
from owled_ros.errors import OwledError
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.mini_checkpoint import resume, save, use
from owled_ros.scenes.mini_data import (
    IGNORE,
    PATCH_CLASSES,
    PATCH_LANE,
    PATCH_NONE,
    Batch,
    TrainingStream,
    collate,
    make_example,
)
from owled_ros.scenes.mini_model import IMAGE_MEAN, IMAGE_SIDE, IMAGE_STD, WIDTH, build_model, take_up

logger = logging.getLogger(__name__)
WARM_UP_STEPS = 200
FINAL_RATE = 0.02  # of the full learning rate
AVERAGE = 0.998  # decay of the averaged weights, per step
CLIP_NORM = 1.0
PATCH_WEIGHT, DISTANCE_WEIGHT = 0.5, 0.25
OBJECT_WEIGHT, PERSON_WEIGHT = 4.0, 12.0  # a patch with an object or a person counts as many without
VALIDATION_SCENES = 96
PREFETCH = 3  # batches per rendering process that wait


@dataclass(frozen=True)
class TrainConfig:
    """One training run; a run resumes from its directory's checkpoint."""

    samples: int = 400_000  # in all
    decay_share: float = 0.25  # last part of the run in which the learning rate falls
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    loaders: int = 1  # processes that render; see `renderers`
    checkpoint_every_s: float = 240.0
    log_every_steps: int = 25
    paths: bool = False  # answer trajectories and follow commands too
    start: str = ""  # directory of a trained model whose weights are taken up; empty: random ones


class MiniTraining(torch.nn.Module):
    """The model with its throw-away patch head."""

    def __init__(self, seed: int, paths: bool = False) -> None:
        super().__init__()
        self.paths = paths
        self.model = build_model(seed, paths)
        self.model.set_attn_implementation("eager")  # at 190 tokens twice as fast as fused attention on a CPU
        self.patch_head = torch.nn.Linear(WIDTH, PATCH_CLASSES + 1)
        self._patches: torch.Tensor | None = None
        self.soft: torch.Tensor
        self.patch_weights: torch.Tensor
        tower = self.model.model.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
        layers[-1].register_forward_hook(self._keep_patches)
        self.register_buffer("soft", torch.from_numpy(tokens.soft_labels(paths)), persistent=False)  # (V, V)
        self.register_buffer("patch_weights", patch_weights(), persistent=False)

    def _keep_patches(self, _module: torch.nn.Module, _inputs: tuple, output: torch.Tensor | tuple) -> None:
        self._patches = output[0] if isinstance(output, tuple) else output

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return (B, T, V)."""
        size, length = batch.ids.shape
        pixels = (batch.images.permute(0, 3, 1, 2).float() / 255 - IMAGE_MEAN) / IMAGE_STD  # (B, 3, H, W)
        barred = torch.zeros(length, length, device=batch.ids.device).masked_fill(
            ~batch.mask, torch.finfo(torch.float32).min
        )
        return self.model(
            input_ids=batch.ids,
            pixel_values=pixels,
            attention_mask=barred[None, None].expand(size, 1, length, length),
            position_ids=batch.positions[None].expand(size, length),
            use_cache=False,
        ).logits

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the answer loss and the patch loss."""
        logits = self.logits(batch)[:, :-1]
        labels = batch.labels[:, 1:]
        known = labels != IGNORE
        scores = functional.log_softmax(logits[known].float(), dim=-1)  # (N, V)
        answer = -(self.soft[labels[known]] * scores).sum(-1).mean()
        return answer, self._patch_loss(batch)

    def _patch_loss(self, batch: Batch) -> torch.Tensor:
        assert self._patches is not None
        guess = self.patch_head(self._patches[:, 1:].float())  # (B, G * G, classes + 1)
        loss = functional.cross_entropy(
            guess[..., :-1].flatten(0, 1), batch.patch_class.flatten(), weight=self.patch_weights, ignore_index=IGNORE
        )
        known = torch.isfinite(batch.patch_distance)
        if known.any():
            target = torch.log(batch.patch_distance[known].clamp(min=1.0)) / 4.0
            loss = (
                loss
                + DISTANCE_WEIGHT
                / PATCH_WEIGHT
                * functional.smooth_l1_loss(guess[..., -1][known], target, beta=0.02)
                * 4.0
            )
        return loss


def train(config: TrainConfig, directory: Path) -> MiniTraining:
    """Train until `config.samples` are seen and return the model with the averaged weights.

    The directory holds `checkpoint/` (safetensors and json, replaced whole) and `learning.jsonl`; a killed run resumes
    from there and sees the same samples.
    """
    config = replace(config, device=resolve_device(config.device))
    torch.set_num_threads(config.threads)
    module, optimizer, parameters = begin(config)
    average = {name: p.detach().clone() for name, p in module.named_parameters()}
    step, seconds = resume(directory, module, optimizer, average)
    validation = _validation_batch(config.paths)
    start = last_save = time.monotonic()
    sums, summed = torch.zeros(2, device=config.device), 0
    for batch in batches(config, step * config.batch_size):
        if step * config.batch_size >= config.samples:
            break
        rate = config.learning_rate * schedule(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = learn(module, optimizer, parameters, batch, config.device)
        step += 1
        decay = min(AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [*parameters], 1 - decay)
            sums, summed = sums + losses, summed + 1
        now = time.monotonic()
        if step % config.log_every_steps == 0:
            elapsed = seconds + now - start
            entry = {"samples": step * config.batch_size, "seconds": round(elapsed), "rate": round(rate, 6)}
            answer_loss, patch_loss = (sums / summed).tolist()
            _log(directory, {**entry, "answer_loss": round(answer_loss, 4), "patch_loss": round(patch_loss, 4)})
            sums, summed = torch.zeros(2, device=config.device), 0
        if now - last_save > config.checkpoint_every_s:
            last_save = now
            save(directory, module, optimizer, average, step, seconds + now - start, asdict(config))
            _log(
                directory, {"samples": step * config.batch_size, **validate(module, average, validation, config.device)}
            )
    save(directory, module, optimizer, average, step, seconds + time.monotonic() - start, asdict(config))
    _log(
        directory,
        {"samples": step * config.batch_size, **validate(module, average, validation, config.device), "done": True},
    )
    use(module, average)
    return module


def begin(config: TrainConfig) -> tuple[MiniTraining, torch.optim.Optimizer, list[torch.nn.Parameter]]:
    """Make the untrained module on its device, its optimizer, and the parameters in order."""
    torch.manual_seed(config.seed)
    module = MiniTraining(config.seed, config.paths)
    if config.start:
        take_up(module.model, Path(config.start))
    module = module.to(config.device)
    decayed = [p for p in module.parameters() if p.ndim >= 2]
    plain = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = config.device.split(":")[0] in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=fused)
    return module, optimizer, list(module.parameters())


def learn(
    module: MiniTraining,
    optimizer: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    batch: Batch,
    device: str,
) -> torch.Tensor:
    """Make one step; returns answer and patch loss (2,) on the device, so that a GPU is not waited for."""
    with on_device(device), autocast("auto", device):
        answer, patches = module.losses(_to(batch, device))
    (answer + PATCH_WEIGHT * patches).backward()
    torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return torch.stack([answer, patches]).detach()


def patch_weights() -> torch.Tensor:
    """Return (classes,) float32: how much a patch counts by what it shows."""
    weights = torch.full((PATCH_CLASSES,), OBJECT_WEIGHT)
    weights[[PATCH_NONE, PATCH_LANE]] = 1.0
    weights[[PATCH_LANE + kind for kind in PEDESTRIAN_KINDS]] = PERSON_WEIGHT
    return weights


def load_average(config: TrainConfig, directory: Path) -> MiniTraining:
    """Return the model with the averaged weights of a run's checkpoint, untrained further."""
    path = directory / "checkpoint" / "average.safetensors"
    if not path.is_file():
        raise OwledError(f"{path} does not exist; train first")
    module = MiniTraining(config.seed, config.paths)
    use(module, load_file(path))
    return module


def samples_seen(directory: Path) -> int:
    """Return how many images a run has seen by its checkpoint."""
    facts = json.loads((directory / "checkpoint" / "state.json").read_text())
    return facts["step"] * facts["config"]["batch_size"]


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the full learning rate at a step: linear warm-up, constant, linear decay."""
    total = max(config.samples // config.batch_size, 1)
    decay_steps = max(int(total * config.decay_share), 1)
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * max(FINAL_RATE, min(1.0, (total - step) / decay_steps))


@torch.no_grad()
def validate(module: MiniTraining, average: dict[str, torch.Tensor], batch: Batch, device: str) -> dict[str, float]:
    """Score the averaged weights with the right answer as context: number errors and word accuracy."""
    kept = {name: p.detach().clone() for name, p in module.named_parameters()}
    use(module, average)
    module.eval()
    with autocast("auto", device):
        guess = module.logits(_to(batch, device))[:, :-1].argmax(-1).cpu()
    module.train()
    use(module, kept)
    labels = batch.labels[:, 1:]
    vocab = tokens.vocabulary(module.paths)
    values = torch.full((len(vocab),), float("nan"))
    scores: dict[str, float] = {}
    for group in tokens.ordinals(module.paths):
        ids = torch.tensor([vocab[token] for token in group.tokens])
        values[ids] = torch.tensor(group.values)
        here = torch.isin(labels, ids)
        right = here & torch.isin(guess, ids)
        if right.any() and group.name != "speed":
            scores[f"{group.name}_mae"] = round((values[guess[right]] - values[labels[right]]).abs().mean().item(), 4)
    for name, words in _WORDS.items():
        here = torch.isin(labels, torch.tensor([vocab[word] for word in words]))
        scores[f"{name}_accuracy"] = round((guess[here] == labels[here]).float().mean().item(), 3)
    return scores


_WORDS = {
    "manoeuvre": ("cruise", "follow", "stop", "yield", "unknown"),
    "cars": tuple(f"{n} car{'' if n == 1 else 's'}" for n in range(6)),
    "pedestrians": tuple(f"{n} pedestrian{'' if n == 1 else 's'}" for n in range(6)),
    "light": ("no traffic light", "red ", "yellow ", "green "),
    "crossing": ("crossing ",),
}


def plot_learning(directory: Path) -> Path:
    """Draw the learning curves of a run into `learning.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = [json.loads(line) for line in (directory / "learning.jsonl").read_text().splitlines()]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for key in ("answer_loss", "patch_loss"):
        points = [(entry["samples"], entry[key]) for entry in entries if key in entry]
        axes[0].loglog(*zip(*points, strict=True), label=key.replace("_", " "))
    for key in sorted({key for entry in entries for key in entry if key.endswith("_accuracy")}):
        points = [(entry["samples"], entry[key]) for entry in entries if key in entry]
        axes[1].plot(*zip(*points, strict=True), label=key.replace("_", " "))
    axes[0].set(xlabel="images seen", ylabel="training loss")
    axes[1].set(xlabel="images seen", ylabel="validation (teacher forced)", ylim=(0, 1))
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    path = directory / "learning.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def renderers(device: str) -> int:
    """Return how many processes render by default: every core for a GPU, which does the rest; else one beside the trainer."""
    return len(os.sched_getaffinity(0)) if device.startswith("cuda") else 1


def batches(config: TrainConfig, first_sample: int) -> Iterator[Batch]:
    """Yield the batches from a sample on, rendered ahead by `config.loaders` processes; the same ones for any number of them."""
    stream = TrainingStream(first_sample, config.batch_size, config.paths)
    if config.loaders:
        cv2.setNumThreads(1)  # ends OpenCV's threads: a forked process would wait for them for ever
    loader = torch.utils.data.DataLoader(
        stream,
        batch_size=None,
        num_workers=config.loaders,
        prefetch_factor=PREFETCH if config.loaders else None,
        pin_memory=config.device.startswith("cuda"),
    )
    return iter(loader)


def _validation_batch(paths: bool) -> Batch:
    camera = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
    return collate([make_example(seed, camera, paths) for seed in range(500_000, 500_000 + VALIDATION_SCENES)])


def _to(batch: Batch, device: str) -> Batch:
    if device == "cpu":
        return batch
    return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(batch).items()})


def _log(directory: Path, entry: dict) -> None:
    logger.info("%s", json.dumps(entry))
    with open(directory / "learning.jsonl", "a") as stream:
        stream.write(json.dumps(entry) + "\n")
