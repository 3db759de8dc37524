"""What happened in a demonstration, counted from the events of source_node. Needs numpy."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from owled_ros.driving.form_watch import FIRST, NOT_IN_FORM

VALID = "VALID"
STARTING, LOADING = "starting", "loading the model"


@dataclass
class Tally:
    """Grows event by event; `answer` and `scene` are the newest ones."""

    reasons: Counter[str] = field(default_factory=Counter)
    camera_to_action_ms: list[float] = field(default_factory=list)
    node_ms: list[float] = field(default_factory=list)
    scenes: int = 0
    sent: int = 0
    passed_over: int = 0  # images that the node never took up, as a newer one had come
    routes: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    scene: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    stage: str = STARTING

    def hear(self, event: dict[str, Any]) -> None:
        """Count an event."""
        kind = event["event"]
        if kind == "answer":
            self._count(event)
        elif kind == "scene":
            self.scenes += 1
            self.scene = event
        elif kind == "route":
            self.routes.append(event)
        elif kind == "error":
            self.error = event["message"]
        elif kind == "end":
            self.end = event
        self.stage = {"waiting": LOADING, "started": "driving", "end": "done"}.get(kind, self.stage)

    @property
    def waiting(self) -> bool:
        """True until the drive has begun."""
        return self.stage in (STARTING, LOADING)

    @property
    def answered(self) -> int:
        """Images that the model answered, valid or not."""
        return sum(count for reason, count in self.reasons.items() if reason in ANSWERS)

    @property
    def is_hopeless(self) -> bool:
        """True when none of the first answers was in the model's form."""
        out_of_form = sum(self.reasons[name] for name in OUT)
        return out_of_form == FIRST and not any(self.reasons[name] for name in ANSWERS if name not in OUT)

    @property
    def withheld(self) -> int:
        """Images that were taken up and gave no action."""
        return sum(self.reasons.values()) - self.reasons[VALID]

    def _count(self, event: dict[str, Any]) -> None:
        self.answer = event
        self.reasons[event["reason"]] += 1
        self.sent, self.passed_over = event["sent"], event["passed_over"]
        if event["reason"] == VALID:
            self.camera_to_action_ms.append(event["camera_to_action_ms"])
            self.node_ms.append(event["latency_ms"])

    def as_json(self) -> dict[str, Any]:
        """Return what report.json holds."""
        values = asdict(self)
        for name in ("camera_to_action_ms", "node_ms"):
            values[name] = percentiles(values[name])
        return {**values, "reasons": dict(self.reasons), "answered": self.answered, "withheld": self.withheld}


OUT = tuple(reason.name for reason in NOT_IN_FORM)
ANSWERS = (VALID, "UNPARSED", "INCOMPLETE", "DECLINED", "LOW_CONFIDENCE", "LATE", "INFEASIBLE")


def percentiles(values: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99; empty without values."""
    if not values:
        return {}
    return {f"p{share}": round(float(np.percentile(values, share)), 1) for share in (50, 95, 99)}
