"""Pickles as data: every class or function that one names becomes a hollow object, so nothing is imported or called.

Needs numpy. Tensors of torch keep their shape and raw numbers as hollow objects; `numbers_of` reads them.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.errors import OwledError

MAX_PICKLE_BYTES = 1 << 30
FLOAT_BYTES = 4


class Hollow:
    """Takes the place of everything that a pickle would import: keeps what it was given, does nothing."""

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> Hollow:
        """Make one whatever is given."""
        return super().__new__(cls)

    def __init__(self, *given: Any, **_: Any) -> None:
        self.given = given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None:
        """Drop an element."""

    def extend(self, _: Sequence[Any]) -> None:
        """Drop elements."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Drop an entry."""

    def __hash__(self) -> int:
        return id(self)


def read_hollow(path: Path) -> Any:
    """Read a pickle.

    Raises:
        OwledError: it is too large, or cannot be read.
    """
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise OwledError(f"{path} has more than {MAX_PICKLE_BYTES >> 20} MiB; expected the released file")
    try:
        with open(path, "rb") as stream:
            return _HollowUnpickler(stream).load()
    except Exception as error:  # damaged or hostile pickles raise whatever they like
        raise OwledError(f"{path} cannot be read as data ({error}); use scenarios.jsonl") from error


def numbers_of(tensor: Any) -> np.ndarray:
    """Return what a float32 tensor of torch held, read from its raw bytes: they end with a count and so many numbers.

    Raises:
        OwledError: it is no such tensor.
    """
    try:
        storage, offset, shape = tensor.given[:3]
        raw = storage.given[0]
        count = int(np.prod(shape, dtype=np.int64))
        begin = len(raw) - FLOAT_BYTES * count
        if offset != 0 or begin < 8 or struct.unpack_from("<q", raw, begin - 8)[0] != count:
            raise ValueError(f"{len(raw)} bytes for shape {shape}")
        return np.frombuffer(raw, "<f4", count, begin).reshape(shape).astype(np.float32)
    except (AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
        raise OwledError(f"the vectors are no float32 tensors ({error}); use observations.safetensors") from error


class _HollowUnpickler(pickle.Unpickler):
    """Knows no classes and no functions at all."""

    def find_class(self, module: str, name: str) -> type[Hollow]:
        """Return a new hollow class whatever was asked for."""
        return type("Hollow", (Hollow,), {"__module__": f"{module}.{name}", "name": name})

    def persistent_load(self, _: Any) -> None:
        """Return nothing for tensors and the like."""
