"""Which model drives, decided in one place from what the operator gave. Needs deployment and models.

The bundled demonstration model drives when it is asked for by name, or when nothing at all was given: never because
something else was missing, empty or damaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from owled_ros.deployment.deployment import Deployment, open_deployment
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import NAMED

BUNDLED_NAMES = ("mini", "bundled")


class Source(IntEnum):
    """Why a model drives. Values equal DrivingModel.msg."""

    UNKNOWN = 0
    MODEL_PATH = 1
    DEPLOYMENT = 2
    REQUEST = 3
    BUNDLED = 4


@dataclass(frozen=True)
class DrivingChoice:
    """A model directory and why it is this one."""

    path: str  # empty: the bundled model
    source: Source
    why: str
    deployment: Deployment | None = None
    warning: str = ""  # what was given and is not used


def choose_model(model_path: str, deployment: str, configured: bool) -> DrivingChoice:
    """Decide what drives at the start.

    Args:
        model_path: Model directory or a name of the bundled model; beside a deployment without deployment.json, its base.
        deployment: Directory of a deployment; empty: none.
        configured: The operator gave a parameter file, so that a missing model is an oversight.

    Raises:
        OwledError: Nothing can be chosen without guessing.
    """
    if deployment:
        base = None if model_path in BUNDLED_NAMES else model_path
        found = open_deployment(deployment, base)
        path = found.driving()
        what = "its base model, nothing was promoted" if path == found.base else f"its current version {path.name}"
        why = f"deployment {found.root}: {what}"
        return DrivingChoice(str(path), Source.DEPLOYMENT, why, found, _unused(model_path, found))
    if model_path in BUNDLED_NAMES:
        return DrivingChoice("", Source.BUNDLED, "the bundled demonstration model was asked for by name")
    if model_path:
        return DrivingChoice(model_path, Source.MODEL_PATH, "parameter model_path")
    if configured:
        raise OwledError(
            "a parameter file was given but no model: set model_path or deployment, or model_path: mini for the bundled "
            "demonstration model, which knows rendered roads only"
        )
    return DrivingChoice(
        "", Source.BUNDLED, "nothing was given: neither model_path nor deployment nor a parameter file"
    )


def _unused(model_path: str, deployment: Deployment) -> str:
    """Say that a model_path beside a deployment that names its base does nothing; empty where it is that base, or none."""
    if not model_path or (
        model_path not in BUNDLED_NAMES and Path(model_path).expanduser().resolve() == deployment.base.resolve()
    ):
        return ""
    return (
        f"model_path {model_path} is not used: deployment {deployment.root} says what drives, and its base is {deployment.base}; "
        "give only one of the two"
    )


def requested_model(path: str, chosen: DrivingChoice, root: str) -> str:
    """Return the directory that a request means; raises OwledError when it lies outside the allowed root.

    Empty means what the deployment says now; without a deployment, what was chosen at the start.
    """
    if "\0" in path:
        raise OwledError("the path of the request holds a NUL character; give the path of a directory")
    if not path:
        return str(chosen.deployment.driving()) if chosen.deployment is not None else chosen.path
    if path in BUNDLED_NAMES:
        return ""
    if path in NAMED:  # another one that comes with the package, never chosen unasked
        return path
    asked = Path(path).expanduser()
    if not root:
        return str(asked)
    base = Path(root).expanduser().resolve()
    resolved = (base / asked).resolve()
    allowed = (
        [base]
        if chosen.deployment is None
        else [base, chosen.deployment.root.resolve(), chosen.deployment.base.resolve()]
    )
    if not any(resolved.is_relative_to(place) for place in allowed):
        raise OwledError(f"{path} lies outside model_root {base}; load_model accepts only directories below it")
    return str(resolved)
