"""The clock set back, a little or a lot, in simulated time and by a faked source: stamps never fall, and driving goes on."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import Bench, fake_node, free_domain
from fake_driving_node import make_model
from rosgraph_msgs.msg import Clock
from test_hostile_messages import Calm

from owled_ros.driving.ego import EgoState
from owled_ros.driving.prediction import Reason
from owled_ros.nodes.conversions import stamp_of, stamp_to_time
from owled_ros.onboard.ladder import Arrival, Ladder, Limits

SECOND = 1_000_000_000
TENTH = SECOND // 10
IMAGE = np.full((48, 64, 3), 90, np.uint8)
LIMITS = Limits(1.0, 0.3, 1.0, -1.0)


class Car:
    """A ladder on a clock that can be set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND
        self.ladder = Ladder(lambda message: message, lambda: self.now)
        self.ladder.engine = Calm()  # type: ignore[assignment]
        self.published: list[int] = []

    def drive(self, images: int) -> list[Reason]:
        """Drive at 10 Hz, everything stamped by the clock; returns the reasons."""
        reasons = []
        for _ in range(images):
            self.now += TENTH
            self.ladder.hear(EgoState(self.now, 8.0))
            outcome = self.ladder.climb(Arrival(IMAGE, self.now, time.monotonic()), LIMITS)
            reasons.append(outcome.reason)
            if outcome.valid:
                self.published.append(outcome.stamp)
        return reasons


@pytest.mark.parametrize(
    ("back", "silent"),
    [
        (TENTH // 10, 0),  # less than a period: nothing is behind
        (3 * TENTH, 2),  # 0.3 s: the images at -0.2 and -0.1 s are behind, that at 0 is not
        (5 * TENTH, 4),
    ],
)
def test_a_clock_that_is_set_right_costs_less_than_it_was_wrong(back: int, silent: int) -> None:
    car = Car()
    assert set(car.drive(5)) == {Reason.VALID}
    car.now -= back
    assert car.drive(10) == [Reason.FALLING_STAMP] * silent + [Reason.VALID] * (10 - silent)
    assert car.published == sorted(car.published)
    assert car.ladder.clock_jumps == 0


@pytest.mark.parametrize("back", [7 * TENTH, 2 * SECOND, 3_600 * SECOND, 86_400 * 365 * SECOND])
def test_a_clock_that_begins_anew_costs_no_image(back: int) -> None:
    car = Car()
    car.drive(5)
    car.now -= back
    assert set(car.drive(10)) == {Reason.VALID}
    assert car.ladder.clock_jumps >= 1


def test_two_clocks_that_disagree_do_not_let_stamps_fall() -> None:
    """Two publishers of /clock, 0.3 s apart: every other time is behind."""
    car = Car()
    for turn in range(40):
        car.now += (-3, 4)[turn % 2] * TENTH
        car.ladder.hear(EgoState(car.now, 8.0))
        outcome = car.ladder.climb(Arrival(IMAGE, car.now, time.monotonic()), LIMITS)
        if outcome.valid:
            car.published.append(outcome.stamp)
    assert len(car.published) == 21
    assert car.published == sorted(car.published)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    domain = free_domain()
    model = make_model(tmp_path / "model")
    with fake_node(domain, tmp_path / "log", model_path=model, use_sim_time=True, deadline_s=3600.0) as node:
        with Bench(domain) as made:
            yield made
        assert node.process.poll() is None
        assert "Traceback" not in node.text()


def reason_of(bench: Bench, stamp: int) -> str:
    """Return what became of an image; empty where nothing is known of it."""
    return next((str(answer["reason"]) for answer in bench.answers if answer["stamp"] == stamp), "")


def test_a_real_node_whose_simulated_clock_falls(bench: Bench) -> None:
    clock = bench.node.create_publisher(Clock, "/clock", 10)
    now = [1_000 * SECOND]

    def word(seconds: float) -> str:
        """Show one image at the next moment of the clock; returns what became of it."""
        for _ in range(200):
            now[0] += TENTH
            stamp = now[0] + round(seconds * SECOND)
            clock.publish(Clock(clock=stamp_to_time(now[0])))
            bench.spin(0.02)
            bench.send_ego(stamp)
            bench.spin(0.02)
            bench.send_image(stamp)
            if bench.spin_until(functools.partial(reason_of, bench, stamp), 0.5):
                return reason_of(bench, stamp)
        raise AssertionError(f"no word; diagnostics: {bench.words()}")

    assert bench.spin_until(lambda: word(0.0) == "VALID")
    bench.actions.clear()
    assert word(0.0) == "VALID"
    now[0] -= 4 * TENTH  # the next image is 0.3 s behind the last
    assert word(0.0) == "FALLING_STAMP"
    assert bench.spin_until(lambda: word(0.0) == "VALID")
    stamps = [stamp_of(action) for action in bench.actions]
    assert stamps == sorted(stamps)
    now[0] -= 500 * SECOND  # the bag begins anew
    assert bench.spin_until(lambda: word(0.0) == "VALID")
