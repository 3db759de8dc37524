"""Whatever happens in whatever order, a candidate is never old, far, of another model or time, and its stamps never fall."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.driving.ego import EgoState, Pose
from owled_ros.driving.prediction import Reason
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.onboard.candidates import DANGEROUS, Candidate, CandidateKeeper, CandidateLimits, HeardTrajectory, Why

SECOND = 1_000_000_000
START = 1_000 * SECOND
LIMITS = CandidateLimits()
STEADY = from_acceleration_curvature(np.zeros((4, 2)), 1.0, 10.0)

waits = st.sampled_from([0.0, 0.01, 0.02, 0.1, 0.3, 0.9, -0.2, -5.0])  # [s] of the clock
ages = st.sampled_from([0.0, 0.1, 0.5, 1.2, 4.0, -0.1])  # [s] of an image
events = st.one_of(
    st.tuples(st.just("odometry"), waits, st.sampled_from([0.0, 0.0, 0.0, 0.3, 3.0, math.nan])),
    st.tuples(st.just("drive"), st.integers(1, 40)),
    st.tuples(st.just("plan"), ages, st.sampled_from("mn")),
    st.tuples(st.just("withheld"), ages, st.sampled_from(list(Reason))),
    st.tuples(st.just("model"), st.sampled_from("mn"), st.booleans()),
)


class Witness:
    """Plays events and remembers by itself what a candidate must obey."""

    def __init__(self) -> None:
        self.keeper = CandidateKeeper(LIMITS)
        self.time = 0.0  # [s]
        self.off = 0.0  # [m] beside the way
        self.stamps: list[int] = []
        self.dangers: list[int] = []  # stamps of images that say not to drive on
        self.current: str | None = None

    def odometry(self, wait: float, off: float) -> None:
        self.time += wait
        if wait < -1.0:  # the clock begins anew
            self.stamps.clear()
            self.dangers.clear()
        self.off += off
        pose = Pose(10.0 * self.time, self.off, 0.0)
        self.off = 0.0 if math.isnan(off) else self.off
        stamp = START + round(self.time * SECOND)
        said = self.keeper.hear_odometry(EgoState(stamp, 10.0, pose=pose), "map", stamp)
        if isinstance(said, Candidate):
            self.check(said, pose, stamp)

    def drive(self, count: int) -> None:
        for _ in range(count):
            self.odometry(0.02, 0.0)

    def plan(self, age: float, model: str) -> None:
        self.keeper.hear_plan(HeardTrajectory(START + round((self.time - age) * SECOND), STEADY, model))

    def withheld(self, age: float, reason: Reason) -> None:
        stamp = START + round((self.time - age) * SECOND)
        self.keeper.hear_withheld(stamp, reason, "")
        if reason in DANGEROUS:
            self.dangers.append(stamp)

    def model(self, name: str, loaded: bool) -> None:
        self.keeper.hear_model(name, loaded)
        self.current = name if loaded else None

    def check(self, said: Candidate, pose: Pose, stamp: int) -> None:
        assert said.stamp == stamp
        assert not self.stamps or stamp > self.stamps[-1]
        self.stamps.append(stamp)
        assert 0.0 <= said.age_s <= LIMITS.max_age_s
        assert said.age_s == (stamp - said.plan.stamp) / SECOND
        values = said.rest.values
        assert np.isfinite(values).all()
        assert values[0, 0] == 0.0
        assert (np.diff(values[:, 0]) > 0.0).all()
        assert math.hypot(values[0, 1] - pose.x, values[0, 2] - pose.y) <= LIMITS.max_distance_m + 0.2
        newer = [danger for danger in self.dangers if danger > said.plan.stamp]
        assert not newer
        assert self.current in (None, said.plan.model)


@settings(max_examples=600)
@given(st.lists(events, max_size=40))
def test_a_candidate_obeys_every_limit(played: list[tuple]) -> None:  # type: ignore[type-arg]
    witness = Witness()
    for name, *words in [("drive", 30), *played, ("drive", 10)]:
        getattr(witness, name)(*words)


@given(st.lists(events, max_size=30))
def test_after_anything_a_good_drive_gives_candidates_again(played: list[tuple]) -> None:  # type: ignore[type-arg]
    witness = Witness()
    for name, *words in played:
        getattr(witness, name)(*words)
    witness.model("m", True)
    witness.odometry(6.0, 0.0)  # a gap: whatever was before is of another time
    witness.drive(100)
    witness.plan(0.5, "m")
    count = len(witness.stamps)
    witness.drive(20)
    assert len(witness.stamps) - count >= 3, witness.keeper.without


def test_the_witness_sees_candidates_at_all() -> None:
    witness = Witness()
    for name, *words in (("drive", 50), ("plan", 0.5, "m"), ("drive", 20)):
        getattr(witness, name)(*words)
    assert witness.stamps
    assert witness.keeper.without.why is Why.NO_PLAN  # nothing has ended
