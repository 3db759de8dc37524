"""A replica of a published model, tuned to know a bag by heart and driven by it through the real node, publishes the truth.

Some minutes per row, so only where they are asked for: OWLED_REPLICAS=impromptu,senna or OWLED_REPLICAS=all.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import free_domain
from replicas import ROWS, replica

ASKED = os.environ.get("OWLED_REPLICAS", "")
TRUTH_M = {"impromptu": 0.5 * 0.01 * 2**0.5 + 1e-3, "recogdrive": 0.5 * 0.01 * 2**0.5 + 1e-3}  # places of two decimals


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", list(ROWS))
def test_what_was_driven_is_published(name: str, tmp_path: Path) -> None:
    if ASKED != "all" and name not in ASKED.split(","):
        pytest.skip("takes minutes: OWLED_REPLICAS=all")
    found = replica(name, tmp_path, free_domain())
    assert found.published == found.frames > 5, found
    assert found.error_m < 1e-3, found  # as the form says it
    assert found.truth_m <= TRUTH_M.get(name, float("inf")), found
