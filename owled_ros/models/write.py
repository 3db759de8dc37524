"""Write a changed model the way its source was written, and prove that it loads back. Needs torch, transformers, safetensors.

Every tensor keeps its name and its stored type, whatever the model computed in; tensors that transformers has no place for
are carried over. The caller gives an empty directory aside and renames it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from owled_ros.driving.answers.action_tokens import ActionTokensSpec
from owled_ros.driving.profile import PROFILE_NAME, DrivingProfile, read_profile
from owled_ros.errors import OwledError
from owled_ros.files import replace_directory, write_json
from owled_ros.models.load import LOAD_ERRORS, ModelSource, load_model, quiet, unread_tensors
from owled_ros.models.manifest import MANIFEST_NAME, unmark
from owled_ros.models.processor import load_processor
from owled_ros.models.weights import FLOATS, INDEX, find_weights, read_config, read_header, read_json, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model"}  # tokenizer, processor, templates, our own small files
NOT_COPIED = {
    "config.json", MANIFEST_NAME, "adapter_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json"
}  # fmt: skip
logger = logging.getLogger(__name__)


def write_plain(
    model: PreTrainedModel, source: ModelSource, target: Path, finish: Callable[[Path], None] = lambda aside: None
) -> None:
    """Write a changed model as a plain Hugging Face directory; the model is given up on the way.

    Args:
        finish: changes small files before the directory takes its name.

    Raises:
        OwledError: the disk is full or cannot be written, or another model comes back; nothing half-written stays.
    """
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    try:
        with quiet(), replace_directory(target) as aside:
            expected = digests(model, source)
            save_model(model, source, aside)
            copy_companions(source, aside)
            finish(aside)
            model.to(torch.device("meta"))  # type: ignore[arg-type]
            load_back(aside, "cpu", dtype, expected)
    except (OSError, SafetensorError) as err:
        raise OwledError(f"cannot write {target}: {err}") from err


def save_model(model: PreTrainedModel, source: ModelSource, directory: Path) -> None:
    """Write weights and config; the model may be cast to its stored type on the way.

    Raises:
        OwledError: a weight that is too large for the type it is stored in.
    """
    from transformers import GenerationConfig

    uniform = set(source.dtypes.values()) <= {source.dtype}
    if uniform:
        model.to(getattr(torch, source.dtype))
    if (source.path / "generation_config.json").is_file():
        model.generation_config = (
            GenerationConfig()
        )  # the source's own file is copied; transformers refuses to write some
    model.save_pretrained(directory)
    unmark(directory)  # what an artifact's own configuration says, where one was the source
    for file in weight_files(directory):
        _restore_types(file, source)
    _carry_over(model, source, directory)
    if not uniform:
        _keep_config_type(source, directory)


def copy_companions(source: ModelSource, directory: Path) -> None:
    """Copy tokenizer, processor and other small files of the base model; make a tokenizer from GGUF."""
    if source.path.suffix == ".gguf":
        try:
            load_processor(source.path).save_pretrained(directory)
        except LOAD_ERRORS as err:
            raise OwledError(f"the tokenizer of {source.path} cannot be written ({err})") from err
        return
    for file in sorted(source.path.iterdir()):
        left_out = file.name in NOT_COPIED or file.name.endswith(".index.json")
        if file.is_file() and file.suffix in COPIED_SUFFIXES and not left_out:
            shutil.copyfile(file, directory / file.name)
    if (source.path / PROFILE_NAME).is_file():
        with contextlib.suppress(OwledError):  # a profile that cannot be read names no file; who drives by it is told
            copy_codebook(read_profile(source.path), source.path, directory)


def copy_codebook(profile: DrivingProfile, source: Path, directory: Path) -> None:
    """Copy the file that a profile with action tokens names."""
    name = profile.answer.codebook if isinstance(profile.answer, ActionTokensSpec) else ""
    if name and (source / name).is_file() and not (directory / name).exists():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, directory / name)


def digests(model: PreTrainedModel, source: ModelSource) -> dict[str, set[str]]:
    """Hash every tensor of a model as it must load back: rounded to a type that the source stores, widened again."""
    kinds = sorted({source.dtype, *source.dtypes.values()})
    found: dict[str, set[str]] = {}
    for name, tensor in _floats(model):
        found[name] = {_digest(tensor.to(getattr(torch, kind)).to(tensor.dtype)) for kind in kinds}
    return found


def load_back(directory: Path, device: str, dtype: str, expected: dict[str, set[str]]) -> PreTrainedModel:
    """Load a model that was just written and compare every tensor with what was meant.

    Raises:
        OwledError: it does not load, or holds another model.
    """
    model = load_model(directory, device, dtype)
    found = dict(_floats(model))
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise OwledError(f"what was written has other tensors than the model ({odd[0]}): nothing was kept of it")
    for name, tensor in found.items():
        if _digest(tensor) not in expected[name]:
            raise OwledError(f"{name} did not come back as it was written: nothing was kept of it")
    return model


def _floats(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            yield name, tensor.detach()


def _digest(tensor: torch.Tensor) -> str:
    if tensor.numel() == 0:
        return ""
    data: Any = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data).hexdigest()


def _restore_types(file: Path, source: ModelSource) -> None:
    """Rewrite a file where a tensor has another type than the source stores it in."""
    wanted = {
        name: source.dtypes.get(name, source.dtype)
        for name, tensor in read_header(file).items()
        if tensor.dtype in FLOATS
    }
    have = {name: FLOATS[tensor.dtype] for name, tensor in read_header(file).items() if tensor.dtype in FLOATS}
    if wanted == have:
        return
    tensors = load_file(file)
    for name, kind in wanted.items():
        cast = tensors[name].to(getattr(torch, kind))
        if not bool(cast.isfinite().all()) and bool(tensors[name].isfinite().all()):
            raise OwledError(f"{name} has weights too large for {kind}, in which the model is stored")
        tensors[name] = cast
    _replace(file, tensors)


def _carry_over(model: PreTrainedModel, source: ModelSource, directory: Path) -> None:
    """Add the tensors that transformers has no place for, such as a planner's head, as they were."""
    unread = unread_tensors(model)
    if not unread or source.path.suffix == ".gguf":
        return
    stored = find_weights(source.path).tensors
    extra: dict[str, torch.Tensor] = {}
    for name in unread:
        if name in stored:
            with safe_open(stored[name].file, framework="pt") as stream:
                extra[name] = stream.get_tensor(name)
    if not extra:
        return
    last = weight_files(directory)[-1]
    _replace(last, {**load_file(last), **extra})
    if (directory / INDEX).is_file():
        index = read_json(directory / INDEX, "the index just written")
        index["weight_map"].update(dict.fromkeys(extra, last.name))
        write_json(directory / INDEX, index)
    logger.warning("%d tensors that transformers does not read were carried over as they are, not pruned", len(extra))


def _replace(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    aside = file.with_name(f".{file.name}.new")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, {"format": "pt"})
    aside.replace(file)


def _keep_config_type(source: ModelSource, directory: Path) -> None:
    """Let the config name the type that the source's names: it is the type in which such a model is loaded."""
    given = read_config(source.path)
    config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    config["dtype"] = given.get("dtype") or given.get("torch_dtype") or source.dtype
    write_json(directory / "config.json", config)
