"""Write a pruned model as an artifact, and give it back as a plain Hugging Face directory.

Needs transformers and safetensors. The format is docs/artifact.md; reading is in `models.manifest`, given again here.
"""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from owled_ros.errors import OwledError
from owled_ros.files import replace_directory
from owled_ros.models.load import LOAD_ERRORS, ModelSource, quiet
from owled_ros.models.manifest import (
    MANIFEST_NAME,
    Manifest,
    add_section,
    artifact_id,
    file_entry,
    is_artifact,
    read_manifest,
    verify,
    write_manifest,
)
from owled_ros.models.processor import load_processor

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

COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model"}  # tokenizer, processor, templates, our own small files
NOT_COPIED = {"config.json", MANIFEST_NAME, "model.safetensors.index.json"}
SPACE_MARGIN = 1.1


def write_artifact(
    model: nn.Module, source: ModelSource, target: Path, manifest: dict[str, Any], dtype: torch.dtype
) -> Manifest:
    """Write weights, config, tokenizer or processor and manifest aside and rename them to `target` in one step.

    Args:
        manifest: all fields of `Manifest` but `files`.
        dtype: of the written weights; the model is cast in place.

    Raises:
        OwledError: when the disk is full or cannot be written; nothing half-written stays.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    try:
        with quiet(), replace_directory(target) as aside:
            model.save_pretrained(aside)  # type: ignore[operator]
            _copy_companions(source, aside)
            files = {
                path.relative_to(aside).as_posix(): file_entry(path)
                for path in sorted(aside.rglob("*"))
                if path.is_file()
            }
            return write_manifest(aside, Manifest(**manifest, files=files))
    except OSError as err:
        raise OwledError(
            f"cannot write the artifact {target}: {err}; free the disk and run the same command again"
        ) from err


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
            f"{place} has {free / 1e9:.2f} GB free, {needed_bytes * SPACE_MARGIN / 1e9:.2f} GB are needed: free the disk"
        )


def versions() -> dict[str, str]:
    """Return the versions of what decides the bits of an artifact."""
    found = {}
    for name in ("torch", "transformers", "numpy", "safetensors"):
        found[name] = metadata.version(name)
    return found


def _copy_companions(source: ModelSource, aside: Path) -> None:
    """Copy tokenizer, processor and other small files of the base model; make a tokenizer from GGUF."""
    if source.path.suffix == ".gguf":
        try:
            load_processor(source.path).save_pretrained(aside)
        except LOAD_ERRORS as err:
            raise OwledError(f"the tokenizer of {source.path} cannot be written ({err})") from err
        return
    for file in sorted(source.path.iterdir()):
        if file.is_file() and file.suffix in COPIED_SUFFIXES and file.name not in NOT_COPIED:
            shutil.copyfile(file, aside / file.name)
