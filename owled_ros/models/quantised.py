"""Weights that are stored as codes and scales instead of numbers: found by name, undone where transformers can, else refused.

Needs nothing for finding; transformers undoes fp8 and mxfp4 with the accelerate package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.models.weights import FLOATS, StoredTensor, Weights

UNDONE = ("fp8", "mxfp4")  # methods that transformers turns back into plain numbers while it loads
CONFIG_KEYS = ("quantization_config", "quantization", "compression_config")
INTEGERS = {"I8", "U8", "I16", "U16", "I32", "U32"}
PLAIN = {*FLOATS, *INTEGERS, "I64", "U64", "BOOL", "C64"}  # every other type is a code: F8_E4M3, F4, I4, …
BUFFERS = ("position_ids", "token_type_ids", "position_index", "mask", "attn.bias", "attention.bias", "masked_bias")
SCALE_NAMES = {  # last words of tensors that only quantised weights have
    "weight_scale", "weight_scale_inv", "weight_scale_2", "scale_inv", "input_scale", "weight_zero_point", "zero_point",
    "qweight", "qzeros", "g_idx", "SCB", "weight_packed", "weight_shape", "weight_global_scale", "absmax", "quant_map",
    "nested_absmax", "weight_format", "input_global_scale",
}  # fmt: skip
BESIDE_WEIGHT = {
    "scale",
    "scales",
    "zeros",
    "zero_points",
    "biases",
}  # scales where a matrix of that layer stands beside
FP8 = ("F8_E4M3", "F8_E5M2")


def quantisation(config: Mapping[str, Any], weights: Weights) -> str | None:
    """Name how weights are quantised and what shows it; None when they are plain numbers."""
    declared = _declared(config)
    if declared:
        return declared
    for name, tensor in weights.tensors.items():
        if tensor.dtype not in PLAIN:
            return f"{name} is stored as {tensor.dtype}"
        if tensor.dtype in INTEGERS and len(tensor.shape) > 1 and not name.endswith(BUFFERS):
            return f"{name} is stored as the integers {tensor.dtype}"
        if name.rpartition(".")[2] in SCALE_NAMES or "quant_state" in name:
            return f"{name} belongs to quantised weights"
    return None


def scale_beside(candidates: Iterable[str], tensors: Mapping[str, StoredTensor]) -> str | None:
    """Return a candidate that stands beside a matrix of its layer and is named like its scale, or None."""
    for name in candidates:
        place, _, word = name.rpartition(".")
        beside = tensors.get(f"{place}.weight")
        if word in BESIDE_WEIGHT and beside is not None and len(beside.shape) > 1:
            return name
    return None


def method_of(config: Mapping[str, Any]) -> str:
    """Return the quantisation method that a config.json names; empty without any."""
    found = config.get("quantization_config")
    return str(found.get("quant_method") or "") if isinstance(found, Mapping) else ""


def check_can_undo(directory: Path, config: Mapping[str, Any], weights: Weights, found: str) -> None:
    """Raise OwledError unless transformers turns the stored codes into the right numbers."""
    method = method_of(config)
    if method not in UNDONE:
        raise OwledError(
            f"{directory} is quantised ({found}): its raw numbers are no weights. Give the model in 16 or 32 bits (the one it "
            f"was made from), or write it dequantised with the tool that made it; only {' and '.join(UNDONE)} are undone here"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise OwledError(
            f"{directory} is quantised ({found}): transformers undoes that with the accelerate package; pip install accelerate"
        )
    if method == "fp8":
        _check_fp8(directory, config["quantization_config"], weights)


def _declared(config: Mapping[str, Any]) -> str | None:
    for place in (config, *(part for part in config.values() if isinstance(part, Mapping))):
        for key in CONFIG_KEYS:
            found = place.get(key)
            if isinstance(found, Mapping) and found:
                return (
                    f"config.json has {key}: {found.get('quant_method') or found.get('format') or 'of an unnamed kind'}"
                )
    return None


def _check_fp8(directory: Path, settings: Mapping[str, Any], weights: Weights) -> None:
    """Every code must have its `weight_scale_inv`, one value per block: transformers would take other codes as they are."""
    block = settings.get("weight_block_size") or (1 << 62, 1 << 62)
    for name, tensor in weights.tensors.items():
        if tensor.dtype not in FP8:
            continue
        scale = weights.tensors.get(f"{name}_scale_inv")
        if scale is None or not name.endswith(".weight"):
            raise OwledError(
                f"{directory} is quantised to fp8, but {name} has no {name.rpartition('.')[2]}_scale_inv: a form of fp8 that "
                "transformers does not undo. Give the model in 16 bits"
            )
        sides = zip(tensor.shape[-2:], scale.shape[-2:] or (1, 1), block, strict=False)
        if not all(parts == 1 or (side % size == 0 and parts == side // size) for side, parts, size in sides):
            raise OwledError(
                f"{directory}: the fp8 blocks of {name} {tensor.shape} do not fit its scales {scale.shape}; transformers would "
                "spread them wrongly. Give the model in 16 bits"
            )
