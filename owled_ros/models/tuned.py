"""`tuning.json` of a model that was tuned on drives: on which and how. Needs models.manifest.

It goes with the model wherever it is pruned, merged or tuned again, so that no drive that was learned from judges it later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError
from owled_ros.files import read_small_file
from owled_ros.models.manifest import is_artifact, read_manifest

RECORD_NAME = "tuning.json"
MAX_BYTES = 64 << 20
FINGERPRINTS, DRIVES = "frame_fingerprints", "drive_digests"  # keys of traces: images and drives by their hashes


def read_record(directory: Path) -> dict[str, Any] | None:
    """Read what a model was tuned on; None where it was not."""
    data = read_small_file(directory / RECORD_NAME, MAX_BYTES)
    if data is None:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise OwledError(
            f"{directory / RECORD_NAME} is not valid JSON ({error}); restore or delete the file"
        ) from error
    return content if isinstance(content, dict) else None


def traces_of_tuning(directory: Path) -> dict[str, Any]:
    """Return by what the drives of all its tunings are found again; empty where there was none."""
    traces = (read_record(directory) or {}).get("traces", {})
    return traces if isinstance(traces, dict) else {}


def learned_from(directory: Path) -> list[dict[str, Any]]:
    """Return by what all that a model was tuned, pruned or calibrated on is found again, one entry per source."""
    entries = [traces for traces in [traces_of_tuning(directory)] if traces]
    return [*entries, *(read_manifest(directory).calibration if is_artifact(directory) else ())]
