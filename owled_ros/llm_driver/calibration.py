"""Answered scenes to prune an LlmDriver on: what was done in them, or scenes in which nobody drove. Needs pruning.

Driving: what is to be seen and done, as evaluation.vector_answers asks, and what to do, as the node asks.
General: scenes drawn at random with the questions that are not about driving, as the first stage of training has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from owled_ros.driving import asking
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.vector_words import ACT, DESCRIBE, DRIVE, QUESTIONS
from owled_ros.llm_driver.examples import ActedScene, Example, ask, world_scene
from owled_ros.pruning.calibration import AnsweredFrame
from owled_ros.scenes.vector_random import random_scene

GENERAL_QUESTIONS = (DESCRIBE, *QUESTIONS)


def driving_frames(profile: DrivingProfile, scenes: Iterable[ActedScene]) -> Iterator[AnsweredFrame]:
    """Ask both driving questions about every scene; answered with what was done there."""
    for acted in scenes:
        for question in (DRIVE, ACT):
            yield answered(profile, ask(acted, question))


def general_frames(profile: DrivingProfile, count: int, seed: int) -> Iterator[AnsweredFrame]:
    """Draw scenes in which nobody drove, with one of the general questions each; answered from the numbers."""
    rng = np.random.default_rng([seed, 0x6E4E])
    for _ in range(count):
        scene = ActedScene(random_scene(rng), None)
        yield answered(profile, ask(scene, GENERAL_QUESTIONS[int(rng.integers(len(GENERAL_QUESTIONS)))]))


def world_scenes(seeds: Iterable[int]) -> Iterator[ActedScene]:
    """Draw moments of our own world with the expert's pedals."""
    return map(world_scene, seeds)


def answered(profile: DrivingProfile, example: Example) -> AnsweredFrame:
    """Put an example into the words of a profile."""
    conversation = asking.free_conversation(profile, asking.made_up_frame(profile), example.question)
    return AnsweredFrame((example.scene.packed(),), conversation, example.answer)
