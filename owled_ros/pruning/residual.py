"""Finds what in a block is added to its hidden state, by probing, in any architecture. Needs torch. C is the width of the hidden state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from owled_ros.models.components import Block
from owled_ros.pruning.passes import Chunk, run_block

PROBE_ERROR = 0.05  # share of the change that may be anything else than the probe times the gains
SMALLEST_GAIN = 1e-3  # beside the largest of the module


def residual_gains(block: Block, chunk: Chunk, modules: Iterable[nn.Module]) -> dict[nn.Module, torch.Tensor]:
    """Return, for those modules whose output is added to the hidden state, what one unit more there adds to the block's output (C,).

    While one of them gives more, all others give what they gave before: what is seen is the direct way only. It is 1 in most
    architectures and a scale per channel with LayerScale. A module with a norm behind it has none, and neither has any in a block
    that does not hand its hidden state on.
    """
    wanted = list(modules)
    children = [child for child in block.module.children() if any(True for _ in child.parameters())]
    given: dict[nn.Module, list[torch.Tensor]] = {}
    gains: dict[nn.Module, torch.Tensor] = {}
    with torch.no_grad():
        with ExitStack() as stack:
            for module in dict.fromkeys([*wanted, *children]):
                stack.callback(module.register_forward_hook(partial(_note, given)).remove)
            before = run_block(block, chunk).float()
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, before.shape, generator=generator).to(before.device) * 2 - 1
        step = signs * chunk.hidden.float().square().mean().sqrt().clamp(min=1e-6)
        if not _alike(chunk.hidden, before):
            return {}
        # Children stand still too, which holds experts; but a child may also lie behind a module, as a LayerScale does.
        for still in ([*wanted, *children], wanted):
            fixed = {
                module: given[module][0]
                for module in dict.fromkeys(still)
                if len(given.get(module, ())) == 1 and _alike(given[module][0], before)
            }
            if not _is_handed_on(block, chunk, fixed, step, before):
                continue
            for module in wanted:
                if module in fixed and module not in gains:
                    gain = _gain(_changed(block, chunk, fixed, module, step) - before, step)
                    gains |= {} if gain is None else {module: gain}
    return gains


def _is_handed_on(
    block: Block, chunk: Chunk, given: Mapping[nn.Module, torch.Tensor], step: torch.Tensor, before: torch.Tensor
) -> bool:
    """Tell whether a block adds to its hidden state, so that a change of that reaches the output as it is."""
    moved = replace(chunk, hidden=chunk.hidden + step.to(chunk.hidden.dtype).view_as(chunk.hidden))
    gain = _gain(_changed(block, moved, given, None, step) - before, step)
    return gain is not None and bool(((gain - 1).abs() < PROBE_ERROR).all())


def _changed(
    block: Block, chunk: Chunk, given: Mapping[nn.Module, torch.Tensor], probed: nn.Module | None, step: torch.Tensor
) -> torch.Tensor:
    """Run a block in which all modules give what they gave, but for one that gives a step more, and what that one is part of."""
    with ExitStack() as stack:
        for module, output in given.items():
            if module is probed:
                stack.callback(
                    module.register_forward_hook(_giving(output + step.to(output.dtype).view_as(output))).remove
                )
            elif probed is None or probed not in set(module.modules()):
                stack.callback(module.register_forward_hook(_giving(output)).remove)
        return run_block(block, chunk).float()


def _gain(change: torch.Tensor, step: torch.Tensor) -> torch.Tensor | None:
    """Return what a step (..., C) was multiplied by per channel; None where the change is more than that, or nothing."""
    axes = tuple(range(step.ndim - 1))
    gain = (change * step).sum(axes) / step.square().sum(axes)
    direct = float((change - gain * step).norm()) <= PROBE_ERROR * float(change.norm())
    return gain if direct and bool((gain.abs() > SMALLEST_GAIN * gain.abs().max()).all()) else None


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors (..., C) hold as many numbers and are as wide."""
    return one.numel() == other.numel() and one.shape[-1:] == other.shape[-1:]


def _note(given: dict[nn.Module, list[torch.Tensor]], module: nn.Module, args: Any, output: Any) -> None:
    first = output[0] if isinstance(output, tuple) else output
    if isinstance(first, torch.Tensor):
        given.setdefault(module, []).append(first.clone())  # a block may add to it in place


def _giving(fixed: torch.Tensor) -> Any:
    return lambda module, args, output: (fixed.clone(), *output[1:]) if isinstance(output, tuple) else fixed.clone()
