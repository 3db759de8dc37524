"""Does a packed file do what the model does that it was made from? Needs torch and a loaded model.

Shape letters: T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.models.load import LOAD_ERRORS
from owled_ros.sparse.decoder import SparseDecoder
from owled_ros.sparse.format import PackedTensor, Role, read_packed
from owled_ros.sparse.quantise import unpack_matrix

TOKENS = 12  # T, of the text on which the logits are compared
# Error per weight: of the group's largest, by bits (a step that clipping may exceed: the shorter side has a code less), of the weight (16,
# and of what lies on its grid already).
STEP: dict[float, float] = {1.6: 0.65, 2: 0.65, 3: 0.45, 4: 0.31, 8: 0.5 / 127 * 1.02, 16: 2**-8}
# Distance over length of the logits; 0.02, 0.1 to 0.3 and 0.005 are usual, another model's 1.4.
LOGITS = {"int8": 0.2, "int4": 0.7, "int3": 0.7, "int2": 0.7, "ternary": 0.7, "bf16": 0.05}
REBUILT = {Role.ROTARY}  # computed from the config, not stored: the logits prove it


def check_packed(model: Any, packed: Path, precision: str, on_grid: Mapping[str, Any] | None = None) -> None:
    """Open a packed file, compare every weight with the model's and the logits of a short text.

    Args:
        on_grid: names of the matrices whose weights lay on their grid before: those must come out as they went in.

    Raises:
        OwledError: They differ by more than the precision explains.
    """
    state = model.state_dict()
    for tensor in read_packed(packed).tensors:
        if tensor.role not in REBUILT:
            _check_tensor(tensor, state, tensor.name in (on_grid or {}))
    _check_logits(model, packed, LOGITS[precision])


def _check_tensor(tensor: PackedTensor, state: dict[str, torch.Tensor], on_grid: bool) -> None:
    want = state[f"{tensor.name}.weight"].detach().float().cpu().numpy()
    got = unpack_matrix(tensor)
    if got.shape != want.shape:
        raise OwledError(f"{tensor.name} was packed as {got.shape}, the model has {want.shape}: not packed")
    if tensor.role in (Role.ATTENTION_NORM, Role.MLP_NORM, Role.QUERY_NORM, Role.KEY_NORM, Role.FINAL_NORM):
        allowed: Any = 0.0
    elif tensor.format.bits <= 8 and not on_grid:
        allowed = STEP[tensor.format.bits] * _largest_of_group(want, tensor.group) + 1e-30
    else:
        allowed = STEP[16] * np.abs(want) + 1e-30
    if not (np.abs(got - want) <= allowed).all():
        raise OwledError(f"{tensor.name} came out of the packed file with other weights than the model's: not packed")
    bias = state.get(f"{tensor.name}.bias")
    if (bias is None) != (tensor.bias is None):
        raise OwledError(f"{tensor.name}: the packed file and the model disagree on its bias: not packed")


def _largest_of_group(weight: np.ndarray, group: int) -> np.ndarray:
    """Return, for every weight (R, K), the largest magnitude of its row's group of columns."""
    rows, columns = weight.shape
    wide = np.zeros((rows, -(-columns // group) * group), np.float32)
    wide[:, :columns] = np.abs(weight)
    largest = wide.reshape(rows, -1, group).max(axis=2)
    return np.repeat(largest, group, axis=1)[:, :columns]


def _check_logits(model: Any, packed: Path, limit: float) -> None:
    embedding = model.get_input_embeddings()
    ids = np.random.default_rng(0).integers(0, embedding.weight.shape[0], TOKENS)
    try:
        with torch.inference_mode(), computing_in_float32(model):
            table = embedding.weight[torch.from_numpy(ids).to(embedding.weight.device)].float()  # (T, C)
            want = model(inputs_embeds=table[None], use_cache=False).logits[0, -1].float().cpu().numpy()  # (V,)
    except LOAD_ERRORS as err:
        raise OwledError(f"the model cannot be run to compare the packed file with it ({err}): not packed") from err
    decoder = SparseDecoder.open(packed)
    try:
        got = decoder.prefill(decoder.new_cache(TOKENS), decoder.embed(ids))
    finally:
        decoder.close()
    distance = float(np.linalg.norm(got - want)) / max(float(np.linalg.norm(want)), 1e-30)
    if not distance <= limit:
        raise OwledError(
            f"the packed decoder's answer is {distance:.2f} away from the model's (at most {limit}): it does not "
            "compute this model, which runs with torch as before"
        )


@contextlib.contextmanager
def computing_in_float32(model: nn.Module) -> Iterator[None]:
    """Let a model with narrow weights compute in float32, one layer's weights widened at a time."""
    handles = []
    kept: dict[nn.Module, dict[str, torch.Tensor]] = {}

    def widen(module: nn.Module, _: Any) -> None:
        own = dict(module.named_parameters(recurse=False))
        kept[module] = {name: parameter.data for name, parameter in own.items()}
        for parameter in own.values():
            parameter.data = parameter.data.float()

    def narrow(module: nn.Module, *_: Any) -> None:
        for name, data in kept.pop(module).items():
            getattr(module, name).data = data

    try:
        for module in model.modules():
            if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
                handles += [module.register_forward_pre_hook(widen), module.register_forward_hook(narrow)]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in list(kept):
            narrow(module)
