"""A model that is pruned for a trial, measured and put back, many times over. Needs torch and a loaded model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.components import Structure
from owled_ros.pruning.config import Batch
from owled_ros.pruning.quality import measure

DIGITS = 5  # of a loss: below it trials are equal


class Trials:
    """The model, a copy of the weights that trials change, and the batches that judge them."""

    def __init__(self, model: nn.Module, structure: Structure, held_out: Sequence[Batch]) -> None:
        self._model, self._held_out = model, held_out
        self.matrices = [matrix for block in structure.blocks for matrix in block.matrices]
        self.dense = measure(model, held_out).loss
        if not math.isfinite(self.dense):
            raise OwledError(
                "the loss of the dense model on the held-out batches is NaN: nothing that prunes it can be judged by it"
            )
        self.weights = {matrix.name: matrix.weight().clone() for matrix in self.matrices}

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """Undo what happens to the weights inside."""
        try:
            yield
        finally:
            for matrix in self.matrices:
                matrix.weight().copy_(self.weights[matrix.name])

    def loss(self) -> float:
        """Return the held-out loss of the model as it is now; infinite where it is not finite."""
        loss = measure(self._model, self._held_out).loss
        return round(loss, DIGITS) if math.isfinite(loss) else math.inf
