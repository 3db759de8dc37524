"""What to change in a model or its profile, from what it answered. Needs driving."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from owled_ros.driving.answers.lists import parse_groups
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.prediction import ActionAnswer, Reason
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.wording import AnswerError

TUNE = "owled tune MODEL BAG… --profile PROFILE --out DIR"
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
GROUP = re.compile(r"[\[(]\s*[+-]?\d+(?:\.\d+)?\s*,\s*[+-]?\d")  # a bracket with numbers
THINKING = ("<think>", "</think>")
OTHER_SPEED, OTHER_YAW_RATE = 1.0, 0.05  # [m/s], [rad/s]: from here on another answer is due
BEGINNING = 6  # characters of an answer, without spaces, every number one character


class Said(NamedTuple):
    """What a model said to its last call."""

    call: str
    text: str
    complete: bool
    max_tokens: int
    usual: Sequence[str] = ()  # answers as they should be, without marks
    needed: int = 0  # tokens of the longest of them; 0: not known


class Other(NamedTuple):
    """What it said about another frame."""

    speed: float  # [m/s]
    yaw_rate: float  # [rad/s]
    text: str


def advice_of(profile: DrivingProfile, said: Said, answer: ActionAnswer | None, tune: str = TUNE) -> list[str]:
    """Say what to change, the likeliest first; nothing for a model that answers in its form.

    What brings an answer into the form that is nearly there comes before teaching it, and what does not help alone behind it.

    Args:
        tune: the command that teaches this model.
    """
    if answer is not None and answer.valid:
        return []
    likely, details = _of_length(said, profile)
    if answer is not None and answer.reason is Reason.UNPARSED:
        near, far = _of_text(said, profile)
        likely, details = likely + near, details + far
    if answer is not None and answer.reason is Reason.INFEASIBLE:
        likely.append(
            "the form is right, the numbers cannot be driven: compare axes, units, scale and step_s of answer with what the checkpoint "
            "was trained on, and give --speed with --image"
        )
    if answer is not None and answer.reason is Reason.DECLINED:
        likely.append("it declines: show it a frame of a bag; an image without a road gives no plan")
    when = "if it was never trained to answer so" if likely else "it does not know this form"
    teach = f"{when}: `{tune}` teaches it on your drives (docs/your_model.md)"
    return [*likely, teach, *details]


def collapse_of(said: Sequence[Other]) -> str:
    """Say that a model answers the same to frames of different driving; empty where it does not, or nothing else was driven."""
    if len(said) < 2 or len({one.text for one in said}) > 1:
        return ""
    speeds, turns = [one.speed for one in said], [one.yaw_rate for one in said]
    if max(speeds) - min(speeds) < OTHER_SPEED and max(turns) - min(turns) < OTHER_YAW_RATE:
        return ""
    return (
        f"it says the same about {len(said)} frames of {min(speeds):.1f} to {max(speeds):.1f} m/s and {min(turns):+.2f} to "
        f"{max(turns):+.2f} rad/s: it does not look"
    )


def advice_of_collapse(tune: str = TUNE) -> list[str]:
    """Say what to change in a model that says one thing whatever it is shown."""
    return [
        f"teach it on more, and more varied drives, or for longer: `{tune}`; where it came of a tuning, with a lower --learning-rate",
        "where it never was tuned: see above whether the prompt says speed and command, and how many tokens the image has",
    ]


def _of_length(said: Said, profile: DrivingProfile) -> tuple[list[str], list[str]]:
    """Look at an answer that was cut off: what makes it whole, and what is only told."""
    if said.complete:
        return [], []
    start, end = THINKING
    opened = start in said.text and end not in said.text
    if opened or (profile.cutting.reasoning_opened and profile.cutting.reasoning_end not in said.text):
        return [
            f"call {said.call} was still reasoning after {said.max_tokens} tokens: turn reasoning off with template_options, such as "
            '{"enable_thinking": false}, or raise its max_tokens'
        ], []
    if said.needed > said.max_tokens:
        return [
            f"call {said.call} was cut off after {said.max_tokens} tokens, a usual answer has {said.needed}: raise its max_tokens"
        ], []
    if said.call != profile.calls[-1].name:
        return [
            f"call {said.call} was cut off after {said.max_tokens} tokens: raise its max_tokens, give a stop string, or let an "
            'unfinished answer be used ("unfinished": "use")'
        ], []
    if _begun(said):
        return [
            f"it begins in the form and has not ended after {said.max_tokens} tokens: give call {said.call} a stop string that ends "
            "the answer, or raise its max_tokens"
        ], []
    enough = f", and a usual answer has {said.needed}" if said.needed else ""
    return [], [
        f"call {said.call} was cut off after {said.max_tokens} tokens{enough}: a higher max_tokens alone will not bring the form"
    ]


def _of_text(said: Said, profile: DrivingProfile) -> tuple[list[str], list[str]]:
    """Look for the usual faults in a text that is not in the form: near to it, and far from it."""
    text, cutting = said.text, profile.cutting
    if not text.strip():
        return [
            "the answer is empty: special tokens are left out of it; with action tokens or marks set keep_special"
        ], []
    found = []
    missing = [mark for mark in (cutting.begin, cutting.end) if mark and mark not in text]
    if missing:
        found.append(f"the mark {missing[0]!r} is not in the answer: correct cutting, or ask for it in the prompt")
    if cutting.reasoning_opened and cutting.reasoning_end not in text:
        found.append(
            f"the reasoning is never ended by {cutting.reasoning_end!r}: correct cutting.reasoning_end or reasoning_opened"
        )
    listed = bool(GROUP.search(text))
    if listed and not cutting.brackets:
        found.append('a list stands in the text: with cutting {"brackets": true, "prose": true} it is cut out')
    if isinstance(profile.answer, PointsSpec):
        found.extend(_other_count(text, profile.answer))
    return (found, []) if listed or _begun(said) else ([], found)


def _begun(said: Said) -> bool:
    """Tell whether the beginning of a usual answer stands in a text."""
    beginnings = {_skeleton(answer)[:BEGINNING] for answer in said.usual}
    return any(beginning in _skeleton(said.text) for beginning in beginnings if beginning)


def _skeleton(text: str) -> str:
    return "".join(NUMBER.sub("0", text).split())


def _other_count(text: str, spec: PointsSpec) -> list[str]:
    """Tell where it answers as many places as another profile would have."""
    start, end = text.find("["), text.rfind("]")
    body = text[start : end + 1] if 0 <= start < end else text
    for names in (("x", "y"), ("x", "y", "heading")):
        for count in range(1, 65):
            try:
                parse_groups(body, count, names, spec.label)
            except AnswerError:
                continue
            if (count, len(names)) == (spec.count, 2 if spec.heading == "none" else 3):
                return []  # as the profile has it: something else is wrong
            return [
                f"it answers {count} groups of {len(names)} numbers: set answer.count to {count}"
                + (' and answer.heading to "rad" or "deg"' if len(names) == 3 else "")
                + ", and step_s as it was trained"
            ]
    return []
