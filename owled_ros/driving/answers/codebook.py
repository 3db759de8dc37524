"""The codebook of a model with action tokens: what step each token means. Needs numpy, safetensors for such files.

Only plain numbers are read: safetensors, npy without pickle, json. Letters: K entries.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path, PurePosixPath

import numpy as np

from owled_ros.errors import OwledError

COLUMNS = ("dx", "dy", "dheading")
MAX_BYTES = 64_000_000
FARTHEST_M = 100.0  # of one step
SHARPEST_RAD = np.pi


def read_codebook(directory: Path, name: str, entries: int) -> np.ndarray:
    """Read (K, 3) steps (dx [m], dy [m], dheading [rad]) from a file of the model directory; raises OwledError."""
    path = _inside(directory, name)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OwledError(
                f"codebook {path} cannot be read: it is not a regular file; expected numbers of shape ({entries}, 3)"
            )
        if path.stat().st_size > MAX_BYTES:
            raise OwledError(f"{path} has {path.stat().st_size} bytes; a codebook has at most {MAX_BYTES}")
        values = np.asarray(_READERS[path.suffix](path), np.float64)
    except OSError as error:
        raise OwledError(f"codebook {path} cannot be read ({error}); put it into the model directory") from error
    except (ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise OwledError(f"{path} is no codebook ({error}); expected numbers of shape ({entries}, 3)") from error
    if values.shape != (entries, len(COLUMNS)):
        raise OwledError(f"codebook {path} has the shape {values.shape}; expected ({entries}, 3): {', '.join(COLUMNS)}")
    for column, limit in enumerate((FARTHEST_M, FARTHEST_M, SHARPEST_RAD + 1e-3)):
        bad = np.flatnonzero(~(np.abs(values[:, column]) <= limit))
        if len(bad):
            raise OwledError(
                f"{COLUMNS[column]} of entry {bad[0]} of the codebook {path} is {values[bad[0], column]}; expected at most {limit:g}"
            )
    return values


def _inside(directory: Path, name: str) -> Path:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise OwledError(f"codebook {name!r} does not lie in the model directory; give a path within it")
    if relative.suffix not in _READERS:
        raise OwledError(
            f"codebook {name!r} is no {', '.join(_READERS)}; export it as plain numbers (pickle is never read)"
        )
    return directory / relative


def _read_safetensors(path: Path) -> np.ndarray:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if len(tensors) != 1:
        raise ValueError(f"{len(tensors)} tensors; expected one")
    return next(iter(tensors.values()))


def _read_npy(path: Path) -> np.ndarray:
    values = np.load(path, allow_pickle=False)
    if not isinstance(values, np.ndarray):
        values.close()
        raise ValueError("several arrays; expected one")
    return values


def _read_json(path: Path) -> np.ndarray:
    values = json.loads(path.read_text())
    rows = values if isinstance(values, list) else []
    if not rows or not all(
        isinstance(row, list) and all(type(number) in (int, float) for number in row) for row in rows
    ):
        raise ValueError("no list of lists of numbers")
    return np.array(rows, np.float64)


_READERS = {".safetensors": _read_safetensors, ".npy": _read_npy, ".json": _read_json}
