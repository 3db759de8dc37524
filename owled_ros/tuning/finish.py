"""The end of a run: the learned weights as a model directory or artifact that loads, with its profile and where it learned.

Needs torch, models, pruning.artifact. Written aside, loaded back and compared, then renamed.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from owled_ros.driving.confidence import Calibration
from owled_ros.driving.familiarity import FILE_NAME as FAMILIARITY_NAME
from owled_ros.driving.profile import PROFILE_NAME, DrivingProfile, profile_text
from owled_ros.errors import OwledError
from owled_ros.files import write_atomic, write_json
from owled_ros.models.load import ModelSource
from owled_ros.models.manifest import is_artifact, read_manifest
from owled_ros.models.tuned import RECORD_NAME
from owled_ros.models.write import copy_codebook, write_plain
from owled_ros.pruning.artifact import versions, write_artifact
from owled_ros.tuning.learner import zeros_of


def write_tuned(
    model: Any,
    source: ModelSource,
    target: Path,
    profile: DrivingProfile,
    record: Mapping[str, Any],
    zeros: Mapping[str, int],
) -> None:
    """Write a tuned model; an artifact stays one, with the same zeros.

    Args:
        record: what it learned from and how, see models.tuned.
        zeros: of every matrix, before the run; only an artifact's are looked at.

    Raises:
        OwledError: another model comes back, a zero was filled, or the disk is full; nothing half-written stays.
    """
    own = profile.model_copy(update={"confidence": Calibration()})  # that of the base says nothing about this one

    def finish(aside: Path) -> None:
        write_atomic(aside / PROFILE_NAME, profile_text(own))
        copy_codebook(own, source.path, aside)
        (aside / FAMILIARITY_NAME).unlink(missing_ok=True)
        write_json(aside / RECORD_NAME, dict(record))

    if is_artifact(source.path):
        write_artifact(model, source, target, lambda written: _manifest(written, source, record, zeros), finish=finish)
    else:
        write_plain(model, source, target, finish)


def _manifest(written: Any, source: ModelSource, record: Mapping[str, Any], zeros: Mapping[str, int]) -> dict[str, Any]:
    """Return the manifest of the artifact that was tuned, as it is now."""
    found = zeros_of(written)
    filled = sorted(name for name, count in zeros.items() if found.get(name, -1) < count)
    if filled:
        raise OwledError(f"{filled[0]} has lost zeros in the tuning: nothing was kept of it; tell the authors")
    before = read_manifest(source.path)
    content = before.model_dump(mode="json")
    for name in ("files", "packed", "gate", "confidence", "self_sha256"):  # of the weights before
        content.pop(name, None)
    traces = {"kind": "tuning", "name": record["base"], "samples": record["frames"], **record["traces"]}
    return {
        **content,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "calibration": [*content["calibration"], traces],
        "versions": versions(),
        "tuning": {key: value for key, value in record.items() if key != "traces"},
    }
