"""Pack a model directory: the language model, and the vision tower's matrices where they pay. Needs torch and transformers.

A packed vision layer multiplies as many tokens at once as an image has patches. With a few hundred it is as fast as torch,
with more it is faster (docs/kernels.md); it always takes a fraction of the memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.errors import OwledError
from owled_ros.models.components import component_of
from owled_ros.models.load import load_model
from owled_ros.sparse.pack import PackFacts, pack_model

MANY_PATCHES = 512  # from so many on the packed tower is faster than torch in bfloat16
Matrices = dict[str, tuple[np.ndarray, np.ndarray | None]]


def pack_directory(
    directory: Path,
    out_file: Path,
    precision: str = "int8",
    vision: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackFacts:
    """Pack a Hugging Face directory or artifact for the sparse runtime.

    Args:
        directory: With config.json and safetensors.
        out_file: Where the packed model goes.
        precision: "int8" or "bf16".
        vision: Pack the vision tower too; None: when its images have MANY_PATCHES or more.
        progress: Called with (matrices done, matrices in all).

    Raises:
        OwledError: The language model cannot be packed, or there is no vision tower to pack.
    """
    extra = vision_matrices(directory) if wants_vision(directory, vision) else {}
    return pack_model(directory, out_file, precision, extra=extra, progress=progress)


def wants_vision(directory: Path, vision: bool | None) -> bool:
    """Tell whether the vision tower is packed."""
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as err:
        raise OwledError(f"{directory}/config.json cannot be read: {err}") from err
    tower = config.get("vision_config")
    if not isinstance(tower, Mapping):
        if vision:
            raise OwledError(f"{directory} has no vision tower; pack it without one")
        return False
    return patches_of(tower) >= MANY_PATCHES if vision is None else vision


def patches_of(tower: Mapping[str, Any]) -> int:
    """Count the patches of an image; MANY_PATCHES where images have any size."""
    sides = [tower.get(name) for name in ("image_size", "patch_size")]
    image, patch = (side[0] if isinstance(side, list) and side else side for side in sides)
    if not isinstance(image, int) or not isinstance(patch, int) or patch < 1:
        return MANY_PATCHES
    return (image // patch) ** 2


def vision_matrices(directory: Path) -> Matrices:
    """Read the Linear layers inside a model's vision tower by their names in the model."""
    model = load_model(directory, dtype=None)
    matrices: Matrices = {}
    for name, module in model.named_modules():
        if type(module) is torch.nn.Linear and component_of(name) == "vision":
            bias = None if module.bias is None else module.bias.detach().float().numpy()
            matrices[name] = (module.weight.detach().float().numpy(), bias)
    return matrices
