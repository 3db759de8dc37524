"""LoRA adapters: named where they lie, never left out in silence, and merged into their base on request.

Finding needs nothing; merging needs the peft package (optional).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.models.weights import read_header, read_json

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
FILES = (CONFIG_NAME, WEIGHTS_NAME, "adapter_model.bin")
MARKS = ("lora_", ".base_layer.", "base_model.model.", ".modules_to_save.", ".ia3_", ".oft_", ".hada_", ".vera_")
HOW = "`owled merge-adapter BASE ADAPTER OUTPUT` writes the merged model, which every command takes"
logger = logging.getLogger(__name__)


def refuse_adapters(directory: Path) -> None:
    """Raise OwledError when a directory is an adapter or has one beside its weights."""
    here = [name for name in FILES if (directory / name).exists()]
    if here and not (directory / "config.json").is_file():
        base = _base_name(directory)
        raise OwledError(f"{directory} is not a model but a LoRA adapter{f' for {base}' if base else ''}: {HOW}")
    if here:
        raise OwledError(
            f"{directory} holds a model and the adapter {here[0]}: there is no way to tell whether the adapter belongs to it. "
            f"{HOW}; to take the model without it, move {' and '.join(here)} elsewhere"
        )
    below = sorted(path.parent.name for path in directory.glob(f"*/{CONFIG_NAME}"))
    if below:
        logger.warning(
            "%s has adapters in %s: they are not part of the model that is loaded", directory, ", ".join(below)
        )


def refuse_unmerged(directory: Path, names: Iterable[str]) -> None:
    """Raise OwledError when a checkpoint holds a base and its adapter as separate tensors."""
    found = next((name for name in names if any(mark in name for mark in MARKS)), None)
    if found is not None:
        raise OwledError(
            f"{directory} holds unmerged adapter weights ({found}): they would be left out. Merge them where they were trained "
            "(peft: merge_and_unload, then save_pretrained)"
        )


def merge_adapter(base: Any, adapter: Path) -> Any:
    """Merge a LoRA adapter into a loaded model with peft and return the plain model.

    Raises:
        OwledError: no peft, no safetensors adapter, or one that does not fit the model in every tensor.
    """
    if importlib.util.find_spec("peft") is None:
        raise OwledError("merging an adapter needs the peft package: pip install peft")
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file

    settings = read_json(adapter / CONFIG_NAME, "the settings of a LoRA adapter")
    if not (adapter / WEIGHTS_NAME).is_file():
        raise OwledError(f"{adapter} has no {WEIGHTS_NAME}: pickled adapters are refused, save it again with peft")
    read_header(adapter / WEIGHTS_NAME)
    stored = load_file(adapter / WEIGHTS_NAME)
    try:
        wrapped = PeftModel.from_pretrained(base, str(adapter), local_files_only=True)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, AttributeError, ImportError) as err:
        raise OwledError(f"{adapter} does not fit the model ({type(err).__name__}: {err})") from err
    loaded = get_peft_model_state_dict(wrapped)
    for name, tensor in stored.items():
        if name not in loaded or not torch.equal(loaded[name].float().cpu(), tensor.float()):
            raise OwledError(
                f"{adapter} holds {name}, which has no place in this model: it was trained on "
                f"{settings.get('base_model_name_or_path') or 'another one'}"
            )
    return wrapped.merge_and_unload(safe_merge=True)


def _base_name(directory: Path) -> str:
    try:
        return str(read_json(directory / CONFIG_NAME, "adapter settings").get("base_model_name_or_path") or "")
    except OwledError:
        return ""
