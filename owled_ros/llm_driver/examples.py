"""Questions and answers about vector scenes for training and held-out scoring. Needs numpy.

Scenes come from our own world, from chance, and where they are at hand from the released file. Sources are told apart by their
seeds: training counts up from TRAINING_SEEDS, held-out scenes from HELD_OUT_SEEDS; the released ones are cut by ranges of their
time. The same number gives the same example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from owled_ros.driving.vector_facts import Facts, facts_of
from owled_ros.driving.vector_words import (
    ACT,
    DESCRIBE,
    DRIVE,
    QUESTIONS,
    Pedals,
    action,
    description,
    drive_answer,
)
from owled_ros.driving.vectors import Ego, Pedestrian, Route, VectorScene, Vehicle
from owled_ros.errors import OwledError
from owled_ros.llm_driver.released import Scenario, required_vectors
from owled_ros.scenes.vector_random import random_scene
from owled_ros.scenes.vector_scenes import sample_moment

TRAINING_SEEDS, HELD_OUT_SEEDS = 10_000_000, 800_000
RUN = 32
ANOTHER_DRIVER = 0.05  # share by which pedals differ where one scene is shown often: each is not learnt by heart
GAP = 10  # released scenes left out between training and held-out: neighbours are nearly equal
LESSONS = (  # what to do from the start, while the encoder keeps everything; then answers that stand in one row, sums over many last
    ACT, "What is your current speed and steering angle?", "What is the color of the traffic light?", "What is the next turn?",
    "What is the distance to the closest intersection?", "Where is the nearest car?", "Where is the nearest pedestrian?",
    "How many pedestrians are crossing?", "How many cars and pedestrians are there?",
)  # fmt: skip
MIRRORED = {  # columns whose sign turns when left and right change places
    "ego": (Ego.STEERING_WHEEL, Ego.LAST_STEERING),
    "route": (Route.Y, Route.DY),
    "vehicles": (Vehicle.Y, Vehicle.DY, *range(Vehicle.CORNERS + 1, Vehicle.CORNERS + 8, 2)),
    "pedestrians": (Pedestrian.Y, Pedestrian.DY),
}


@dataclass(frozen=True, eq=False)
class ActedScene:
    """A scene and what was done in it; None: nobody drove there."""

    scene: VectorScene
    pedals: Pedals | None


@dataclass(frozen=True, eq=False)
class Example:
    """One question and its answer; `open_end`: what comes after the answer is not to be learnt."""

    scene: VectorScene
    question: str
    answer: str
    open_end: bool = False


@dataclass(frozen=True)
class Mix:
    """What one stage asks, and shares of its sources; the rest are scenes of our own world."""

    describe: float  # share of the scenes that are described, which is long; the others are asked
    questions: int  # how many about one scene, each a different one
    lesson: int  # scenes of a lesson: at first LESSONS come one after the other; 0: all at once
    drive: float  # weights of DRIVE and ACT among the questions; each of QUESTIONS has 1
    act: float
    chance: float  # scenes drawn at random
    released: float  # where there are any


ENCODER_STAGE = Mix(describe=0.1, questions=6, lesson=12800, drive=2.0, act=4.0, chance=0.55, released=0.2)
DRIVING_STAGE = Mix(describe=0.05, questions=5, lesson=0, drive=50.0, act=50.0, chance=0.25, released=0.3)


def make_examples(number: int, mix: Mix, released: Sequence[ActedScene] = ()) -> list[Example]:
    """Make the examples of a number, from TRAINING_SEEDS on: questions about one scene."""
    rng = np.random.default_rng([number, 0x11D])
    lesson = _lesson(number, mix)
    source = rng.random()
    if source < mix.released and released:
        acted = _driven_alike(released[int(rng.integers(len(released)))], rng)
    elif source < mix.released + mix.chance and lesson > 0:  # the first one is what to do, and here nobody drove
        acted = ActedScene(random_scene(rng), None)
    else:
        acted = world_scene(number)
    questions = _questions(number, rng, mix, lesson)
    if acted.pedals is None:
        questions = [question for question in questions if question != ACT]
    return [ask(acted, question) for question in questions]


def world_scene(seed: int) -> ActedScene:
    """Return a moment of our own world with the expert's pedals."""
    moment = sample_moment(seed)
    return ActedScene(moment.scene, moment.pedals)


