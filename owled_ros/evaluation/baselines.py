"""What needs no model: the trivial answers that every model stands beside. Needs evaluation.record.

constant            the same answer always; the best action in hindsight (medians, the most frequent light), so no constant
                    action does better
hold                keep on as now: no acceleration, the tire angle of the present yaw rate (kinematic bicycle)
constant_velocity   keep the speed and go straight on
previous            the model's own answer to the image before: tells whether it looks at the new one

Their paths reach as far as those of the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from owled_ros.driving.answer import Light, ObjectKind, Scene, SceneObject
from owled_ros.driving.prediction import Reason
from owled_ros.driving.rollout import HORIZON_S
from owled_ros.driving.vehicle import VehicleParameters, steering_of_yaw_rate
from owled_ros.evaluation.displacement import LONGEST_S, rolled_out
from owled_ros.evaluation.record import DIGITS, Record, Timing

NAMES = ("constant", "hold", "constant_velocity", "previous")


def baseline_records(records: Sequence[Record], vehicle: VehicleParameters) -> dict[str, list[Record]]:
    """Return what each baseline would have answered to the same frames, as records of their own."""
    return {
        "constant": constant(records, vehicle),
        "hold": hold(records, vehicle),
        "constant_velocity": constant_velocity(records, vehicle),
        "previous": previous(records),
    }


def constant(records: Sequence[Record], vehicle: VehicleParameters) -> list[Record]:
    """Answer the median action and the median scene of these very frames."""
    accelerations = [record.truth.acceleration for record in records if record.truth.acceleration is not None]
    steerings = [record.truth.steering for record in records if record.truth.steering is not None]
    acceleration = float(np.median(accelerations)) if accelerations else 0.0
    steering = float(np.median(steerings)) if steerings else 0.0
    scene = _constant_scene([record.truth.scene for record in records if record.truth.scene is not None])
    horizon = _horizon(records)
    return [_answer(record, acceleration, steering, scene, vehicle, horizon) for record in records]


def hold(records: Sequence[Record], vehicle: VehicleParameters) -> list[Record]:
    """Keep speed and curvature."""
    horizon = _horizon(records)
    return [
        _answer(
            record, 0.0, steering_of_yaw_rate(record.yaw_rate, record.speed, vehicle.wheel_base), None, vehicle, horizon
        )
        for record in records
    ]


def constant_velocity(records: Sequence[Record], vehicle: VehicleParameters) -> list[Record]:
    """Keep speed and heading."""
    horizon = _horizon(records)
    return [_answer(record, 0.0, 0.0, None, vehicle, horizon) for record in records]


def previous(records: Sequence[Record]) -> list[Record]:
    """Repeat the last valid answer of the same drive; the first frame of a drive keeps its own."""
    answers, last = [], None
    for record in records:
        fitting = last is not None and (last.bag, last.drive) == (record.bag, record.drive)
        source = last if last is not None and fitting else record
        answers.append(
            replace(
                record,
                text=source.text,
                reason=source.reason,
                acceleration=source.acceleration,
                steering=source.steering,
                trajectory=source.trajectory,
                manoeuvre=source.manoeuvre,
                confidence=source.confidence,
                scene=source.scene,
                scene_text=source.scene_text,
                scene_reason=source.scene_reason,
                timing=Timing(),
            )
        )
        if record.valid or not fitting:
            last = record
    return answers


def _horizon(records: Sequence[Record]) -> float:
    """Return how far the longest path of a model reaches [s]."""
    return max((record.trajectory[-1][0] for record in records if record.trajectory), default=HORIZON_S)


def _answer(
    record: Record,
    acceleration: float,
    steering: float,
    scene: Scene | None,
    vehicle: VehicleParameters,
    horizon: float,
) -> Record:
    return replace(
        record,
        text="",
        reason=Reason.VALID.name,
        acceleration=round(acceleration, DIGITS),
        steering=round(steering, DIGITS),
        trajectory=rolled_out(record.speed, acceleration, steering, vehicle, min(horizon, LONGEST_S)),
        manoeuvre=None,
        confidence=1.0,
        scene_text=None,
        scene_reason=Reason.VALID.name if scene else None,
        scene=scene,
        timing=Timing(),
    )


def _constant_scene(scenes: Sequence[Scene]) -> Scene | None:
    if not scenes:
        return None
    lights = Counter(scene.light for scene in scenes)
    light = min(lights, key=lambda item: (-lights[item], item))
    distances = [scene.light_distance for scene in scenes if scene.light_distance is not None]
    return Scene(
        cars=_objects(ObjectKind.LEAD, [len(scene.cars) for scene in scenes]),
        pedestrians=_objects(ObjectKind.SIDEWALK, [len(scene.pedestrians) for scene in scenes]),
        light=light,
        light_distance=float(np.median(distances)) if distances and light not in (Light.NONE, Light.UNKNOWN) else None,
    )


def _objects(kind: ObjectKind, counts: list[int]) -> tuple[SceneObject, ...]:
    return (SceneObject(kind, 0.0),) * round(float(np.median(counts)))
