"""The streets of a junction where the route may turn: the arms that are not taken, and where each arm begins. Needs numpy.

Every arm has the cross-section of the street itself, so that the image shows three ways on and does not tell which one is taken.
"""

from __future__ import annotations

import math

import numpy as np

from owled_ros.scenes.look import draw_scenery
from owled_ros.scenes.road import JUNCTION_END, Road, build_road, moved
from owled_ros.scenes.stage import Arm
from owled_ros.scenes.turning import FAR_LANE, NEAR_LANE, TURNS, Junctions, Way

ARM_LENGTH = 95.0  # [m]
ARM_STRAIGHT = 17.0  # [m] of an arm before it may bend
FREE = 14.0  # [m] from where an arm begins without houses and trees, so that they stand clear of the other arms
ORIGINS = {
    Way.RIGHT: (NEAR_LANE, -math.pi / 2),
    Way.STRAIGHT: (0.0, 0.0),
    Way.LEFT: (FAR_LANE, math.pi / 2),
}  # [m], [rad]
BEGINS = {
    Way.RIGHT: 8.0,
    Way.STRAIGHT: 17.0,
    Way.LEFT: 10.5,
}  # [m] from the origin of an arm to where its sidewalks begin


def exit_of(line: float, way: Way) -> float:
    """Return where, along the route, the arm that it takes begins [m]."""
    turn = TURNS.get(way)
    if turn is None:
        return line + BEGINS[way]
    return line + turn.end + BEGINS[way] - (ORIGINS[way][0] - turn.start)  # an arc reaches as far sideways as ahead


def gaps_of(junctions: Junctions) -> tuple[tuple[float, float], ...]:
    """Return where no houses stand along the route [m]."""
    return tuple((line - 2.0, exit_of(line, way) + FREE) for line, way in junctions)


def build_arms(rng: np.random.Generator, road: Road) -> tuple[Arm, ...]:
    """Draw the two arms of every junction that the route does not take."""
    return tuple(
        _arm(rng, road, line, other) for line, way in road.junctions() for other in Way if other is not way
    )  # fmt: skip


def _arm(rng: np.random.Generator, road: Road, line: float, way: Way) -> Arm:
    ahead, turned = ORIGINS[way]
    x, y, heading = road.straightened(line).pose_at(line + ahead)
    street = build_road(rng, ARM_LENGTH, (ARM_STRAIGHT - JUNCTION_END,), (), (Way.STRAIGHT,))
    begin = BEGINS[way]
    scenery = draw_scenery(rng, ARM_LENGTH, ((-40.0, begin + FREE),))
    return Arm(line, moved(street, x, y, heading + turned), begin, scenery)
