"""Scenes of our own world in the form of the released file, for tests that read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from owled_ros.driving.vector_facts import facts_of
from owled_ros.driving.vector_words import drive_answer
from owled_ros.llm_driver.examples import HELD_OUT_SEEDS, ActedScene, world_scene
from owled_ros.llm_driver.released import VECTOR_NAMES


def write_released(place: Path, count: int) -> list[ActedScene]:
    """Write scenarios.jsonl and observations.safetensors into a directory, and return what they hold."""
    scenes = [world_scene(HELD_OUT_SEEDS + number) for number in range(count)]
    lines = []
    for item in scenes:
        assert item.pedals is not None
        lines.append(json.dumps({"description_and_action": drive_answer(facts_of(item.scene), item.pedals)}))
    (place / "scenarios.jsonl").write_text("\n".join(lines) + "\n")
    parts = {name: np.stack([getattr(item.scene, part) for item in scenes]) for part, name in VECTOR_NAMES.items()}
    save_file(parts, place / "observations.safetensors")
    return scenes
