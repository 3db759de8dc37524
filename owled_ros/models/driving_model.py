"""Load a model directory or an owled artifact as a driving engine. Needs torch and transformers, both imported late."""

from __future__ import annotations

import hashlib
import importlib.resources
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.compute_type import SPARSE_GOALS, fast_dtype
from owled_ros.devices import AUTO, resolve_device
from owled_ros.driving.familiarity import FILE_NAME as FAMILIARITY_NAME
from owled_ros.driving.familiarity import read_familiarity
from owled_ros.driving.prediction import ModelIdentity
from owled_ros.driving.profile import PROFILE_NAME, DrivingProfile, read_profile
from owled_ros.errors import OwledError
from owled_ros.files import sha256_file
from owled_ros.models.manifest import artifact_id, is_artifact, read_manifest
from owled_ros.models.weights import find_weights, weight_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from owled_ros.models.chat import TextRunner
    from owled_ros.models.engine import VlmEngine

    Neighbours = Mapping[int, np.ndarray]  # tokens whose number is next to that of a token

logger = logging.getLogger(__name__)
BUNDLED, TURNING = "mini", "mini-turns"
NAMED = {  # models that come with the package: directory below share/
    BUNDLED: "mini",
    TURNING: "mini_turns",
    "llm-driver": "llm_driver",
}
SHORT_HASH = 12  # hex digits
WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}  # [bytes]
INT8 = "int8"  # weights; products in the device's fast type
ON_CUDA = (INT8, *SPARSE_GOALS)  # forms of the weights; the type is "auto"
DTYPES = ("auto", "float32", "bfloat16", "float16", *ON_CUDA)


def bundled_model() -> Path:
    """Return the directory of the demonstration model that comes with the package."""
    return place_of_model(BUNDLED)


def place_of_model(name: str) -> Path:
    """Return the directory of a model that comes with the package, by its name, or of the path that `name` is."""
    if name not in NAMED:
        return Path(name).expanduser()
    return Path(str(importlib.resources.files("owled_ros"))) / "share" / NAMED[name]


def resolve_model(path: str | Path | None) -> Path:
    """Return a model directory; empty or "mini" means the bundled model; "mini-turns" and "llm-driver" are bundled too.

    Raises:
        OwledError: it cannot be one.
    """
    directory = place_of_model(str(path or BUNDLED))
    if not directory.is_dir():
        raise OwledError(
            f"model directory {directory} does not exist; give the path of a Hugging Face model or an owled artifact"
        )
    if not (directory / "config.json").is_file():
        raise OwledError(
            f"{directory} has no config.json; expected a Hugging Face model directory or an owled artifact"
        )
    return directory


def load_engine(
    path: str | Path | None,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 1,
    runtime: str = "auto",
    decoding: str = "auto",
    profile: DrivingProfile | None = None,
) -> VlmEngine:
    """Load a model and its processor from local files and make it ready to drive.

    Args:
        path: Hugging Face image-text-to-text directory or owled artifact; None for the bundled model.
        device: "auto", "cpu" or a CUDA device (see `devices`); "auto" is the CPU for the sparse runtime.
        dtype: one of DTYPES, for the torch parts; "auto" is bfloat16 where the hardware multiplies it, float32 elsewhere;
            "int8" is "auto" with the language model's weights as int8, on CUDA only, with what became of it in `facts`;
            so are SPARSE_GOALS, with zeros left out where that suits the goal.
        threads: CPU threads of this process for inference.
        runtime: "torch", "sparse" (needs a packed artifact) or "auto" (sparse on the CPU where packed).
        decoding: "fixed" runs a token over buffers of fixed size, on CUDA as a captured graph; "growing" launches every token
            anew; "auto" is fixed on CUDA. A family that cannot be run fixed grows, with the reason in `facts`.
        profile: how it is asked; None: as its own driving.json says.

    Raises OwledError with the original cause when anything is missing, of another kind or damaged.
    """
    directory = resolve_model(path)
    _check_arguments(dtype, threads, runtime)
    device = resolve_device("cpu" if runtime == "sparse" and device == AUTO else device)
    import torch

    from owled_ros.models.load import load_model

    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    profile = profile or read_profile(directory)
    form = dtype if dtype in ON_CUDA else ""
    if form and not device.startswith("cuda"):
        raise OwledError(
            f"dtype {form!r} is for CUDA, the device is {device}; on the CPU `owled pack` makes int8 weights"
        )
    dtype = fast_dtype(device) if dtype == "auto" or form else dtype
    if device.startswith("cuda") and dtype == "float32":
        torch.backends.cudnn.allow_tf32 = False  # who asks for float32 gets it: else patches are embedded in 10 bits
    model = load_model(directory, device=device, dtype=dtype)

    def make(neighbours: Neighbours) -> tuple[TextRunner, dict[str, Any]]:
        runner, facts = _make_runner(directory, model, device, dtype, threads, runtime, decoding, neighbours)
        return runner, {**facts, "weights": _put_form(model, device, dtype, form)} if form else facts

    engine = make_engine(directory, model, profile, make, dtype)
    logger.info("loaded %s: %s", directory, engine.facts)
    return engine


