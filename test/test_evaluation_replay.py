"""Replay: answers put beside the bag, and the evaluation node as a process beside player and driving node."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from recorded_drives import IMAGE_PERIOD, START, make_bag

from owled_ros.errors import OwledError
from owled_ros.evaluation.replay import Answers, add_answer, judge_replay
from owled_ros.evaluation.result import read_result
from owled_ros.evaluation.scenario import Scenario

EASY = Scenario.model_validate({"conditions": {"must_beat": []}})
GOOD = "cruise, acceleration +0.4 m/s2, steering +0.02 rad"
READY = "/evaluation_node/debug/result"  # published from when the driving node has been found
SEEN = "1 car: lead 12 m; 0 pedestrians; traffic light red 22 m"


def answer(number: int, reason: str = "VALID", kind: str = "action", text: str = GOOD, **more: Any) -> dict[str, Any]:
    return {
        "kind": kind, "stamp": START + number * IMAGE_PERIOD, "reason": reason, "text": text, "confidence": 0.9,
        "latency_ms": 50.0 + number, "model_id": "fake@1", "artifact_id": "", **more,
    }  # fmt: skip


def answers_of(said: list[dict[str, Any]]) -> Answers:
    answers: Answers = {}
    for item in said:
        add_answer(answers, item)
    return answers


def test_seen_answered_late_and_dropped_are_counted(tmp_path):
    # 20 images: 15 valid, 2 late, 1 withheld, 2 never taken up; one answer to an image of another bag
    lines = [answer(n) for n in range(15)] + [answer(15, "LATE"), answer(16, "LATE"), answer(17, "LOW_CONFIDENCE")]
    lines += [answer(999), answer(3, kind="scene", text=SEEN)]
    result = judge_replay(make_bag(tmp_path / "bag", images=20), answers_of(lines), EASY, tmp_path / "out")
    coverage = result.metrics["coverage"]
    assert (coverage["images"], coverage["evaluated"], coverage["answered"]) == (20, 18, 15)
    assert (coverage["late"], coverage["withheld_or_invalid"], coverage["dropped"]) == (2, 1, 2)
    assert coverage["unknown_stamps"] == 1
    assert result.success, result.summary
    assert result.metrics["means"]["acceleration_mae_mps2"] == pytest.approx(0.6)  # the expert does 1.0
    assert result.metrics["means"]["D_TL_m"] == 0.0
    assert result.metrics["timing"]["action_latency_p50_ms"] == pytest.approx(58.5)  # 50 .. 67 ms
    assert read_result(tmp_path / "out").records == result.records


def test_too_few_answers_are_a_failure_however_good_they_are(tmp_path):
    bag = make_bag(tmp_path / "bag", images=40)
    result = judge_replay(bag, answers_of([answer(n) for n in range(20)]), EASY, tmp_path / "out")
    assert not result.success
    assert "min_evaluated_share 0.8, measured 0.5" in result.summary
    silent = judge_replay(bag, {}, EASY, tmp_path / "silent", "nobody answered")
    assert "min_evaluated_frames 10, measured 0" in silent.summary
    assert silent.metrics["bag_notes"]["bag"] == ["nobody answered"]


def test_trajectories_commands_and_reasoning_reach_the_result(tmp_path):
    # 5 m/s and 0.1 1/m: the tire angle is atan(2.8 * 0.1); the text is of a kind that has no line
    rows = [[t / 2, 2.5 * t, 0.0, 0.0, 5.0, -0.5, 0.1] for t in range(7)]
    said = [
        answer(n, text="[(1, 2), (3, 4)]", trajectory=rows, manoeuvre=3, command=3, reasoning="a red light")
        for n in range(10)
    ]
    result = judge_replay(make_bag(tmp_path / "bag", images=40), answers_of(said), EASY, tmp_path / "out")
    first = read_result(tmp_path / "out").records[0]
    assert (first.reason, first.manoeuvre, first.command, first.reasoning) == ("VALID", "STOP", "LEFT", "a red light")
    assert (first.acceleration, first.steering) == (-0.5, pytest.approx(math.atan(2.8 * 0.1), abs=1e-6))
    assert first.trajectory == tuple(map(tuple, rows))
    assert result.metrics["means"]["path_fde_3s_m"] is not None  # three more seconds of the bag are known
    assert result.metrics["by_command"][0]["group"] == "LEFT"


def test_the_nodes_messages_become_answers():
    pytest.importorskip("rclpy")
    pytest.importorskip("owled_ros.msg", reason="the messages are not built", exc_type=ImportError)
    from owled_ros.msg import PredictedTrajectory, SceneDescription, TrajectoryPoint
    from owled_ros.nodes.conversions import description_to_answer, stamp_to_time, trajectory_to_answer

    message = PredictedTrajectory(
        valid=True, reason=1, text="t", points=[TrajectoryPoint(time=0.5, x=2.0, curvature=0.25)]
    )
    message.header.stamp, message.command.kind = stamp_to_time(START), 4
    said = trajectory_to_answer(message)
    assert (said["stamp"], said["reason"], said["command"]) == (START, "VALID", 4)
    assert said["trajectory"] == [[0.5, 2.0, 0.0, 0.0, 0.0, 0.0, 0.25]]
    withheld = trajectory_to_answer(PredictedTrajectory(valid=False, reason=17, points=message.points))
    assert (withheld["reason"], withheld["trajectory"]) == ("INFEASIBLE", [])
    assert trajectory_to_answer(PredictedTrajectory(reason=200))["reason"] == "UNKNOWN"  # of a later release
    assert description_to_answer(SceneDescription(reason=12, text="erm"))["reason"] == "UNPARSED"


def test_texts_that_are_no_answers_are_unparsed(tmp_path):
    lie = answers_of([answer(n, text="this is no action") for n in range(10)])
    result = judge_replay(make_bag(tmp_path / "bag"), lie, EASY, tmp_path / "out")
    assert {record.reason for record in result.records} == {"UNPARSED"}
    with pytest.raises(OwledError, match="reason"):
        judge_replay(tmp_path / "bag", answers_of([answer(0, "BECAUSE")]), EASY, tmp_path / "out")


def test_parameters_file_schema_and_declaration_hold_the_same():
    pytest.importorskip("rclpy")
    import yaml

    from owled_ros.nodes.evaluation_node import ENTRIES

    root = Path(__file__).resolve().parent.parent
    written = yaml.safe_load((root / "config/evaluation_node.param.yaml").read_text())["/**"]["ros__parameters"]
    schema = json.loads((root / "schema/evaluation_node.schema.json").read_text())
    rows = schema["definitions"]["evaluation_node"]["properties"]
    kinds = {"str": "string", "float": "number", "bool": "boolean"}
    for entry in ENTRIES:
        row = rows[entry.name]
        assert (row["type"], row["description"]) == (kinds[entry.kind], entry.description)
        assert (row.get("minimum"), row.get("maximum")) == (entry.low, entry.high)
        assert row["default"] == written[entry.name]
    assert set(rows) == set(written) == {entry.name for entry in ENTRIES}


@pytest.fixture
def stage(tmp_path):
    """Bag, scenario, and a function that starts evaluator and driver as `launch/replay_eval.launch.py` does."""
    pytest.importorskip("rclpy")
    pytest.importorskip("owled_ros.msg", reason="the messages are not built", exc_type=ImportError)
    return Stage(tmp_path)


class Stage:
    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path
        self.domain = 0  # taken by the first node that starts
        self.bag = make_bag(tmp_path / "bag", images=30)
        self.scenario = tmp_path / "scenario.yaml"
        self.scenario.write_text("conditions: {must_beat: [], max_acceleration_mae_mps2: 0.7}")
        (tmp_path / "model").mkdir()

    def start(self, words: list[object], name: str, *remaps: str, **parameters: Any) -> Any:
        from driving_rig import NodeProcess, free_domain

        arguments = [*map(str, words)]
        if remaps or parameters:
            arguments += ["--ros-args", *(part for remap in remaps for part in ("-r", remap))]
        arguments += [part for key, value in parameters.items() for part in ("-p", f"{key}:={value}")]
        self.domain = self.domain or free_domain()
        return NodeProcess(arguments, self.domain, self.home / f"{name}.log")

    def node(self, name: str, **parameters: Any) -> Any:
        return self.start(["-m", "owled_ros.nodes", name], name, **parameters)

    def evaluator(self, **more: Any) -> Any:
        return self.node(
            "evaluation_node",
            bag=self.bag,
            result=self.home / "out",
            scenario=self.scenario,
            settle_s=0.5,
            report="false",
            **more,
        )

    def driver(self, **control: Any) -> Any:
        from driving_rig import TEST

        (self.home / "model/control.json").write_text(json.dumps(control))
        return self.start(
            [TEST / "fake_driving_node.py"], "driver", "~/input/image:=/camera/image", "~/input/odometry:=/ego/odometry",
            model_path=self.home / "model", autostart="true", use_sim_time="true",
        )  # fmt: skip

    def player(self, delay_s: float = 3.0) -> Any:
        from driving_rig import TEST

        return self.start([TEST / "bag_player.py", self.bag, delay_s], "player")


@pytest.mark.slow
def test_player_driver_and_evaluator_end_with_a_verdict(stage):
    with stage.evaluator() as evaluator, stage.driver() as driver:
        evaluator.wait_for_text("listening", 90)
        with stage.node("source_node", source="bag", path=stage.bag, pace="lockstep", wait_for=READY):
            code = evaluator.process.wait(120)
    result = read_result(stage.home / "out")
    assert result.whole
    assert result.metrics["coverage"]["evaluated"] >= 25, evaluator.text() + driver.text()
    assert (code, result.success) == (0, True), result.summary


@pytest.mark.slow
@pytest.mark.parametrize(("delay_s", "good"), [(0.0, True), (0.35, False)])
def test_a_foreign_player_with_a_clock_is_judged_too(stage, delay_s, good):
    """As with `ros2 bag play --clock`: images come at 10/s; a driver that needs 0.35 s takes up every fourth of them."""
    with stage.evaluator() as evaluator, stage.driver(delay_s=delay_s) as driver:
        evaluator.wait_for_text("listening", 90)
        with stage.player():
            code = evaluator.process.wait(120)
    result = read_result(stage.home / "out")
    coverage = result.metrics["coverage"]
    assert coverage["images"] == 30
    assert coverage["dropped"] == 30 - coverage["evaluated"]
    assert coverage["answered"] + coverage["late"] + coverage["withheld_or_invalid"] == coverage["evaluated"]
    assert (code, result.success) == (0 if good else 1, good), result.summary + evaluator.text() + driver.text()
    if not good:
        assert 1 <= coverage["evaluated"] <= 15
        assert "min_evaluated_share 0.8" in result.summary


@pytest.mark.slow
def test_a_player_that_leaves_early_fails_with_the_reason(stage):
    with stage.evaluator() as evaluator, stage.driver():
        evaluator.wait_for_text("listening", 90)
        with stage.player() as player:
            player.wait_for_text("playing", 90)
            time.sleep(1.5)  # of 3 s of images
            player.end(signal.SIGKILL)
        code = evaluator.process.wait(120)
    result = read_result(stage.home / "out")
    assert (code, result.success) == (1, False)
    assert result.metrics["bag_notes"]["bag"] == ["the player left before the end of the bag"]


@pytest.mark.slow
def test_a_driver_that_is_not_there_is_said_to_be_missing(stage):
    with stage.evaluator(start_timeout_s=2.0) as evaluator:
        code = evaluator.process.wait(120)
    result = read_result(stage.home / "out")
    assert (code, result.success) == (1, False)
    assert result.metrics["bag_notes"]["bag"] == ["/driving_node was not found for 2 s"]
