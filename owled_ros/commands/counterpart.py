"""`owled prune-uniform`: the uniformly pruned counterpart of an artifact: the same model, calibration and settings, zeros spread evenly.

Needs pruning. What the calibration was made of is in the manifest ("asked"); bags and driving text, which lie elsewhere, are given.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from owled_ros.commands import Device
from owled_ros.commands._calibration import Sources, calibration_sets
from owled_ros.commands.prune import write_artifact
from owled_ros.errors import OwledError
from owled_ros.models.manifest import Manifest, read_manifest
from owled_ros.pruning.config import PruneConfig

UNIFORM = "uniform"
logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prune-uniform")(prune_uniform)


def prune_uniform(
    artifact: Annotated[Path, typer.Argument(help="An artifact of `owled prune`.")],
    output: Annotated[Path, typer.Argument(help="Directory of the counterpart; replaced in one step.")],
    dense: Annotated[
        Path | None, typer.Option(help="The model it was pruned from; found when bundled or beside it.")
    ] = None,
    calibration: Annotated[
        list[Path], typer.Option(help="Bags and texts that it was calibrated on, where there were any.")
    ] = [],  # noqa: B006
    device: Device = "auto",
) -> None:
    """Prune the same model on the same calibration to the same sparsity, with the zeros spread evenly.

    What the allocation is worth is the difference of the two: `owled evaluate` shows both side by side.
    """
    from owled_ros.evaluation.beside import find_beside

    make_uniform(artifact, find_beside(artifact, dense).dense, output, calibration, device)


def make_uniform(
    artifact: Path, dense: Path | None, output: Path, material: Sequence[Path] = (), device: str = "auto"
) -> Path:
    """Prune the dense model again like an artifact, but evenly; returns `output`.

    Args:
        material: the bags and the driving text that the artifact was calibrated on, found by their names.

    Raises:
        OwledError: no dense model, an artifact that does not tell its calibration, sources that are missing or other ones.
    """
    manifest = read_manifest(artifact)
    if dense is None:
        raise OwledError(f"the dense model of {artifact} was not found: give {manifest.base.name} with --dense")
    sources = _sources(artifact, manifest, material, device)
    known = {field.name for field in dataclasses.fields(PruneConfig)} - {"allocation", "plan", "rows", "device"}
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in manifest.method.settings.items()
        if key in known
    }
    settings.setdefault("correct_drift", False)  # artifacts older than the correction do not name it
    config = PruneConfig(dense, output, allocation=UNIFORM, device=device, **settings)
    logger.info("pruning %s evenly, to stand beside %s", dense, artifact)
    write_artifact(config, calibration_sets(dense, sources), sources, pack=manifest.packed is not None)
    if read_manifest(output).calibration_sha256 != manifest.calibration_sha256:
        raise OwledError(
            f"the sources given are not those that {artifact} was calibrated on; give the very same bags and texts, or take the "
            f"uniform model as it is with --uniform {output}"
        )
    return output


def _sources(artifact: Path, manifest: Manifest, material: Sequence[Path], device: str) -> Sources:
    asked: dict[str, Any] | None = next((entry["asked"] for entry in manifest.calibration if "asked" in entry), None)
    if asked is None:
        raise OwledError(
            f"{artifact} does not tell how to calibrate once more (a recalibration made it, or an older release); "
            "prune evenly with `owled prune … --allocation uniform` and give that with --uniform"
        )
    by_name = {path.resolve().name: path for path in material}
    texts = [asked["driving_text"]] if asked["driving_text"] else []
    texts += [asked["general_text"]] if asked["general_text"] not in ("", "python-docs") else []
    missing = [name for name in (*asked["bags"], *texts) if name not in by_name]
    if missing:
        raise OwledError(f"{artifact} was calibrated on {', '.join(missing)}; give each with --calibration PATH")
    values = {**asked, "bags": tuple(by_name[name] for name in asked["bags"])}
    values["driving_text"] = by_name[asked["driving_text"]] if asked["driving_text"] else None
    values["general_text"] = str(by_name.get(asked["general_text"], asked["general_text"]))
    return Sources(**values, device=device)
