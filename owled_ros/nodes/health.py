"""What driving_node says about itself on /diagnostics: inputs, model, inference, output. Needs rclpy."""

from __future__ import annotations

import time

from owled_ros.driving.prediction import Reason
from owled_ros.nodes.diagnostics import Diagnostics, Level
from owled_ros.onboard.ladder import Outcome
from owled_ros.onboard.motion import TWIST, EgoMotion
from owled_ros.onboard.worker import Worker

BROKEN = (Reason.INFERENCE_ERROR, Reason.OUT_OF_MEMORY)
UNUSABLE_INPUT = (
    Reason.BAD_IMAGE,
    Reason.STALE_IMAGE,
    Reason.CLOCK_JUMP,
    Reason.NO_EGO,
    Reason.STALE_EGO,
    Reason.BAD_EGO,
    Reason.MODEL_NOT_READY,
    Reason.MISSING_VIEW,
    Reason.STALE_VIEW,
    Reason.POSE_JUMP,
    Reason.FALLING_STAMP,
    Reason.NO_SURROUNDINGS,
    Reason.STALE_SURROUNDINGS,
)


def report_inference(diagnostics: Diagnostics, worker: Worker, outcome: Outcome | None) -> None:
    """Say how the model does; the words of the last error stay to be read after it recovered."""
    counters, error = worker.counters, worker.ladder.last_error
    values = {
        "images_received": worker.slot.received,
        "images_dropped": worker.slot.dropped,
        "images_answered": counters.answered,
        "actions_published": counters.published,
        "images_withheld": counters.withheld,
        "descriptions": counters.described,
        "descriptions_yielded": counters.yielded,
        "clock_jumps": worker.ladder.clock_jumps,
        "images_held_mb": worker.ladder.views.held_bytes / 1e6,
        "errors": counters.errors,
        "last_error": error,
    }
    if outcome is None:
        diagnostics.report("inference", Level.OK, "no image yet", **values)
        return
    values |= {
        "latency_ms": outcome.latency_ms,
        "inference_ms": outcome.inference_ms,
        "frame_age_s": outcome.frame_age_s,
    }
    if outcome.reason in BROKEN:
        diagnostics.report("inference", Level.ERROR, outcome.detail, **values)
    else:
        diagnostics.report("inference", Level.OK, "running", **values)


def judge_motion(motion: EgoMotion) -> tuple[Level, str]:
    """Say whether odometry that comes is also sound: its twist must not contradict its pose."""
    if not motion.contradiction:
        return Level.OK, "receiving"
    if motion.source == TWIST:
        return Level.ERROR, f"{motion.contradiction}; nothing is driven on it; with ego_source auto the pose is used"
    return Level.WARN, f"{motion.contradiction}; the pose is used"


def report_output(diagnostics: Diagnostics, outcome: Outcome | None, valid_at: float | None, timeout_s: float) -> None:
    """Say whether actions leave the node, and if not, why."""
    since = float("inf") if valid_at is None else time.monotonic() - valid_at
    if outcome is None:
        diagnostics.report("output", Level.WARN, "no action: no image has come", reason=Reason.NO_IMAGE.name)
    elif outcome.valid and since < timeout_s:
        diagnostics.report("output", Level.OK, "actions are published", reason=outcome.reason.name)
    elif outcome.valid:
        diagnostics.report(
            "output", Level.WARN, f"no action for {since:.1f} s: no newer image", reason=Reason.NO_IMAGE.name
        )
    else:
        level = Level.ERROR if outcome.reason in (*BROKEN, *UNUSABLE_INPUT) else Level.WARN
        words = f"no action: {outcome.reason.name}: {outcome.detail}"
        diagnostics.report("output", level, words, reason=outcome.reason.name, stamp=outcome.stamp)
