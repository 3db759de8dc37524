"""GGUF files as transformers models. Needs torch, transformers and the gguf package (optional)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.errors import OwledError
from owled_ros.models.weights import refuse_pages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def check_gguf(file: Path) -> None:
    """Raise OwledError when a .gguf file is another kind of file, one part of several, or cannot be read here."""
    if PART.search(file.name):
        raise OwledError(
            f"{file} is one part of a split GGUF file: join the parts first (llama.cpp: gguf-split --merge)"
        )
    try:
        with open(file, "rb") as stream:
            head = stream.read(64)
    except OSError as err:
        raise OwledError(f"{file} cannot be read: {err}") from err
    refuse_pages(file, head)
    if not head.startswith(b"GGUF"):
        raise OwledError(f"{file} is no GGUF file: it does not start with GGUF, download it again")


def load_gguf(place: Path, dtype: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load with transformers, which turns every GGUF code into a plain number; returns the model with its report."""
    import torch
    from transformers import AutoModelForCausalLM

    if importlib.util.find_spec("gguf") is None:
        raise OwledError(f"{place} is a GGUF file, which needs the gguf package: pip install gguf")
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(place.parent),
        gguf_file=place.name,
        dtype=torch.float32 if dtype == "auto" else dtype,
        local_files_only=True,
        output_loading_info=True,
    )
    model, info = loaded
    return rebuilt(model), info


def rebuilt(loaded: PreTrainedModel) -> PreTrainedModel:
    """Make a plain model of one that remembers how it was quantised: transformers refuses to save that."""
    import torch

    config = loaded.config
    for trace in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, trace):
            delattr(config, trace)
    with torch.device("meta"):
        model = type(loaded)(config)
    buffers = dict(loaded.named_buffers())
    model.load_state_dict(loaded.state_dict(), assign=True)
    for name, buffer in buffers.items():
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner)._buffers[last] = buffer
    model.tie_weights()
    return model
