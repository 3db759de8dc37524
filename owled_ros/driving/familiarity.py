"""Does an image look like those that a model was made for? A Gaussian over image statistics. Needs numpy and OpenCV.

A network can be sure of itself on images unlike any it has seen (Nguyen et al. 2015, arXiv 1412.1897): the bundled model
answers a calm real motorway with high token probabilities. So the confidence is multiplied by the familiarity of the
image: Mahalanobis distance (as Lee et al. 2018, arXiv 1807.03888, there on features of the network) of statistics that
depend on the camera and the world, not on the model, so that pruning does not move them.

Statistics, 57 per image: per level of a Laplacian pyramid of the luma (5 levels) and per third of the height (sky,
horizon, road) the logarithms of the mean absolute value, of its spread and of its sparsity; for both chroma channels
(3 levels) strength and sparsity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from owled_ros.errors import OwledError
from owled_ros.files import read_small_file, write_atomic

FILE_NAME = "familiarity.json"
FORMAT_VERSION = 1
MAX_BYTES = 1 << 20
LUMA_LEVELS, CHROMA_LEVELS, THIRDS = 5, 3, 3
DIMENSIONS = LUMA_LEVELS * THIRDS * 3 + 2 * CHROMA_LEVELS * 2
MIN_HEIGHT = 2 ** (LUMA_LEVELS - 1) * (THIRDS - 1) + 1  # [px] so that the coarsest level has a row for every third
QUIET = 0.05  # grey levels; keeps the logarithm of an empty band finite
MIN_IMAGES = 4 * DIMENSIONS
LONE_DRIVE_PARTS = 4
RIDGE = 1e-3  # of the mean variance, added to every variance
LIMIT_FACTOR = 1.15  # the familiarity is a half where the distance is this many times its 99th percentile
SHARE_AT_99 = 4.0  # logit of the familiarity at the 99th percentile


@dataclass(frozen=True)
class Familiarity:
    """A fitted Gaussian with the distance at which the familiarity is a half."""

    mean: np.ndarray  # (D,)
    whitening: np.ndarray  # (D, D), distance = |whitening @ (x - mean)|
    limit: float
    softness: float

    def distance(self, image: np.ndarray) -> float:
        """Return the Mahalanobis distance of an image (H, W, 3) uint8 RGB of the size it was fitted on."""
        return float(np.linalg.norm(self.whitening @ (image_statistics(image) - self.mean)))

    def of(self, image: np.ndarray) -> float:
        """Return the familiarity of an image in [0, 1]."""
        return 1.0 / (1.0 + math.exp(min((self.distance(image) - self.limit) / self.softness, 50.0)))


def image_statistics(image: np.ndarray) -> np.ndarray:
    """Return (57,) float64 for an image (H, W, 3) uint8 RGB."""
    channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(np.float32))
    values: list[float] = []
    for band in _bands(channels[0], LUMA_LEVELS):
        for part in np.array_split(band, THIRDS):
            mean, square, root = part.mean() + QUIET, (part * part).mean() + QUIET**2, np.sqrt(part).mean() + QUIET
            values += [math.log(mean), math.log(square) - 2 * math.log(mean), 2 * math.log(root) - math.log(mean)]
    for channel in channels[1:]:
        for band in _bands(channel, CHROMA_LEVELS):
            mean, root = band.mean() + QUIET, np.sqrt(band).mean() + QUIET
            values += [math.log(mean), 2 * math.log(root) - math.log(mean)]
    return np.array(values)


def fit_familiarity(images: Iterable[np.ndarray]) -> Familiarity:
    """Fit on images of one size; raises OwledError when there are too few to know the spread."""
    return fit_statistics([image_statistics(image) for image in images])


def fit_statistics(statistics: Sequence[np.ndarray], drives: Sequence[Hashable] | None = None) -> Familiarity:
    """Fit on the statistics of images of one size, N times (D,); raises OwledError when there are too few.

    Images of one drive are alike. Where `drives` names the drive of each, what is familiar is measured on drives that were
    left out of the fit, as the next drive will be.
    """
    if len(statistics) < MIN_IMAGES:
        raise OwledError(f"{len(statistics)} images are too few to fit the familiarity; expected at least {MIN_IMAGES}")
    rows = np.stack(list(statistics))  # (N, D)
    mean, whitening = _gaussian(rows)
    distances = np.linalg.norm((rows - mean) @ whitening.T, axis=1)
    if drives is not None:
        distances = _distances_of_others(rows, _folds(drives))
    high = float(np.quantile(distances, 0.99))
    limit = LIMIT_FACTOR * high
    return Familiarity(mean, whitening, limit, (limit - high) / SHARE_AT_99)


def write_familiarity(directory: Path, familiarity: Familiarity) -> None:
    """Write `familiarity.json` into a model directory."""
    whitening = familiarity.whitening[np.tril_indices(DIMENSIONS)]
    values = {
        "format_version": FORMAT_VERSION,
        "limit": round(familiarity.limit, 6),
        "softness": round(familiarity.softness, 6),
        "mean": [float(f"{value:.7g}") for value in familiarity.mean],
        "whitening_lower_triangle": [float(f"{value:.7g}") for value in whitening],
    }
    write_atomic(directory / FILE_NAME, json.dumps(values) + "\n")


def read_familiarity(directory: Path) -> Familiarity | None:
    """Read `familiarity.json`; None where a model has none."""
    path = directory / FILE_NAME
    data = read_small_file(path, MAX_BYTES)
    if data is None:
        return None
    try:
        values = json.loads(data)
        whitening = np.zeros((DIMENSIONS, DIMENSIONS))
        whitening[np.tril_indices(DIMENSIONS)] = values["whitening_lower_triangle"]
        mean = np.array(values["mean"], dtype=np.float64)
        limit, softness = float(values["limit"]), float(values["softness"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise OwledError(
            f"{path} cannot be read ({error}); restore it, or delete it to trust the tokens alone"
        ) from error
    sound = mean.shape == (DIMENSIONS,) and np.isfinite(mean).all() and np.isfinite(whitening).all()
    scaled = 0.0 < limit < math.inf and 0.0 < softness < math.inf
    if values.get("format_version") != FORMAT_VERSION or not sound or not scaled:
        raise OwledError(f"{path} is not of format {FORMAT_VERSION} or holds unusable numbers; restore it")
    return Familiarity(mean, whitening, limit, softness)


def _gaussian(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) and the whitening (D, D) of rows (N, D)."""
    mean = rows.mean(0)
    covariance = np.cov(rows.T)
    covariance += RIDGE * np.trace(covariance) / DIMENSIONS * np.eye(DIMENSIONS)
    return mean, np.linalg.inv(np.linalg.cholesky(covariance))


def _folds(drives: Sequence[Hashable]) -> np.ndarray:
    """Number the part of each image, (N,): its drive, or a quarter of the only one."""
    numbers = {drive: number for number, drive in enumerate(dict.fromkeys(drives))}
    if len(numbers) > 1:
        return np.array([numbers[drive] for drive in drives])
    return np.arange(len(drives)) * LONE_DRIVE_PARTS // len(drives)


def _distances_of_others(rows: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the distance of every row, (N,), from the Gaussian of all other parts."""
    distances = np.zeros(len(rows))
    for part in np.unique(parts):
        mean, whitening = _gaussian(rows[parts != part])
        distances[parts == part] = np.linalg.norm((rows[parts == part] - mean) @ whitening.T, axis=1)
    return distances


def _bands(plane: np.ndarray, levels: int) -> list[np.ndarray]:
    """Return the absolute values of a Laplacian pyramid (Burt and Adelson 1983), finest first."""
    bands = []
    for _ in range(levels):
        coarse = cv2.pyrDown(plane)
        bands.append(np.abs(plane - cv2.pyrUp(coarse, dstsize=(plane.shape[1], plane.shape[0]))))
        plane = coarse
    return bands
