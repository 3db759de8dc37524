"""`owled.json`, the manifest of an artifact: read it, check every file against it, name the artifact. Needs pydantic.

Format 1: see docs/artifact.md. Nothing in an artifact is executed or unpickled, and no path leaves its directory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from owled_ros.errors import OwledError
from owled_ros.files import ASIDE, read_small_file, sha256_file, write_atomic

MANIFEST_NAME = "owled.json"
CONFIG_NAME = "config.json"
FORMAT_VERSION = 1
MARK = "owled_artifact"  # key of config.json: this is an artifact, and without its manifest nothing
ID_LENGTH = 12
REFUSED_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".py", ".so", ".ckpt", ".h5", ".msgpack"}
UNREAD_SUFFIXES = {".owled", ".md", ".png", ".html", ".log"}
MAX_MANIFEST_BYTES = 256 << 20
LATER_SECTIONS = ("packed", "gate", "confidence", "cost")  # added after pruning; no part of the artifact's identity
FITTED_FILES = ("driving.json", "familiarity.json")  # that calibration may rewrite
UNIDENTIFIED = ("self_sha256", "fallbacks", "timings", "quality", "created", "versions", *LATER_SECTIONS)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Section):
    """One file of the artifact, by its name inside the directory."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class BaseModelEntry(_Section):
    """The model that was pruned: `sha256` covers its weight files, `parameters` counts all its weights."""

    name: str
    sha256: str
    architecture: str
    parameters: int


class MethodEntry(_Section):
    """How it was pruned; `settings` holds every value of the configuration."""

    score: str
    allocation: str
    statistics: str
    pattern: str
    lod_threshold: float
    owl_lambda: float
    seed: int
    settings: dict[str, Any]


class BlockEntry(_Section):
    """One block: prunable parameters, zeros among them, its share, its LOD [%], and the share per matrix kind."""

    name: str
    component: str
    parameters: int
    zeros: int
    sparsity: float = Field(ge=0, le=1)
    lod_percent: float | None
    matrices: dict[str, float]


class Manifest(_Section):
    """The whole of `owled.json`."""

    format: Literal["owled"]
    format_version: int
    created: str
    base: BaseModelEntry
    method: MethodEntry
    sparsity: float = Field(ge=0, le=1)  # zeros over prunable parameters
    blocks: list[BlockEntry]
    skipped: dict[str, str]  # layers left dense, and why
    fallbacks: dict[str, str] = {}  # matrices pruned otherwise than by the score, and how
    calibration: list[dict[str, Any]]
    calibration_sha256: str
    quality: dict[str, Any]
    timings: dict[str, float]  # [s] by stage, and peak memory [bytes]
    versions: dict[str, str]
    files: dict[str, FileEntry]
    tuning: dict[str, Any] | None = (
        None  # what the kept weights learned from afterwards (owled tune); left out where nothing
    )
    packed: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    confidence: dict[str, Any] | None = None  # of `owled calibrate`; its `files` replace those of the same name
    cost: dict[str, Any] | None = None  # dense, pruned and packed side by side on the machine that pruned it
    self_sha256: str = ""


def is_artifact(path: Path) -> bool:
    """Tell whether a directory carries a manifest."""
    return (path / MANIFEST_NAME).is_file()


def mark(directory: Path) -> None:
    """Let config.json say that the directory is an artifact, so that it is none any more when its manifest is gone."""
    config = json.loads((directory / CONFIG_NAME).read_bytes())
    _write_config(directory, {**config, MARK: FORMAT_VERSION})


def unmark(directory: Path) -> None:
    """Let config.json be that of a plain model."""
    config = json.loads((directory / CONFIG_NAME).read_bytes())
    if config.pop(MARK, None) is not None:
        _write_config(directory, config)


def refuse_lost_manifest(path: Path, config: Mapping[str, Any]) -> None:
    """Raise OwledError for a directory whose config.json says that it is an artifact, and that has no manifest."""
    if MARK in config and not is_artifact(path):
        raise OwledError(
            f"{path} is an artifact (config.json says {MARK}) whose {MANIFEST_NAME} is gone: nothing proves its files any more. "
            f"Restore {MANIFEST_NAME} or copy the artifact again; `owled export` makes a plain model of one"
        )


