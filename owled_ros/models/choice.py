"""The best token and its probability, chosen where the logits lie: of a GPU's only three numbers are copied. Needs torch.

Shape letters: V vocabulary, N numbers, K neighbours of a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class Chooser:
    """Chooses as `decoding.pick` does, without a value that the host would have to know."""

    def __init__(self, neighbours: Mapping[int, np.ndarray] | None, device: torch.device) -> None:
        known = neighbours or {}
        width = max((len(ids) for ids in known.values()), default=1)
        members, real = np.zeros((len(known) + 1, width), np.int64), np.zeros((len(known) + 1, width))
        for row, ids in enumerate(known.values(), 1):
            members[row, : len(ids)], real[row, : len(ids)] = ids, 1.0
        self._numbers = list(known)
        self._members = torch.from_numpy(members).to(device)  # (N + 1, K)
        self._real = torch.from_numpy(real).to(device)  # (N + 1, K) float64, 0 where there is no neighbour
        self._row = torch.zeros(0, dtype=torch.long, device=device)  # (V,) row of each token; 0: no number

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Return (3,) float64: token, its log probability, and that of it and its neighbours together."""
        if len(self._row) != len(logits):
            self._row = self._rows(len(logits)).to(logits.device)
        scores = logits.double()  # (V,)
        token = scores.argmax(0, keepdim=True)  # (1,)
        shares = (scores - scores.index_select(0, token)).exp()
        total = shares.sum(0, keepdim=True)
        row = self._row.index_select(0, token)
        near = (
            shares.index_select(0, self._members.index_select(0, row)[0]) * self._real.index_select(0, row)[0]
        )  # (K,)
        mass = torch.where(row > 0, near.sum(0, keepdim=True), 1.0)
        return torch.cat([token.double(), -total.log(), (mass / total).log()])

    def _rows(self, size: int) -> torch.Tensor:
        rows = torch.zeros(size, dtype=torch.long)
        for row, token in enumerate(self._numbers, 1):
            if token < size:
                rows[token] = row
        return rows


class DeviceLogits:
    """Logits (V,) on their device, copied only for who asks for all of them. Good until the runner reads on."""

    def __init__(self, values: torch.Tensor, chooser: Chooser, chosen: torch.Tensor | None = None) -> None:
        self.values, self._chooser, self._chosen = values, chooser, chosen

    def choice(self) -> tuple[int, float, float]:
        """Return the token, its log probability, and that of it and its neighbours: the one copy."""
        if self._chosen is None:
            with torch.inference_mode():
                self._chosen = self._chooser(self.values)
        token, chance, near = self._chosen.tolist()
        return int(token), chance, near

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Copy all to the host."""
        return np.array(self.values.cpu().numpy(), dtype or np.float32)
