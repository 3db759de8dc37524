"""What the pruned model has drifted from the dense one, made up for in every matrix. Needs torch.

A matrix W of the pruned model is reached by X' where the dense model has X, because of what was pruned before it; and what some
matrices give is added to a hidden state H' where the dense model has H. So W is not pruned to keep W X', but to give

    W X + (H - H')

(arXiv 2504.02692 has the first term, for rounding). Of all matrices the one that comes closest is, with D X'X'^T's damping,

    A = W + (W (X - X') + H - H') X'^T (X' X'^T + D)^-1

and the squared error of any other against that target is its squared error against A X' and what even A leaves: so whatever prunes
or rounds W prunes A instead. The dense model runs beside the pruned one, block by block. Letters: R outputs, K inputs, C width of
the hidden state, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from owled_ros.errors import OwledError
from owled_ros.models.components import Block, Matrix
from owled_ros.pruning.passes import Chunk, run_block
from owled_ros.pruning.residual import residual_gains
from owled_ros.pruning.sparsegpt import damped
from owled_ros.pruning.statistics import HESSIAN_ROWS

Inputs = Mapping[int, torch.Tensor]  # (..., K) by chunk
DAMPING = 0.3  # share of the mean diagonal of X'X'^T; less follows the calibration too closely (docs/pruning.md)


class DenseTwin:
    """A block as it is in the dense model, and the hidden states that enter it there, by chunk.

    Attributes:
        hidden: (B, T, C) or (T, C) per chunk, the list that was given; the jobs replace them by what leaves the block.
        of: the twin of each of the block's modules.
    """

    def __init__(self, block: Block, hidden: list[torch.Tensor]) -> None:
        try:
            self.block = replace(block, module=copy.deepcopy(block.module))
        except (TypeError, RuntimeError) as err:
            raise OwledError(
                f"{block.name} cannot be copied ({err}), and a dense copy is what drift is measured by: prune with --keep-drift"
            ) from err
        self.hidden = hidden
        self.of = dict(zip(block.module.modules(), self.block.module.modules(), strict=True))

    def weight(self, matrix: Matrix) -> torch.Tensor:
        """Return the dense weight (R, K) of one of the block's matrices."""
        return replace(matrix, module=self.of[matrix.module]).weight()

    def jobs(self, chunks: Sequence[Chunk]) -> list[Callable[[], None]]:
        """Return what runs the twin on each chunk."""

        def run(place: int, chunk: Chunk) -> None:
            self.hidden[place] = run_block(self.block, replace(chunk, hidden=self.hidden[place]))

        return [partial(run, place, chunk) for place, chunk in enumerate(chunks)]

    def advance(self, chunks: Sequence[Chunk]) -> None:
        """Replace the hidden states by what leaves the block."""
        with torch.no_grad():
            for job in self.jobs(chunks):
                job()


@dataclass(frozen=True)
class Compared:
    """What matrices that read the same inputs share: (X - X') X'^T (K, K), and the lower factor of the damped X' X'^T."""

    drift: torch.Tensor
    factor: torch.Tensor


class Drift:
    """Follows how far a block's hidden states are from the dense model's while its matrices are pruned one after the other.

    Made before the first of them is pruned.
    """

    def __init__(self, block: Block, twin: DenseTwin, chunks: Sequence[Chunk]) -> None:
        self._twin, self._chunks = twin, chunks
        self._hidden = [  # H - H' (T, C) by chunk
            (dense.float() - chunk.hidden.float()).flatten(0, -2)
            for dense, chunk in zip(twin.hidden, chunks, strict=True)
        ]
        smallest = min(range(len(chunks)), key=lambda place: chunks[place].hidden.numel())
        plain = {matrix.module: matrix.name for matrix in block.matrices if matrix.expert is None and not matrix.read}
        gains = residual_gains(block, replace(chunks[smallest], hidden=twin.hidden[smallest]), plain)
        self._gains = {plain[module]: gain for module, gain in gains.items()}  # of the matrices yet to be pruned

    def compare(self, own: Inputs, beside: Inputs, gram: torch.Tensor) -> Compared | None:
        """Compare what reaches a matrix with what reaches it in the dense model; None where that says nothing.

        Args:
            own, beside: inputs (..., K) here and in the dense model. An expert may get other tokens here than there: unless every
                chunk sends all its tokens, there is nothing to compare.
            gram: X' X'^T (K, K).
        """
        if own.keys() != beside.keys() or len(own) != len(self._chunks):
            return None
        if any(_tokens(x) != len(self._hidden[place]) or x.shape != beside[place].shape for place, x in own.items()):
            return None
        drift = torch.zeros_like(gram)
        for place, tensor in own.items():
            here, there = self._real(place, tensor), self._real(place, beside[place])
            for x, other in zip(here.split(HESSIAN_ROWS), there.split(HESSIAN_ROWS), strict=True):
                drift.addmm_((other.float() - x.float()).t(), x.float())
        factor, failed = torch.linalg.cholesky_ex(damped(gram, DAMPING))
        if failed or not bool(factor.isfinite().all() & drift.isfinite().all()):
            return None
        return Compared(drift, factor)

    def aim(self, matrix: Matrix, own: Inputs, compared: Compared) -> torch.Tensor:
        """Return the weight A (R, K), float32, to be pruned in place of a matrix's own; what is zero there is zero here."""
        weight = matrix.weight().float()
        pull = weight @ compared.drift  # (R, K)
        gain = self._gains.get(matrix.name)
        if gain is not None:
            outer = torch.zeros_like(pull)
            for place, tensor in own.items():
                hidden = self._real(place, self._hidden[place].view(*tensor.shape[:-1], -1))
                outer.addmm_(hidden.t(), self._real(place, tensor).float())
            pull += outer / gain[:, None]
        moved = weight + torch.cholesky_solve(pull.t(), compared.factor).t()
        return moved.masked_fill_(weight == 0, 0.0)

    def note(self, matrix: Matrix, own: Inputs, beside: Inputs) -> None:
        """Add to H - H' what a matrix gives less than in the dense model, now that it is pruned; not where no matrix is left to ask."""
        gain = self._gains.pop(matrix.name, None)
        if gain is None or not self._gains:
            return
        pruned, dense = matrix.weight().float(), self._twin.weight(matrix).float()
        for place, tensor in own.items():
            given = beside[place].flatten(0, -2).float() @ dense.t() - tensor.flatten(0, -2).float() @ pruned.t()
            self._hidden[place] += given * gain

    def _real(self, place: int, tensor: torch.Tensor) -> torch.Tensor:
        """Return the rows (T, .) of a chunk's tensor (..., .) that are no padding."""
        mask = self._chunks[place].token_mask
        return tensor[mask] if mask is not None and tensor.shape[:-1] == mask.shape else tensor.flatten(0, -2)


def _tokens(tensor: torch.Tensor) -> int:
    return tensor.numel() // tensor.shape[-1] if tensor.ndim > 1 else 0
