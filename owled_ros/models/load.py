"""Load a Hugging Face directory, a GGUF file or an artifact as a transformers model, without network and without code.

Needs torch and transformers. Weights come from safetensors or GGUF only; remote code is never trusted; an artifact is
checked against its hashes first.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from owled_ros.errors import OwledError
from owled_ros.files import sha256_file
from owled_ros.models.manifest import is_artifact, verify

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LOAD_ERRORS = (
    OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, AttributeError, SafetensorError, struct.error
)  # fmt: skip
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Where a model came from: its hash covers the weight files, `dtype` is the one it is stored in."""

    path: Path
    sha256: str
    dtype: str


def load_model(
    path: Path | str, device: str = "cpu", dtype: str | None = "float32", allow_download: bool = False
) -> PreTrainedModel:
    """Load a model for evaluation.

    Args:
        path: a Hugging Face directory, a *.gguf file, an artifact, or (only with `allow_download`) a hub name.
        dtype: of the weights in memory; None keeps the stored one.

    Raises:
        OwledError: no such model, damaged or changed files, a format that could carry code, an unknown architecture.
    """
    import torch

    wanted = "auto" if dtype is None else getattr(torch, dtype, None)
    if wanted is None or (device.startswith("cuda") and not torch.cuda.is_available()):
        raise OwledError(f"cannot load to dtype {dtype} on device {device}: not known to torch here")
    place = _existing(path, allow_download)
    with quiet():
        if place is not None and place.suffix == ".gguf":
            model = _load_gguf(place, wanted)
        else:
            if place is not None:
                _check_directory(place)
            model = _load_directory(str(place or path), wanted, local=place is not None)
    return model.eval().to(device)


def load_processor(path: Path | str, allow_download: bool = False) -> Any:
    """Load the processor of a vision-language model, or the tokenizer of a language model or GGUF file."""
    from transformers import AutoProcessor, AutoTokenizer

    place = _existing(path, allow_download)
    options: dict[str, Any] = {"local_files_only": place is not None, "trust_remote_code": False}
    try:
        if place is not None and place.suffix == ".gguf":
            return AutoTokenizer.from_pretrained(str(place.parent), gguf_file=place.name, **options)
        try:
            return AutoProcessor.from_pretrained(str(place or path), **options)
        except LOAD_ERRORS:
            return AutoTokenizer.from_pretrained(str(place or path), **options)
    except LOAD_ERRORS as err:
        raise OwledError(f"no tokenizer or processor can be loaded from {path} ({err})") from err


def source_of(path: Path | str) -> ModelSource:
    """Hash the weight files of a local model and read the dtype they are stored in."""
    place = _existing(path, allow_download=False)
    assert place is not None
    if place.suffix == ".gguf":
        return ModelSource(place, sha256_file(place), "float32")
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise OwledError(f"{place} holds no safetensors weights: convert the model with save_pretrained first")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{sha256_file(file)}\n".encode())
    return ModelSource(place, digest.hexdigest(), _stored_dtype(files[0]))


def is_vision_language(config: PretrainedConfig) -> bool:
    """Tell whether a config belongs to an image-text-to-text model."""
    from transformers import AutoModelForImageTextToText

    return type(config) in AutoModelForImageTextToText._model_mapping and hasattr(config, "vision_config")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars off the terminal."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _existing(path: Path | str, allow_download: bool) -> Path | None:
    place = Path(path).expanduser()
    if place.exists():
        return place
    if not allow_download:
        raise OwledError(f"there is no model at {path}: give a local directory or a .gguf file (downloads are off)")
    return None


def _check_directory(place: Path) -> None:
    if is_artifact(place):
        verify(place)
    elif not (place / "config.json").is_file():
        raise OwledError(f"{place} is not a model: it has neither config.json nor owled.json")


def _load_directory(name: str, dtype: Any, local: bool) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(name, **options)
        auto = AutoModelForImageTextToText if is_vision_language(config) else AutoModelForCausalLM
        loaded: Any = auto.from_pretrained(
            name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        model, info = loaded
    except LOAD_ERRORS as err:
        raise OwledError(f"{name} cannot be loaded as a transformers model ({type(err).__name__}: {err})") from err
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise OwledError(f"{name} lacks weights for {missing[0]} and {len(missing) - 1} more: the model is incomplete")
    return model


def _load_gguf(place: Path, dtype: Any) -> PreTrainedModel:
    """Load and rebuild: transformers refuses to save what came from GGUF."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(place.parent),
            gguf_file=place.name,
            dtype=torch.float32 if dtype == "auto" else dtype,
            local_files_only=True,
        )
    except LOAD_ERRORS as err:
        raise OwledError(f"{place} cannot be loaded as GGUF ({type(err).__name__}: {err})") from err
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


def _stored_dtype(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stream:
        names = {stream.get_slice(key).get_dtype() for key in stream.keys()}  # noqa: SIM118 (not a dict)
    known = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return next((known[name] for name in ("F32", "BF16", "F16") if name in names), "float32")
