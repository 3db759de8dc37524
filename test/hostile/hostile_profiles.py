"""Driving profiles that starve, lie or lower the guard: each is what stands in driving.json. Needs nothing."""

from __future__ import annotations

import json
from typing import Any

from hostile_words import JSON

GOOD: dict[str, Any] = {
    "format_version": 1, "ego_template": "speed {speed:.1f}, yaw {yaw_rate:+.2f}.", "action_question": "action?",
    "scene_question": "scene?", "max_action_tokens": 8, "max_scene_tokens": 48, "max_answer_tokens": 128, "speed_step": 0.5,
    "yaw_rate_step": 0.05, "max_speed": 30.0, "max_yaw_rate": 0.5, "image_size": [192, 192],
    "confidence": {"slope": 0.77, "offset": 1.6, "acceleration_tolerance": 1.0, "steering_tolerance": 0.03, "floor": 0.4},
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "a template of giant width": {"ego_template": "{speed:999999999.1f}"},
    "a template of giant decimals": {"ego_template": "{speed:.999999999f}"},
    "a template that looks inside": {"ego_template": "{speed.__class__.__mro__}"},
    "a template in a template": {"ego_template": "{speed:{yaw_rate}}"},
    "a template of a thousand fields": {"ego_template": "{speed}" * 1_000},
    "a template of a megabyte": {"ego_template": "x" * 900_000},
    "a template that does not close": {"ego_template": "{speed"},
    "a question of 20 000 characters": {"action_question": "why " * 5_000},
    "a thousand images": {"action_question": "<image>" * 1_000},
    "images of 30000 px": {"image_size": [30_000, 30_000]},
    "images of no size": {"image_size": [0, 0]},
    "images of negative size": {"image_size": [-192, 192]},
    "images of words": {"image_size": ["a", "b"]},
    "a billion tokens": {"max_action_tokens": 10**9},
    "no token": {"max_action_tokens": 0},
    "a step of infinity": {"speed_step": float("inf")},
    "a step of nothing": {"speed_step": 0.0},
    "a step of NaN": {"yaw_rate_step": float("nan")},
    "a floor of nothing": {"confidence": {**GOOD["confidence"], "floor": None}},
    "a floor of words": {"confidence": {**GOOD["confidence"], "floor": "abc"}},
    "a floor below the ground": {"confidence": {**GOOD["confidence"], "floor": -5}},
    "a floor of NaN": {"confidence": {**GOOD["confidence"], "floor": float("nan")}},
    "a slope of infinity": {"confidence": {**GOOD["confidence"], "slope": float("inf")}},
    "a key that nobody knows": {"trust_remote_code": True},
    "another format": {"format_version": 99},
    "a format of truth": {"format_version": True},
    "a speed of 1e308": {"max_speed": 1e308},
    "a head of somebody else": {"answer": {"kind": "head", "head": "os:system"}},
}
PROFILES: dict[str, bytes] = {
    **{name: json.dumps({**GOOD, **change}).encode() for name, change in CHANGES.items()},
    **{f"JSON, {name}": data for name, data in JSON.items()},
}
