"""Load a Hugging Face directory, a GGUF file or an artifact as a transformers model, without network and without code.

Needs torch and transformers. Weights come from safetensors or GGUF only; remote code is never trusted; an artifact is
checked against its hashes first. What would be read wrongly in silence (codes of a quantised model, an adapter beside the
weights, half a model) is refused by name.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from owled_ros.devices import free_device_bytes, memory_in_words, resolve_device
from owled_ros.errors import OwledError
from owled_ros.files import sha256_file
from owled_ros.models.adapters import refuse_adapters, refuse_unmerged
from owled_ros.models.gguf import check_gguf, load_gguf, rebuilt
from owled_ros.models.manifest import is_artifact, refuse_lost_manifest, verify
from owled_ros.models.memory import available_bytes
from owled_ros.models.packages import torchvision_works
from owled_ros.models.quantised import check_can_undo, quantisation, scale_beside
from owled_ros.models.weights import FLOATS, Weights, find_weights, read_config

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

LOAD_ERRORS = (
    OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, AttributeError, ArithmeticError, AssertionError,
    SafetensorError, struct.error
)  # fmt: skip
SMALLER = "take a smaller model, or a device with more memory"
UNREAD = "_owled_unread"  # attribute of a loaded model: tensors of its files that transformers has no place for
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Where a model came from: its hash covers the weight files that are read, and nothing that lies beside."""

    path: Path
    sha256: str
    dtype: str  # the narrowest type that holds every stored float exactly
    dtypes: Mapping[str, str] = field(default_factory=dict)  # of each stored float tensor, by its name in the files


def load_model(
    path: Path | str, device: str = "cpu", dtype: str | None = "float32", allow_download: bool = False
) -> PreTrainedModel:
    """Load a model for evaluation.

    Args:
        path: a Hugging Face directory, a *.gguf file, an artifact, or (only with `allow_download`) a hub name.
        device: "auto", "cpu" or a CUDA device (see `devices`).
        dtype: of the weights in memory; None keeps the stored one.

    Raises:
        OwledError: no such model, damaged or changed files, weights that are no numbers, a format that could carry code, an unknown architecture,
            quantised weights that cannot be undone, an adapter, or too little memory.
    """
    torchvision_works()  # a broken one is hidden before transformers finds it
    import torch

    device = resolve_device(device)
    wanted = "auto" if dtype is None else getattr(torch, dtype, None)
    if wanted != "auto" and not (isinstance(wanted, torch.dtype) and wanted.is_floating_point):
        raise OwledError(f"dtype {dtype!r} is not known to torch: expected float32, bfloat16 or float16")
    place = existing(path, allow_download)
    try:
        with quiet():
            if place is not None and place.suffix == ".gguf":
                check_gguf(place)
                model = _load(place, lambda: load_gguf(place, wanted), None)
            else:
                weights = None if place is None else check_directory(place)
                if weights is not None:
                    _check_memory(path, weights, wanted, device)
                model = _load(
                    place or path, lambda: load_directory(str(place or path), wanted, place is not None), weights
                )
        _check_finite(model, path)
        with memory_in_words(f"{path} does not fit into the memory of {device}", device, SMALLER):
            return model.eval().to(device)
    except (MemoryError, torch.OutOfMemoryError) as err:
        raise OwledError(f"{path} does not fit into memory ({err}): {SMALLER}") from err


def _check_finite(model: PreTrainedModel, path: Path | str) -> None:
    """Raise OwledError where a weight is NaN or infinite: some attention kernels make 0 of it, and the answers look right."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel() > 0:
            least, most = weight.detach().aminmax()  # NaN passes through both
            if not (least.isfinite() and most.isfinite()):
                raise OwledError(
                    f"{path}: the weights of {name} hold NaN or infinities as {str(weight.dtype).removeprefix('torch.')}: "
                    "the checkpoint is damaged, or its numbers do not fit into that type"
                )


def source_of(path: Path | str) -> ModelSource:
    """Hash the weight files of a local model and read the types they are stored in."""
    place = existing(path, allow_download=False)
    assert place is not None
    if place.suffix == ".gguf":
        check_gguf(place)
        return ModelSource(place, sha256_file(place), "float32")
    weights = find_weights(place)
    dtypes = {name: FLOATS[tensor.dtype] for name, tensor in weights.tensors.items() if tensor.dtype in FLOATS}
    config = read_config(place) if (place / "config.json").is_file() else {}
    dtype = _configured_dtype(config) if quantisation(config, weights) else weights.dtype
    return ModelSource(place, weights.sha256, dtype, dtypes)


def unread_tensors(model: PreTrainedModel) -> tuple[str, ...]:
    """Name the tensors of a model's files that transformers has no place for, such as a planner's head."""
    return tuple(getattr(model, UNREAD, ()))


def check_model(path: Path | str) -> None:
    """Raise OwledError unless a path is a model that can be read rightly; the weights themselves are not read."""
    place = existing(path, allow_download=False)
    assert place is not None
    if place.suffix == ".gguf":
        check_gguf(place)
    else:
        check_directory(place)


def check_directory(place: Path) -> Weights:
    """Raise OwledError unless a directory is a whole model that can be read rightly; returns its weights."""
    if is_artifact(place):
        verify(place)
    refuse_adapters(place)
    if not (place / "config.json").is_file():
        raise OwledError(f"{place} is not a model: it has neither config.json nor owled.json")
    config = read_config(place)
    refuse_lost_manifest(place, config)
    weights = find_weights(place)
    refuse_unmerged(place, weights.tensors)
    found = quantisation(config, weights)
    if found is not None:
        check_can_undo(place, config, weights, found)
    return weights


def is_vision_language(config: PretrainedConfig) -> bool:
    """Tell whether a config belongs to an image-text-to-text model."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if type(config) not in AutoModelForImageTextToText._model_mapping:
        return False
    return hasattr(config, "vision_config") or type(config) not in AutoModelForCausalLM._model_mapping


