"""Frames and the ego history: interpolation by hand, gaps, clock jumps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.frame import NANOSECONDS, EgoHistory, EgoState, Frame, Pose, View
from owled_ros.errors import OwledError

GAP = 100


def history(*states):
    result = EgoHistory()
    for stamp, speed in states:
        result.add(EgoState(stamp, speed, speed / 10))
    return result


def test_between_two_states_it_interpolates():
    # at a quarter of the way from 2 to 6 m/s: 3 m/s, and 0.3 rad/s
    state = history((100, 2.0), (200, 6.0)).at(125, GAP)
    assert state == EgoState(125, pytest.approx(3.0), pytest.approx(0.3))


def test_beyond_the_ends_the_nearest_state_holds_for_the_gap():
    states = history((100, 2.0), (200, 6.0))
    assert states.at(300, GAP).speed == 6.0
    assert states.at(301, GAP) is None
    assert states.at(0, GAP).speed == 2.0
    assert states.at(-1, GAP) is None


def test_inside_a_hole_only_the_edges_answer():
    states = history((0, 2.0), (1000, 6.0))
    assert states.at(50, GAP).speed == 2.0
    assert states.at(950, GAP).speed == 6.0
    assert states.at(500, GAP) is None


def test_a_clock_that_runs_back_clears_the_history():
    states = history((2 * NANOSECONDS, 2.0), (3 * NANOSECONDS, 6.0))
    assert states.add(EgoState(NANOSECONDS, 1.0)) is False
    assert len(states) == 1
    assert states.newest == EgoState(NANOSECONDS, 1.0)


def test_a_late_state_finds_its_place():
    states = history((100, 2.0), (300, 6.0))
    assert states.add(EgoState(200, 5.0)) is True
    assert states.at(200, GAP).speed == 5.0
    assert states.add(EgoState(200, 4.0)) is True  # the same stamp again: the newer word counts
    assert (len(states), states.at(200, GAP).speed) == (3, 4.0)
    assert states.newest.stamp == 300


@given(st.permutations(range(12)))
def test_the_order_of_arrival_does_not_matter(order):
    states = EgoHistory()
    for number in order:
        states.add(EgoState(number * 10, float(number)))
    assert [states.at(number * 10, 5).speed for number in range(12)] == [float(number) for number in range(12)]


def test_past_poses_are_seen_from_now():
    # heading along +y of the fixed frame, 2 m/s: half a second ago the vehicle was 1 m behind
    states = EgoHistory()
    for step in range(11):
        seconds = step * 0.1
        states.add(EgoState(round(seconds * NANOSECONDS), 2.0, 0.0, None, Pose(5.0, 2.0 * seconds, math.pi / 2)))
    (before,) = states.past(NANOSECONDS, [0.5], NANOSECONDS // 10)
    assert (before.pose.x, before.pose.y, before.pose.heading) == pytest.approx((-1.0, 0.0, 0.0))
    assert before.acceleration == pytest.approx(0.0)
    assert states.past(NANOSECONDS, [0.5, 1.5], NANOSECONDS // 10) is None  # nothing is known that long ago


def test_a_missing_acceleration_is_the_slope_of_the_speeds():
    # 3 m/s2: 10, 10.3, 10.6 m/s
    states = EgoHistory()
    for step in range(3):
        states.add(EgoState(step * NANOSECONDS // 10, 10.0 + 0.3 * step))
    assert states.with_acceleration(states.newest).acceleration == pytest.approx(3.0)
    measured = EgoState(0, 10.0, 0.0, -1.0)
    assert states.with_acceleration(measured).acceleration == -1.0


def test_a_relocalisation_is_a_jump_and_driving_is_none():
    states = EgoHistory()
    for step in range(20):
        x = step * 1.0 + (7.0 if step >= 15 else 0.0)  # 10 m/s, and 7 m too far between two states
        states.add(EgoState(step * NANOSECONDS // 10, 10.0, 0.0, None, Pose(x, 0.0, 0.0)))
    assert states.pose_jump(19 * NANOSECONDS // 10, 1.0) == pytest.approx(7.0)
    assert states.pose_jump(14 * NANOSECONDS // 10, 1.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 50)), min_size=1, max_size=20), st.integers(-200, 1300))
def test_an_answer_lies_between_the_states(pairs, stamp):
    pairs = sorted(pairs)
    state = history(*pairs).at(stamp, GAP)
    speeds = [speed for _, speed in pairs]
    if state is not None:
        assert min(speeds) - 1e-9 <= state.speed <= max(speeds) + 1e-9
        assert min(abs(stamp - when) for when, _ in pairs) <= GAP


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((1, 9, 3), np.uint8)]
)
def test_a_frame_refuses_what_is_no_image(image):
    with pytest.raises(OwledError, match="expected"):
        Frame(image, 0, EgoState(0, 1.0))


def test_images_come_in_the_order_of_the_prompt_and_can_be_exchanged():
    front, old, left = (np.full((4, 6, 3), value, np.uint8) for value in (1, 2, 3))
    views = (View("front", old, 1), View("front", front, 2), View("left", left, 2))
    frame = Frame(front, 2, EgoState(2, 1.0), views=views)
    assert [int(image[0, 0, 0]) for image in frame.images] == [2, 1, 3]
    grey = frame.showing([np.full_like(front, value) for value in (7, 8, 9)])
    assert [int(image[0, 0, 0]) for image in (*grey.images, grey.image)] == [7, 8, 9, 8]
    with pytest.raises(OwledError, match="1 images for a frame of 3"):
        frame.showing([front])
    assert int(Frame(front, 2, EgoState(2, 1.0)).showing([old]).image[0, 0, 0]) == 2
