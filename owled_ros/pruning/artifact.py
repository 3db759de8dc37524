"""Write a pruned model as an artifact, and give it back as a plain Hugging Face directory.

Needs transformers and safetensors. The format is docs/artifact.md; reading is in `models.manifest`, given again here.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from owled_ros.driving.profile import PROFILE_NAME, profile_text, read_profile
from owled_ros.errors import OwledError
from owled_ros.files import replace_directory, write_atomic
from owled_ros.models.grid import StoredGrid, write_grid
from owled_ros.models.load import ModelSource, quiet
from owled_ros.models.manifest import (
    Manifest,
    add_section,
    artifact_id,
    file_entry,
    is_artifact,
    mark,
    read_manifest,
    unmark,
    verify,
    write_manifest,
)
from owled_ros.models.write import copy_companions, digests, load_back, save_model
from owled_ros.pruning.config import Batch
from owled_ros.pruning.passes import LABEL_KEYS, in_words, to_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "Manifest",
    "add_section",
    "artifact_id",
    "export",
    "is_artifact",
    "read_manifest",
    "verify",
    "versions",
    "write_artifact",
]

MAX_SOURCE = 500  # characters of a calibration's source
SPACE_MARGIN = 1.1
LOGITS = 0.1  # distance over length that rounding to the stored types explains; another model's are about 1.4 away
logger = logging.getLogger(__name__)


def write_artifact(
    model: PreTrainedModel,
    source: ModelSource,
    target: Path,
    describe: Callable[[PreTrainedModel], dict[str, Any]],
    device: str = "cpu",
    probe: Batch | None = None,
    grid: StoredGrid | None = None,
    finish: Callable[[Path], None] = lambda aside: None,
) -> Manifest:
    """Write weights, config, tokenizer or processor and manifest aside, load them back, and rename them to `target`.

    The model is given up on the way, so that only one is in memory at a time.

    Args:
        describe: returns all fields of `Manifest` but `files`, of the model as it was loaded back.
        probe: a batch on which the model that is loaded back must answer like the one that was written.
        grid: the scales of rounded weights, written beside them.
        finish: changes small files before they are hashed.

    Raises:
        OwledError: when the disk is full or cannot be written, or another model comes back; nothing half-written stays.
    """
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    try:
        with quiet(), replace_directory(target) as aside:
            expected, answer = digests(model, source), None if probe is None else last_logits(model, probe)
            save_model(model, source, aside)
            copy_companions(source, aside)
            disown_calibration(aside)
            if grid is not None:
                write_grid(aside, grid)
            finish(aside)
            model.to(torch.device("meta"))  # type: ignore[arg-type]
            again = load_back(aside, device, dtype, expected)
            if probe is not None and answer is not None:
                _check_answer(answer, last_logits(again, probe))
            mark(aside)
            files = {
                path.relative_to(aside).as_posix(): file_entry(path)
                for path in sorted(aside.rglob("*"))
                if path.is_file()
            }
            return write_manifest(aside, Manifest(**describe(again), files=files))
    except (OSError, SafetensorError) as err:
        raise OwledError(
            f"cannot write the artifact {target}: {err}; free some disk space and run the same command again"
        ) from err


def disown_calibration(directory: Path) -> None:
    """Say in a copied driving profile that its confidence was fitted before pruning; slope and floor stay as the best guess."""
    profile_file = directory / PROFILE_NAME
    if not profile_file.is_file():
        return
    try:
        profile = read_profile(directory)
    except OwledError as error:  # an hour of pruning is not lost for it: whoever drives is told again
        logger.warning("%s", error)
        return
    if not profile.confidence.calibrated:
        return
    before = f" ({profile.confidence.source})" if profile.confidence.source else ""
    source = f"calibrated before pruning{before}: fit it again with owled calibrate"[:MAX_SOURCE]
    confidence = replace(profile.confidence, calibrated=False, source=source)
    write_atomic(profile_file, profile_text(profile.model_copy(update={"confidence": confidence})))


def last_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the logits after a batch's last tokens (B, V)."""
    parameter = next(model.parameters())
    inputs = to_device(
        {key: value for key, value in batch.items() if key not in LABEL_KEYS}, parameter.device, parameter.dtype
    )
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    with torch.no_grad(), in_words("the calibration"):
        logits: torch.Tensor = model(**inputs).logits[:, -1]
    return logits.float().cpu()


def _check_answer(before: torch.Tensor, after: torch.Tensor) -> None:
    distance = float((after - before).norm()) / max(float(before.norm()), 1e-30)
    if not distance <= LOGITS:
        raise OwledError(f"the model loaded back answers otherwise ({distance:.2f} away): nothing was kept of it")


def export(artifact: Path, target: Path) -> None:
    """Copy a verified artifact's model to a plain Hugging Face directory, dense with zeros, bit by bit."""
    manifest = verify(artifact)
    if target.exists():
        raise OwledError(f"{target} exists already: choose another directory")
    try:
        with replace_directory(target) as aside:
            for name in manifest.files:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact / name, aside / name)
            unmark(aside)
    except OSError as err:
        raise OwledError(f"cannot write {target}: {err}") from err


def check_space(target: Path, needed_bytes: int) -> None:
    """Raise OwledError when the disk of `target` has less than `needed_bytes` and a margin."""
    place = target.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed_bytes * SPACE_MARGIN:
        raise OwledError(
            f"{place} has {free / 1e9:.2f} GB free, {needed_bytes * SPACE_MARGIN / 1e9:.2f} GB are needed: free some disk space"
        )


def versions() -> dict[str, str]:
    """Return the versions of what decides the bits of an artifact."""
    found = {}
    for name in ("torch", "transformers", "numpy", "safetensors"):
        found[name] = metadata.version(name)
    return found
