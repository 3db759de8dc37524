"""A trajectory: where the vehicle will be, when, how fast; what leaves the engine, whatever the model answered. Needs numpy.

base_link of the frame's stamp: x forward, y left, angles left positive. The first point is the vehicle now (time 0, at the
origin, heading 0, its measured speed); the others are what the model predicts. Letters: N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLUMNS = ("time", "x", "y", "heading", "speed", "acceleration", "curvature")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """N points in the order of their times; one row each, one column for every name in COLUMNS."""

    values: np.ndarray  # (N, 7) float64

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trajectory) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def time(self) -> np.ndarray:
        """Seconds after the frame's stamp, (N,), strictly rising from 0."""
        return self.values[:, 0]

    @property
    def x(self) -> np.ndarray:
        """[m] forward, (N,)."""
        return self.values[:, 1]

    @property
    def y(self) -> np.ndarray:
        """[m] to the left, (N,)."""
        return self.values[:, 2]

    @property
    def heading(self) -> np.ndarray:
        """[rad], left positive, (N,)."""
        return self.values[:, 3]

    @property
    def speed(self) -> np.ndarray:
        """[m/s], (N,)."""
        return self.values[:, 4]

    @property
    def acceleration(self) -> np.ndarray:
        """[m/s2] along the path, (N,)."""
        return self.values[:, 5]

    @property
    def curvature(self) -> np.ndarray:
        """[1/m], left positive, (N,)."""
        return self.values[:, 6]
