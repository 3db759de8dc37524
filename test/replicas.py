"""Replicas of published driving models: tiny models of the real configuration and processor that know a handful of frames by heart.

Each row learns, by `owled tune`, what was driven behind the images of one bag, in the answer form of its model; then the bag drives
it through the real node, and what is published is put beside the truth. Needs ROS 2 to drive.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tiny_vlms import save_family
from tuning_drives import make_drives

from owled_ros.bags.frames import ReadOptions, Sample, read_samples
from owled_ros.bags.summary import summarise_bag
from owled_ros.driving.answers.action_tokens import ActionTokensKind, ActionTokensSpec
from owled_ros.driving.answers.cutting import cut
from owled_ros.driving.answers.kind import RawAnswer
from owled_ros.driving.answers.meta_action import MetaActionSpec, PathWord, SpeedWord
from owled_ros.driving.judging import reads_text
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import DrivingProfile, profile_text
from owled_ros.driving.trajectory import Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.evaluation.offline import truth_from
from owled_ros.models.driving_model import load_engine
from owled_ros.models.tuned import read_record
from owled_ros.tuning.settings import TuneRequest, TuneSettings
from owled_ros.tuning.targets import answer_text, plan_of
from owled_ros.tuning.tune import tune

VEHICLE = VehicleParameters()
ENTRIES = 48  # of the codebook
STAGES = (200, 400, 800, 1600)  # steps, until every answer is right
RATE = 2e-3
NEAR = 1e-6
EGO_GAP_S = 0.2  # as the node has it
Truths = dict[int, tuple[Trajectory, Trajectory]]  # by stamp: what was driven, and how the form says it


@dataclass(frozen=True)
class Row:
    """One published model."""

    name: str
    family: str
    profile: Callable[[Path], DrivingProfile]  # is given the model's directory, and may add what it needs to it


def impromptu(_: Path) -> DrivingProfile:
    return preset("points_history").model_copy(update={"scene": None})


def zero_shot(directory: Path) -> DrivingProfile:
    """Ask for scene and intent in a word each, which the model may choose as it likes."""
    from transformers import AutoTokenizer

    tokenizer, settings = AutoTokenizer.from_pretrained(directory), directory / "generation_config.json"
    said = [tokenizer.decode([index]) for index in range(len(tokenizer))]
    useful = {tokenizer.eos_token_id}
    useful |= {index for index, text in enumerate(said) if text and not set(text) - set("[](), -.0123456789")}
    words = {index for index, text in enumerate(said) if len(text) > 2 and text.isalpha()}
    useful |= {index for index in words if tokenizer.encode(said[index]) == [index]}
    forbidden = [index for index in range(len(tokenizer) + 64) if index not in useful]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "suppress_tokens": forbidden}))
    profile = preset("three_calls")
    look, intent, plan = profile.calls
    calls = (look.model_copy(update={"max_tokens": 1}), intent.model_copy(update={"max_tokens": 1}), plan)
    return profile.model_copy(update={"calls": calls, "scene": None, "max_seconds": None})


def recogdrive(_: Path) -> DrivingProfile:
    return preset("poses_command")


def senna(_: Path) -> DrivingProfile:
    speed = {
        "KEEP": SpeedWord(acceleration=0.0, manoeuvre="cruise"),
        "ACCELERATE": SpeedWord(acceleration=0.5, manoeuvre="cruise"),
        "DECELERATE": SpeedWord(acceleration=-0.5, manoeuvre="follow"),
    }
    path = {"STRAIGHT": PathWord(), "LEFT_TURN": PathWord(curvature=0.04), "RIGHT_TURN": PathWord(curvature=-0.04)}
    profile = preset("meta_action")
    calls = (
        profile.calls[0].model_copy(update={"keep_special": True, "max_tokens": 32}),
    )  # the small tokenizer writes bytes, as special tokens
    return profile.model_copy(update={"calls": calls, "answer": MetaActionSpec(speed=speed, path=path)})


def autovla(directory: Path) -> DrivingProfile:
    """Add the action tokens to the tokenizer, and a codebook of steps as they are driven here."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    base = len(tokenizer)
    tokenizer.add_tokens([f"<action_{index}>" for index in range(ENTRIES)], special_tokens=True)
    tokenizer.save_pretrained(directory)
    steps = [
        [round(0.5 * speed, 3), round(0.125 * speed**2 * bend, 4), round(0.5 * speed * bend, 4)]
        for bend in (0.0, 0.025, 0.05, -0.025, -0.05, 0.0125)
        for speed in (3.0, 3.5, 4.0, 4.25, 4.5, 4.75, 5.0, 5.25)
    ]
    (directory / "steps.json").write_text(json.dumps(steps))
    answer = ActionTokensSpec(
        count=10, step_s=0.5, codebook="steps.json", entries=ENTRIES, base_id=base, others_around=True
    )
    return preset("action_tokens").model_copy(update={"answer": answer})


