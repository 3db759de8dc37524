"""Frames and the ego history: interpolation by hand, gaps, clock jumps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.frame import EgoHistory, EgoState, Frame
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
    states = history((100, 2.0), (200, 6.0))
    assert states.add(EgoState(50, 1.0)) is False
    assert len(states) == 1
    assert states.newest == EgoState(50, 1.0)


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
