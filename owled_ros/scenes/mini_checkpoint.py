"""Checkpoints of a training run: weights, their average, the optimizer's moments and random states, replaced whole. Needs torch."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from owled_ros.errors import OwledError
from owled_ros.files import replace_directory, write_atomic

logger = logging.getLogger(__name__)


def use(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights into a module, wherever it computes."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name])


def save(
    directory: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict,
    step: int,
    seconds: float,
    config: dict[str, Any],
) -> None:
    """Write `directory`/checkpoint."""
    state = optimizer.state_dict()["state"]
    moments = {f"{index}.{key}": value for index, entry in state.items() for key, value in entry.items()}
    with replace_directory(directory / "checkpoint") as aside:
        save_file(_on_host(dict(module.named_parameters())), aside / "weights.safetensors")
        save_file(_on_host(average), aside / "average.safetensors")
        save_file(_on_host(moments), aside / "moments.safetensors")
        save_file(_random_states(next(module.parameters()).device), aside / "random.safetensors")
        write_atomic(aside / "state.json", json.dumps({"step": step, "seconds": seconds, "config": config}))


def resume(
    directory: Path, module: torch.nn.Module, optimizer: torch.optim.Optimizer, average: dict
) -> tuple[int, float]:
    """Go on from `directory`/checkpoint, where there is one; returns the steps made and the seconds taken."""
    checkpoint = directory / "checkpoint"
    directory.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        return 0, 0.0
    try:
        facts = json.loads((checkpoint / "state.json").read_text())
        use(module, load_file(checkpoint / "weights.safetensors"))
        for name, value in load_file(checkpoint / "average.safetensors").items():
            average[name].copy_(value)  # they are where the model computes
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in load_file(checkpoint / "moments.safetensors").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise OwledError(f"{checkpoint} cannot be resumed ({error}); delete it to start over") from error
    _restore_random(checkpoint / "random.safetensors", next(module.parameters()).device)
    logger.info("resuming from %s: step %d", checkpoint, facts["step"])
    return facts["step"], facts["seconds"]


def _on_host(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _random_states(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_random(file: Path, device: torch.device) -> None:
    if not file.is_file():  # of an older release
        return
    states = load_file(file)
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
