"""A model on every frame of recorded drives, straight from the bag: nothing is dropped. Needs bags and an Engine.

`evaluate_frames` is the plain form (gate, tests). Everything it returns but `timing` depends only on its input.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.bags.ego_track import EgoTrack
from owled_ros.bags.frames import ReadOptions, Sample, fingerprint
from owled_ros.bags.selection import read_selected
from owled_ros.driving.engine import Engine
from owled_ros.driving.frame import Frame
from owled_ros.driving.prediction import ActionAnswer, Prediction, withhold_below
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.evaluation.ground_truth import truth_of_motion
from owled_ros.evaluation.record import Record, Timing, Truth, make_record, make_truth

TruthOf = Callable[[Sample], Truth]
BLANK_LEVEL = 128  # grey value of the image without content


def truth_from(tracks: Sequence[EgoTrack], vehicle: VehicleParameters | None = None) -> TruthOf:
    """Return what looks up the truth of a sample: from the future ego motion, expert and scene where the bag has them."""
    parameters = vehicle or VehicleParameters()

    def truth_of(sample: Sample) -> Truth:
        motion = Truth()
        if sample.section < len(tracks):
            motion = truth_of_motion(tracks[sample.section], sample.frame.stamp, parameters)
        return make_truth(motion, sample.expert, sample.scene)

    return truth_of


def evaluate_frames(
    engine: Engine, samples: Iterable[Sample], truth: TruthOf, bag: str = "", describe: bool = True, floor: float = 0.0
) -> list[Record]:
    """Ask the engine about every sample; one record each, in order. Actions under the confidence `floor` are withheld."""
    return list(stream_records(engine, samples, truth, bag, describe, floor))


def stream_records(
    engine: Engine, samples: Iterable[Sample], truth: TruthOf, bag: str = "", describe: bool = True, floor: float = 0.0
) -> Iterator[Record]:
    """Yield one record per sample as soon as the engine has answered."""
    for sample in samples:
        prediction, timing = timed_prediction(engine, sample.frame, describe)
        prediction = replace(prediction, action=withhold_below(prediction.action, floor))
        frame = sample.frame
        yield make_record(
            bag,
            sample.drive,
            sample.index,
            frame.ego,
            prediction,
            truth(sample),
            timing,
            fingerprint(frame),
            frame.command,
        )


def timed_prediction(engine: Engine, frame: Frame, describe: bool) -> tuple[Prediction, Timing]:
    """Ask about one frame (driving.engine.predict) and take the time of every part."""
    started = time.perf_counter()
    prefix = engine.see(frame)
    seen = time.perf_counter()
    action = engine.act(prefix)
    acted = time.perf_counter()
    scene = engine.describe(prefix) if describe else None
    described = time.perf_counter()
    timing = Timing(
        see_s=seen - started,
        act_s=acted - seen,
        describe_s=described - acted if describe else 0.0,
        action_tokens=action.generation.tokens,
        scene_tokens=scene.generation.tokens if scene else 0,
    )
    return Prediction(frame.stamp, action, scene, engine.identity), timing


@dataclass
class _Changes:
    """How answers change when the engine is shown another image."""

    frames: int = 0
    changed: int = 0
    withheld: int = 0
    errors: list[float] | None = None

    def add(self, true_answer: ActionAnswer, other: ActionAnswer, acceleration: float | None) -> None:
        self.frames += 1
        self.changed += other.generation.text != true_answer.generation.text
        self.withheld += not other.valid
        if other.action is not None and acceleration is not None:
            self.errors = [*(self.errors or []), abs(other.action.acceleration - acceleration)]

    def as_json(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "changed": self.changed,
            "withheld": self.withheld,
            "acceleration_errors_mps2": [round(error, 6) for error in self.errors or []],
        }


def camera_test(
    engine: Engine,
    path: Path,
    indices: Sequence[int],
    truth: TruthOf,
    options: ReadOptions | None = None,
    floor: float = 0.0,
) -> dict[str, Any]:
    """Show the engine no images (grey) and the images of another moment, with everything else as it was.

    All images of a frame are exchanged, of every camera and of the past. A model that uses the cameras changes its answers, or
    withholds them; one that only reads the speed does not. Other images come half of `indices` later, from a frame of as many.
    Memory: all images of `indices`.
    """
    samples = list(read_selected(path, np.array(indices, dtype=np.int64), options))
    blank, shuffled = _Changes(), _Changes()
    for position, sample in enumerate(samples):
        frame, other = sample.frame, samples[(position + len(samples) // 2) % len(samples)].frame
        acceleration = truth(sample).acceleration
        answer = engine.act(engine.see(frame))
        grey = [np.full_like(image, BLANK_LEVEL) for image in frame.images]
        for changes, images in ((blank, grey), (shuffled, other.images)):
            if len(images) != len(frame.images):
                continue  # a recording that loses a camera: there is nothing to exchange one by one
            other_answer = engine.act(engine.see(frame.showing(images)))
            changes.add(answer, withhold_below(other_answer, floor), acceleration)
    return {"blank": blank.as_json(), "shuffled": shuffled.as_json()}