def acted_of(scenario: Scenario) -> ActedScene:
    """Return a released scene with what was done in it."""
    push, steering = scenario.action.longitudinal, scenario.action.steering
    return ActedScene(required_vectors(scenario), Pedals(max(push, 0.0), max(-push, 0.0), steering))


def ask(acted: ActedScene, question: str) -> Example:
    """Answer a question about a scene; where nobody drove, an action is not asked for."""
    facts = facts_of(acted.scene)
    if question in QUESTIONS:
        return Example(acted.scene, question, str(QUESTIONS[question](facts)))
    if question == DESCRIBE:
        return Example(acted.scene, question, description(facts))
    if acted.pedals is None:
        return Example(acted.scene, DRIVE, _perceived(facts), open_end=True)
    answer = drive_answer(facts, acted.pedals) if question == DRIVE else action(acted.pedals)
    return Example(acted.scene, question, answer)


def mirrored(acted: ActedScene) -> ActedScene:
    """Let left and right change places."""
    parts = {}
    for name, columns in MIRRORED.items():
        values = getattr(acted.scene, name).copy()
        values[..., list(columns)] *= -1.0
        parts[name] = values
    rays = parts["ego"][Ego.LAST_BRAKE + 1 :].copy()  # six to the left, six to the right
    parts["ego"][Ego.LAST_BRAKE + 1 :] = np.roll(rays, len(rays) // 2)
    widths = [Route.WIDTH_LEFT, Route.WIDTH_RIGHT]
    parts["route"][:, widths] = parts["route"][:, widths[::-1]]
    pedals = None if acted.pedals is None else replace(acted.pedals, steering=-acted.pedals.steering)
    return ActedScene(VectorScene(**parts), pedals)


def check_apart(training: range, held_out: range) -> None:
    """Raise OwledError unless two ranges of released scenes keep GAP scenes between them."""
    if (
        len(training)
        and len(held_out)
        and training.start < held_out.stop + GAP
        and held_out.start < training.stop + GAP
    ):
        raise OwledError(
            f"training on released scenes {training.start} to {training.stop - 1} and scoring {held_out.start} to "
            f"{held_out.stop - 1} leaks: neighbours are nearly equal, leave {GAP} between them"
        )


def _driven_alike(acted: ActedScene, rng: np.random.Generator) -> ActedScene:
    """Vary a released scene, of which there are few: from the other side, with pedals as another driver might press them."""
    if rng.random() < 0.5:
        acted = mirrored(acted)
    if acted.pedals is None:
        return acted
    push = float(np.clip(acted.pedals.accelerator - acted.pedals.brake + rng.normal(0.0, ANOTHER_DRIVER), -1.0, 1.0))
    return replace(acted, pedals=Pedals(max(push, 0.0), max(-push, 0.0), acted.pedals.steering))


def _lesson(number: int, mix: Mix) -> int:
    """Say which lesson an example belongs to; len(LESSONS) and more: none."""
    return (number - TRAINING_SEEDS) // mix.lesson if mix.lesson else len(LESSONS)


def _questions(number: int, rng: np.random.Generator, mix: Mix, lesson: int) -> list[str]:
    """Draw the questions: in a lesson its own one, what to do, and some of before; later any.

    A small host that is asked everything from the start learns to count and never finds where the other answers stand.
    Descriptions, which are long, come RUN at a time so that batches are padded little.
    """
    if lesson < len(LESSONS):
        before = rng.permutation(LESSONS[1:lesson])[: mix.questions // 3].tolist()
        return [*dict.fromkeys((LESSONS[lesson], LESSONS[0])), *before]
    if np.random.default_rng([number // RUN, 0xDE5]).random() < mix.describe:
        return [DESCRIBE]
    weights = np.array([mix.drive, mix.act, *[1.0] * len(QUESTIONS)])
    kinds = (DRIVE, ACT, *QUESTIONS)
    return [kinds[k] for k in rng.choice(len(kinds), mix.questions, replace=False, p=weights / weights.sum())]


def _perceived(facts: Facts) -> str:
    """Return what an answer to DRIVE begins with: counts and light."""
    return drive_answer(facts, Pedals(0.0, 0.0, 0.0)).partition("Here are")[0]
