"""Unseen moments of our own world in the form of the released scenes, so that the same metrics score both. Needs numpy."""

from __future__ import annotations

from owled_ros.driving.vector_facts import facts_of
from owled_ros.driving.vector_words import description, drive_answer
from owled_ros.llm_driver.examples import HELD_OUT_SEEDS, world_scene
from owled_ros.llm_driver.released import Pedals, Perception, Scenario

FIRST = HELD_OUT_SEEDS + 1000  # those before are scored while training


def held_out_scenarios(count: int) -> list[Scenario]:
    """Return so many moments, each of a world of its own."""
    return [_scenario(number, FIRST + number) for number in range(count)]


def _scenario(number: int, seed: int) -> Scenario:
    acted = world_scene(seed)
    assert acted.pedals is not None
    facts = facts_of(acted.scene)
    return Scenario(
        number=number,
        description=description(facts),
        reference=drive_answer(facts, acted.pedals),
        perception=Perception(len(facts.vehicles), len(facts.pedestrians), facts.light, facts.light_distance),
        action=Pedals(acted.pedals.accelerator - acted.pedals.brake, acted.pedals.steering),
        wheel=facts.wheel / 100.0,
        vectors=acted.scene,
    )