def reads_vectors(path: Path | str) -> bool:
    """Tell whether a model directory holds an LlmDriver, which reads objects and routes instead of images."""
    from owled_ros.models.llm_driver import MODEL_TYPE

    place = Path(path)
    return (place / "config.json").is_file() and read_config(place).get("model_type") == MODEL_TYPE


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own progress bars and load reports off the terminal."""
    from transformers.utils import logging as hf_logging

    shown, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if shown:
            hf_logging.enable_progress_bar()


def existing(path: Path | str, allow_download: bool) -> Path | None:
    """Return a local path; None for a hub name that may be downloaded."""
    place = Path(path).expanduser()
    if place.exists():
        return place
    if allow_download:
        return None
    how = ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        how = (
            f". For the hub's model of that name: `hf download {path} --local-dir {place.name}`, then give {place.name}"
        )
    raise OwledError(f"there is no model at {path}: give a local directory or a .gguf file (downloads are off){how}")


def load_config(name: Path | str, **options: Any) -> Any:
    """Read a model's configuration with transformers, which is told of our own class of models first."""
    from transformers import AutoConfig

    from owled_ros.models.llm_driver import register

    register()
    return AutoConfig.from_pretrained(str(name), **options)


def load_directory(name: str, dtype: Any, local: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load with transformers and return the model with its report; nothing is checked here."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    config = load_config(name, **options)
    quantised = getattr(config, "quantization_config", None)
    if isinstance(quantised, dict):
        quantised["dequantize"] = True
    auto = AutoModelForImageTextToText if is_vision_language(config) else AutoModelForCausalLM
    loaded: Any = auto.from_pretrained(
        name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )
    model, info = loaded
    if quantised:
        model = rebuilt(model)
        if dtype != "auto":
            model.to(dtype)  # what was not quantised still has the type of the file
    return model, info


def _load(
    name: Path | str, load: Callable[[], tuple[PreTrainedModel, dict[str, Any]]], weights: Weights | None
) -> PreTrainedModel:
    import torch

    try:
        model, info = load()
    except (OwledError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as err:  # what a configuration makes transformers raise is its own affair
        kind = "GGUF" if weights is None and str(name).endswith(".gguf") else "a transformers model"
        raise OwledError(f"{name} cannot be loaded as {kind} ({type(err).__name__}: {err})") from err
    _check_report(name, info, weights)
    _settle_ties(model)
    setattr(model, UNREAD, tuple(sorted(info["unexpected_keys"])))
    return model


def _check_report(name: Path | str, info: Mapping[str, Any], weights: Weights | None) -> None:
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise OwledError(f"{name} lacks weights for {missing[0]} and {len(missing) - 1} more: the model is incomplete")
    if info.get("error_msgs"):
        raise OwledError(f"{name} cannot be loaded as a transformers model: {info['error_msgs'][0]}")
    unread = sorted(info["unexpected_keys"])
    scale = scale_beside(unread, weights.tensors) if weights is not None else None
    if scale is not None:
        raise OwledError(
            f"{name} is quantised: {scale} scales the weight beside it, and the raw numbers are no weights. Give the model in "
            "16 or 32 bits (the one it was made from)"
        )
    if unread:
        logger.warning("%s: transformers has no place for %s and %d more tensors", name, unread[0], len(unread) - 1)


def _settle_ties(model: PreTrainedModel) -> None:
    """Let the config say of the head what the weights say: a stored head of its own is not tied to the embedding."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(inputs, "weight", None) is None or getattr(outputs, "weight", None) is None:
        return
    for config in (model.config, model.config.get_text_config(decoder=True)):
        if inputs.weight is not outputs.weight and getattr(config, "tie_word_embeddings", False):
            logger.info("the model's output matrix is stored and differs from its embedding: kept, not tied")
            config.tie_word_embeddings = False


def _check_memory(path: Path | str, weights: Weights, dtype: torch.dtype | str, device: str) -> None:
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    needed = sum(
        tensor.size * (sizes.get(tensor.dtype, 2) if isinstance(dtype, str) else dtype.itemsize)
        for tensor in weights.tensors.values()
    )
    for place, free in (("memory", available_bytes()), (f"memory of {device}", free_device_bytes(device))):
        if free is not None and needed > free:
            raise OwledError(
                f"{path} needs {needed / 1e9:.1f} GB of {place} as {str(dtype).removeprefix('torch.')}, {free / 1e9:.1f} GB "
                "are free: close something, or take a machine with more memory or a smaller model"
            )


def _configured_dtype(config: Mapping[str, Any]) -> str:
    """Name the type that a quantised model computes in, as its config tells it."""
    for place in (config, *(part for part in config.values() if isinstance(part, Mapping))):
        found = place.get("dtype") or place.get("torch_dtype")
        if found in ("float32", "bfloat16", "float16"):
            return str(found)
    return "bfloat16"
