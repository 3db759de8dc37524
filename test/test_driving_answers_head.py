"""A trajectory head: an installed entry point, and nothing else, gets the hidden states; what it returns is checked."""

import sys

import numpy as np
import pytest

from owled_ros.driving.answers.head import HeadKind, HeadSpec, load_head
from owled_ros.driving.answers.kind import RawAnswer
from owled_ros.driving.ego import EgoState
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError

EGO, VEHICLE = EgoState(0, 8.0), VehicleParameters()
SPEC = HeadSpec(name="even", count=3, step_s=0.5)
MODULE = """
import numpy as np

def make(directory, options):
    def head(hidden, ego, vehicle):
        ahead = ego.speed * 0.5 * np.arange(1, 4) + hidden.sum() + options["offset"]
        return np.column_stack([ahead, np.zeros(3), np.zeros(3)])
    return head
"""
METADATA = "Metadata-Version: 2.1\nName: some-heads\nVersion: 1.0\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package with heads, as pip lays it out."""
    (tmp_path / "some_heads.py").write_text(MODULE)
    information = tmp_path / "some_heads-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(METADATA)
    points = (
        "[owled_ros.trajectory_heads]\neven = some_heads:make\nbroken = some_heads:missing\nabsent = not_there:make\n"
    )
    (information / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("some_heads", None)


def returning(values, **changes) -> HeadKind:
    return HeadKind(SPEC.model_copy(update=changes), lambda hidden, ego, vehicle: values)


def hidden(value: float = 0.0) -> RawAnswer:
    return RawAnswer("", (), np.full((4, 2), value, np.float32))


@pytest.mark.usefixtures("installed")
def test_an_installed_head_gets_hidden_states_ego_and_options(tmp_path):
    kind = HeadSpec(name="even", count=3, step_s=0.5, options={"offset": 0.25}).make(tmp_path)
    assert kind.needs_hidden
    driven = kind.parse(hidden(0.125), EGO, VEHICLE).trajectory
    # 8 numbers of 0.125 and the offset: 1.25 m ahead of 4, 8, 12 m
    assert driven.x.tolist() == [0.0, 5.25, 9.25, 13.25]
    assert driven.time.tolist() == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "words"), [("other", "installed: absent, broken, even"), ("broken", "missing"), ("absent", "not_there")]
)
def test_what_is_not_installed_is_not_run(name, words):
    with pytest.raises(OwledError, match=words):
        load_head(name)


def test_a_file_of_the_model_directory_is_never_run(tmp_path):
    (tmp_path / "even.py").write_text("raise SystemExit('run')")
    with pytest.raises(OwledError, match="no trajectory head 'even'"):
        SPEC.make(tmp_path)


def test_accelerations_and_curvatures_of_a_head():
    kind = returning(np.tile([1.0, 0.01], (3, 1)), gives="acceleration_curvature")
    assert kind.parse(hidden(), EGO, VEHICLE).trajectory.speed.tolist() == [8.0, 8.5, 9.0, 9.5]


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        (np.zeros((2, 3)), {}),
        (np.zeros((4, 3)), {}),
        (np.zeros((3, 2)), {}),
        (np.zeros((3, 3)), {"gives": "places"}),
        (np.zeros((1, 3, 3)), {}),
        (np.full((3, 3), np.nan), {}),
        (np.full((3, 3), np.inf), {}),
        (np.full((3, 3), 1e9), {}),
        (np.tile([30.0, 0.0], (3, 1)), {"gives": "acceleration_curvature"}),
    ],
)
def test_what_a_head_returns_is_checked(values, changes):
    with pytest.raises(AnswerError):
        returning(values, **changes).parse(hidden(), EGO, VEHICLE)


def test_without_hidden_states_there_is_no_answer():
    with pytest.raises(AnswerError, match="no hidden states"):
        returning(np.zeros((3, 3))).parse(RawAnswer("[PT]"), EGO, VEHICLE)
