"""The loop: batches in an order that the seed tells, steps, measures, states; a killed run goes on to the same weights. Needs torch.

Everything random is drawn from (seed, step), so nothing but weights, moments and the step has to be kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.compute_type import autocast
from owled_ros.errors import OwledError
from owled_ros.models.engine import VlmEngine
from owled_ros.models.prompt import Prompter
from owled_ros.pruning.passes import in_words, takes_argument, to_device
from owled_ros.tuning.checks import encode_example
from owled_ros.tuning.curves import add_entry
from owled_ros.tuning.encoding import IGNORED, Encoded, Tensors, learned_tokens, stacked
from owled_ros.tuning.examples import Examples
from owled_ros.tuning.learner import Learner, rate_share
from owled_ros.tuning.measuring import HeldOut, Measure
from owled_ros.tuning.pace import MEASURES, TIMED_STEPS, Pace
from owled_ros.tuning.settings import SMALL, TuneSettings
from owled_ros.tuning.state import save_state

LOG_EVERY_S = 10.0
READ_AHEAD = 2  # batches that are encoded while a GPU learns
logger = logging.getLogger(__name__)


@dataclass
class Loop:
    """What a run is made of."""

    engine: VlmEngine
    prompter: Prompter  # of the thread that encodes
    learner: Learner
    examples: Examples
    held_out: HeldOut
    settings: TuneSettings
    directory: Path
    key: str  # of the run
    pace: Pace
    report: Callable[[int, int, str], None]
    best_in_form: float = 0.0


def run(loop: Loop, step: int) -> Measure:
    """Learn from `step` to the end, and measure.

    Raises:
        OwledError: the loss is no number any more, or the disk is full; the last state on the disk is whole.
    """
    settings, batches, pace = loop.settings, _Batches(loop), loop.pace
    sums, tokens, took_s, taken = 0.0, 0, 0.0, 0
    saved = logged = time.monotonic()
    measure = _measured(loop, step) if step == 0 else None
    try:
        while step < pace.steps:
            started = time.monotonic()
            loss, count = _learn(loop, batches.at(step), step, pace.steps)
            sums, tokens, step = sums + loss, tokens + count, step + 1
            now = time.monotonic()
            pace.stepped(now - started)
            took_s, taken = took_s + now - started, taken + 1
            if pace.fit(step, again=step % max(pace.steps // MEASURES, 1) == 0):
                saved = _fitted(loop, batches, step)
            if now - logged > LOG_EVERY_S or step == pace.steps or step == 1:
                mean = sums / max(tokens, 1)
                add_entry(loop.directory, {"step": step, "loss": round(mean, 5), "seconds": round(pace.spent_s, 1)})
                rate = settings.batch_size * taken / max(took_s, 1e-9)
                loop.report(step, pace.steps, f"loss {mean:.3f}, {rate:.1f} frames/s")
                sums, tokens, logged = 0.0, 0, now
            if step < pace.steps and step % _measure_every(settings, pace) == 0:
                measure = _measured(loop, step)
                saved = _saved(loop, batches, step)
            elif now - saved >= settings.save_every_s and step < pace.steps:
                saved = _saved(loop, batches, step)
        _saved(loop, batches, step)
    finally:
        batches.close()
    return _measured(loop, step) if measure is None or step else measure


def steps_of(settings: TuneSettings, examples: int) -> int:
    """Return how many steps a run has before its speed is known."""
    least = TIMED_STEPS + 1 if settings.minutes else 1
    return settings.steps or max(least, math.ceil(3 * examples / settings.batch_size))


def order(examples: int, seed: int, first: int, count: int) -> list[int]:
    """Return which examples are learned from at some places of the endless order: every one once, then all once more, …"""
    found: list[int] = []
    for place in range(first, first + count):
        turn, at = divmod(place, examples)
        found.append(int(np.random.default_rng([seed, turn]).permutation(examples)[at]))
    return found


def loss_of(model: Any, batch: Tensors, device: str) -> torch.Tensor:
    """Return the summed cross entropy [nat] of the learned tokens of a batch; only their logits are made where that can be."""
    labels = batch["labels"]
    learned = (labels[:, 1:] != IGNORED).any(dim=0).nonzero()
    first, last = int(learned[0]), int(learned[-1])  # places whose next token is learned
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    if takes_argument(model, "use_cache"):
        inputs["use_cache"] = False
    length = labels.shape[1]
    if takes_argument(model, "logits_to_keep"):
        inputs["logits_to_keep"] = torch.arange(first - length, last + 1 - length, device=labels.device)
    with in_words("a batch of the tuning"), autocast("auto", device):
        logits = model(**inputs).logits  # (B, T, V)
    if logits.shape[1] != last + 1 - first:
        logits = logits[:, logits.shape[1] - length :][:, first : last + 1]
    wanted = labels[:, first + 1 : last + 2]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _learn(loop: Loop, batches: list[Tensors], step: int, steps: int) -> tuple[float, int]:
    """Take one step; returns the summed loss and the tokens that it is of."""
    torch.manual_seed((loop.settings.seed << 32) + step)  # for models with dropout
    loop.learner.model.train()
    tokens = sum(learned_tokens(batch) for batch in batches)
    total = 0.0
    parameter = next(iter(loop.learner.trained.values()))
    kind = next(loop.learner.model.parameters()).dtype
    for batch in batches:
        moved = to_device(batch, parameter.device, kind)
        loss = loss_of(loop.learner.model, moved, loop.settings.device)
        (loss / max(tokens, 1)).backward()
        total += float(loss.detach())
    norm = loop.learner.step(loop.learner.rate * rate_share(step, steps))
    _check_number(loop, "loss", total, step)
    _check_number(loop, "gradient", norm, step)
    return total, tokens


def _saved(loop: Loop, batches: _Batches, step: int) -> float:
    """Keep a state that has a loss; returns the time."""
    loop.learner.model.eval()
    batch = batches.peek(step)[0]
    parameter = next(iter(loop.learner.trained.values()))
    with torch.no_grad():
        moved = to_device(batch, parameter.device, next(loop.learner.model.parameters()).dtype)
        _check_number(loop, "loss", float(loss_of(loop.learner.model, moved, loop.settings.device)), step)
    save_state(loop.learner, loop.directory, {"key": loop.key, "step": step, **loop.pace.facts()})
    return time.monotonic()


def _check_number(loop: Loop, what: str, value: float, step: int) -> None:
    if not math.isfinite(value):
        raise OwledError(
            f"the {what} is no number any more at step {step + 1}; the last state in {loop.directory} is whole. Go on with a lower "
            f"--learning-rate (it was {loop.learner.rate:g})"
        )


def _measured(loop: Loop, step: int) -> Measure:
    loop.learner.model.eval()
    began = time.monotonic()
    measure = loop.held_out.measure(loop.engine)
    loop.pace.measured(time.monotonic() - began)
    add_entry(loop.directory, {"step": step, **measure.line()})
    told = (
        "no valid answer"
        if measure.displacement is None
        else f"{measure.displacement:.2f} m off over {measure.seconds:g} s"
    )
    beside = (
        "" if measure.hold is None else f" (hold {measure.hold:.2f}, constant velocity {measure.constant_velocity:.2f})"
    )
    loop.report(step, loop.pace.steps, f"held out: {measure.in_form:.0%} in the form, {told}{beside}")
    if step and measure.collapsed:
        logger.warning(
            "collapse: all %d held-out answers are the same, %r, though different things were driven. Lower --learning-rate, or "
            "give more and more varied drives; a model that was never trained needs longer",
            measure.frames,
            measure.sample[:120],
        )
    if step and measure.in_form == 0.0 and loop.best_in_form > 0.0:
        logger.warning("the model has lost the form of its answers: lower --learning-rate")
    loop.best_in_form = max(loop.best_in_form, measure.in_form)
    return measure


def _measure_every(settings: TuneSettings, pace: Pace) -> int:
    return settings.measure_every or max(pace.steps // pace.measures, 1)


def _fitted(loop: Loop, batches: _Batches, step: int) -> float:
    """Say how many steps fit, and keep it: a run that goes on has the same schedule."""
    logger.info("%d steps fit into %g minutes", loop.pace.steps, loop.settings.minutes)
    return _saved(loop, batches, step)


class _Batches:
    """Encodes the batches to come: in a thread of its own while a GPU learns; on a CPU, whose cores learn, each when it is its turn."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._ahead = 0 if loop.settings.device == "cpu" else READ_AHEAD
        self._thread = ThreadPoolExecutor(1, "tuning-batches") if self._ahead else None
        self._ready: dict[int, Future[list[Tensors]]] = {}
        self._pad = loop.prompter.tokenizer.pad_token_id or 0

    def peek(self, step: int) -> list[Tensors]:
        """Return the batches of a step that is still to come."""
        self._begin(step)
        return self._ready[step].result()

    def at(self, step: int) -> list[Tensors]:
        """Return the batches of a step, and begin with those that follow."""
        for ahead in range(step, step + 1 + self._ahead):
            self._begin(ahead)
        return self._ready.pop(step).result()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, step: int) -> None:
        if step in self._ready:
            return
        if self._thread is not None:
            self._ready[step] = self._thread.submit(self._make, step)
        else:
            self._ready[step] = Future()
            self._ready[step].set_result(self._make(step))

    def _make(self, step: int) -> list[Tensors]:
        settings, examples = self._loop.settings, self._loop.examples
        places = order(len(examples), settings.seed, step * settings.batch_size, settings.batch_size)
        stops = self._loop.engine.chat.decoding.stop_ids
        parts = [encode_example(self._loop.prompter, stops, examples, examples.items[place]) for place in places]
        return [batch for some in _cut(parts, self._at_once()) for batch in stacked(some, self._pad)]

    def _at_once(self) -> int:
        settings = self._loop.settings
        if settings.micro_batch:
            return settings.micro_batch
        parameters = sum(parameter.numel() for parameter in self._loop.learner.model.parameters())
        return settings.batch_size if parameters <= SMALL else 1


def _cut(parts: list[Encoded], size: int) -> Iterator[list[Encoded]]:
    for start in range(0, len(parts), size):
        yield parts[start : start + size]
