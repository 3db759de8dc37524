"""Goals for recalibration_node that cannot be met: bags of nowhere, numbers that are none, fifty at once. Needs rclpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from hostile_words import LONG
from target import SWITCH_S, Target

FIELDS: dict[str, dict[str, Any]] = {
    "no bag": {"bags": []},
    "a bag of nowhere": {"bags": ["nowhere"]},
    "a bag up and away": {"bags": ["../" * 200 + "etc"]},
    "a bag of a NUL": {"bags": ["\0"]},
    "a bag of a megabyte": {"bags": ["a" * LONG]},
    "a device as bag": {"bags": ["/dev/zero"]},
    "one bag ten thousand times": {"bags": ["drive"] * 10_000},
    "a sparsity of NaN": {"sparsity": math.nan},
    "a sparsity of 2": {"sparsity": 2.0},
    "a negative sparsity": {"sparsity": -1.0},
    "a budget of nothing": {"budget_components": ["wheels"], "budget_sparsities": [0.5]},
    "a budget without numbers": {"budget_components": ["language"] * 1000, "budget_sparsities": []},
    "a budget of NaN": {"budget_components": ["language"], "budget_sparsities": [math.nan]},
    "a time of NaN": {"time_budget": math.nan},
    "a time of infinity": {"time_budget": math.inf, "bags": ["nowhere"]},
    "a negative time": {"time_budget": -1.0},
    "a method of nobody": {"method": "__import__('os')"},
    "an allocation of nobody": {"allocation": "../../etc"},
    "the largest seed": {"seed": 2**64 - 1, "bags": ["nowhere"]},
}


def _goal(fields: dict[str, Any], target: Target) -> str:
    handle = target.wait(target.send_goal(**fields), "recalibrate")
    if not handle.accepted:
        return "not accepted"
    answer = target.wait(handle.get_result_async(), "the goal's result", SWITCH_S)
    return f"status {answer.status}: {answer.result.message}"[:200]


def _fifty(target: Target) -> str:
    sent = [target.send_goal(bags=["nowhere"], seed=number) for number in range(50)]
    handles = [target.wait(future, "recalibrate") for future in sent]
    results = [handle.get_result_async() for handle in handles if handle.accepted]
    statuses = [target.wait(result, "the goal's result", SWITCH_S).status for result in results]
    return f"{len(statuses)} of 50 answered"


def _sent_and_cancelled(target: Target) -> str:
    handles = [target.wait(target.send_goal(bags=["nowhere"]), "recalibrate") for _ in range(10)]
    for future in [handle.cancel_goal_async() for handle in handles]:
        target.wait(future, "cancel")
    for future in [handle.get_result_async() for handle in handles]:
        target.wait(future, "the goal's result", SWITCH_S)
    return ""


GOALS: list[tuple[str, Callable[[Target], str]]] = [
    *((name, functools.partial(_goal, fields)) for name, fields in FIELDS.items()),
    ("fifty at once", _fifty),
    ("ten sent and cancelled", _sent_and_cancelled),
]
