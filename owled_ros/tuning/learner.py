"""The weights that learn, and how they learn. Needs torch; peft for LoRA.

LoRA: adapters on every linear layer of vision tower, projector and language model, the rest stands still (Hu et al. 2021,
arXiv 2106.09685). All: every weight, in float32; in an artifact the zeros of its matrices stay zero. Schedule: warm-up,
constant, linear decay (Haegele et al. 2024, arXiv 2405.18392).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from owled_ros.errors import OwledError
from owled_ros.models.components import find_structure
from owled_ros.tuning.settings import SMALL, TuneSettings

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01  # of matrices
CLIP_NORM = 1.0
WARM_UP_SHARE, WARM_UP_STEPS = 0.05, 100
DECAY_SHARE, FINAL_RATE = 0.3, 0.02
LORA_RATE, ALL_RATE, MOST_RATE = 2e-4, 3.0, 2e-3  # of all weights: ALL_RATE / sqrt(how many), at most MOST_RATE


@dataclass
class Learner:
    """A model, the parameters of it that learn, and their optimizer."""

    model: Any  # what answers: adapters are inside
    trained: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    rate: float
    wrapped: Any = None  # peft's model around it; None: all weights learn
    zeros: list[tuple[torch.nn.Parameter, torch.Tensor]] = field(default_factory=list)  # and where they are

    def step(self, rate: float) -> float:
        """Clip and step; returns the norm of the gradients. Nothing moves where that is not finite, and no zero ever."""
        for parameter, zero in self.zeros:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(zero, 0.0)
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.trained.values()), CLIP_NORM))
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def make_learner(model: Any, settings: TuneSettings, method: str, is_artifact: bool) -> Learner:
    """Prepare what learns; `method` is lora or all (method_of)."""
    for parameter in model.parameters():
        parameter.requires_grad_(method == "all")
    wrapped, zeros = None, []
    if method == "lora":
        wrapped = _with_adapters(model, settings)
        model = wrapped.get_base_model()
    elif is_artifact:
        zeros = _zeros(model)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    count = sum(parameter.numel() for parameter in trained.values())
    usual = LORA_RATE if method == "lora" else min(MOST_RATE, ALL_RATE / math.sqrt(max(count, 1)))
    groups = [
        {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=BETAS, fused=True)
    return Learner(model, trained, optimizer, settings.learning_rate or usual, wrapped, zeros)


def method_of(settings: TuneSettings, parameters: int, is_artifact: bool) -> str:
    """Choose between lora and all.

    Raises:
        OwledError: LoRA without peft, or on an artifact, whose zeros it would fill.
    """
    if settings.method == "lora" and is_artifact:
        raise OwledError(
            "an artifact is tuned with all of its weights that are left (--weights all): LoRA would fill its zeros; or tune the "
            "dense model with LoRA and prune it then"
        )
    method = settings.method
    if method == "auto":
        method = "all" if is_artifact or parameters <= SMALL else "lora"
    if method == "lora" and importlib.util.find_spec("peft") is None:
        raise OwledError("tuning with LoRA needs the peft package: pip install peft; or --weights all")
    return method


def rate_share(step: int, steps: int) -> float:
    """Return the share of the full learning rate at a step."""
    warm_up = max(1, min(WARM_UP_STEPS, round(WARM_UP_SHARE * steps)))
    decay = max(1, round(DECAY_SHARE * steps))
    return min(1.0, (step + 1) / warm_up) * max(FINAL_RATE, min(1.0, (steps - step) / decay))


def merged(learner: Learner) -> Any:
    """Return the plain model with what was learned in its weights, in float32 on the CPU; the learner is used up."""
    model = learner.model if learner.wrapped is None else learner.wrapped
    model = model.to("cpu", torch.float32)
    return model if learner.wrapped is None else model.merge_and_unload(safe_merge=True)


def zeros_of(model: Any) -> dict[str, int]:
    """Count the zeros of every prunable matrix."""
    return {
        matrix.name: int((matrix.weight() == 0).sum())
        for block in find_structure(model).blocks
        for matrix in block.matrices
    }


def _zeros(model: Any) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Find what is zero in the matrices that pruning looks at."""
    parameters: Iterable[torch.nn.Parameter] = {
        id(found): found
        for block in find_structure(model).blocks
        for matrix in block.matrices
        for found in [getattr(matrix.module, matrix.parameter)]
    }.values()
    return [(parameter, parameter.detach() == 0) for parameter in parameters]


def _with_adapters(model: Any, settings: TuneSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    names = [
        matrix.name
        for block in find_structure(model).blocks
        for matrix in block.matrices
        if isinstance(matrix.module, torch.nn.Linear)
    ]
    if not names:
        raise OwledError("the model has no linear layers for LoRA; use --weights all")
    torch.manual_seed(settings.seed)
    config = LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, lora_dropout=0.0, target_modules=sorted(names))
    wrapped = get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped
