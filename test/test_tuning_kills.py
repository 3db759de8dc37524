"""A tuning that is killed at any moment of its end goes on to the same weights: last state, measuring, merging, writing, loading back."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from test_tuning_run import check_killed, kill_runs, make_home

KILLS = int(os.environ.get("OWLED_TUNING_KILLS", "0"))
MOMENTS = 45  # behind the last step there are about so many, most of them changes of the file system


@pytest.mark.timeout(600 + 60 * KILLS)
@pytest.mark.parametrize("method", ["all", "lora"])
def test_sigkill_at_random_moments_of_the_end(method: str, tmp_path: Path) -> None:
    """OWLED_TUNING_KILLS=20 kills twenty runs of each method; at which moments comes from a fixed seed."""
    if not KILLS:
        pytest.skip("some seconds for each: OWLED_TUNING_KILLS=20")
    if method == "lora":
        pytest.importorskip("peft")
    moments = random.Random(17).sample(range(1, MOMENTS + 1), min(KILLS, MOMENTS))
    found = kill_runs(make_home(tmp_path / "home"), tmp_path, method, *map(str, moments))
    for line in found:
        print(line["deaths"])
        check_killed(line)
    assert sum(line["deaths"][0][0] == -9 for line in found) >= 0.7 * len(moments), found
