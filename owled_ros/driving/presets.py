"""Profiles to begin with, in our own words: the default, one per kind of answer, and some shapes of published models.

Needs driving.profile. A checkpoint that was trained with a text of its own wants that text: it goes into `user` and `system`.
"""

from __future__ import annotations

from collections.abc import Callable

from owled_ros.driving.answers.acceleration_curvature import AccelerationCurvatureSpec
from owled_ros.driving.answers.action_tokens import ActionTokensSpec
from owled_ros.driving.answers.cutting import Cutting
from owled_ros.driving.answers.head import HeadSpec
from owled_ros.driving.answers.meta_action import MetaActionSpec, PathWord, SpeedWord
from owled_ros.driving.answers.pedals import PedalsSpec
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.answers.speed_curvature import SpeedCurvatureSpec
from owled_ros.driving.profile import DrivingProfile, default_profile
from owled_ros.driving.profile_parts import Call, Camera, Command, History, Images, Number
from owled_ros.driving.single_camera import SCENE_QUESTION, SingleCameraAnswer, single_camera
from owled_ros.errors import OwledError

PATH = "x is metres forward, y is metres to the left"
COMMAND_WORDS = {
    "follow_lane": "FOLLOW THE LANE",
    "straight": "GO STRAIGHT",
    "left": "TURN LEFT",
    "right": "TURN RIGHT",
    "lane_change_left": "CHANGE LANE LEFT",
    "lane_change_right": "CHANGE LANE RIGHT",
    "stop": "STOP",
}
FEW_WORDS = {  # for models that know three commands, where a change of lane counts as a turn
    "follow_lane": "go straight",
    "straight": "go straight",
    "left": "turn left",
    "right": "turn right",
    "lane_change_left": "turn left",
    "lane_change_right": "turn right",
}


def preset(name: str) -> DrivingProfile:
    """Return a profile by its name; raises OwledError listing the names."""
    if name not in PRESETS:
        raise OwledError(f"there is no profile {name!r} to begin with; known: {', '.join(PRESETS)}")
    return PRESETS[name]()


def points() -> DrivingProfile:
    """One front camera; six places, one every half second."""
    question = (
        "Where should the car be in the next 3 seconds? Answer with one list of 6 places, one every 0.5 s, and nothing else: "
        f"[[x, y], [x, y], ...]; {PATH}."
    )
    return _one_camera(PointsSpec(count=6, step_s=0.5), question, 128)


def speed_curvature() -> DrivingProfile:
    """One front camera; six pairs of speed and curvature."""
    question = (
        "How should the car drive in the next 3 seconds? Answer with one list of 6 pairs, one every 0.5 s, and nothing else: "
        "[(speed, curvature), ...]; speed in m/s, curvature in 1/m, left positive."
    )
    return _one_camera(SpeedCurvatureSpec(count=6, step_s=0.5), question, 128)


def acceleration_curvature() -> DrivingProfile:
    """One front camera; six pairs of acceleration and curvature."""
    question = (
        "How should the car drive in the next 3 seconds? Answer with one list of 6 pairs, each held for 0.5 s, and nothing "
        "else: [(acceleration, curvature), ...]; acceleration in m/s2, curvature in 1/m, left positive."
    )
    return _one_camera(AccelerationCurvatureSpec(count=6, step_s=0.5), question, 128)


def coarse_controls() -> DrivingProfile:
    """One front camera; three pairs of acceleration and curvature in few digits, told those of now: for a model that has hardly been trained.

    Saying again what it is told keeps on as now, so it need not learn to compute before its answers are worth anything.
    """
    question = (
        "How should it drive? Answer with 3 pairs, each held for 1 s: [(acceleration, curvature), ...]; acceleration in m/s2, "
        "curvature in 1/km, left positive."
    )
    profile = _one_camera(
        AccelerationCurvatureSpec(count=3, step_s=1.0, curvature_scale=1000.0, decimals=1, curvature_decimals=0),
        question,
        64,
    )
    numbers = {
        "speed": Number(step=0.1, min=0.0, max=60.0),
        "acceleration": Number(step=0.1, min=-9.9, max=9.9),
        "curvature": Number(scale=1000.0, step=1.0, min=-300.0, max=300.0),
    }
    now = "Your car drives {speed:.1f} m/s, now ({acceleration:.1f}, {curvature:.0f})."
    return profile.model_copy(update={"numbers": numbers, "ego": now})


