"""Two hundred and more damaged answers of every kind: none becomes a plan that is wrong.

An answer may be refused (AnswerError) or withheld (the vehicle cannot drive it); where it is read anyway it must mean the
drive that was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.driving.answer import Action, Manoeuvre
from owled_ros.driving.answers.acceleration_curvature import AccelerationCurvatureSpec
from owled_ros.driving.answers.action_tokens import ActionTokensKind, ActionTokensSpec
from owled_ros.driving.answers.cutting import Cutting, cut
from owled_ros.driving.answers.head import HeadKind, HeadSpec
from owled_ros.driving.answers.kind import AnswerKind, Plan, RawAnswer
from owled_ros.driving.answers.line import LineSpec
from owled_ros.driving.answers.meta_action import MetaActionSpec
from owled_ros.driving.answers.pedals import PedalsSpec
from owled_ros.driving.answers.points import PointsSpec
from owled_ros.driving.answers.speed_curvature import SpeedCurvatureSpec
from owled_ros.driving.ego import EgoState
from owled_ros.driving.feasibility import problem_of
from owled_ros.driving.rollout import roll_out
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError

EGO, VEHICLE = EgoState(0, 8.0), VehicleParameters()
PLAN = Plan(roll_out(Action(-1.0, 0.03), 8.0, VEHICLE, 5.0), Manoeuvre.FOLLOW)
SAME_M = 0.6  # what a lost last decimal may move, and what looks like a swerve
STEPS = np.array(
    [(0.05 * x, 0.01 * y, 0.01 * turn) for x in range(30, 90) for y in range(0, 12, 3) for turn in range(0, 8, 2)]
)
TOKENS = ActionTokensSpec(
    count=6, step_s=0.5, codebook="steps.npy", entries=len(STEPS), base_id=151665, read="text", token="<action_{index}>"
)
KINDS: dict[str, AnswerKind] = {
    "line": LineSpec().make(None),
    "points": PointsSpec(count=6, step_s=0.5).make(None),
    "centimetres": PointsSpec(count=6, step_s=0.5, unit="cm", axes="left_forward", decimals=0).make(None),
    "poses": PointsSpec(count=8, step_s=0.5, heading="rad", label="PT", brackets="()").make(None),
    "speed_curvature": SpeedCurvatureSpec(count=6, step_s=0.5, curvature_scale=100.0).make(None),
    "acceleration_curvature": AccelerationCurvatureSpec(count=10, step_s=0.4).make(None),
    "pedals": PedalsSpec().make(None),
    "meta_action": MetaActionSpec.model_validate(
        {
            "speed": {"KEEP": {"acceleration": 0.0}, "SLOW_DOWN": {"acceleration": -1.0}},
            "path": {"STRAIGHT": {}, "LEFT_TURN": {"curvature": 0.0107}},
        }
    ).make(None),
    "action_tokens": ActionTokensKind(TOKENS, STEPS),
}
LISTS = ("points", "centimetres", "poses", "speed_curvature", "acceleration_curvature")
GROUP = re.compile(r"[\[(][^\[\]()]+[\])]|<action_\d+>")
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
JUNK = (
    "nan",
    "inf",
    "-inf",
    "1e9",
    "e9",
    "0x1F",
    "1000000000",
    "\u0663",
    "\u00bd",
    "[",
    "]",
    "(",
    "maybe ",
    " or ",
    ";;",
    "None",
)


def meant(name: str) -> str:
    return KINDS[name].format(PLAN, EGO, VEHICLE)


def verdict(kind: AnswerKind, text: str, right: Plan) -> str:
    """Say what becomes of an answer: "refused", "withheld", "same" or "WRONG"."""
    try:
        answer, _ = cut(text, Cutting())
        plan = kind.parse(RawAnswer(answer), EGO, VEHICLE)
    except AnswerError:
        return "refused"
    if plan is None or problem_of(plan.trajectory, EGO, VEHICLE):
        return "withheld"
    until = min(plan.trajectory.duration, right.trajectory.duration)
    times = np.linspace(0.0, until, 20)
    one, other = plan.trajectory.sample(times), right.trajectory.sample(times)
    near = np.hypot(one.x - other.x, one.y - other.y).max() < SAME_M
    return "same" if near and plan.trajectory.duration == right.trajectory.duration else "WRONG"


def damaged(name: str) -> Iterator[str]:
    """Yield answers that were cut short, doubled, wrapped in prose, or whose parts were lost, repeated or replaced."""
    text = meant(name)
    for end in range(len(text)):
        yield text[:end]  # half an answer at the token limit
        yield f"<think>{text[:end]}"  # reasoning that never ends
        yield f"{text}\n{text[:end]}"
        for junk in JUNK:
            yield text[:end] + junk + text[end:]
    yield from (f"{text}{between}{text}" for between in ("", " ", "\n", ", ", " or ", "\n\nAnswer: "))
    yield from (f"Sure! {text}", f"{text} Drive safely.", f"Answer: {text}\nAnswer: {text}", f"</think>{text}</think>")
    yield from (
        f"```\n{text}",
        f"<think>a</think>{text}<think>",
        f"{text}<think>why</think>",
        f"```{text}``` ```{text}```",
    )
    for number in NUMBER.finditer(text):
        for slip in (
            "nan",
            "inf",
            "1e9",
            "1000000000",
            "",
            "abc",
            number.group() + ".",
            number.group() + "," + number.group(),
        ):
            yield text[: number.start()] + slip + text[number.end() :]
    yield from damaged_groups(text)


def damaged_groups(text: str) -> Iterator[str]:
    groups = [match.group() for match in GROUP.finditer(text)]
    if len(groups) < 2:
        return
    spans = [match.span() for match in GROUP.finditer(text)]
    for place, (start, end) in enumerate(spans):
        after = spans[place + 1][0] if place + 1 < len(spans) else end
        yield text[:start] + text[after:]  # a point is missing
        yield text[:end] + ", " + groups[place] + text[end:]  # one is there twice
        yield text[:end] + ", " + groups[0] + text[end:]
        yield text[:start] + "[]" + text[end:]
        yield text[:start] + groups[place][:-1] + text[end:]
    if "." in text:
        dots = [match.start() for match in re.finditer(r"\.", text)]
        yield from (text[:dot] + text[dot + 1 :] for dot in dots)


@pytest.mark.parametrize("name", KINDS)
def test_undamaged_it_is_the_plan(name):
    text = meant(name)
    right = KINDS[name].parse(RawAnswer(text), EGO, VEHICLE)
    assert verdict(KINDS[name], text, right) == "same"
    assert verdict(KINDS[name], f"<think>slow down</think>\n```\n{text}\n```", right) == "same"


@pytest.mark.parametrize("name", KINDS)
def test_no_damaged_answer_becomes_a_wrong_plan(name):
    right = KINDS[name].parse(RawAnswer(meant(name)), EGO, VEHICLE)
    answers = [text for text in damaged(name) if text.strip() != meant(name)]
    verdicts = {text: verdict(KINDS[name], text, right) for text in answers}
    assert len(verdicts) >= 200
    assert [text for text, said in verdicts.items() if said == "WRONG"] == []


@pytest.mark.parametrize("name", LISTS)
def test_lists_in_the_wrong_order_unit_or_axes_are_no_other_plan(name):
    text = meant(name)
    right = KINDS[name].parse(RawAnswer(text), EGO, VEHICLE)
    values = np.array([[float(number) for number in NUMBER.findall(group)] for group in GROUP.findall(text)])

    def said(changed: np.ndarray) -> str:
        groups = iter([f"[{', '.join(f'{value:.4f}' for value in row)}]" for row in changed])
        return verdict(KINDS[name], GROUP.sub(lambda _: next(groups), text), right)

    assert said(values) == "same"
    faults = [100.0 * values, values[:, ::-1]]
    if (
        name != "acceleration_curvature"
    ):  # there a hundredth is gentle driving, and even braking reads the same from both ends
        faults += [values[::-1], 0.01 * values, -values]
    for place in range(len(values)):
        for slip in (1e2, -1e2, 1e5, 1e9):
            slipped = values.copy()
            slipped[place, 0] += slip * (10.0 if name == "centimetres" else 1.0)
            faults.append(slipped)
    assert {said(fault) for fault in faults} <= {"refused", "withheld"}


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_text_put_anywhere_changes_no_plan(name, data):
    text = meant(name)
    right = KINDS[name].parse(RawAnswer(text), EGO, VEHICLE)
    place = data.draw(st.integers(0, len(text)))
    more = data.draw(st.text(max_size=5).filter(lambda added: not re.search(r"[0-9+.-]", added)))
    assert verdict(KINDS[name], text[:place] + more + text[place:], right) != "WRONG"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=9), st.sampled_from([0.0, 1.0, np.nan, np.inf, 1e3, -1e3, 1e9])
)
def test_a_head_that_returns_anything_gives_no_wrong_plan(places, value):
    """Heads answer in numbers: some of a good answer's are replaced."""
    good = PLAN.trajectory.sample(0.5 * np.arange(1, 6)).values[:, 1:4]
    bad = good.copy()
    bad.flat[places] = value
    kind = HeadKind(HeadSpec(name="any", count=5, step_s=0.5), lambda hidden, ego, vehicle: bad)
    try:
        plan = kind.parse(RawAnswer("", (), np.zeros((1, 1), np.float32)), EGO, VEHICLE)
    except AnswerError:
        return
    near = np.hypot(*(bad - good)[:, :2].T).max() < SAME_M
    assert near or problem_of(plan.trajectory, EGO, VEHICLE)
