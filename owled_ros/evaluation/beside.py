"""The models that a pruned one stands beside: its dense base, and the same pruning with zeros spread evenly.

Needs models.manifest. Both are recognised by hashes and settings, never by their names: a dense model is the base when its
weights have the hash that the manifest names; an artifact is the counterpart when base, calibration and every setting but the
allocation are equal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from owled_ros.errors import OwledError
from owled_ros.evaluation.run import EngineSpec, unique_names
from owled_ros.models.driving_model import bundled_model, resolve_model
from owled_ros.models.load import source_of
from owled_ros.models.manifest import Manifest, is_artifact, read_manifest
from owled_ros.sparse.pack import PACKED_NAME

UNIFORM = "uniform"
UNIFORM_SUFFIX = "-uniform"  # what `owled prune --with-uniform` appends to the artifact's name
JUDGED, DENSE = "judged", "dense"  # roles of a spec, with UNIFORM
ALLOCATING = (
    "allocation",
    "plan",
    "lod_threshold",
    "owl_lambda",
    "lod_samples",
    "learn_steps",
    "rows",
)  # settings that only spread zeros
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What stands beside a pruned model, and in sentences what does not and how to add it."""

    dense: Path | None = None
    uniform: Path | None = None
    notes: tuple[str, ...] = ()
    wants_uniform: bool = False  # there should be one, and there is none


def find_beside(
    artifact: Path,
    dense: Path | None = None,
    uniform: Path | None = None,
    places: Sequence[Path] = (),
    given: Sequence[Path] = (),
) -> Beside:
    """Look for both beside an artifact: among the models that are judged too (`given`), the bundled one, neighbours, `places`.

    Raises OwledError when a given model is not the base, or a given artifact is of another base or not uniform.
    """
    manifest = read_manifest(artifact)
    notes: list[str] = []
    found_dense = _find_dense(artifact, manifest, dense, given)
    if found_dense is None:
        notes.append(
            f"the dense model {manifest.base.name} is not shown beside it, as it was not found; give it with --dense"
        )
    if _is_even(manifest):
        return Beside(found_dense, None, tuple(notes))
    found_uniform = _find_uniform(artifact, manifest, uniform, [*given, *places], notes)
    if found_uniform is None:
        notes.append(
            "no uniformly pruned model is shown beside it: add --make-uniform here or --with-uniform to `owled prune`, "
            "or give an artifact of `owled prune … --allocation uniform` with --uniform"
        )
    return Beside(found_dense, found_uniform, tuple(notes), found_uniform is None)


def with_references(
    specs: Sequence[EngineSpec], found: Sequence[Beside | None]
) -> tuple[list[EngineSpec], dict[str, dict[str, object]]]:
    """Append what stands beside `specs` as further specs, each once.

    Returns all specs, and per judged pruned model what its result tells: the names of "dense" and "uniform", and "notes".
    """
    everything = list(specs)
    told: dict[str, dict[str, object]] = {}
    for spec, beside in zip(specs, found, strict=True):
        if beside is None:
            continue
        names: dict[str, object] = {"notes": list(beside.notes)}
        for role, path in ((DENSE, beside.dense), (UNIFORM, beside.uniform)):
            names[role] = None if path is None else _reference(everything, spec, role, path)
        told[spec.name] = names
    return everything, told


def is_base(path: Path, manifest: Manifest) -> bool:
    """Tell whether a directory holds the very weights that an artifact was pruned from."""
    try:
        return source_of(path).sha256 == manifest.base.sha256
    except OwledError:
        return False


def _reference(everything: list[EngineSpec], judged: EngineSpec, role: str, path: Path) -> str:
    for spec in everything:
        if Path(spec.path).resolve() == path.resolve():
            return spec.name
    name = unique_names([*(spec.name for spec in everything), path.name])[-1]
    everything.append(replace(judged, path=str(path), name=name, role=role, runtime=_runtime(judged)))
    return name


def _runtime(judged: EngineSpec) -> str:
    """Return how a reference is run: through torch where the judged model is, so that only the weights differ."""
    packed = (Path(judged.path) / PACKED_NAME).is_file()
    return "torch" if judged.runtime == "torch" or (judged.runtime == "auto" and not packed) else "auto"


def _find_dense(artifact: Path, manifest: Manifest, given: Path | None, judged: Sequence[Path]) -> Path | None:
    if given is not None:
        if not is_base(resolve_model(given), manifest):
            raise OwledError(
                f"{given} is not what {artifact} was pruned from: expected {manifest.base.name} with weights "
                f"{manifest.base.sha256[:12]}; leave --dense out, or give that model"
            )
        return resolve_model(given)
    for place in judged:  # whatever they are called
        if place.is_dir() and not is_artifact(place) and is_base(place, manifest):
            return place
    name = manifest.base.name
    for place in (bundled_model(), artifact.resolve().parent / name, Path(name)):
        if place.name == name and place.is_dir() and is_base(place, manifest):
            return place
    return None


def _find_uniform(
    artifact: Path, manifest: Manifest, given: Path | None, places: Sequence[Path], notes: list[str]
) -> Path | None:
    if given is not None:
        other = read_manifest(given)
        if other.base.sha256 != manifest.base.sha256 or not _is_even(other):
            raise OwledError(
                f"{given} is no uniform counterpart of {artifact}: expected allocation uniform of {manifest.base.name}, it is "
                f"{other.method.allocation} of {other.base.name}; leave --uniform out, or give that artifact"
            )
        differences = _differences(manifest, other)
        if differences:
            notes.append(
                f"the uniform model {given.name} differs in more than the allocation: {', '.join(differences)}"
            )
        return given
    for place in (*places, *_artifacts_beside(artifact)):
        if is_artifact(place) and _is_counterpart(manifest, place):
            return place
    return None


def _artifacts_beside(artifact: Path) -> Iterator[Path]:
    home = artifact.resolve().parent
    yield home / f"{artifact.resolve().name}{UNIFORM_SUFFIX}"
    yield from (path for path in sorted(home.iterdir()) if path.is_dir() and not path.name.startswith("."))


def _is_even(manifest: Manifest) -> bool:
    """Tell whether blocks and rows all have the same share of zeros."""
    return manifest.method.allocation == UNIFORM and manifest.method.settings.get("rows", "even") == "even"


def _is_counterpart(manifest: Manifest, place: Path) -> bool:
    try:
        other = read_manifest(place)
    except OwledError as error:
        logger.debug("%s is not taken for a uniform counterpart: %s", place, error)
        return False
    return _is_even(other) and other.base.sha256 == manifest.base.sha256 and not _differences(manifest, other)


def _differences(manifest: Manifest, other: Manifest) -> list[str]:
    ours, theirs = manifest.method.settings, other.method.settings
    names = [name for name in sorted({*ours, *theirs} - set(ALLOCATING)) if ours.get(name) != theirs.get(name)]
    return names if manifest.calibration_sha256 == other.calibration_sha256 else [*names, "calibration"]
