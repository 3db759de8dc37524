"""What a node says again, and when: worked by hand on a clock that the test moves."""

from __future__ import annotations

from owled_ros.onboard.throttle import MAX_CAUSES, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_causes_do_not_hide_each_other_and_each_is_repeated_after_its_own_period() -> None:
    clock = Clock()
    throttle = Throttle(5.0, clock)
    said = []
    for clock.now in (0.0, 1.0, 4.9, 5.0, 5.9, 6.0):  # [s]
        said.append((throttle.due("no odometry"), clock.now >= 1.0 and throttle.due("no image")))
    # odometry at 0 and 5 s, image at 1 and 6 s
    assert said == [(True, False), (False, True), (False, False), (True, False), (False, False), (False, True)]


def test_other_numbers_are_the_same_cause_and_other_words_another() -> None:
    throttle = Throttle(5.0, Clock())
    assert throttle.due("stale: no message for 0.4 s on /camera")
    assert not throttle.due("stale: no message for 12.9 s on /camera")
    assert not throttle.due("stale: no message for -1.5e+3 s on /camera")
    assert throttle.due("stale: no message for 0.4 s on /odometry")


def test_a_flood_of_different_causes_ends_and_starts_again_after_the_period() -> None:
    clock = Clock()
    throttle = Throttle(5.0, clock)
    words = [f"fault {chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(100)]
    assert sum(throttle.due(word) for word in words) == MAX_CAUSES
    clock.now = 5.0
    assert sum(throttle.due(word) for word in words) == MAX_CAUSES
