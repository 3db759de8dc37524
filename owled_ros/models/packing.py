"""Pack a model directory: the language model, and the vision tower's matrices where they pay. Needs torch and transformers.

The model is loaded as transformers loads it and its parameters are packed, so no second reading of files, ties or codes can
differ. The file is opened again and compared with the model, in its weights and in its logits, before it takes its name.

A packed vision layer multiplies as many tokens at once as an image has patches. With a few hundred it is as fast as torch,
with more it is faster (docs/kernels.md); it always takes a fraction of the memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from owled_ros.errors import OwledError
from owled_ros.files import fsync_path
from owled_ros.models.components import component_finder, component_of
from owled_ros.models.grid import read_grid_of
from owled_ros.models.load import existing, load_model, source_of
from owled_ros.models.pack_check import check_packed
from owled_ros.models.weights import read_config
from owled_ros.sparse import architecture
from owled_ros.sparse.format import GROUP
from owled_ros.sparse.pack import ENDS_ON_GRID, FEW, PackFacts, pack_model
from owled_ros.sparse.quantise import BITS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INT4_GROUP = 32  # columns that share a scale where int4 is rounded to here and nothing else is said; with int8 GROUP
MANY_PATCHES = 512  # from so many on the packed tower is faster than torch in bfloat16
Matrices = dict[str, tuple[np.ndarray, np.ndarray | None]]


def pack_directory(
    directory: Path,
    out_file: Path,
    precision: str | None = None,
    vision: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
    group: int | None = None,
    ends: str | None = None,
    device: str = "cpu",
) -> PackFacts:
    """Pack a Hugging Face directory or artifact for the sparse runtime.

    Args:
        directory: With config.json and safetensors.
        out_file: Where the packed model goes.
        precision: "int8", "int4", "int3", "int2", "ternary" or "bf16"; None: that of the model's grid (models.grid), int8 where it has none.
        vision: Pack the vision tower too; None: when its images have MANY_PATCHES or more.
        progress: Called with (matrices done, matrices in all).
        group: Columns that share a scale; None: those of the grid, else 128 with int8 and 32 with int4.
        ends: Precision of embedding and head; None: that of their grid, else the same, but int8 where that has fewer bits.
        device: Where the model runs that the packed file is compared with; weights are rounded on the CPU.

    Raises:
        OwledError: The directory is no model that can be read rightly, its language model cannot be packed, there is no
            vision tower to pack, or the file does not do what the model does.
    """
    if existing(directory, allow_download=False) and not directory.is_dir():
        raise OwledError(
            f"{directory} is a file: packing needs a model directory (a .gguf file is pruned to one first)"
        )
    with_vision = wants_vision(directory, vision)
    reason = architecture.refusal(architecture.text_config(read_config(directory)))
    if reason:
        raise OwledError(f"the packed decoder cannot run {directory}: {reason}; it runs with torch as before")
    grid = read_grid_of(directory)
    precision = precision or (grid.precision if grid else "int8")
    if grid is not None and precision == grid.precision and group in (None, grid.group):
        scales, group = {name: found.numpy() for name, found in grid.scales.items()}, grid.group
        ends_grid, ends_group = grid.ends_precision, grid.ends_group
    else:
        scales, ends_grid, ends_group = {}, ENDS_ON_GRID, None
    if precision in FEW and not scales:
        raise OwledError(
            f"{directory} has no weights on a grid of {precision}{f' in groups of {group}' * bool(group)}, and rounded to the nearest it "
            f"would answer nothing: `owled prune --bits {BITS[precision]:g}` puts them on one"
        )
    group = group or (INT4_GROUP if precision == "int4" else GROUP)
    model = load_model(directory, device, source_of(directory).dtype)
    extra = vision_matrices(model) if with_vision else {}
    aside = out_file.with_name(f".{out_file.name}.aside-{os.getpid()}-unchecked")
    try:
        facts = pack_model(
            model.state_dict(), aside, precision, config=model.config.to_dict(), extra=extra, group=group, scales=scales,
            ends=ends, ends_grid=ends_grid, ends_group=ends_group, progress=progress,
        )  # fmt: skip
        check_packed(model, aside, precision, scales)
        os.replace(aside, out_file)
    except OSError as err:
        raise OwledError(f"{out_file}: cannot write the packed model: {err}") from err
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(out_file.parent)
    return replace(facts, path=out_file)


def wants_vision(directory: Path, vision: bool | None) -> bool:
    """Tell whether the vision tower is packed."""
    tower = read_config(directory).get("vision_config")
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


def vision_matrices(model: PreTrainedModel) -> Matrices:
    """Return the Linear layers inside a model's vision tower by their names in the model."""
    matrices: Matrices = {}
    component_at = component_finder(model)
    for name, module in model.named_modules():
        if type(module) is torch.nn.Linear and component_at(name) == component_of(name) == "vision":
            bias = None if module.bias is None else module.bias.detach().cpu().float().numpy()
            matrices[name] = (module.weight.detach().cpu().float().numpy(), bias)
    return matrices
