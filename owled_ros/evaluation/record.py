"""One evaluated frame: what the model said, what was true, what it cost; as JSON and back. Needs driving.

Numbers are rounded when a record is made, so that a result file holds exactly what the metrics were computed from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from owled_ros.driving.answer import Action, AnswerError, Light, Manoeuvre, Scene, format_scene, parse_scene
from owled_ros.driving.frame import EgoState
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.prediction import Prediction, Reason
from owled_ros.driving.trajectory import COLUMNS
from owled_ros.errors import OwledError

DIGITS = 6
TIMING_KEY = "Timing"  # the only part of a frame that differs between two runs
PATH_WIDTH = 5  # numbers per point of a true path
OLD_PATH_TIMES_S = (1.0, 2.0, 3.0)  # of the (x, y) points in results of format 1
Row = tuple[float, ...]


@dataclass(frozen=True)
class Truth:
    """What was right at one frame; None where the bag does not tell."""

    acceleration: float | None = None  # [m/s2]
    steering: float | None = None  # [rad], tire angle, left positive
    source: str = "none"  # of both: "expert" or "ego_motion"
    manoeuvre: str | None = None
    path: tuple[Row, ...] | None = (
        None  # (time [s], x, y [m], heading [rad], speed [m/s]) in base_link, from ego motion
    )
    scene: Scene | None = None


@dataclass(frozen=True)
class Timing:
    """What one frame cost."""

    see_s: float = 0.0  # prefix of image and ego state
    act_s: float = 0.0  # action, from the prefix
    describe_s: float = 0.0
    action_tokens: int = 0
    scene_tokens: int = 0

    @property
    def action_latency_s(self) -> float:
        """Time from the image to the action [s]."""
        return self.see_s + self.act_s


@dataclass(frozen=True)
class Record:
    """One model on one frame."""

    bag: str  # name of the bag
    drive: int
    index: int  # of the image in the bag
    stamp: int  # [ns]
    speed: float  # [m/s]
    yaw_rate: float  # [rad/s]
    text: str  # the action answer as generated
    reason: str  # name of driving.prediction.Reason; "VALID" means that the action may be used
    acceleration: float | None  # [m/s2], None unless valid
    steering: float | None  # [rad]
    manoeuvre: str | None
    confidence: float  # [0, 1]
    scene_text: str | None  # None when the scene was not asked for
    scene_reason: str | None
    scene: Scene | None
    fingerprint: str = ""  # of the image and its stamp (bags.frames.fingerprint)
    trajectory: tuple[Row, ...] | None = (
        None  # rows of driving.trajectory.COLUMNS; None unless valid, and in older results
    )
    command: str | None = None  # name of driving.navigation.CommandKind; None where the route said nothing
    reasoning: str = ""  # what the model said before its answer
    truth: Truth = field(default_factory=Truth)
    timing: Timing = field(default_factory=Timing)

    @property
    def valid(self) -> bool:
        """True when the action may be used."""
        return self.reason == Reason.VALID.name

    @property
    def key(self) -> tuple[str, int]:
        """Name of the frame: equal for every model that saw it."""
        return self.bag, self.index


def make_record(
    bag: str,
    drive: int,
    index: int,
    ego: EgoState,
    prediction: Prediction,
    truth: Truth,
    timing: Timing,
    fingerprint: str = "",
    command: NavigationCommand | None = None,
) -> Record:
    """Put a prediction beside its truth."""
    action, scene, trajectory = prediction.action.action, prediction.scene, prediction.action.trajectory
    return Record(
        bag=bag,
        drive=drive,
        index=index,
        stamp=prediction.stamp,
        speed=_number(ego.speed),
        yaw_rate=_number(ego.yaw_rate),
        text=prediction.action.generation.text,
        reason=prediction.action.reason.name,
        acceleration=_number(action.acceleration) if action else None,
        steering=_number(action.steering_tire_angle) if action else None,
        manoeuvre=action.manoeuvre.name if action else None,
        confidence=_number(prediction.action.generation.confidence),
        scene_text=scene.generation.text if scene else None,
        scene_reason=scene.reason.name if scene else None,
        scene=scene.scene if scene else None,
        fingerprint=fingerprint,
        trajectory=rounded_rows(trajectory.values.tolist()) if trajectory is not None else None,
        command=command.kind.name if command else None,
        reasoning=prediction.action.generation.reasoning,
        truth=truth,
        timing=timing,
    )


def make_truth(motion: Truth, expert: Action | None, scene: Scene | None) -> Truth:
    """Complete the truth from ego motion: an expert's action takes the place of what the vehicle did."""
    # distances are whole metres in the answers, so they are in the truth
    truth = replace(motion, scene=_scene_from(format_scene(scene), scene.light.name) if scene else None)
    if expert is None:
        return truth
    return replace(
        truth,
        acceleration=_number(expert.acceleration),
        steering=_number(expert.steering_tire_angle),
        manoeuvre=Manoeuvre(expert.manoeuvre).name,
        source="expert",
    )


