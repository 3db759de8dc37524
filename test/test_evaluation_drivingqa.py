"""The released driving scenes: taken apart, scored by hand, and never executed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from owled_ros.errors import OwledError
from owled_ros.evaluation.drivingqa import (
    EXAMPLES,
    GAP,
    Example,
    QaAnswer,
    constant_answers,
    copy_answers,
    evaluate_text_model,
    prompt_of,
    score,
)
from owled_ros.llm_driver.released import (
    Pedals,
    Perception,
    parse_action,
    parse_perception,
    parse_scenario,
    read_scenarios,
)


def text_of(
    cars: int = 1, light: str = "There is no traffic lights.", accelerator: int = 40, steer: str = "3% to the left"
) -> str:
    listed = "\n".join(["A moving car; Angle in degrees: 1.00; Distance: 9.00m"] * cars)
    return (
        f"I'm observing {cars} cars and 1 pedestrians.\n{listed}\nA pedestrian; Angle in degrees: 2.0; Distance: 4.0m\n"
        f"{light}\nMy current speed is 3.05 mph\nSteering wheel is 2.00% right.\n\nHere are my actions:\n\n"
        f"- Accelerator pedal {accelerator}%\n- Brake pedal 10%\n- Going to steer {steer}."
    )


def test_a_scene_is_taken_apart():
    scene = parse_scenario(7, text_of(2, "There is a traffic light and it is red+yellow. It is 12.50m ahead."))
    assert scene is not None
    assert scene.perception == Perception(2, 1, "red+yellow", 12.5)
    assert scene.action == Pedals(pytest.approx(0.3), pytest.approx(0.03))
    assert scene.wheel == pytest.approx(-0.02)
    assert "observing" not in scene.description
    assert "traffic light" not in scene.description
    assert "Accelerator" not in scene.description
    assert scene.description.count(" car;") == 2


@pytest.mark.parametrize(
    "text",
    [
        "Accelerator pedal 40%\nBrake pedal 0%",
        "Accelerator pedal 140%\nBrake pedal 0%\nGoing to steer 0% to the right.",
        "Brake pedal 0%\nGoing to steer 0% to the right.",
        "",
    ],
)
def test_half_an_action_is_none(text):
    assert parse_action(text) is None


def test_perception_needs_counts_and_light():
    assert parse_perception("I'm observing 1 cars and 0 pedestrians.") is None
    assert parse_perception("There is no traffic lights.") is None


def test_scores_by_hand():
    light = "There is a traffic light and it is red. It is 20.0m ahead."
    scenes = [parse_scenario(0, text_of(1)), parse_scenario(1, text_of(3, light, 90, "5% to the right"))]
    answers = [
        QaAnswer(Perception(2, 1, "none", None), Pedals(0.5, 0.0), 1.0),
        QaAnswer(Perception(3, 0, "red", 26.0), None, 3.0),
    ]
    table = score(answers, scenes)
    assert (table["E_car"], table["E_ped"], table["Acc_TL"], table["D_TL_m"]) == (0.5, 0.5, 1.0, 6.0)
    assert (table["E_lon"], table["E_lat"]) == (pytest.approx(0.2), pytest.approx(0.03))
    assert (table["action_parsed"], table["L_token"]) == (0.5, 2.0)
    assert table["traffic_light_recall"]["red"] == 1.0
    assert table["traffic_light_recall"]["green"] is None


def test_baselines_by_hand():
    scenes = [parse_scenario(n, text_of(n, accelerator=10 * n)) for n in range(1, 4)]
    constant = constant_answers(scenes)[0]
    assert constant.perception.cars == 2
    assert constant.action.longitudinal == pytest.approx(0.1)  # the median of 0, .1 and .2
    copied = copy_answers(scenes[1:], scenes[0])
    assert [answer.perception.cars for answer in copied] == [2, 3]  # counted in the text
    assert [answer.action.longitudinal for answer in copied] == pytest.approx([0.0, 0.1])  # of the scene before
    assert [answer.action.steering for answer in copied] == pytest.approx([-0.02, -0.02])  # the wheel
    assert copy_answers(scenes, None)[0] == QaAnswer(None, None)


def test_a_model_is_asked_with_examples_and_scored(tmp_path):
    file = tmp_path / "scenarios.jsonl"
    count = EXAMPLES + GAP + 3
    file.write_text("\n".join(json.dumps({"description_and_action": text_of(n % 4)}) for n in range(count)) + "\n")
    scenes = read_scenarios(tmp_path)
    asked = []

    def parrot(examples: Sequence[Example], description: str, reference: str) -> tuple[str, float]:
        asked.append((examples, description))
        return reference, 0.5

    answers = evaluate_text_model(parrot, scenes, EXAMPLES + GAP)
    table = score(answers, scenes[EXAMPLES + GAP :])
    assert (table["E_car"], table["E_lon"], table["action_parsed"], len(asked)) == (0.0, 0.0, 1.0, 3)
    examples, description = asked[0]
    assert [given for given, _ in examples] == [scene.description for scene in scenes[:EXAMPLES]]
    assert "actions" not in description
    plain, special = prompt_of(None, examples, description)
    assert (plain.count("Here are my actions:"), special) == (EXAMPLES, True)

    class Chatty:
        chat_template = "…"

        def apply_chat_template(self, turns: Any, **_: Any) -> str:
            return " ".join(str(turn["role"]) for turn in turns)

    assert prompt_of(Chatty(), examples, description) == ("user assistant user assistant user", False)
    with pytest.raises(OwledError, match="first scored scene"):
        evaluate_text_model(parrot, scenes, 0)


def test_a_shared_beginning_is_read_once_and_changes_nothing():
    torch = pytest.importorskip("torch")
    from tiny_models import tiny_model

    from owled_ros.evaluation.drivingqa import _Seen

    model = tiny_model("llama")
    read: list[int] = []
    forward = model.forward
    model.forward = lambda ids, **more: (read.append(ids.shape[1]), forward(ids, **more))[1]
    seen = _Seen(model)
    opening = list(range(10, 30))
    # the same examples, another description, another answer; then a text that begins differently, then the first again
    texts = [
        [*opening, 40, 41, 42, 50, 51],
        [*opening, 40, 43, 52, 53],
        [11, 12, 13, 14, 54, 55],
        [*opening, 40, 41, 42, 50, 51],
    ]
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([text])
            logits, cache = seen.read(ids, 2)
            torch.testing.assert_close(logits, forward(ids).logits[0, -3:-1])
            cache.crop(-2)  # as the answer's tokens are forgotten
    assert read == [25, 3, 6, 25]  # second text: all but 21 tokens that it shares with the first


def test_a_model_that_was_calibrated_on_the_same_file_is_known(tmp_path):
    from stored_artifacts import make_artifact

    from owled_ros.evaluation.drivingqa import calibrated_on
    from owled_ros.files import sha256_file
    from owled_ros.models.manifest import read_manifest, write_manifest

    file = tmp_path / "scenarios.jsonl"
    file.write_text("{}")
    place = make_artifact(tmp_path / "pruned")
    assert not calibrated_on(place, tmp_path)
    entry = {"kind": "driving_text", "name": "scenarios.jsonl", "sha256": sha256_file(file), "samples": 1, "tokens": 1}
    write_manifest(place, read_manifest(place).model_copy(update={"calibration": [entry]}))
    assert calibrated_on(place, tmp_path)
    assert calibrated_on(place, file)
    assert not calibrated_on(tmp_path, file)


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch boom",)


class _Record:
    def __init__(self, text):
        self.input_prompt = text


def test_a_pickle_is_read_as_data_and_nothing_in_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenes = [{"frame": 0, "observation": _Bomb(), "input_prompt": text_of(2)}, _Record(text_of(1)), {"other": {1, 2}}]
    file = tmp_path / "released.pkl"
    file.write_bytes(pickle.dumps(scenes))
    assert [scene.perception.cars for scene in read_scenarios(file)] == [2, 1]
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1}), pickle.dumps([1, 2])])
def test_pickles_without_scenes_are_refused(tmp_path, content):
    file = tmp_path / "released.pkl"
    file.write_bytes(content)
    with pytest.raises(OwledError):
        read_scenarios(file)
