"""Try a model's profile: what it asks, what the model answers, and what is wrong. Needs models, bags and driving.asking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from owled_ros.driving import asking
from owled_ros.driving.answer import Action, Manoeuvre
from owled_ros.driving.answers.action_tokens import ActionTokensSpec
from owled_ros.driving.answers.cutting import marked
from owled_ros.driving.answers.kind import AnswerKind, Plan
from owled_ros.driving.conversation import Conversation, Slot
from owled_ros.driving.ego import EgoState
from owled_ros.driving.frame import Frame
from owled_ros.driving.judging import judge_answer, reads_text
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason
from owled_ros.driving.profile import DrivingProfile, read_profile
from owled_ros.driving.rollout import HORIZON_S, roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError
from owled_ros.evaluation.advice import TUNE, Other, Said, advice_of, advice_of_collapse, collapse_of
from owled_ros.models.driving_model import load_engine
from owled_ros.models.engine import VlmEngine
from owled_ros.models.manifest import is_artifact, read_manifest

if TYPE_CHECKING:
    from owled_ros.models.calls import Answered

TYPICAL = (  # plans whose answers are about as long as answers become: (speed [m/s], action)
    (27.77, Action(-3.4, -0.017, Manoeuvre.FOLLOW)),
    (13.33, Action(1.2, 0.034, Manoeuvre.CRUISE)),
    (8.88, Action(-2.2, 0.11, Manoeuvre.YIELD)),
)


@dataclass
class CallReport:
    """One call: what was read, what came back."""

    name: str
    prompt: str
    prompt_tokens: int
    answer: str
    answer_tokens: int
    max_tokens: int
    complete: bool
    seconds: float


@dataclass
class CameraReport:
    """What the images of one camera cost."""

    name: str
    images: int
    size: tuple[int, int]  # (width, height) [px] of the newest, prepared
    tokens: int  # of all its images


@dataclass
class ProfileReport:
    """Everything that a check found."""

    problems: list[str] = field(default_factory=list)  # why it cannot drive
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)  # what to change, the likeliest first
    form: str = ""  # the answer that is expected, in words
    cameras: list[CameraReport] = field(default_factory=list)
    calls: list[CallReport] = field(default_factory=list)
    answer: ActionAnswer | None = None
    frame: Frame | None = None
    others: list[Other] = field(default_factory=list)  # what it says about other frames


def check_profile(
    directory: Path,
    frame_of: Any = asking.made_up_frame,
    device: str = "cpu",
    vehicle: VehicleParameters | None = None,
    profile: DrivingProfile | None = None,
    others_of: Callable[[DrivingProfile], Iterable[Frame]] | None = None,
    tune: str = TUNE,
) -> ProfileReport:
    """Read, load, ask and judge; what goes wrong becomes a problem in words.

    Args:
        frame_of: makes the frame for a profile.
        profile: how to ask; None: as the model's own driving.json says.
        others_of: further frames, which a model that answers well is asked about: does it say the same to all?
        tune: the command that teaches this model its form.
    """
    report = ProfileReport()
    try:
        profile = profile or read_profile(directory)
        kind = profile.kind(directory)
        report.form = kind.describe()
        report.frame = frame_of(profile)
        for call in profile.calls[:1]:
            asking.conversation(profile, call, report.frame)
        engine = load_engine(directory, device=device, profile=profile)
    except OwledError as error:
        report.problems.append(str(error))
        return report
    needed = 0
    vehicle = vehicle or VehicleParameters()
    try:
        needed = _check_tokens(report, profile, kind, engine.chat.prompter.tokenizer, vehicle)
        _ask(report, profile, kind, engine, vehicle)
        if others_of is not None and report.answer is not None and report.answer.valid:
            _ask_others(report, engine, others_of(profile), tune)
    except OwledError as error:
        report.problems.append(str(error))
    finally:
        engine.close()
    if report.calls and not report.others:
        last = report.calls[-1]
        usual = list(usual_answers(profile, kind, vehicle))
        said = Said(
            last.name, last.answer, last.complete, last.max_tokens, usual, needed if last.name == profile.calls[-1].name else 0
        )  # fmt: skip
        report.advice = advice_of(profile, said, report.answer, tune)
    if report.answer is None or not report.answer.valid:
        return report
    if not profile.confidence.calibrated:
        before = f" ({profile.confidence.source})" if profile.confidence.source else ""
        report.notes.append(f"the confidence is not calibrated{before}: `owled calibrate` fits it on drives")
    elif is_artifact(directory) and read_manifest(directory).confidence is None:
        report.notes.append(
            "the confidence was fitted before the model was pruned: fit it again with `owled calibrate`"
        )
    return report


def typical_answers(profile: DrivingProfile, kind: AnswerKind, vehicle: VehicleParameters) -> Iterator[str]:
    """Write answers of usual length, marks included; nothing for kinds without words."""
    return (marked(text, profile.cutting) for text in usual_answers(profile, kind, vehicle))


def usual_answers(profile: DrivingProfile, kind: AnswerKind, vehicle: VehicleParameters) -> Iterator[str]:
    """Write answers of usual length without marks; nothing for kinds without words."""
    steps = getattr(profile.answer, "count", 0) * getattr(profile.answer, "step_s", 0.0)
    for speed, action in TYPICAL:
        trajectory = roll_out(action, speed, vehicle, max(steps, HORIZON_S) + 1.0)
        try:
            yield kind.format(Plan(trajectory, action.manoeuvre), EgoState(0, speed), vehicle)
        except AnswerError:
            continue


def prompt_text(conversation: Conversation) -> str:
    """Write a conversation for the reader, before any chat template; images in angle brackets."""
    lines = []
    for turn in conversation.turns:
        parts = ("<image>" if isinstance(part, Slot) else part for part in turn.parts)
        lines.append(f"[{turn.role}] {''.join(parts)}")
    return "\n".join([*lines, f"[assistant] {conversation.answer_start}…"])


def _check_tokens(
    report: ProfileReport, profile: DrivingProfile, kind: AnswerKind, tokenizer: Any, vehicle: VehicleParameters
) -> int:
    """Hold the token limit against usual answers; returns how many tokens the longest has."""
    spec, limit = profile.answer, profile.calls[-1].max_tokens
    if isinstance(spec, ActionTokensSpec):
        if spec.base_id + spec.entries > len(tokenizer):
            report.problems.append(
                f"the action tokens end at id {spec.base_id + spec.entries - 1}, the tokenizer has {len(tokenizer)} tokens; "
                "correct answer.base_id or answer.entries"
            )
        longest = (spec.count + 1, f"{spec.count} action tokens")
    else:
        lengths = [
            (len(tokenizer(text, add_special_tokens=False).input_ids) + 1, text)
            for text in typical_answers(profile, kind, vehicle)
        ]
        longest = max(lengths, default=(0, ""))
    if longest[0] > limit:
        report.problems.append(
            f"an answer may have {limit} tokens, but one such as {longest[1][:200]!r} has {longest[0]} with its end; raise "
            f"max_tokens of call {profile.calls[-1].name}"
        )
    return longest[0]


def _ask(
    report: ProfileReport, profile: DrivingProfile, kind: AnswerKind, engine: VlmEngine, vehicle: VehicleParameters
) -> None:
    from owled_ros.models.calls import answer_calls
    from owled_ros.models.chat import images_of

    assert report.frame is not None
    report.cameras = _cameras(profile, report.frame, engine)
    answered = answer_calls(engine.chat, profile, report.frame, images_of(asking.images(profile, report.frame)))
    for item in answered:
        reply = item.reply
        report.calls.append(
            CallReport(
                item.call.name, engine.chat.prompter.render(item.conversation), len(item.prompt.ids), reply.text,
                len(reply.ids), item.call.max_tokens, reply.complete, reply.seconds,
            )
        )  # fmt: skip
    if len(answered) < len(profile.calls) or not answered[-1].usable:
        name = profile.calls[min(len(answered), len(profile.calls)) - 1].name if answered else profile.calls[0].name
        last = report.calls[-1] if report.calls else None
        late = last is None or last.complete or last.answer_tokens < last.max_tokens
        limit = (
            f"within {profile.max_seconds} s, the limit of the profile: raise max_seconds"
            if late
            else "within its tokens"
        )
        report.problems.append(f"call {name} did not come to an end {limit}")
        return
    hidden = engine.chat.runner.hidden() if kind.needs_hidden else None
    report.answer = _judged(profile, kind, answered[-1], report.frame.ego, vehicle, hidden)
    if not report.answer.valid and report.answer.reason is not Reason.DECLINED:
        name = report.answer.reason.name
        report.problems.append(
            f"the answer gives no trajectory ({name}): {report.answer.detail}; expected {report.form}"
        )


def _ask_others(report: ProfileReport, engine: VlmEngine, frames: Iterable[Frame], tune: str) -> None:
    """Ask about other frames of the drive, and see whether it says the same to all."""
    assert report.frame is not None
    assert report.answer is not None
    ego = report.frame.ego
    said = [Other(ego.speed, ego.yaw_rate, report.answer.generation.text)]
    for frame in frames:
        text = engine.act(engine.see(frame)).generation.text
        said.append(Other(frame.ego.speed, frame.ego.yaw_rate, text))
    report.others = said[1:]
    collapsed = collapse_of(said)
    if collapsed:
        report.problems.append(collapsed)
        report.advice = advice_of_collapse(tune)


def _judged(
    profile: DrivingProfile,
    kind: AnswerKind,
    item: Answered,
    ego: EgoState,
    vehicle: VehicleParameters,
    hidden: np.ndarray | None,
) -> ActionAnswer:
    reply = item.reply
    confidence = profile.confidence.apply(float(np.exp(reply.score)))
    generation = Generation(reply.text.strip(), reply.complete, confidence, len(reply.ids), reply.seconds, reply.ids)
    return judge_answer(generation, kind, profile.cutting if reads_text(profile.answer) else None, ego, vehicle, hidden)


def _cameras(profile: DrivingProfile, frame: Frame, engine: VlmEngine) -> list[CameraReport]:
    """Count the image tokens of each camera by showing its images alone."""
    from owled_ros.driving.conversation import IMAGE, Turn
    from owled_ros.models.chat import images_of

    found = []
    for camera in profile.cameras:
        views: Sequence[np.ndarray] = asking.prepared_views(profile, camera, frame)
        alone = Conversation((Turn("user", (*[IMAGE] * len(views), "?")),), profile.template_options)
        prompt = engine.chat.prompt(alone, images_of(views))
        size = (views[-1].shape[1], views[-1].shape[0])
        found.append(CameraReport(camera.name, len(views), size, engine.chat.prompter.image_tokens(prompt)))
    return found
