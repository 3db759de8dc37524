"""What to change in a model or its profile, from what it answered. Needs driving."""

from __future__ import annotations

from typing import NamedTuple

from owled_ros.driving.answers.lists import parse_groups
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.prediction import ActionAnswer, Reason
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.wording import AnswerError

TUNE = "`owled tune MODEL BAG… --profile PROFILE --out DIR` teaches it this form on your drives (docs/your_model.md)"


class Said(NamedTuple):
    """What a model said to its last call."""

    call: str
    text: str
    complete: bool
    max_tokens: int


def advice_of(profile: DrivingProfile, said: Said, answer: ActionAnswer | None) -> list[str]:
    """Say what to change, the likeliest first; nothing for a model that answers in its form."""
    if answer is not None and answer.valid:
        return []
    found = []
    if not said.complete:
        found.append(
            f"call {said.call} was cut off after {said.max_tokens} tokens: raise its max_tokens, give a stop string, or turn reasoning "
            'off with template_options, such as {"enable_thinking": false}'
        )
    if answer is not None and answer.reason is Reason.UNPARSED:
        found.extend(_of_text(said.text, profile))
    if answer is not None and answer.reason is Reason.INFEASIBLE:
        found.append(
            "the form is right, the numbers cannot be driven: compare axes, units, scale and step_s of answer with what the checkpoint "
            "was trained on, and give --speed with --image"
        )
    if answer is not None and answer.reason is Reason.DECLINED:
        found.append("it declines: show it a frame of a bag; an image without a road gives no plan")
    found.append(f"if it was never trained to answer so: {TUNE}")
    return found


def _of_text(text: str, profile: DrivingProfile) -> list[str]:
    """Look for the usual faults in a text that is not in the form."""
    cutting, found = profile.cutting, []
    if not text.strip():
        return ["the answer is empty: special tokens are left out of it; with action tokens or marks set keep_special"]
    missing = [mark for mark in (cutting.begin, cutting.end) if mark and mark not in text]
    if missing:
        found.append(f"the mark {missing[0]!r} is not in the answer: correct cutting, or ask for it in the prompt")
    if cutting.reasoning_opened and cutting.reasoning_end not in text:
        found.append(
            f"the reasoning is never ended by {cutting.reasoning_end!r}: correct cutting.reasoning_end or reasoning_opened"
        )
    if "[" in text and "]" in text and not cutting.brackets:
        found.append('a list stands in the text: with cutting {"brackets": true, "prose": true} it is cut out')
    if isinstance(profile.answer, PointsSpec):
        found.extend(_other_count(text, profile.answer))
    return found


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
            return [
                f"it answers {count} groups of {len(names)} numbers: set answer.count to {count}"
                + (' and answer.heading to "rad" or "deg"' if len(names) == 3 else "")
                + ", and step_s as it was trained"
            ]
    return []