ROWS = {
    row.name: row
    for row in (
        Row("impromptu", "qwen2_5_vl", impromptu),
        Row("zero_shot", "smolvlm", zero_shot),
        Row("recogdrive", "internvl", recogdrive),
        Row("senna", "llava", senna),
        Row("autovla", "qwen2_5_vl", autovla),
    )
}


@dataclass(frozen=True)
class Replica:
    """What came of one row."""

    name: str
    frames: int  # that were learned
    published: int  # of these, with a trajectory
    error_m: float  # largest distance between what was published and the truth as its form says it
    truth_m: float  # largest distance between what was published and what was driven
    said: dict[int, str]  # by stamp: reasons of what was withheld
    steps: int
    learning_s: float


def learned(row: Row, home: Path, stages: Sequence[int] = STAGES) -> tuple[Path, Truths]:
    """Make model and bag of a row in `home`, and tune until every answer is right; returns the model, and what is right."""
    model = save_family(row.family, home / "model")
    profile = row.profile(model)
    (model / "driving.json").write_text(profile_text(profile))
    topics = tuple(f"/{camera.name}/image" for camera in profile.cameras)
    topics = topics if len(topics) > 1 else ("/camera/image",)
    learn = make_drives(home / "bag", drives=1, seconds=10.0, cameras=topics)
    judge = make_drives(home / "judge", drives=1, seconds=10.0, day=1, cameras=topics)
    known = truths(model, profile, learn)
    for steps in stages:
        settings = TuneSettings(
            method="all", steps=steps, batch_size=8, frames=64, held_out_frames=2, measure_every=steps, learning_rate=RATE
        )  # fmt: skip
        asked = TuneRequest(model, (learn,), home / "tuned", held_out=(judge,), accept_little=True, settings=settings)
        tuned = tune(asked).model
        if knows_all(tuned, known, learn):
            break
    return tuned, known


def knows_all(model: Path, known: Truths, bag: Path) -> bool:
    """Tell whether a model answers every frame of a bag with what is right, without ROS."""
    engine = load_engine(model, device="cpu", threads=1)
    try:
        for sample in read_samples(bag, _options(engine.profile)):
            if sample.frame.stamp in known:
                found = engine.act(engine.see(sample.frame)).trajectory
                right = known[sample.frame.stamp][1]
                if found is None or len(found) != len(right) or np.abs(found.values - right.values).max() > NEAR:
                    return False
    finally:
        engine.close()
    return True


def truths(model: Path, profile: DrivingProfile, bag: Path) -> Truths:
    """Return by stamp what was driven, and how the form says it, of every frame whose inputs the node has."""
    options, kind = _options(profile), profile.kind(model)
    truth_of = truth_from(summarise_bag(bag, options).tracks)
    found = {}
    for sample in read_samples(bag, options):
        plan = plan_of(truth_of(sample), sample.frame.ego, VEHICLE)
        if plan is None:
            continue
        try:
            said = _said(profile, kind, plan, sample)
        except (AnswerError, ValueError):
            continue
        found[sample.frame.stamp] = (plan.trajectory, said)
    return found


