"""Is a candidate no worse than another model by more than a margin, and does what was recorded say so? Needs evaluation.bootstrap.

Non-inferiority (ICH E9, section 3.3.2): the whole 95 % interval of the paired difference must lie inside the margin. The bootstrap's
interval is too narrow with few clips and is widened as Student's t is wider than the normal distribution. An interval
that reaches beyond it though the mean does not is no verdict on the candidate but a lack of evidence, which also refuses; how much
must be recorded to tell follows from the interval's width, which shrinks with the square root of the number of clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from owled_ros.evaluation.bootstrap import CLIP_S
from owled_ros.evaluation.frame_values import LOWER_IS_BETTER

MOST_TIMES = 50.0  # more evidence than this many times the present one is not asked for: the candidate is at the margin
ROUNDING = 1e-9
Z = 1.959964  # 97.5 % of the normal distribution


@dataclass(frozen=True)
class Supply:
    """How much the judged frames come from, and how much a longer recording would give."""

    clips: int  # of CLIP_S, from which frames were judged
    available: int  # clips that the held-out drives hold; more than `clips` where frames were left out
    share: float  # of what is recorded that is held out, (0, 1]
    frames: int  # judged

    def advice(self, clips: float) -> str:
        """Say what to do to have evidence from so many clips."""
        needed = math.ceil(clips)
        frames = math.ceil(self.frames * needed / max(self.clips, 1))
        if needed <= self.available:
            return f"judge about {frames} frames instead of {self.frames} (gate_frames): the held-out drives hold more"
        more = f"record about {self.minutes(clips)} more minutes of driving"
        return more if self.available <= self.clips else f"{more}, and judge about {frames} frames (gate_frames)"

    def minutes(self, clips: float) -> int:
        """Return how many minutes have to be recorded to hold out so many clips; 0 when they are there."""
        missing = math.ceil(clips) - self.available
        return max(math.ceil(missing * CLIP_S / 60.0 / self.share), 0)


@dataclass(frozen=True)
class Comparison:
    """The candidate beside another model in one metric."""

    worse: float | None  # mean of the paired differences, positive: the candidate is worse; None: nothing to compare
    most: float | None  # upper end of its 95 % interval; None with too few clips for one
    clips: int
    least: float | None = None  # lower end


@dataclass(frozen=True)
class Judgement:
    """Whether the margin holds; where evidence is missing, how much is needed."""

    holds: bool
    clips_needed: float = 0.0  # 0: the evidence is enough, for or against
    hopeless: bool = False  # at the margin: no reasonable amount of driving would tell

    @property
    def inconclusive(self) -> bool:
        """True when more driving may change the answer."""
        return self.clips_needed > 0.0


def comparison_of(entry: Mapping[str, Any] | None, metric: str) -> Comparison:
    """Read what evaluation.compare.paired_difference says about the candidate against another model."""
    if not entry or entry.get("difference") is None:
        return Comparison(None, None, 0)
    sign = 1.0 if LOWER_IS_BETTER.get(metric, True) else -1.0
    interval: Sequence[float] | None = entry.get("interval_95")
    ends = sorted(sign * end for end in interval) if interval else None
    clips = int(entry.get("clips") or 0)
    worse = sign * float(entry["difference"])
    if ends is None or clips < 2:
        return Comparison(worse, None, clips)
    wider = _student(clips)
    return Comparison(worse, worse + wider * (ends[1] - worse), clips, worse + wider * (ends[0] - worse))


def judge_margin(found: Comparison, margin: float, min_clips: int) -> Judgement:
    """Hold a comparison that exists against a margin."""
    assert found.worse is not None
    if found.worse > margin + ROUNDING:
        return Judgement(False)
    if found.most is None or found.clips < min_clips:
        return Judgement(False, clips_needed=float(min_clips))
    if found.most <= margin + ROUNDING:
        return Judgement(True)
    room, reach = margin - found.worse, found.most - found.worse
    times = (reach / room) ** 2 if room > 0.0 else math.inf
    if times > MOST_TIMES:
        return Judgement(False, hopeless=True)
    return Judgement(False, clips_needed=max(found.clips * times, float(min_clips)))


def _student(clips: int) -> float:
    """Return the widening of a bootstrap interval of `clips` values: Student's t over z, and n - 1 in the variance.

    Expansion of the t quantile by Cornish and Fisher (Abramowitz & Stegun, 26.7.5).
    """
    free = clips - 1
    t = Z + (Z**3 + Z) / (4 * free) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * free**2)
    return t / Z * math.sqrt(clips / free)
