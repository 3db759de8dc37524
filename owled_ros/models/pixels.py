"""The few pixel operations of torchvision that transformers' image processors call, in plain torch. Needs torch.

Some families (LFM2-VL, Llama 4, Cohere vision) have an image processor on torchvision only. Where torchvision is missing or
broken, `standing_in` lets transformers import it on these. Shape letters: C channels, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import itertools
import sys
import types
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import torch

NAMES = ("torchvision", "torchvision.transforms", "torchvision.transforms.v2", "torchvision.transforms.v2.functional")
MODES = ("bilinear", "bicubic", "nearest", "nearest-exact")


class InterpolationMode(Enum):
    """How a new size is computed; values are torch's names."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def resize(
    image: torch.Tensor,
    size: Sequence[int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    max_size: int | None = None,
    antialias: bool | None = True,
) -> torch.Tensor:
    """Resize (..., C, H, W) to (height, width)."""
    mode = interpolation.value
    if mode not in MODES or max_size is not None or len(size) != 2:
        raise ValueError(f"resizing by {mode} to {tuple(size)} needs torchvision")
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    smooth = mode in ("bilinear", "bicubic")
    options: dict[str, Any] = {"align_corners": False, "antialias": bool(antialias)} if smooth else {}
    flat = image.reshape(-1, *image.shape[-3:])
    flat = flat if flat.is_floating_point() else flat.float()
    found = torch.nn.functional.interpolate(flat, size=list(size), mode=mode, **options)
    if not image.is_floating_point():
        found = found.round().clamp(*_range(image.dtype))
    return found.to(image.dtype).reshape(*image.shape[:-2], *size)


def pad(image: torch.Tensor, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> torch.Tensor:
    """Add (left, top, right, bottom), or as much on all sides, to (..., C, H, W)."""
    sides = [padding] * 4 if isinstance(padding, int) else list(padding)
    left, top, right, bottom = sides * (4 // len(sides))
    if padding_mode != "constant":
        return torch.nn.functional.pad(image, (left, right, top, bottom), mode=padding_mode)
    height, width = image.shape[-2:]
    colour = torch.as_tensor(0 if fill is None else fill, dtype=image.dtype, device=image.device).reshape(-1, 1, 1)
    framed = colour.expand(*image.shape[:-2], height + top + bottom, width + left + right).clone()
    framed[..., top : top + height, left : left + width] = image
    return framed


def crop(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    """Cut a part out of (..., H, W)."""
    return image[..., top : top + height, left : left + width]


def normalize(image: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    """Subtract the mean and divide by the spread of every channel of (..., C, H, W)."""
    del inplace  # the result is what counts
    centre, spread = (
        torch.as_tensor(value, dtype=image.dtype, device=image.device).reshape(-1, 1, 1) for value in (mean, std)
    )
    return (image - centre) / spread


def grayscale_to_rgb(image: torch.Tensor) -> torch.Tensor:
    """Repeat a single channel."""
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def to_dtype(image: torch.Tensor, dtype: torch.dtype, scale: bool = False) -> torch.Tensor:
    """Convert; with `scale` between [0, 255] and [0, 1]."""
    if not scale or dtype.is_floating_point == image.is_floating_point():
        return image.to(dtype)
    if dtype.is_floating_point:
        return image.to(dtype) / _range(image.dtype)[1]
    return (image * (_range(dtype)[1] + 1 - 1e-3)).to(dtype)


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """Let modules of transformers be imported that import torchvision's functional."""
    before = {name: sys.modules[name] for name in NAMES if name in sys.modules}  # None where a broken one is hidden
    modules = [types.ModuleType(name) for name in NAMES]
    for parent, child in itertools.pairwise(modules):
        parent.__path__ = []
        setattr(parent, child.__name__.rpartition(".")[2], child)
    for name in ("InterpolationMode", "resize", "pad", "crop", "normalize", "grayscale_to_rgb", "to_dtype"):
        setattr(modules[-1], name, globals()[name])
    try:
        for module in modules:
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module
        _give_to_transformers(modules[-1])
        yield
    finally:
        for name in NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _give_to_transformers(functional: types.ModuleType) -> None:
    from transformers import image_utils

    known = image_utils.pil_torch_interpolation_mapping
    for mode in InterpolationMode:
        name = mode.name.removesuffix("_EXACT")  # what Pillow calls the nearest is torch's exact one
        known[getattr(image_utils.PILImageResampling, name)] = mode
    for name in ("transformers.image_processing_backends", "transformers.image_processing_utils"):
        module = importlib.import_module(name)
        if not hasattr(module, "tvF"):
            module.tvF = functional  # type: ignore[attr-defined]
        if not getattr(module, "pil_torch_interpolation_mapping", known):
            module.pil_torch_interpolation_mapping = known  # type: ignore[attr-defined]


def _range(dtype: torch.dtype) -> tuple[int, int]:
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max
