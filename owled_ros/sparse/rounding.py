"""Round a matrix to few bits with a scale per row and group of columns, or read the codes of one that is rounded already. Needs numpy.

Symmetric (Jacob et al., arXiv 1712.05877, section 2.1, zero point 0), scales in bf16. 8 bits: 255 steps, the largest weight of a
group is the last. 4 bits and fewer: codes -8 to 7, -4 to 3, -2 to 1, and -1 to 1, which is called 1.6 bits; the scale has a sign, so that the longer side gets the extra code where there is one,
and is the best of several under the squared error. Letters: N rows, K columns, S groups of a row.
"""

from __future__ import annotations

import numpy as np

from owled_ros.errors import OwledError
from owled_ros.sparse.format import padded

LIMITS = {8: (-127, 127), 4: (-8, 7), 3: (-4, 3), 2: (-2, 1), 1.6: (-1, 1)}  # the lowest and the highest code, by bits
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)  # of a group's largest weight that the last code of few bits just reaches
STORED = 2.0**-8  # relative distance from the grid that a weight stored in bf16 may have


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bf16 (ties to even), as uint16 bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Widen bf16 bits to float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_to_grid(name: str, matrix: np.ndarray, bits: float, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose scales (N, S) and give them with the nearest int8 codes (N, K).

    Raises:
        OwledError: Weights too large for a bf16 scale.
    """
    grouped = _grouped(matrix, group)  # (N, S, group)
    scales = _covering(grouped) if bits == 8 else _best(grouped, bits)
    if not np.isfinite(scales).all():
        raise OwledError(f"{name}: weights too large for bf16 scales (above 3e38); the model is damaged")
    return scales, _flat(_codes(grouped, scales, bits), matrix.shape[1])


def read_grid(
    name: str, matrix: np.ndarray, scales: np.ndarray, bits: float, group: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give scales (N, S) and codes (N, K) of a matrix that was rounded to these scales before.

    Raises:
        OwledError: The scales are of another matrix, or a weight is not where they put it.
    """
    grouped = _grouped(matrix, group)
    full = np.zeros(grouped.shape[:2], np.float32)  # rows and columns may be padded by now
    if scales.ndim != 2 or np.greater(scales.shape, full.shape).any():
        raise OwledError(f"{name}: its scales have shape {scales.shape}, expected at most {full.shape}")
    full[: scales.shape[0], : scales.shape[1]] = scales
    if not np.isfinite(full).all() or not np.array_equal(from_bf16(to_bf16(full)), full):
        raise OwledError(f"{name}: its scales are not bf16 numbers")
    codes = _codes(grouped, full, bits)
    if not (np.abs(codes * full[:, :, None] - grouped) <= STORED * np.abs(grouped) + 1e-30).all():
        raise OwledError(
            f"{name}: its weights do not lie on its {bits}-bit grid: they were changed after pruning; prune again, or "
            "take the grid out of the artifact"
        )
    return full, _flat(codes, matrix.shape[1])


def _grouped(matrix: np.ndarray, group: int) -> np.ndarray:
    rows, columns = matrix.shape
    wide = np.zeros((rows, padded(columns, group)), np.float32)
    wide[:, :columns] = matrix
    return wide.reshape(rows, -1, group)


def _flat(codes: np.ndarray, columns: int) -> np.ndarray:
    return codes.reshape(len(codes), -1)[:, :columns].astype(np.int8)


def _covering(grouped: np.ndarray) -> np.ndarray:
    """Scales of 8 bits, rounded up: the largest entry must fit."""
    largest = np.abs(grouped).max(axis=2)
    bits = to_bf16(largest / 127)
    bits += (from_bf16(bits) * 127 < largest).astype(np.uint16)
    return from_bf16(bits)


def _best(grouped: np.ndarray, bits: float) -> np.ndarray:
    """Scales of 4 bits or fewer, either sign."""
    place = np.abs(grouped).argmax(axis=2)[:, :, None]
    extreme = np.take_along_axis(grouped, place, axis=2)[:, :, 0]
    best = np.zeros_like(extreme)
    least = np.full_like(extreme, np.inf)
    for end in LIMITS[bits]:
        for share in SHARES:
            scales = from_bf16(to_bf16(extreme * np.float32(share / end)))
            error = _codes(grouped, scales, bits) * scales[:, :, None] - grouped
            cost = np.einsum("nsg,nsg->ns", error, error)
            better = cost < least
            best, least = np.where(better, scales, best), np.where(better, cost, least)
    return best


def _codes(grouped: np.ndarray, scales: np.ndarray, bits: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales != 0)
    inverse[~np.isfinite(inverse)] = 0  # weights below 1e-38: zero for every purpose
    codes: np.ndarray = np.rint(grouped * inverse[:, :, None]).clip(*LIMITS[bits])
    return codes