def read_manifest(path: Path) -> Manifest:
    """Read and check the manifest of an artifact directory; the files it lists are not touched (see `verify`).

    Raises:
        OwledError: missing, unreadable, of an unknown format version, or edited by hand.
    """
    file = path / MANIFEST_NAME
    if file.is_symlink() or not file.is_file():
        raise OwledError(f"{path} is not an artifact: it has no {MANIFEST_NAME}")
    try:
        content = json.loads(read_small_file(file, MAX_MANIFEST_BYTES) or b"")
    except (ValueError, OSError, RecursionError) as err:
        raise OwledError(f"{file} cannot be read as JSON ({err}): the artifact is damaged, prune again") from err
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise OwledError(
            f"{file} has format version {version!r}, this release reads {FORMAT_VERSION}: use a matching release"
        )
    try:
        manifest = Manifest.model_validate(content)
        own = _self_hash(content)
    except ValidationError as err:
        raise OwledError(f"{file} is not a valid manifest: {err.errors()[0]['loc']}: {err.errors()[0]['msg']}") from err
    except ValueError as err:  # an infinity, which Python reads and JSON does not know
        raise OwledError(f"{file} is not a valid manifest: {err}; prune again or restore the file") from err
    if manifest.self_sha256 != own:
        raise OwledError(
            f"{file} was changed after it was written: its own hash does not fit. Prune again or restore the file"
        )
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> Manifest:
    """Write a manifest with its own hash in one step; returns what was written."""
    content = _content(manifest)
    content["self_sha256"] = _self_hash(content)
    write_atomic(path / MANIFEST_NAME, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return Manifest.model_validate(content)


def add_section(path: Path, name: str, content: dict[str, Any]) -> Manifest:
    """Add or replace a later section (see LATER_SECTIONS) of a finished artifact's manifest, in one step."""
    if name not in LATER_SECTIONS:
        raise OwledError(f"section {name!r} cannot be added to a manifest; known: {', '.join(LATER_SECTIONS)}")
    return write_manifest(path, read_manifest(path).model_copy(update={name: content}))


def verify(path: Path) -> Manifest:
    """Check every file of an artifact against its manifest and return the manifest.

    Raises:
        OwledError: a missing, changed, unlisted, linked or refused file, or a name that leaves the directory.
    """
    manifest = read_manifest(path)
    listed = _all_files(manifest)
    for child in path.rglob("*"):
        name = child.relative_to(path).as_posix()
        if child.is_symlink():
            raise OwledError(
                f"{path} holds a symbolic link ({name}): artifacts must be plain files, copy it with links followed"
            )
        if child.suffix in REFUSED_SUFFIXES:
            raise OwledError(f"{path} holds {name}: files that can carry code are refused, remove it")
        if child.is_file() and name not in listed and not _is_harmless(name):
            raise OwledError(f"{path} holds {name}, which its manifest does not list: remove it or prune again")
    for name, entry in listed.items():
        _check_file(path, name, entry)
    return manifest


def _is_harmless(name: str) -> bool:
    """Tell whether an unlisted file may lie there: nothing that is read when the model is loaded, asked or judged.

    Packed weights that the manifest does not name are such a file: they are never opened (models.packed_weights).
    """
    return name == MANIFEST_NAME or ASIDE in name or Path(name).suffix in UNREAD_SUFFIXES


def artifact_id(manifest: Manifest) -> str:
    """Name an artifact by what it is: the same model, method and calibration give the same 12 hex digits."""
    content = _content(manifest)
    for key in UNIDENTIFIED:
        content.pop(key, None)
    return hashlib.sha256(_canonical(content)).hexdigest()[:ID_LENGTH]


def file_entry(path: Path) -> FileEntry:
    """Hash and measure one file."""
    return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)


def _all_files(manifest: Manifest) -> dict[str, FileEntry]:
    files = dict(manifest.files)
    packed = manifest.packed
    if packed is not None:
        try:
            files[str(packed["file"])] = FileEntry(sha256=packed["sha256"], bytes=packed["bytes"])
        except (KeyError, ValidationError) as err:
            raise OwledError(
                "the manifest's packed section lacks file, sha256 or bytes: pack the artifact again"
            ) from err
    if manifest.confidence is not None:
        try:
            fitted = dict(manifest.confidence["files"])
            files |= {name: FileEntry.model_validate(fitted[name]) for name in FITTED_FILES if name in fitted}
        except (KeyError, TypeError, ValueError) as err:
            raise OwledError("the manifest's confidence section lacks its files: calibrate the artifact again") from err
    return files


def _check_file(path: Path, name: str, entry: FileEntry) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise OwledError(f"the manifest of {path} names {name!r}, which lies outside the artifact: refused")
    file = path / pure
    if not file.is_file():
        raise OwledError(f"{path} lacks {name}: the artifact is incomplete, copy it again")
    if file.stat().st_size != entry.bytes or sha256_file(file) != entry.sha256:
        raise OwledError(f"{file} does not match its hash in the manifest: the artifact is damaged, copy it again")


def _write_config(directory: Path, config: Mapping[str, Any]) -> None:
    write_atomic(directory / CONFIG_NAME, json.dumps(config, indent=2) + "\n")  # infinities as transformers writes them


def _content(manifest: Manifest) -> dict[str, Any]:
    """Return what is written: an artifact that was not tuned says nothing of it, as before there was tuning."""
    content = manifest.model_dump(mode="json")
    if manifest.tuning is None:
        del content["tuning"]
    return content


def _self_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical({**content, "self_sha256": ""})).hexdigest()


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
