"""The engine on profiles of several cameras, past images, calls and heads; tiny models, so values are compared, not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlms import save_family

from owled_ros.driving import asking
from owled_ros.driving.answers import head
from owled_ros.driving.prediction import Reason
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.models.chat import images_of
from owled_ros.models.driving_model import load_engine
from owled_ros.models.load import load_model
from owled_ros.models.packed_weights import vouch
from owled_ros.models.packing import pack_directory
from owled_ros.sparse.pack import PACKED_NAME

CALLS = [
    {"name": "thought", "user": "{images}{ego}What matters?", "max_tokens": 6, "unfinished": "use"},
    {"name": "plan", "user": "So what is to be done?", "max_tokens": 8, "continues": True},
]
CAMERAS = [{"name": "left", "tag": "Left: "}, {"name": "right", "tag": "Right: "}]


def driven(tmp_path: Path, family: str = "qwen2_5_vl", runtime: str = "torch", **values: Any) -> Any:
    directory = save_family(family, tmp_path / family)
    profile = {
        "format_version": 2, "answer": {"kind": "line"}, "cameras": CAMERAS, "images": {"count": 2, "interval_s": 0.5},
        "ego": "At {speed} m/s. ", "calls": CALLS, **values,
    }  # fmt: skip
    (directory / "driving.json").write_text(json.dumps(profile))
    if runtime == "sparse":
        pack_directory(directory, directory / PACKED_NAME, "bf16", vision=False)
        vouch(directory)
    return load_engine(directory, dtype="float32", runtime=runtime), directory


def noisy_frame(profile: Any) -> Any:
    random = np.random.default_rng(1)
    return asking.made_up_frame(profile, [random.integers(0, 255, (50 + 20 * i, 80, 3), np.uint8) for i in range(4)])


@pytest.mark.parametrize("runtime", ["torch", "sparse"])
def test_two_calls_about_four_images_equal_generate(runtime: str, tmp_path: Path) -> None:
    engine, directory = driven(tmp_path, runtime=runtime)
    profile, model = read_profile(directory), load_model(directory)
    frame = noisy_frame(profile)
    reads: list[int] = []
    inner = engine.chat.runner.read
    engine.chat.runner.read = lambda inputs, keep, room: reads.append(keep) or inner(inputs, keep, room)
    prefix = engine.see(frame)
    answer = engine.act(prefix)
    images = images_of(asking.images(profile, frame))
    assert [image.size[::-1] for image in images] == [(50, 80), (70, 80), (90, 80), (110, 80)]
    said: dict[str, str] = {}
    for call in profile.calls:
        prompt = engine.chat.prompt(asking.conversation(profile, call, frame, said), images)
        whole = model.generate(**prompt.inputs, max_new_tokens=call.max_tokens, do_sample=False)[
            0, len(prompt.ids) :
        ].tolist()
        said[call.name] = engine.chat.prompter.decode([i for i in whole if i != 2], keep_special=False).strip()
    assert answer.generation.reasoning == said["thought"]
    assert answer.generation.text == said["plan"]
    assert answer.reason in (Reason.INCOMPLETE, Reason.UNPARSED)
    assert len(reads) == 2
    assert reads[0] == 0
    assert reads[1] > 0  # the images are seen once
    engine.close()


def test_a_scene_that_is_not_asked_and_a_free_question(tmp_path: Path) -> None:
    engine, _ = driven(tmp_path)
    prefix = engine.see(noisy_frame(engine.profile))
    scene = engine.describe(prefix)
    assert (scene.scene, scene.reason) == (None, Reason.DECLINED)
    free = engine.ask(prefix, "What is <|image_pad|> left?")
    assert free.tokens > 0
    assert engine.ask(prefix, "What is left?", lambda: True) is None
    engine.close()


def test_time_that_is_over_gives_no_plan(tmp_path: Path) -> None:
    engine, _ = driven(tmp_path, max_seconds=0.001)
    answer = engine.act(engine.see(noisy_frame(engine.profile)))
    assert (answer.action, answer.reason) == (None, Reason.INCOMPLETE)
    assert "0.001 s" in answer.detail
    engine.close()


def test_a_head_gets_the_hidden_states_of_all_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def place(hidden: np.ndarray, ego: Any, vehicle: Any) -> np.ndarray:
        seen.append(hidden)
        return np.stack([ego.speed * 0.5 * np.arange(1, 4), np.zeros(3)], axis=1)

    monkeypatch.setattr(head, "load_head", lambda name: lambda directory, options: place)
    answer = {"kind": "head", "name": "mine", "count": 3, "step_s": 0.5, "gives": "places"}
    calls = [CALLS[0], {**CALLS[1], "stop": ["zzz"]}]
    engine, directory = driven(tmp_path, answer=answer, calls=calls)
    monkeypatch.setattr(engine.chat.decoding, "stop_ids", frozenset(range(2000)))  # every answer ends at once
    result = engine.act(engine.see(noisy_frame(engine.profile)))
    assert result.valid, result.detail
    model = load_model(directory)
    frame, profile = noisy_frame(engine.profile), engine.profile
    prompt = engine.chat.prompt(
        asking.conversation(profile, profile.calls[1], frame, {"thought": ""}), images_of(asking.images(profile, frame))
    )
    with torch.no_grad():
        want = model(**prompt.inputs, output_hidden_states=True).hidden_states[-1][0].numpy()
    np.testing.assert_allclose(seen[0], want, atol=1e-4)
    engine.close()
    with pytest.raises(OwledError, match="use runtime torch"):
        driven(tmp_path / "packed", runtime="sparse", answer=answer, calls=calls)