def rounded_rows(rows: Sequence[Sequence[float]]) -> tuple[Row, ...]:
    """Round the points of a path or a trajectory."""
    return tuple(tuple(_number(value) for value in row) for row in rows)


def record_to_frame(record: Record) -> dict[str, Any]:
    """Return the "Frame" object of a result line."""
    truth = record.truth
    frame: dict[str, Any] = {
        "Bag": record.bag,
        "Drive": record.drive,
        "Index": record.index,
        "StampNs": record.stamp,
        "Fingerprint": record.fingerprint,
        "Ego": {"Speed": record.speed, "YawRate": record.yaw_rate},
        "Answer": {
            "Text": record.text,
            "Reason": record.reason,
            "Acceleration": record.acceleration,
            "Steering": record.steering,
            "Manoeuvre": record.manoeuvre,
            "Confidence": record.confidence,
            "Trajectory": _lists(record.trajectory),
            **({"Reasoning": record.reasoning} if record.reasoning else {}),
        },
        "Command": record.command,
        "Truth": {
            "Source": truth.source,
            "Acceleration": truth.acceleration,
            "Steering": truth.steering,
            "Manoeuvre": truth.manoeuvre,
            "Path": _lists(truth.path),
            "Scene": format_scene(truth.scene) if truth.scene else None,
            **({"Light": truth.scene.light.name} if truth.scene else {}),
        },
        TIMING_KEY: asdict(record.timing),
    }
    if record.scene_reason is not None:
        frame["Scene"] = {"Text": record.scene_text, "Reason": record.scene_reason}
    return frame


def frame_to_record(frame: Mapping[str, Any]) -> Record:
    """Read a record back; raises OwledError for anything that `record_to_frame` did not write."""
    try:
        answer, truth, scene = frame["Answer"], frame["Truth"], frame.get("Scene")
        valid_scene = scene is not None and scene["Reason"] == Reason.VALID.name
        return Record(
            bag=frame["Bag"],
            drive=frame["Drive"],
            index=frame["Index"],
            stamp=frame["StampNs"],
            speed=frame["Ego"]["Speed"],
            yaw_rate=frame["Ego"]["YawRate"],
            text=answer["Text"],
            reason=answer["Reason"],
            acceleration=answer["Acceleration"],
            steering=answer["Steering"],
            manoeuvre=answer["Manoeuvre"],
            confidence=answer["Confidence"],
            scene_text=scene["Text"] if scene else None,
            scene_reason=scene["Reason"] if scene else None,
            scene=parse_scene(scene["Text"]) if scene and valid_scene else None,
            fingerprint=frame["Fingerprint"],
            trajectory=_rows(answer.get("Trajectory"), len(COLUMNS)),
            command=frame.get("Command"),
            reasoning=answer.get("Reasoning", ""),
            truth=Truth(
                acceleration=truth["Acceleration"],
                steering=truth["Steering"],
                source=truth["Source"],
                manoeuvre=truth["Manoeuvre"],
                path=_path_from(truth["Path"]),
                scene=_scene_from(truth["Scene"], truth.get("Light")) if truth["Scene"] else None,
            ),
            timing=Timing(**frame.get(TIMING_KEY, {})),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, AnswerError) as error:
        raise OwledError(f"a frame of the result cannot be read ({error!r}); evaluate again") from error


def _scene_from(text: str, light: str | None) -> Scene | None:
    """Read a true scene; its light may be unknown, or known without a distance, which the grammar cannot say."""
    scene = parse_scene(text)
    return replace(scene, light=Light[light]) if scene and light else scene


def _lists(rows: tuple[Row, ...] | None) -> list[list[float]] | None:
    return [list(row) for row in rows] if rows else None


def _rows(lists: list[list[float]] | None, width: int) -> tuple[Row, ...] | None:
    if lists and {len(row) for row in lists} != {width}:
        raise ValueError(f"points of a path have other than {width} numbers")
    return tuple(tuple(float(value) for value in row) for row in lists) if lists else None


def _path_from(points: list[list[float]] | None) -> tuple[Row, ...] | None:
    """Read a true path; of the bare (x, y) points of format 1, heading and speed are those of the way between them."""
    if not points or len(points[0]) != 2:
        return _rows(points, PATH_WIDTH)
    path, before, before_time = [], (0.0, 0.0), 0.0
    for time, (x, y) in zip(OLD_PATH_TIMES_S, points, strict=True):
        dx, dy = x - before[0], y - before[1]
        path.append((time, x, y, math.atan2(dy, dx) if dx or dy else 0.0, math.hypot(dx, dy) / (time - before_time)))
        before, before_time = (x, y), time
    return tuple(path)


def _number(value: float) -> float:
    return round(float(value), DIGITS) if math.isfinite(value) else 0.0
