"""Would the predicted path have run into something? Needs evaluation.displacement.

What is known of others is a list of kinds and distances per image (the true scene of the bag), so this is an approximation:
a path is put beside the true scenes of the moments that it reaches, within the next JUDGED_S. It collides where its
front (FRONT_M ahead of where distances are measured from) has passed the near side of a car ahead or of a person on the road
at that moment, in the own lane (LANE_HALF_WIDTH of the way that the vehicle took). Oncoming, crossing and parked cars and people
beside the road are left out: their lateral place is not known. Frames without true scenes over the whole time are unknown (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from owled_ros.driving.answer import ObjectKind, Scene
from owled_ros.driving.frame import NANOSECONDS
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.evaluation.displacement import JUDGED_S, offsets_of
from owled_ros.evaluation.record import Record

FRONT_M = (
    2.1  # [m] from where distances are measured (camera, base_link) to the front: the vehicle of the rendered world
)
LANE_HALF_WIDTH = 1.75  # [m]
CAR_LENGTH = 4.5  # [m], beyond it the path is in front of the car again
TOLERANCE = NANOSECONDS // 5  # [ns] between a moment of the path and the scene that is taken for it
IN_LANE = (ObjectKind.LEAD, ObjectKind.CROSSING)


def collisions(records: Sequence[Record], vehicle: VehicleParameters) -> np.ndarray:
    """Return 1 where the path of a record collides, 0 where it does not, NaN where that is not known, (N,)."""
    scenes = _scenes_by_drive(records)
    return np.array([_collision(record, scenes[record.bag, record.drive], vehicle) for record in records], dtype=float)


def _scenes_by_drive(records: Sequence[Record]) -> dict[tuple[str, int], tuple[np.ndarray, list[Scene]]]:
    drives: dict[tuple[str, int], list[tuple[int, Scene]]] = {}
    for record in records:
        found = drives.setdefault((record.bag, record.drive), [])
        if record.truth.scene is not None:
            found.append((record.stamp, record.truth.scene))
    table = {}
    for key, found in drives.items():
        found.sort(key=lambda item: item[0])
        table[key] = (np.array([stamp for stamp, _ in found], dtype=np.int64), [scene for _, scene in found])
    return table


def _collision(record: Record, scenes: tuple[np.ndarray, list[Scene]], vehicle: VehicleParameters) -> float:
    if record.truth.scene is None:  # no true scenes here: spares the arithmetic
        return math.nan
    offsets = offsets_of(record, vehicle)
    judged = offsets.until(JUDGED_S) if offsets else None
    if judged is None:
        return math.nan
    hit = False
    for time, ahead, left in zip(judged.time, judged.longitudinal, judged.lateral, strict=True):
        scene = _scene_at(scenes, record.stamp + round(float(time) * NANOSECONDS))
        if scene is None:  # also after a hit: else only the frames that collide early would be counted
            return math.nan
        hit = hit or (abs(left) <= LANE_HALF_WIDTH and any(_hits(ahead, distance) for distance in _in_lane(scene)))
    return float(hit)


def _scene_at(scenes: tuple[np.ndarray, list[Scene]], stamp: int) -> Scene | None:
    stamps, found = scenes
    place = int(np.searchsorted(stamps, stamp))
    near = [index for index in (place - 1, place) if 0 <= index < len(stamps)]
    nearest = min(near, key=lambda index: abs(int(stamps[index]) - stamp), default=None)
    return None if nearest is None or abs(int(stamps[nearest]) - stamp) > TOLERANCE else found[nearest]


def _in_lane(scene: Scene) -> list[float]:
    return [item.distance for item in (*scene.cars, *scene.pedestrians) if item.kind in IN_LANE]


def _hits(ahead: float, distance: float) -> bool:
    gap = distance - FRONT_M - ahead
    return gap <= 0.0 and ahead > 0.0 and gap > -(CAR_LENGTH + 2 * FRONT_M)
