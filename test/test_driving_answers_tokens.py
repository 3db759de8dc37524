"""Action tokens: steps of a codebook, read from ids or text; the codebook is plain numbers of the right length."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import save_file

from owled_ros.driving.answers.action_tokens import ActionTokensKind, ActionTokensSpec
from owled_ros.driving.answers.codebook import read_codebook
from owled_ros.driving.answers.kind import Plan, RawAnswer
from owled_ros.driving.ego import EgoState
from owled_ros.driving.rollout import from_acceleration_curvature
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError

EGO, VEHICLE = EgoState(0, 8.0), VehicleParameters()
BASE = 151665
STEPS = np.array([[4.0, 0.0, 0.0], [3.0, 0.0, 0.0], [4.0, 0.2, 0.1], [0.0, 0.0, 0.0]])
SPEC = ActionTokensSpec(count=3, step_s=0.5, codebook="steps.npy", entries=4, base_id=BASE)
KIND = ActionTokensKind(SPEC, STEPS)
TEXT = ActionTokensKind(SPEC.model_copy(update={"read": "text"}), STEPS)
AROUND = ActionTokensKind(SPEC.model_copy(update={"others_around": True}), STEPS)


def ids(*indices: int) -> RawAnswer:
    return RawAnswer("", tuple(BASE + index for index in indices))


def test_each_token_is_a_step_from_where_the_one_before_ended():
    # 4 m ahead; then 4 m ahead, 0.2 m left, turned by 0.1; then 3 m in that direction
    driven = KIND.parse(ids(0, 2, 1), EGO, VEHICLE).trajectory
    assert driven.x == pytest.approx([0.0, 4.0, 8.0, 8.0 + 3.0 * np.cos(0.1)])
    assert driven.y == pytest.approx([0.0, 0.0, 0.2, 0.2 + 3.0 * np.sin(0.1)])
    assert driven.heading == pytest.approx([0.0, 0.0, 0.1, 0.1])
    assert TEXT.parse(RawAnswer("<action_0><action_2> <action_1>\n"), EGO, VEHICLE).trajectory == driven


def test_other_tokens_may_stand_around_where_the_profile_says_so():
    around = RawAnswer("", (500, 17, BASE, BASE + 1, BASE + 2, 900))
    assert AROUND.parse(around, EGO, VEHICLE).trajectory == KIND.parse(ids(0, 1, 2), EGO, VEHICLE).trajectory
    with pytest.raises(AnswerError, match="3 other tokens"):
        KIND.parse(around, EGO, VEHICLE)


@pytest.mark.parametrize("kind", [KIND, AROUND])
@pytest.mark.parametrize(
    "tokens",
    [
        (),
        (500, 17),
        (BASE, BASE + 1),
        (BASE, BASE + 1, BASE + 2, BASE + 3),
        (BASE, BASE + 1, BASE + 4),  # beyond the codebook
        (BASE, BASE + 1, BASE + 2, BASE + 9),
        (BASE, BASE + 1, BASE - 1),
        (BASE, 17, BASE + 1, BASE + 2),
        (BASE, BASE + 1, BASE + 2, 17, BASE, BASE + 1, BASE + 2),
    ],
)
def test_what_is_not_exactly_the_tokens(kind, tokens):
    with pytest.raises(AnswerError):
        kind.parse(RawAnswer("", tokens), EGO, VEHICLE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<action_0><action_1>",
        "<action_0><action_1><action_4>",
        "<action_0><action_1><action_-1>",
        "<action_0><action_1><action_02>",
        "<action_0><action_1><action_2",
        "<action_0> and <action_1><action_2>",
        "<action_0><action_1><action_2><action_3>",
        "I drive <action_0><action_1><action_2>",
        "<action_0><action_1><action_99999999999>",
        "<action_0><action_1><action_\u0662>",
    ],
)
def test_text_that_is_not_exactly_the_tokens(text):
    with pytest.raises(AnswerError):
        TEXT.parse(RawAnswer(text), EGO, VEHICLE)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_tokens_come_back_as_the_same_drive(indices):
    plan = KIND.parse(ids(*indices), EGO, VEHICLE)
    again = TEXT.parse(RawAnswer(KIND.format(plan, EGO, VEHICLE)), EGO, VEHICLE)
    assert again.trajectory.values == pytest.approx(plan.trajectory.values, abs=1e-9)


@settings(max_examples=30)
@given(st.floats(-2.0, 0.5), st.floats(-0.015, 0.015))
def test_a_drive_is_written_without_drifting_away(acceleration, curvature):
    grid = np.array(
        [(0.1 * x, 0.02 * y, 0.02 * turn) for x in range(80) for y in range(-12, 13) for turn in range(-6, 7)]
    )
    spec = SPEC.model_copy(update={"entries": len(grid), "count": 10})
    kind = ActionTokensKind(spec, grid)
    plan = Plan(from_acceleration_curvature(np.tile([acceleration, curvature], (50, 1)), 0.1, 8.0))
    again = kind.parse(ids(*kind.indices_of(plan)), EGO, VEHICLE).trajectory
    wanted = plan.trajectory.sample(again.time)
    assert np.hypot(again.x - wanted.x, again.y - wanted.y).max() < 0.3


def test_codebooks_in_every_form(tmp_path):
    np.save(tmp_path / "steps.npy", STEPS.astype(np.float32))
    save_file({"codebook": STEPS}, tmp_path / "steps.safetensors")
    (tmp_path / "steps.json").write_text(json.dumps(STEPS.tolist()))
    for name in ("steps.npy", "steps.safetensors", "steps.json"):
        assert read_codebook(tmp_path, name, 4) == pytest.approx(STEPS)
    assert SPEC.make(tmp_path).parse(ids(0, 0, 0), EGO, VEHICLE).trajectory.x[-1] == 12.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short.npy", r"shape \(3, 3\); expected \(4, 3\)"),
        ("flat.npy", "shape"),
        ("nan.npy", "dx of entry 1"),
        ("far.npy", "dy of entry 0"),
        ("pickled.npy", "no codebook"),
        ("torn.npy", "no codebook"),
        ("two.safetensors", "2 tensors"),
        ("torn.safetensors", "no codebook"),
        ("words.json", "no list of lists"),
        ("true.json", "no list of lists"),
        ("ragged.json", "no codebook"),
        ("torn.json", "no codebook"),
        ("steps.pkl", "pickle is never read"),
        ("steps.pt", "pickle is never read"),
        ("missing.npy", "cannot be read"),
        ("folder.npy", "cannot be read"),
        ("../steps.npy", "does not lie in the model directory"),
        ("/etc/steps.npy", "does not lie in the model directory"),
        ("", "does not lie in the model directory"),
    ],
)
def test_codebooks_that_are_refused(tmp_path, name, words):
    model = tmp_path / "model"
    (model / "folder.npy").mkdir(parents=True)
    np.save(tmp_path / "steps.npy", STEPS)
    np.save(model / "short.npy", STEPS[:3])
    np.save(model / "flat.npy", STEPS.ravel())
    np.save(model / "nan.npy", np.where(np.arange(12).reshape(4, 3) == 3, np.nan, STEPS))
    np.save(model / "far.npy", STEPS + [0.0, 1e9, 0.0])
    np.save(model / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (model / "torn.npy").write_bytes((model / "short.npy").read_bytes()[:-8])
    save_file({"a": STEPS, "b": STEPS}, model / "two.safetensors")
    (model / "torn.safetensors").write_bytes((model / "two.safetensors").read_bytes()[:-8])
    (model / "words.json").write_text('[["a", 0, 0]]')
    (model / "true.json").write_text("[[true, 0, 0]]")
    (model / "ragged.json").write_text("[[1, 0, 0], [1, 0]]")
    (model / "torn.json").write_text("[[1, 0, 0]")
    (model / "steps.pkl").write_bytes(pickle.dumps(STEPS))
    with pytest.raises(OwledError, match=words):
        read_codebook(model, name, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"token": "<action>"},
        {"token": "{index}{index}"},
        {"base_id": -1},
        {"entries": 0},
        {"read": "both"},
        {"codebook": 1},
    ],
)
def test_parameters_that_make_no_sense(change):
    with pytest.raises(ValidationError):
        ActionTokensSpec.model_validate({**SPEC.model_dump(), **change})