def make_engine(
    directory: Path,
    model: Any,
    profile: DrivingProfile,
    make_runner: Callable[[Neighbours], tuple[TextRunner, dict[str, Any]]],
    dtype: str,
) -> VlmEngine:
    """Put the engine around a loaded model, and try whether it can be asked.

    Args:
        make_runner: gives what runs the model, and the facts about it; is told which tokens write neighbouring numbers.
        dtype: that it computes in.
    """
    from owled_ros.driving.asking import made_up_frame
    from owled_ros.driving.confidence import number_neighbours
    from owled_ros.models.chat import Chat
    from owled_ros.models.decoding import Decoding
    from owled_ros.models.engine import VlmEngine
    from owled_ros.models.load import is_vision_language
    from owled_ros.models.processor import load_processor
    from owled_ros.models.prompt import Prompter
    from owled_ros.models.runners import TorchRunner
    from owled_ros.models.trial import image_noise, refuse_family, scene_noise, try_out

    if not is_vision_language(model.config):
        raise OwledError(
            f"{directory} holds a {model.config.model_type} model; expected an image-text-to-text model that sees images"
        )
    refuse_family(model)
    processor = load_processor(directory)
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "image_processor", None) is None:
        raise OwledError(
            f"{directory} has no image processor or tokenizer; expected the files that save_pretrained writes for both"
        )
    family, prompter = model.config.model_type, Prompter(processor, model.config)
    rules = Decoding(model.config, model.generation_config, processor.tokenizer)
    kind = profile.kind(directory)
    neighbours = number_neighbours(processor.tokenizer.get_vocab())
    runner, facts = make_runner(neighbours)
    if kind.needs_hidden:
        runner.keep_hidden()
    chat = Chat(runner, prompter, rules, neighbours)
    engine = VlmEngine(chat, profile, kind, identify(directory), facts, read_familiarity(directory))
    try:
        asked = engine.first_conversation(made_up_frame(profile))
        noise = image_noise if profile.vectors is None else scene_noise
        try_out(chat, asked, family, dtype if facts["runtime"] == "torch" else "packed", noise)
    except BaseException:
        engine.close()
        raise
    if isinstance(runner, TorchRunner):
        engine.facts = {**facts, "decoding": runner.decoding}
    return engine


def identify(directory: Path) -> ModelIdentity:
    """Name a model by its directory and a hash over its weights and profile; an artifact also by its manifest."""
    digest = hashlib.sha256()
    weights = [*weight_files(directory), *sorted(directory.glob("*.owled"))]
    for file in [*weights, directory / PROFILE_NAME, directory / FAMILIARITY_NAME]:
        if file.is_file():
            digest.update(sha256_file(file).encode())
    pruned_id = artifact_id(read_manifest(directory)) if is_artifact(directory) else ""
    return ModelIdentity(f"{directory.resolve().name}@{digest.hexdigest()[:SHORT_HASH]}", pruned_id)


def _put_form(model: Any, device: str, dtype: str, form: str) -> str:
    """Bring a loaded model's weights into the form that was asked for; says in words what they are then."""
    from owled_ros.models.int8_weights import put_int8_or_say_why
    from owled_ros.models.sparse_weights import put_sparse_or_say_why

    if form == INT8:
        return put_int8_or_say_why(model, device, dtype)
    return put_sparse_or_say_why(model, device, dtype, form)


def _check_arguments(dtype: str, threads: int, runtime: str) -> None:
    if dtype not in DTYPES:
        raise OwledError(f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}")
    if threads < 1:
        raise OwledError(f"threads is {threads}; expected at least 1")
    if runtime not in ("auto", "torch", "sparse"):
        raise OwledError(f"runtime {runtime!r} is not known; expected auto, torch or sparse")


def _make_runner(
    directory: Path,
    model: Any,
    device: str,
    dtype: str,
    threads: int,
    runtime: str,
    decoding: str,
    neighbours: Neighbours,
) -> tuple[TextRunner, dict[str, Any]]:
    import torch

    from owled_ros.models.packed_weights import packed_weights
    from owled_ros.models.runners import TorchRunner

    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "parameters": parameters,
        "disk_bytes": sum(file.stat().st_size for file in weight_files(directory)),  # of the weights that are run
    }
    packed = packed_weights(directory) if runtime != "torch" and device == "cpu" else None
    if runtime == "sparse" and packed is None:
        raise OwledError(
            f"runtime 'sparse' needs packed weights and device cpu; make the file with `owled pack {directory}`"
        )
    if packed is None:
        runner = TorchRunner(model, device, getattr(torch, dtype), neighbours, decoding)
        return runner, {**facts, "runtime": "torch", "kernel": "torch"}
    from owled_ros.models.sparse_runner import SparseRunner

    sparse = SparseRunner(model, packed, getattr(torch, dtype), threads)
    zeros = 1.0 - sparse.facts.nonzeros / max(sparse.facts.weights, 1)
    beside = sparse.torch_parameters * WIDTHS[find_weights(directory).dtype]
    sizes = {
        "disk_bytes": packed.stat().st_size + beside, "step_bytes": sparse.facts.step_bytes, "zeros": round(zeros, 4), "packed_vision_layers": sparse.packed_layers
    }  # fmt: skip
    return sparse, {**facts, "runtime": "sparse", "kernel": sparse.facts.kernel, **sizes}
