"""Fit what is left of a pruned block to what the dense one gave, attention and MLP apart (arXiv 2510.14444). Needs torch.

A part is a child of the block that holds pruned matrices and runs once: in most architectures the attention and the MLP. What no such
child holds (layers that stand in the block itself) is fitted last, by the block's own output. Zeros stay zero. Beyond the block, memory
holds the parts' dense outputs on the calibration and Adam's two values per weight of one part.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from owled_ros.models.components import Block, Matrix
from owled_ros.pruning.fitted import Kept, Restorable, parameters_of
from owled_ros.pruning.lockstep import Arguments
from owled_ros.pruning.passes import Chunk, run_block
from owled_ros.pruning.residual import residual_gains

SAME = 1e-2  # relative difference of what a module gives for a sequence alone and among others


@dataclass
class Part:
    """A module of a block, its matrices that were pruned, and what it gave in the dense model, one tensor (B, T, C) per chunk."""

    module: nn.Module
    matrices: list[Matrix]
    targets: list[torch.Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that hold the matrices, each once."""
        return parameters_of(self.matrices)


def dense_parts(
    block: Block, chunks: Sequence[Chunk], hidden: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], list[Part]]:
    """Run a block before it is pruned on the dense model's hidden states and note what its parts give, in the order in which they run.

    Args:
        hidden: what enters the block in the dense model, by chunk.

    Returns:
        What leaves the block there, by chunk, and the parts.
    """
    children = {
        child: inside
        for child in block.module.children()
        if (inside := [matrix for matrix in block.matrices if matrix.module in set(child.modules())])
        and not any(matrix.module is child for matrix in inside)
    }
    given: dict[nn.Module, list[torch.Tensor]] = {}

    def note(module: nn.Module, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        given.setdefault(module, []).append(_first(output))

    with contextlib.ExitStack() as stack, torch.no_grad():
        for child in children:
            stack.callback(child.register_forward_hook(note).remove)
        leaving = [
            run_block(block, replace(chunk, hidden=entering)) for chunk, entering in zip(chunks, hidden, strict=True)
        ]
    whole = [child for child in given if len(given[child]) == len(chunks)]  # by first call
    parts = [Part(child, children[child], given[child]) for child in whole]
    held = {matrix.name for child in whole for matrix in children[child]}
    left = [matrix for matrix in block.matrices if matrix.name not in held]
    return leaving, [*parts, Part(block.module, left, leaving)] if left else parts


def reconstruct(
    block: Block,
    chunks: Sequence[Chunk],
    dense: Sequence[torch.Tensor],
    parts: Sequence[Part],
    steps: int,
    seed: int,
    fitted: Callable[[Part], Restorable] = lambda part: Kept(part.parameters),
) -> None:
    """Fit the parts one after the other, on what enters them in the pruned model; the chunks stay in front of the block.

    A part whose output is added to the hidden state is aimed at the dense model's hidden state: at its dense output and what the hidden
    state has drifted by there. Costs a few passes of the block and of the part per chunk, and `steps` forward and backward passes of the
    part on one sequence. A part whose error over all chunks did not fall keeps its weights.

    Args:
        dense: what enters the block in the dense model, by chunk.
        fitted: what of a part is fitted.
    """
    drift = [there.float() - chunk.hidden.float() for there, chunk in zip(dense, chunks, strict=True)]
    gains = residual_gains(block, chunks[0], [part.module for part in parts if part.module is not block.module])
    for number, part in enumerate(parts):
        inputs = _inputs_of(part.module, block, chunks)
        if len(inputs) != len(chunks):
            continue
        gain = gains.get(part.module)
        aimed = part
        if gain is not None:
            aimed = replace(
                part,
                targets=[
                    target + (apart / gain).to(target.dtype).view_as(target)
                    for target, apart in zip(part.targets, drift, strict=True)
                ],
            )
        _fit(aimed, fitted(part), inputs, chunks, steps, np.random.default_rng([seed, number]))
        if gain is not None:
            with torch.no_grad():
                for apart, target, (args, kwargs) in zip(drift, part.targets, inputs, strict=True):
                    apart += (target - _first(part.module(*args, **kwargs))).float().view_as(apart) * gain


def _fit(
    part: Part,
    fitted: Restorable,
    inputs: Sequence[Arguments],
    chunks: Sequence[Chunk],
    steps: int,
    generator: np.random.Generator,
) -> None:
    """Fit by Adam, whose steps fall to zero as a half cosine."""
    groups = [{"params": [tensor], "lr": first} for tensor, first in fitted.steps]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    scale = sum(float(target.float().square().mean()) for target in part.targets) / len(part.targets) or 1.0
    batches = [
        _Piece(arguments, target, chunk.token_mask)
        for arguments, target, chunk in zip(inputs, part.targets, chunks, strict=True)
    ]
    sequences = _sequences(part.module, batches)

    def whole() -> float:
        with torch.no_grad():
            return sum(float(piece.error(part.module)) for piece in batches)

    start = whole()
    queue: list[int] = []
    with _trained(part.module, part.parameters):
        for step in range(steps):
            queue = queue or list(generator.permutation(len(sequences)))
            with torch.enable_grad():
                loss = sequences[int(queue.pop())].error(part.module) / scale
                loss.backward()
            fitted.pull()
            for group, (_, first) in zip(optimizer.param_groups, fitted.steps, strict=True):
                group["lr"] = first * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.step()
            for parameter in part.parameters:
                parameter.grad = None
            fitted.push()
    if not whole() < start:  # True for NaN too
        fitted.restore()


@dataclass(frozen=True)
class _Piece:
    """What a part is called with, what it should give (B, T, C), and which tokens (B, T) are real."""

    arguments: Arguments
    target: torch.Tensor
    token_mask: torch.Tensor | None

    def error(self, module: nn.Module) -> torch.Tensor:
        """Return the mean squared error of what the module gives."""
        difference = (self.given(module) - self.target).float().square()
        mask = self.token_mask
        return (difference[mask] if mask is not None and difference.shape[:2] == mask.shape else difference).mean()

    def given(self, module: nn.Module) -> torch.Tensor:
        args, kwargs = self.arguments
        return _first(module(*args, **kwargs))

    def sequence(self, place: int) -> _Piece:
        """Cut one sequence out of everything that has as many entries as the target has sequences."""
        size = len(self.target)

        def cut(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return value[place : place + 1] if value.ndim and len(value) == size else value
            if type(value) in (tuple, list):
                return type(value)(map(cut, value))
            return {key: cut(inner) for key, inner in value.items()} if type(value) is dict else value

        args, kwargs = self.arguments
        return _Piece((cut(args), cut(kwargs)), cut(self.target), cut(self.token_mask))


def _sequences(module: nn.Module, batches: Sequence[_Piece]) -> Sequence[_Piece]:
    """Cut batches into sequences, so that a step costs as little as it can; not where a module gives something else for one alone."""
    several = [batch for batch in batches if _several(batch)]
    if not several:
        return batches
    place = len(several[0].target) - 1
    try:
        with torch.no_grad():
            alone = several[0].sequence(place).given(module).float()
            among = several[0].given(module)[place : place + 1].float()
    except (RuntimeError, ValueError, IndexError):
        return batches
    if alone.shape != among.shape or float((alone - among).norm()) > SAME * float(among.norm()):
        return batches
    return [
        piece
        for batch in batches
        for piece in (map(batch.sequence, range(len(batch.target))) if _several(batch) else [batch])
    ]


def _several(batch: _Piece) -> bool:
    return batch.target.ndim == 3 and len(batch.target) > 1


@contextlib.contextmanager
def _trained(module: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let only some parameters of a module have gradients while entered."""
    chosen = {id(parameter) for parameter in parameters}
    wanted = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, grad in wanted:
            parameter.requires_grad_(grad)
            parameter.grad = None


def _inputs_of(module: nn.Module, block: Block, chunks: Sequence[Chunk]) -> list[Arguments]:
    """Run the block as it is now and return what one of its modules, or the block itself, is called with."""
    seen: list[Arguments] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    try:
        with torch.no_grad():
            for chunk in chunks:
                run_block(block, chunk)
    finally:
        handle.remove()
    return seen


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output
