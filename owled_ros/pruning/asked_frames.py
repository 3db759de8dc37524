"""Frames as a model is asked about them in driving, with answers: its own, or an expert's. Needs models.

Through driving.asking, so that what is pruned is asked the same thing as what drives.
"""

from __future__ import annotations

import time
from pathlib import Path

from owled_ros.driving import asking
from owled_ros.driving.answer import Action, Scene, format_scene
from owled_ros.driving.answers.cutting import marked
from owled_ros.driving.answers.kind import Plan
from owled_ros.driving.form_watch import FormWatch
from owled_ros.driving.frame import Frame
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.rollout import HORIZON_S, roll_out
from owled_ros.driving.trajectory import EDGE_S, Trajectory
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError
from owled_ros.models.calls import answer_calls
from owled_ros.models.chat import images_of
from owled_ros.models.engine import Prefix, VlmEngine
from owled_ros.pruning.calibration import AnsweredFrame

EMPTY_ANSWER = "unknown"  # stands for an answer without a single token


def own_answers(engine: VlmEngine, frame: Frame, watch: FormWatch | None = None) -> list[AnsweredFrame]:
    """Let a model answer every call of its profile, and what can be seen; `watch` is told whether it keeps its form."""
    profile, chat = engine.profile, engine.chat
    shown = asking.images(profile, frame)
    images = images_of(shown)
    answered = answer_calls(chat, profile, frame, images)
    if watch is not None:
        found = engine.judge(Prefix(frame, images, time.monotonic()), answered)
        watch.see(found.reason, found.detail, found.generation.text)
    said = [(item.conversation, item.reply) for item in answered]
    scene = asking.scene_conversation(profile, frame, chat.prompter.harmless)
    if scene is not None and profile.scene is not None:
        reply = chat.reply(chat.prompt(scene, images), asking.limits(profile.scene))
        assert reply is not None
        said.append((scene, reply))
    return [
        AnsweredFrame(
            shown if conversation.images else (),
            conversation,
            chat.prompter.decode(reply.ids, keep_special=True) or EMPTY_ANSWER,
        )
        for conversation, reply in said
    ]


def expert_answers(
    profile: DrivingProfile,
    directory: Path,
    frame: Frame,
    action: Action,
    scene: Scene,
    driven: Trajectory | None = None,
) -> list[AnsweredFrame]:
    """Answer as an expert does, in the model's kind of answer.

    Args:
        driven: where the expert will be; without it, and where it is too short for the answer, the action is held.

    Raises:
        OwledError: the model is asked in several calls, or its kind of answer has no words.
    """
    if len(profile.calls) > 1:
        raise OwledError("the expert's answers know no reasoning: calibrate a model of several calls on bags")
    vehicle, steps = VehicleParameters(), getattr(profile.answer, "count", 0) * getattr(profile.answer, "step_s", 0.0)
    horizon = max(steps, HORIZON_S)
    if driven is None or driven.duration + EDGE_S < horizon:
        driven = roll_out(action, frame.ego.speed, vehicle, horizon)
    try:
        text = profile.kind(directory).format(Plan(driven, action.manoeuvre), frame.ego, vehicle)
    except AnswerError as error:
        raise OwledError(f"the expert's action cannot be said as {profile.answer.kind}: {error}") from error
    shown = asking.images(profile, frame)
    said = marked(text, profile.cutting)
    frames = [AnsweredFrame(shown, asking.conversation(profile, profile.calls[0], frame), said)]
    described = asking.scene_conversation(profile, frame)
    if described is not None:
        frames.append(AnsweredFrame(shown, described, marked(format_scene(scene), profile.cutting.of_reasoning())))
    return frames
