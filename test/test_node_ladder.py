"""The ladder, the slot and the worker of the driving node, without ROS: what an image passes on its way to an action."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.engine import never
from owled_ros.driving.frame import EgoState, Frame, Pose
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.needs import CameraNeed, InputNeeds, SurroundingsNeed
from owled_ros.driving.prediction import (
    ActionAnswer,
    Generation,
    ModelIdentity,
    Reason,
    SceneAnswer,
    judge_action,
    judge_scene,
)
from owled_ros.driving.surroundings import Surroundings
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.onboard.ladder import Arrival, Ladder, Limits, is_out_of_memory
from owled_ros.onboard.loading import ModelChoice, blank_frame, check_memory, fits, load_and_warm, weight_bytes
from owled_ros.onboard.slot import NewestSlot
from owled_ros.onboard.worker import Question, Worker

SECOND = 1_000_000_000
NOW = 1_000 * SECOND
LIMITS = Limits(max_frame_age_s=0.5, max_ego_gap_s=0.2, deadline_s=0.5, confidence_floor=-1.0)
GOOD = "follow, acceleration -1.2 m/s2, steering +0.03 rad"
IMAGE = np.zeros((4, 6, 3), np.uint8)


class Engine:
    """Answers the same, or raises what it is told to."""

    identity = ModelIdentity("m")

    profile: Any = None
    vehicle: Any

    def __init__(self, text: str = GOOD, confidence: float = 0.8) -> None:
        self.facts: dict[str, Any] = {}
        self.text, self.confidence = text, confidence
        self.error: Exception | None = None
        self.describing_s = 0.0
        self.seen: list[Frame] = []
        self.closed = False

    def see(self, frame: Frame) -> Frame:
        self.seen.append(frame)
        if self.error is not None:
            raise self.error
        return frame

    def act(self, prefix: Frame) -> ActionAnswer:
        return judge_action(Generation(self.text, True, self.confidence, 8, 0.0))

    def describe(self, prefix: Frame, cancelled: Callable[[], bool] = never) -> SceneAnswer | None:
        end = time.monotonic() + self.describing_s
        while time.monotonic() < end:
            if cancelled():
                return None
            time.sleep(0.002)
        return judge_scene(Generation("0 cars; 0 pedestrians; no traffic light", True, 0.8, 8, 0.0))

    def ask(self, prefix: Frame, question: str, cancelled: Callable[[], bool] = never) -> Generation | None:
        return None if cancelled() else Generation(question.upper(), True, 0.8, 2, 0.0)

    def close(self) -> None:
        self.closed = True


def ladder(engine: Engine | None = None) -> Ladder:
    made = Ladder(lambda message: message, lambda: NOW)
    made.engine = engine or Engine()
    made.hear(EgoState(NOW - SECOND // 10, 6.0))
    made.hear(EgoState(NOW, 8.0))
    return made


def arrival(age_s: float = 0.05, message: Any = IMAGE) -> Arrival:
    return Arrival(message, NOW - round(age_s * SECOND), time.monotonic(), "camera")


def test_the_ego_state_is_interpolated_to_the_image() -> None:
    climbed = ladder()
    outcome = climbed.climb(arrival(0.05), LIMITS)
    # half-way between 6 m/s at -0.1 s and 8 m/s at 0 s
    assert outcome.frame is not None
    assert outcome.frame.ego.speed == pytest.approx(7.0)
    assert (outcome.reason, outcome.frame_age_s) == (Reason.VALID, pytest.approx(0.05))


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [
        (0.6, Reason.STALE_IMAGE),
        (0.35, Reason.STALE_EGO),  # the oldest odometry is 0.25 s younger
        (-0.1, Reason.VALID),
        (-1.5, Reason.CLOCK_JUMP),
        (4_000.0, Reason.CLOCK_JUMP),
    ],
)
def test_stamps(age_s: float, reason: Reason) -> None:
    climbed = ladder()
    assert climbed.climb(arrival(age_s), LIMITS).reason is reason


def test_stamps_never_fall_unless_the_clock_begins_anew() -> None:
    clock = [NOW]
    climbed = Ladder(lambda message: message, lambda: clock[0])
    climbed.engine = engine = Engine()
    for tenth in range(5):
        climbed.hear(EgoState(NOW - tenth * SECOND // 10, 8.0))
    assert climbed.climb(arrival(0.1), LIMITS).valid
    behind = climbed.climb(arrival(0.3), LIMITS)
    assert behind.reason is Reason.FALLING_STAMP
    assert "0.200 s behind" in behind.detail
    assert climbed.climb(arrival(0.1), LIMITS).valid, "the same image again does not fall"
    assert climbed.climb(arrival(0.05), LIMITS).valid
    assert len(engine.seen) == 3
    clock[0] -= 10 * SECOND  # the bag restarts
    climbed.hear(EgoState(clock[0], 8.0))
    again = Arrival(IMAGE, clock[0], time.monotonic())
    assert climbed.climb(again, LIMITS).valid
    assert climbed.clock_jumps == 2, "of the images and of the odometry"


def test_whatever_breaks_on_the_ladder_becomes_an_outcome_with_its_words() -> None:
    climbed = ladder()
    climbed.engine.profile = SimpleNamespace(confidence=SimpleNamespace(floor=None, slope=1.0, offset=0.0))
    outcome = climbed.climb(arrival(), LIMITS)
    assert outcome.reason is Reason.INFERENCE_ERROR
    assert "NoneType" in outcome.detail
    assert outcome.answer is not None
    assert outcome.answer.action is None
    with pytest.raises(TypeError):  # a warm-up judges too
        load_and_warm(ModelChoice("", "cpu", "float32", 1, "auto"), lambda *_, **__: climbed.engine, None, None)


def profile(**needs: Any) -> SimpleNamespace:
    return SimpleNamespace(needs=InputNeeds(**needs), confidence=SimpleNamespace(floor=0.0, slope=2.0, offset=0.0))


def test_a_frame_holds_what_the_profile_asks_for() -> None:
    engine = Engine()
    engine.profile = profile(
        cameras=(CameraNeed("front"), CameraNeed("left")), image_offsets_s=(0.1, 0.0), ego_offsets_s=(1.0, 0.5), needs_pose=True,
        needs_command=True,
    )  # fmt: skip
    climbed = Ladder(lambda message: message, lambda: NOW)
    climbed.engine = engine
    for step in range(13):  # 10 m/s along x
        stamp = NOW - (12 - step) * SECOND // 10
        climbed.hear(EgoState(stamp, 10.0, pose=Pose(0.1 * step * 10.0, 3.0, 0.0)))
        climbed.views.add(Arrival(IMAGE, stamp, 0.0, "l", "left"))
        climbed.views.add(newest := Arrival(IMAGE, stamp, time.monotonic(), "f"))
    assert climbed.climb(newest, LIMITS).reason is Reason.NO_COMMAND
    climbed.route.hear(NavigationCommand(CommandKind.LEFT, 30.0, "left at the church", NOW - 2 * SECOND))
    outcome = climbed.climb(newest, LIMITS)
    assert outcome.valid, outcome.detail
    assert outcome.calibrated
    frame = engine.seen[-1]
    assert [view.camera for view in frame.views] == ["front", "front", "left", "left"]
    # 1.0 s ago the vehicle was 10 m behind where it is now
    assert [(round(state.pose.x, 6), state.pose.y) for state in frame.past if state.pose] == [(-10.0, 0.0), (-5.0, 0.0)]
    assert frame.ego.acceleration == pytest.approx(0.0)
    assert frame.command is not None
    assert frame.command.text == "left at the church"
    assert climbed.climb(newest, replace(LIMITS, command_timeout_s=1.0)).reason is Reason.EXPIRED_COMMAND
    climbed.hear(EgoState(NOW, 10.0, pose=Pose(25.0, 3.0, 0.0)))
    jumped = climbed.climb(newest, LIMITS)
    assert (jumped.reason, "jumped by 13.0 m" in jumped.detail) == (Reason.POSE_JUMP, True)
    climbed.forget()
    climbed.hear(EgoState(NOW, 10.0, pose=Pose(25.0, 3.0, 0.0)))
    assert climbed.climb(newest, LIMITS).reason is Reason.NO_HISTORY


def test_a_frame_holds_what_is_around_or_there_is_a_reason() -> None:
    climbed = ladder()
    climbed.engine.profile = profile(objects=SurroundingsNeed(0.5), lights=SurroundingsNeed(0.5))
    climbed.engine = climbed.engine
    nothing = climbed.climb(arrival(), LIMITS)
    assert (nothing.reason, "none have come" in nothing.detail) == (Reason.NO_SURROUNDINGS, True)
    header = SimpleNamespace(frame_id="base_link")
    climbed.around.hear_objects(NOW - SECOND, SimpleNamespace(header=header, objects=[]))
    climbed.around.hear_lights(NOW - SECOND // 10, SimpleNamespace(traffic_light_groups=[]))
    stale = climbed.climb(arrival(), LIMITS)
    assert (stale.reason, "0.950 s older" in stale.detail) == (Reason.STALE_SURROUNDINGS, True)
    climbed.around.hear_objects(NOW - SECOND // 10, SimpleNamespace(header=header, objects=[]))
    good = climbed.climb(arrival(), LIMITS)
    assert good.valid
    assert good.frame is not None
    assert good.frame.around == Surroundings((), ())
    climbed.forget()
    climbed.hear(EgoState(NOW, 8.0))
    assert climbed.climb(arrival(), LIMITS).reason is Reason.NO_SURROUNDINGS


def test_odometry_without_a_pose_is_said_where_one_is_needed() -> None:
    engine = Engine()
    engine.profile = profile(ego_offsets_s=(0.1,), needs_pose=True)
    climbed = ladder(engine)
    outcome = climbed.climb(arrival(0.0), LIMITS)
    assert (outcome.reason, outcome.detail) == (Reason.BAD_EGO, "the odometry has no pose, which the model asks for")
    climbed.forget()
    for step in range(13):
        climbed.hear(EgoState(NOW - (12 - step) * SECOND // 10, 8.0, pose=Pose(0.0, 0.0, 0.0)))
    assert "stays where it is at a speed of 8.0 m/s" in climbed.climb(arrival(0.0), LIMITS).detail
    engine.profile = profile()
    climbed.engine = engine
    assert climbed.climb(arrival(0.0), LIMITS).valid, "who does not need a pose does not mind"


@pytest.mark.parametrize(
    "made", [InputNeeds(), InputNeeds((CameraNeed("a", 5_000, 900), CameraNeed("b")), (0.5, 0.0), (1.0,), True, True)]
)
def test_a_model_is_warmed_up_with_a_frame_of_its_own_kind(made: InputNeeds) -> None:
    frame = blank_frame(made)
    assert fits(frame, made)
    assert fits(frame, InputNeeds()) == made.single
    assert frame.showing(frame.images).image is frame.image


def test_rungs_that_fail_keep_the_model_out() -> None:
    engine = Engine()

    def decode(message: Any) -> np.ndarray:
        if message is None:
            raise OwledError("no image at all")
        return message

    climbed = Ladder(decode, lambda: NOW)
    climbed.engine = engine
    assert climbed.climb(arrival(), LIMITS).reason is Reason.NO_EGO
    climbed.hear(EgoState(NOW, float("nan")))
    assert climbed.climb(arrival(), LIMITS).reason is Reason.BAD_EGO
    climbed.hear(EgoState(NOW, 5.0))
    bad = climbed.climb(arrival(message=None), LIMITS)
    assert (bad.reason, bad.detail) == (Reason.BAD_IMAGE, "no image at all")
    climbed.engine = None
    assert climbed.climb(arrival(), LIMITS).reason is Reason.MODEL_NOT_READY
    assert engine.seen == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory"), Reason.OUT_OF_MEMORY),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            Reason.OUT_OF_MEMORY,
        ),
        (RuntimeError("shape mismatch"), Reason.INFERENCE_ERROR),
    ],
)
def test_what_a_model_raises(error: Exception, reason: Reason) -> None:
    engine = Engine()
    engine.error = error
    climbed = ladder(engine)
    outcome = climbed.climb(arrival(), LIMITS)
    assert outcome.reason is reason
    assert str(error) in outcome.detail
    assert is_out_of_memory(error) == (reason is Reason.OUT_OF_MEMORY)
    engine.error = None
    assert climbed.climb(arrival(), LIMITS).valid
    assert str(error) in climbed.last_error


def test_floor_and_deadline_withhold() -> None:
    climbed = ladder(Engine(confidence=0.3))
    assert climbed.climb(arrival(), LIMITS).valid, "without a recommendation of the model every confidence passes"
    unsure = climbed.climb(arrival(), Limits(0.5, 0.2, 0.5, confidence_floor=0.31))
    assert (unsure.reason, unsure.answer and unsure.answer.action) == (Reason.LOW_CONFIDENCE, None)
    late = climbed.climb(arrival(), Limits(0.5, 0.2, 0.04, -1.0))
    assert (late.reason, late.answer and late.answer.action) == (Reason.LATE, None)


def test_in_simulated_time_only_the_clock_tells_what_is_late() -> None:
    slow = replace(arrival(), arrived=time.monotonic() - 5.0)
    assert ladder(Engine()).climb(slow, LIMITS).reason is Reason.LATE
    simulated = replace(LIMITS, simulated_time=True)
    assert ladder(Engine()).climb(slow, simulated).valid
    assert ladder(Engine()).climb(arrival(), replace(simulated, deadline_s=0.04)).reason is Reason.LATE


@given(st.lists(st.booleans(), max_size=60))
def test_a_slot_holds_the_newest_and_counts_the_rest(puts: list[bool]) -> None:
    slot: NewestSlot[int] = NewestSlot()
    number, last, taken = 0, None, 0
    for put in puts:
        if put:
            number += 1
            last = number
            slot.put(number)
        else:
            item = slot.take(0.0)
            assert item == last
            taken += item is not None
            last = None
    assert slot.received == number
    assert slot.dropped == number - taken - slot.waiting


class Hearer:
    """Collects what a worker says."""

    def __init__(self, engine: Engine, rate: float = 1000.0, patience: float = 60.0) -> None:
        self.outcomes: list[Any] = []
        self.scenes: list[Any] = []
        self.worker = Worker(
            ladder(engine),
            lambda: LIMITS,
            lambda: (rate, patience),
            self.outcomes.append,
            lambda _, scene: self.scenes.append(scene),
        )
        self.worker.start()

    def wait(self, condition: Callable[[], Any]) -> bool:
        end = time.monotonic() + 5.0
        while time.monotonic() < end and not condition():
            time.sleep(0.005)
        return bool(condition())


def test_action_first_then_the_description_unless_a_newer_image_waits() -> None:
    engine = Engine()
    engine.describing_s = 30.0
    hearer = Hearer(engine)
    hearer.worker.slot.put(arrival())
    assert hearer.wait(lambda: hearer.outcomes)
    assert hearer.scenes == []
    hearer.worker.slot.put(arrival())  # the description gives way
    assert hearer.wait(lambda: len(hearer.outcomes) == 2)
    assert hearer.wait(lambda: hearer.worker.counters.yielded == 1)
    engine.describing_s = 0.0
    hearer.worker.slot.put(arrival())
    assert hearer.wait(lambda: hearer.scenes)
    assert hearer.worker.stop(2.0)
    assert engine.closed


def test_a_model_without_a_question_about_the_scene_describes_nothing() -> None:
    engine = Engine()
    engine.profile = SimpleNamespace(**vars(profile()), scene=None)
    hearer = Hearer(engine)
    hearer.worker.slot.put(arrival())
    assert hearer.wait(lambda: hearer.outcomes)
    said: list[Any] = []
    hearer.worker.ask(Question("why", time.monotonic() + 5.0, lambda *words: said.append(words)))
    assert hearer.wait(lambda: said), "the thread has had the time to describe"
    assert hearer.scenes == []
    assert hearer.worker.stop(2.0)


def test_engines_are_exchanged_between_images_and_questions_come_before_descriptions() -> None:
    old, new = Engine(), Engine("stop, acceleration -2.0 m/s2, steering +0.00 rad")
    hearer = Hearer(old, rate=0.0)
    hearer.worker.slot.put(arrival())
    assert hearer.wait(lambda: hearer.outcomes)
    said: list[Any] = []
    hearer.worker.ask(Question("why", time.monotonic() + 5.0, lambda *words: said.append(words)))
    assert hearer.wait(lambda: said)
    assert (said[0][0].text, said[0][2]) == ("WHY", hearer.outcomes[0].stamp)
    switched: list[bool] = []
    hearer.worker.exchange(new, switched.append)
    assert hearer.wait(lambda: switched)
    assert old.closed
    hearer.worker.ask(Question("why", time.monotonic() + 0.1, lambda *words: said.append(words)))
    assert hearer.wait(lambda: len(said) == 2), "the new model has seen nothing yet"
    assert said[1][0] is None
    hearer.worker.slot.put(arrival())
    assert hearer.wait(lambda: len(hearer.outcomes) == 2)
    assert hearer.outcomes[1].answer.generation.text == new.text
    assert hearer.worker.stop(2.0)


def test_questions_are_few_and_short() -> None:
    hearer = Hearer(Engine(), rate=0.0)
    with pytest.raises(OwledError, match="1000000 characters; at most 2000"):
        hearer.worker.ask(Question("?" * 1_000_000, time.monotonic() + 5.0, lambda *_: None))
    said: list[Any] = []
    for _ in range(8):
        hearer.worker.ask(Question("why", time.monotonic() + 1.0, lambda *words: said.append(words)))
    with pytest.raises(OwledError, match="8 questions wait already"):
        hearer.worker.ask(Question("why", time.monotonic() + 1.0, lambda *words: said.append(words)))
    assert hearer.wait(lambda: len(said) == 8)
    assert all("no image has been seen yet" in words[1] for words in said)
    assert hearer.worker.stop(2.0)


def test_questions_may_come_while_others_are_given_up() -> None:
    hearer = Hearer(Engine(), rate=0.0)
    answered = threading.Semaphore(0)
    asked = 0
    for _ in range(400):
        with contextlib.suppress(OwledError):  # too many wait
            hearer.worker.ask(Question("why", 0.0, lambda *_: answered.release()))
            asked += 1
    assert all(answered.acquire(timeout=5.0) for _ in range(asked))
    assert hearer.worker.stop(2.0)


def test_memory_is_looked_at_before_a_second_model(tmp_path: Any) -> None:
    header = b'{"w":{"dtype":"F16","shape":[500000],"data_offsets":[0,1000000]}}'
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(1_000_000))
    # stored in two bytes, held in four
    assert weight_bytes(tmp_path, "float32") == pytest.approx(2_000_000, rel=0.01)
    assert weight_bytes(tmp_path, "bfloat16") == pytest.approx(1_000_000, rel=0.01)
    choice = ModelChoice(str(tmp_path), "cpu", "float32", 1, "auto")
    check_memory(choice, 0.0)
    with pytest.raises(OwledError, match="needs about 2 MB beside the running model"):
        check_memory(choice, 1e9)


def test_a_model_that_answers_nonsense_is_closed_and_refused() -> None:
    engine = Engine("nonsense")
    choice = ModelChoice("somewhere", "cpu", "float32", 1, "auto")
    frame = Frame(IMAGE, NOW, EgoState(NOW, 5.0))
    with pytest.raises(OwledError, match="its answer is of no use"):
        load_and_warm(choice, lambda *_, **__: engine, frame, None)
    assert engine.closed
    assert load_and_warm(choice, lambda *_, **__: engine, None, None) is engine, "a grey image proves nothing"


def test_an_engine_that_judges_by_the_vehicle_is_told_the_nodes() -> None:
    engine = Engine()
    engine.vehicle = VehicleParameters()
    climbed = ladder(engine)
    slow = VehicleParameters(max_speed=5.0)
    assert climbed.climb(arrival(), replace(LIMITS, vehicle=slow)).valid
    assert engine.vehicle == slow