def _options(profile: DrivingProfile) -> ReadOptions:
    return ReadOptions(needs=profile.needs, max_ego_gap_s=EGO_GAP_S)


def _said(profile: DrivingProfile, kind: Any, plan: Any, sample: Sample) -> Trajectory:
    ego = sample.frame.ego
    if plan.trajectory.duration < getattr(profile.answer, "horizon_s", 0.0) or plan.trajectory.duration < (
        getattr(profile.answer, "count", 0) * getattr(profile.answer, "step_s", 0.0) - 1e-6
    ):
        raise ValueError("the future is not known")
    text = answer_text(profile, kind, plan, ego, VEHICLE)
    ids = ()
    if isinstance(kind, ActionTokensKind):
        ids = tuple(kind.spec.base_id + index for index in kind.indices_of(plan))
    answer = cut(text, profile.cutting)[0] if reads_text(profile.answer) else text
    return kind.parse(RawAnswer(answer, ids), ego, VEHICLE).trajectory


def driven(model: Path, bag: Path, home: Path, domain: int) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Play the bag through source_node and driving_node; returns trajectories and reasons of withheld ones by stamp."""
    from owled_ros.demo.run import DemoOptions, run_demo

    heard = _Listener(domain)
    options = DemoOptions(
        out=home / "drive", source="bag", path=str(bag), recorded=True, lockstep=True, film=False, model=str(model), domain=domain,
        go_on=True,
    )  # fmt: skip
    try:
        run_demo(options, Console(file=io.StringIO()))
        time.sleep(0.5)
    finally:
        heard.close()
    return heard.trajectories, heard.withheld


class _Listener:
    """Hears what the driving node publishes, in a thread of its own."""

    def __init__(self, domain: int) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

        from owled_ros.msg import PredictedTrajectory
        from owled_ros.nodes.conversions import trajectory_to_answer

        self.trajectories: dict[int, np.ndarray] = {}
        self.withheld: dict[int, str] = {}
        self._rclpy, self._context = rclpy, Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("replica_listener", context=self._context)

        def take(message: Any) -> None:
            said = trajectory_to_answer(message)
            if message.valid:
                self.trajectories[said["stamp"]] = np.array(said["trajectory"])
            else:
                self.withheld[said["stamp"]] = f"{said['reason']}: {message.reason_text} {message.text[:80]}"

        for name in ("trajectory", "withheld"):
            self._node.create_subscription(PredictedTrajectory, f"/driving_node/output/{name}", take, 100)
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)

        def spin() -> None:
            with contextlib.suppress(ExternalShutdownException):
                executor.spin()

        self._thread = threading.Thread(target=spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._rclpy.shutdown(context=self._context)
        self._thread.join(5.0)


def replica(name: str, home: Path, domain: int) -> Replica:
    """Learn and drive one row."""
    began = time.monotonic()
    model, known = learned(ROWS[name], home)
    steps, learning_s = read_record(model)["steps"], time.monotonic() - began
    trajectories, withheld = driven(model, home / "bag", home, domain)
    errors, apart = [0.0], [0.0]
    published = 0
    for stamp, (truth, said) in known.items():
        found = trajectories.get(stamp)
        if found is None:
            continue
        published += 1
        same = len(found) == len(said)
        errors.append(float(np.hypot(*(found[:, 1:3] - said.values[:, 1:3]).T).max()) if same else float("inf"))
        times = found[found[:, 0] <= truth.duration + 1e-6, 0]
        true = truth.sample(times)
        apart.append(float(np.hypot(found[: len(times), 1] - true.x, found[: len(times), 2] - true.y).max()))
    reasons = {stamp: why for stamp, why in withheld.items() if stamp in known}
    return Replica(name, len(known), published, max(errors), max(apart), reasons, steps, learning_s)
