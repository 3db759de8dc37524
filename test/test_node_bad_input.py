"""A real driving node in its own process, over real DDS, given everything that can be wrong: it lives and says why."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import BEST_EFFORT, NODE, Bench, CompressedImage, NodeProcess, fake_node, free_domain, until
from fake_driving_node import GOOD, SCENE, make_model
from sensor_msgs.msg import Image

from owled_ros.srv import AskQuestion, LoadModel

DOMAIN = free_domain()
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "first")


@pytest.fixture(scope="module")
def process(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    parameters: dict[str, Any] = {"model_path": model, "model_root": model.parent, "input_timeout_s": 0.4}
    # generous: this is not about the speed of a busy machine
    parameters |= {"max_frame_age_s": 5.0, "deadline_s": 5.0}
    with fake_node(DOMAIN, tmp_path_factory.mktemp("log") / "node.log", **parameters) as running:
        yield running
        assert running.process.poll() is None, running.text()


@pytest.fixture(scope="module")
def shared(process: NodeProcess) -> Iterator[Bench]:
    with Bench(DOMAIN) as bench:
        bench.drive_until("VALID")
        yield bench


@pytest.fixture
def bench(shared: Bench, model: Path) -> Iterator[Bench]:
    """A node that drives; the model is well again before and after."""
    make_model(model)
    shared.drive_until("VALID")
    yield shared
    make_model(model)


def test_a_good_image_gives_an_action_with_its_stamp(bench: Bench) -> None:
    before = len(bench.actions)
    answer = bench.drive_until("VALID")
    assert bench.spin_until(lambda: len(bench.actions) > before)
    action = bench.actions[-1]
    assert action.valid
    assert action.header.stamp.sec * SECOND + action.header.stamp.nanosec == answer["stamp"]
    assert action.header.frame_id == "base_link"
    assert action.text == GOOD
    # GOOD: +0.4 m/s2 of 2.0 is a fifth of the throttle, 0.02 rad of 0.6 a thirtieth of the steering
    assert (round(action.throttle, 3), action.brake, round(action.steering, 4)) == (0.2, 0.0, 0.0333)
    assert action.model_id == "first@fake"
    assert bench.spin_until(lambda: bench.scenes)
    scene = bench.scenes[-1]
    assert (scene.valid, scene.text, scene.traffic_light, scene.light_distance) == (True, SCENE, scene.LIGHT_RED, 22.0)
    assert [(item.kind, item.distance) for item in scene.cars] == [(item_kind_lead(), 12.0)]


def item_kind_lead() -> int:
    from owled_ros.msg import SceneObject

    return int(SceneObject.KIND_LEAD)


IMAGES = [
    ({"encoding": "rgb9"}, "is not known"),
    ({"encoding": ""}, "is not known"),
    ({"data": b"\x10" * 100}, "expected at least"),
    ({"data": b"", "width": 0, "height": 0, "step": 0}, "expected at least"),
    ({"data": b"\x10" * 3, "width": 1, "height": 1, "step": 3}, "expected at least 2x2"),
    ({"width": 4_000_000_000, "height": 4_000_000_000, "step": 4_000_000_000}, "expected at least"),
]


@pytest.mark.parametrize(("fields", "words"), IMAGES)
def test_bad_images_are_named(bench: Bench, fields: dict[str, Any], words: str) -> None:
    actions = len(bench.actions)
    answer = bench.drive_until("BAD_IMAGE", image=lambda: bench.send_image(**fields))
    bad = answer["stamp"]
    assert words in answer["detail"]
    bench.status("output", "BAD_IMAGE", meanwhile=lambda: bench.send_image(**fields))
    stamps = {message.header.stamp.sec * SECOND + message.header.stamp.nanosec for message in bench.actions[actions:]}
    assert bad not in stamps


@pytest.mark.parametrize("size", [(8, 8), (3840, 2160)])
def test_images_of_any_size_are_answered(bench: Bench, size: tuple[int, int]) -> None:
    assert bench.drive(image=lambda: bench.send_image(size=size))["reason"] == "VALID"


def test_padded_rows_are_not_sheared(bench: Bench) -> None:
    data = np.full((48, 64 * 3 + 5), 90, np.uint8).tobytes()
    bench.drive_until("VALID", image=lambda: bench.send_image(step=64 * 3 + 5, data=data))


@pytest.mark.parametrize(("speed", "yaw_rate"), [(math.nan, 0.0), (5.0, math.inf), (900.0, 0.0)])
def test_odometry_that_cannot_be_is_not_used(bench: Bench, speed: float, yaw_rate: float) -> None:
    answer = bench.drive_until("BAD_EGO", ego=lambda: bench.send_ego(speed=speed, yaw_rate=yaw_rate))
    assert "odometry" in answer["detail"]
    bench.drive_until("VALID")


def test_stale_odometry_is_not_used(bench: Bench) -> None:
    bench.spin(0.3)  # the last good odometry gets older than max_ego_gap_s
    answer = bench.drive_until("STALE_EGO", ego=lambda: None)
    assert "older than the image" in answer["detail"]
    bench.status("odometry", "stale: no message for")
    bench.drive_until("VALID")


def test_every_silent_input_is_logged_for_itself(bench: Bench, process: NodeProcess) -> None:
    """One throttle for all would log the first input of the list and hide the other."""
    said = len(process.text())

    def both() -> bool:
        lines = process.text()[said:]
        return all(re.search(rf"stale: no message .* on {NODE}/input/{name}", lines) for name in ("image", "odometry"))

    assert bench.spin_until(both), process.text()[said:]
    bench.drive_until("VALID")


def test_stale_images_are_not_used(bench: Bench) -> None:
    answer = bench.drive_until("STALE_IMAGE", image=lambda: bench.send_image(bench.now() - 20 * SECOND))
    assert "20." in answer["detail"]


def test_stamps_of_another_clock_are_explained(bench: Bench) -> None:
    old = bench.drive_until("CLOCK_JUMP", image=lambda: bench.send_image(bench.now() - 3 * 86_400 * SECOND))
    assert "3.0 days older" in old["detail"]
    assert "use_sim_time" in old["detail"]
    bench.status("output", "CLOCK_JUMP", meanwhile=lambda: bench.send_image(bench.now() - 3 * 86_400 * SECOND))
    ahead = bench.drive_until("CLOCK_JUMP", image=lambda: bench.send_image(bench.now() + 60 * SECOND))
    assert "ahead" in ahead["detail"]


def test_published_stamps_never_fall(bench: Bench) -> None:
    """Images stamped in turn now and 0.3 s ago: those of the past are refused with a reason of their own."""
    bench.drive_until("VALID")
    bench.actions.clear()
    refused = bench.drive_until("FALLING_STAMP", image=lambda: bench.send_image(bench.now() - 3 * SECOND // 10))
    assert "behind that of the image before" in refused["detail"]
    bench.drive_until("VALID")
    stamps = [message.header.stamp.sec * SECOND + message.header.stamp.nanosec for message in bench.actions]
    assert stamps == sorted(stamps)


def latency_of(bench: Bench, answer: dict[str, Any]) -> float:
    """Return what was published for an image [ms]; -1 when nothing was."""
    found = [item.data for item in bench.latencies if item.stamp.sec * SECOND + item.stamp.nanosec == answer["stamp"]]
    return found[-1] if found else -1.0


ANSWERS = [
    ({"text": "I would rather stop, I think"}, "UNPARSED", "is not an action"),
    ({"text": "cruise, acceleration +9.9 m/s2, steering +0.02 rad"}, "UNPARSED", "out of range"),
    ({"text": ""}, "UNPARSED", "is not an action"),
    ({"text": "stop stop stop stop stop", "complete": False}, "INCOMPLETE", "token limit"),
    ({"text": "unknown"}, "DECLINED", "does not know"),
]


@pytest.mark.parametrize(("control", "reason", "words"), ANSWERS)
def test_answers_of_no_use_publish_nothing(
    bench: Bench, model: Path, control: dict[str, Any], reason: str, words: str
) -> None:
    make_model(model, **control)
    answer = bench.drive_until(reason)
    assert words in answer["detail"]
    assert answer["text"] == control["text"], "the raw text is kept"
    assert bench.spin_until(lambda: latency_of(bench, answer) > 0.0)
    bench.spin(0.2)
    silent = len(bench.actions)
    bench.drive()
    bench.spin(0.2)
    assert len(bench.actions) == silent
    assert reason in bench.status("output", reason).message


def test_low_confidence_withholds_action_and_description(bench: Bench, model: Path) -> None:
    assert bench.set(confidence_floor=0.95) == []
    answer = bench.drive_until("LOW_CONFIDENCE")
    assert "0.90 is below the floor 0.95" in answer["detail"]
    described = len(bench.scenes)
    assert bench.spin_until(lambda: len(bench.scenes) > described or (bench.drive() and False))
    assert not bench.scenes[-1].valid
    assert bench.scenes[-1].text == SCENE
    assert bench.set(confidence_floor=-1.0) == []


def test_late_answers_are_withheld(bench: Bench, model: Path) -> None:
    make_model(model, delay_s=0.3)
    assert bench.set(deadline_s=0.2) == []
    answer = bench.drive_until("LATE")
    assert "the deadline is 0.2 s" in answer["detail"]
    assert bench.spin_until(lambda: latency_of(bench, answer) > 300.0)  # whoever makes room for driving hears of it
    assert bench.set(deadline_s=5.0) == []


@pytest.mark.parametrize(
    ("fail", "reason", "words"),
    [
        ("memory", "OUT_OF_MEMORY", "MemoryError: no room for the image"),
        ("torch", "OUT_OF_MEMORY", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("fault", "INFERENCE_ERROR", "ValueError: weights of layer 7 are NaN"),
    ],
)
def test_a_model_that_breaks_does_not_end_the_node(
    bench: Bench, model: Path, fail: str, reason: str, words: str
) -> None:
    make_model(model, fail=fail)
    answer = bench.drive_until(reason)
    assert words in answer["detail"]
    bench.status("inference", words)
    make_model(model)
    bench.drive_until("VALID")
    bench.status("inference", "running")
    assert words in bench.values("inference")["last_error"], "the original words stay to be read"


def test_slow_inference_drops_images_and_queues_none(bench: Bench, model: Path) -> None:
    make_model(model, delay_s=0.3)
    bench.drive()
    bench.answers.clear()
    sent = []
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        bench.send_ego()
        sent.append((bench.send_image(), time.monotonic()))
        bench.spin(0.04)
    bench.spin(1.0)
    answers = [answer for answer in bench.answers if answer["kind"] == "action"]
    assert 2 <= len(answers) <= 12
    assert answers[-1]["dropped"] >= len(sent) // 2
    waits = [answer["latency_ms"] - answer["inference_ms"] for answer in answers]
    assert np.median(waits) < 250, "an image waits at most for the inference before it, never in a queue"
    assert [answer["stamp"] for answer in answers] == sorted(answer["stamp"] for answer in answers)


def test_a_description_yields_to_a_newer_image_but_not_for_ever(bench: Bench, model: Path) -> None:
    make_model(model, scene_delay_s=0.25)
    assert bench.set(description_rate_hz=20.0, description_patience_s=1.0) == []
    bench.drive()
    bench.scenes.clear()
    bench.actions.clear()
    end = time.monotonic() + 4.0
    while time.monotonic() < end:
        bench.send_ego()
        bench.send_image()
        bench.spin(0.1)
    bench.spin(0.5)
    assert bench.set(description_rate_hz=2.0) == []
    assert 1 <= len(bench.scenes) <= 8, "about one a second, instead of four"
    assert len(bench.actions) >= 3 * len(bench.scenes)
    assert int(bench.values("inference")["descriptions_yielded"]) > 0


def test_silence_and_wrong_types_are_told_apart(bench: Bench) -> None:
    bench.status("image", "stale: no message for")
    bench.node.destroy_publisher(bench.image)
    bench.status("image", f"no publisher on {NODE}/input/image")
    other = bench.node.create_publisher(CompressedImage, f"{NODE}/input/image", BEST_EFFORT)
    status = bench.status("image", "wrong type")
    assert "sensor_msgs/msg/CompressedImage is published, sensor_msgs/msg/Image is expected" in status.message
    bench.node.destroy_publisher(other)
    bench.image = bench.node.create_publisher(Image, f"{NODE}/input/image", BEST_EFFORT)
    bench.drive_until("VALID")


def test_the_overlay_is_drawn_for_those_who_look(bench: Bench) -> None:
    images: list[Image] = []
    packed: list[CompressedImage] = []
    raw = bench.node.create_subscription(Image, f"{NODE}/debug/image", images.append, BEST_EFFORT)
    jpeg = bench.node.create_subscription(CompressedImage, f"{NODE}/debug/image/compressed", packed.append, BEST_EFFORT)
    assert bench.spin_until(lambda: (images and packed) or (bench.drive() and False))
    assert (images[-1].width, images[-1].height, images[-1].encoding) == (320, 240, "rgb8")
    assert len(set(bytes(images[-1].data))) > 8, "something is drawn"
    assert bytes(packed[-1].data[:2]) == b"\xff\xd8"
    bench.node.destroy_subscription(raw)
    bench.node.destroy_subscription(jpeg)


def test_parameters_have_ranges_and_some_are_fixed(bench: Bench) -> None:
    assert bench.set(deadline_s=-1.0)
    assert bench.set(model_path="/elsewhere")
    assert bench.set(vehicle__wheel_base_m=3.0) == []
    assert bench.set(vehicle__wheel_base_m=2.8) == []


def test_a_question_is_answered_between_images(bench: Bench) -> None:
    bench.drive_until("VALID")
    answer = bench.call(AskQuestion, f"{NODE}/ask", AskQuestion.Request(question="why?", timeout=5.0))
    assert (answer.success, answer.answer, answer.model_id) == (True, "you asked: why?", "first@fake")
    assert answer.stamp.sec > 0
    refused = bench.call(AskQuestion, f"{NODE}/ask", AskQuestion.Request(question=" ", timeout=5.0))
    assert not refused.success
    assert "expected a question" in refused.message


def test_a_question_that_finds_no_time_is_given_up(bench: Bench, model: Path) -> None:
    make_model(model, scene_delay_s=30.0)
    bench.drive_until("VALID")
    answer = bench.call(AskQuestion, f"{NODE}/ask", AskQuestion.Request(question="why?", timeout=0.5))
    assert not answer.success
    assert "no answer within the time limit" in answer.message


def test_models_are_exchanged_while_driving(bench: Bench, model: Path) -> None:
    second = make_model(model.parent / "second", text="stop, acceleration -2.0 m/s2, steering +0.00 rad", load_s=0.5)
    bench.drive_until("VALID")
    client = bench.node.create_client(LoadModel, f"{NODE}/load_model")
    assert bench.spin_until(client.service_is_ready)
    future = client.call_async(LoadModel.Request(path="second"))
    meanwhile = 0
    while not future.done():
        meanwhile += bench.drive()["model_id"] == "first@fake"
    assert meanwhile > 0, "the old model drives while the new one loads"
    assert (future.result().success, future.result().model_id) == (True, "second@fake"), future.result().message
    assert bench.drive_until("VALID")["model_id"] == "second@fake"
    again = bench.call(LoadModel, f"{NODE}/load_model", LoadModel.Request(path=str(model)))
    assert (again.success, again.model_id) == (True, "first@fake")
    bench.node.destroy_client(client)
    assert second.is_dir()


LOADS = [
    ("missing", {}, "has no control.json"),
    ("broken", {"load_fails": True}, "OSError: safetensors header is damaged"),
    ("mute", {"text": "gibberish"}, "its answer is of no use"),
    ("faulty", {"fail": "fault"}, "weights of layer 7 are NaN"),
    ("/tmp", {}, "lies outside model_root"),
    ("../outside", {}, "lies outside model_root"),
]


@pytest.mark.parametrize(("path", "control", "words"), LOADS)
def test_a_load_that_fails_leaves_the_old_model(
    bench: Bench, model: Path, path: str, control: dict[str, Any], words: str
) -> None:
    if control:
        make_model(model.parent / path, **control)
    bench.drive_until("VALID")
    result = bench.call(LoadModel, f"{NODE}/load_model", LoadModel.Request(path=path))
    assert not result.success
    assert words in result.message
    assert result.model_id == "first@fake"
    assert bench.drive_until("VALID")["model_id"] == "first@fake"
    bench.status("model", words)


def test_two_models_that_do_not_fit_are_refused(bench: Bench, model: Path) -> None:
    make_model(model.parent / "second")
    assert bench.set(memory_reserve_mb=1e6) == []
    result = bench.call(LoadModel, f"{NODE}/load_model", LoadModel.Request(path="second"))
    assert bench.set(memory_reserve_mb=512.0) == []
    assert not result.success
    assert "are free on cpu" in result.message


def test_the_log_repeats_nothing_for_every_image(process: NodeProcess, shared: Bench) -> None:
    assert until(lambda: process.text().count("\n") > 5)
    assert process.text().count("\n") < 400
    assert "Traceback" not in process.text()