def pedals() -> DrivingProfile:
    """One front camera; pedals and steering in percent."""
    question = (
        "Which pedals and which steering now? Answer with one line of this form and nothing else:\n"
        "Accelerator pedal <n>%, brake pedal <n>%, steer <n>% to the <left|right>\n"
        "All are between 0 and 100, one of the pedals is 0."
    )
    return _one_camera(PedalsSpec(), question, 48)


def meta_action() -> DrivingProfile:
    """Six cameras, speed as a whole number, a command; two words, made numbers by the table in the profile."""
    names = ("front", "front_left", "front_right", "back", "back_left", "back_right")
    cameras = tuple(Camera(name=name, tag=f"{name.replace('_', ' ')}: ", after="\n", size=(336, 336)) for name in names)
    speed = {
        "KEEP": SpeedWord(acceleration=0.0, manoeuvre="cruise"),
        "ACCELERATE": SpeedWord(acceleration=1.0, manoeuvre="cruise"),
        "DECELERATE": SpeedWord(acceleration=-1.5, manoeuvre="follow"),
        "STOP": SpeedWord(acceleration=-3.0, target_speed=0.0, manoeuvre="stop"),
    }
    path = {
        "STRAIGHT": PathWord(),
        "LEFT_TURN": PathWord(curvature=0.08),
        "RIGHT_TURN": PathWord(curvature=-0.08),
        "LEFT_CHANGE": PathWord(shift=3.5),
        "RIGHT_CHANGE": PathWord(shift=-3.5),
    }
    question = (
        "The speed is {speed:.0f} m/s, the route says: {command}. Choose one word for the speed and one for the path and "
        f"answer with both, separated by a comma: {'|'.join(speed)}, {'|'.join(path)}"
    )
    return DrivingProfile(
        about="Replace the wording by the checkpoint's own, and the numbers by what the words should mean in your vehicle.",
        cameras=cameras,
        command=Command(words=FEW_WORDS),
        calls=(Call(user="{images}" + question, max_tokens=16),),
        answer=MetaActionSpec(speed=speed, path=path),
    )


def action_tokens() -> DrivingProfile:
    """Three cameras, four images each at 2 Hz; ten action tokens that stand for steps of a codebook."""
    names = ("front", "front_left", "front_right")
    cameras = tuple(
        Camera(name=name, tag=f"{name.replace('_', '-')} camera, oldest first: ", after="\n", max_pixels=100_352)
        for name in names
    )
    question = (
        "Speed {speed:.2f} m/s, acceleration {acceleration:.2f} m/s2, instruction: {command}. Plan the next 5 seconds."
    )
    return DrivingProfile(
        about="The codebook (dx, dy, dheading per token, safetensors, npy or json) lies in the model directory.",
        cameras=cameras,
        images=Images(count=4, interval_s=0.5),
        command=Command(words=FEW_WORDS),
        calls=(Call(user="{images}" + question, max_tokens=16),),
        answer=ActionTokensSpec(
            count=10, step_s=0.5, codebook="codebook.safetensors", entries=2048, base_id=151_665, others_around=True
        ),
    )


def head() -> DrivingProfile:
    """Three cameras, four images each, large ones for now; a trajectory head of an installed package on the hidden states."""
    tags = {"front": "<FRONT VIEW>", "front_left": "<FRONT LEFT VIEW>", "front_right": "<FRONT RIGHT VIEW>"}
    return DrivingProfile(
        about="answer.name is an entry point of the group owled_ros.trajectory_heads.",
        cameras=tuple(
            Camera(name=name, tag=tag, max_pixels=200_704, past_max_pixels=50_176) for name, tag in tags.items()
        ),
        images=Images(count=4, interval_s=0.5),
        history=History(count=4, interval_s=0.5, line="({x:.2f}, {y:.2f}, {heading:.3f})", separator=", "),
        command=Command(words=FEW_WORDS),
        calls=(Call(user="{images}Past places: {history}. Instruction: {command}.", max_tokens=8),),
        answer=HeadSpec(name="planner", count=50, step_s=0.1, gives="poses"),
    )


def points_history() -> DrivingProfile:
    """One front camera and 1.5 s of past motion as lines; six places between marks."""
    line = (
        "{time:.1f} s: position [{x:.2f}, {y:.2f}], acceleration [{acceleration_x:.2f}, {acceleration_y:.2f}], "
        "velocity [{velocity_x:.2f}, {velocity_y:.2f}]"
    )
    question = (
        f"\nThe car's motion until now ({PATH}, in its own frame):\n{{history}}\n"
        "Plan the next 3 seconds: 6 places [x, y], one every 0.5 s, written as <PLANNING>[x, y], [x, y], ...</PLANNING>"
    )
    return DrivingProfile(
        cameras=(Camera(max_pixels=262_144),),
        history=History(count=3, interval_s=0.5, line=line),
        calls=(Call(user="{images}" + question, max_tokens=128),),
        answer=PointsSpec(count=6, step_s=0.5),
        cutting=Cutting(begin="<PLANNING>", end="</PLANNING>", prose=True),
        scene=Call(name="scene", user="{images}" + SCENE_QUESTION, max_tokens=96),
    )


def poses_command() -> DrivingProfile:
    """One front camera, past poses and a command in brackets; eight poses after the word PT."""
    question = (
        f"\nPast poses (x, y, heading), oldest first; {PATH}, heading in rad: {{history}}\nCommand: {{command}}\n"
        "Plan 4 seconds: [PT, (x, y, heading), ...] with 8 poses, one every 0.5 s."
    )
    return DrivingProfile(
        history=History(count=4, interval_s=0.5, line="({x:+.2f}, {y:+.2f}, {heading:+.2f})", separator=", "),
        command=Command(words=COMMAND_WORDS, template="[{word}]"),
        calls=(Call(user="{images}" + question, max_tokens=256),),
        answer=PointsSpec(count=8, step_s=0.5, heading="rad", label="PT", brackets="()"),
    )


def three_calls() -> DrivingProfile:
    """A general model without training for driving: describe, decide, then write speeds and curvatures."""
    history = History(count=6, interval_s=0.5, line="({speed:.1f}, {curvature:.1f})", separator=", ")
    moved = "Speed [m/s] and curvature [1/m times 100, left positive] of the last 3 seconds: {history}."
    calls = (
        Call(
            name="scene_words",
            user="{images}You drive this car. Describe lanes, lights, vehicles and people ahead in three sentences.",
            max_tokens=160,
            unfinished="use",
        ),
        Call(
            name="intent",
            user=f"{{images}}What is ahead: {{scene_words}}\n{moved} What will you do in the next 3 seconds, and why? "
            "One sentence.",
            max_tokens=80,
            unfinished="use",
        ),
        Call(
            name="plan",
            user=f"{{images}}What is ahead: {{scene_words}}\nIntent: {{intent}}\n{moved} Write the next 3 seconds as one list of "
            "6 pairs, one every 0.5 s, and nothing else: [(speed, curvature), ...] in the same units.",
            max_tokens=128,
        ),
    )
    return DrivingProfile(
        cameras=(Camera(max_pixels=401_408),),
        numbers={"curvature": Number(scale=100.0)},
        history=history,
        calls=calls,
        answer=SpeedCurvatureSpec(count=6, step_s=0.5, curvature_scale=100.0),
        cutting=Cutting(brackets=True, prose=True),
        scene=Call(name="scene", user="{images}" + SCENE_QUESTION, max_tokens=96),
        max_seconds=30.0,
    )


def _one_camera(answer: SingleCameraAnswer, question: str, max_tokens: int) -> DrivingProfile:
    return DrivingProfile(**single_camera(answer, question, max_tokens))


PRESETS: dict[str, Callable[[], DrivingProfile]] = {
    "line": default_profile,
    "points": points,
    "speed_curvature": speed_curvature,
    "acceleration_curvature": acceleration_curvature,
    "coarse_controls": coarse_controls,
    "pedals": pedals,
    "meta_action": meta_action,
    "action_tokens": action_tokens,
    "head": head,
    "points_history": points_history,
    "poses_command": poses_command,
    "three_calls": three_calls,
}
