"""Processors load with and without torchvision, show their own errors, and prepare the same images either way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_model
from tiny_vlms_more import save_family

from owled_ros.driving.conversation import IMAGE, Conversation, Turn
from owled_ros.errors import OwledError
from owled_ros.models import pixels
from owled_ros.models.chat import images_of
from owled_ros.models.packages import torchvision_works
from owled_ros.models.processor import load_processor
from owled_ros.models.prompt import Prompter

REPOSITORY = Path(__file__).resolve().parent.parent
LOAD = """
import sys, transformers
from owled_ros.models.packages import torchvision_works
from owled_ros.models.processor import load_processor
processor = load_processor(sys.argv[1])
print(torchvision_works(), type(processor.image_processor).__name__, "torchvision" in sys.modules)
"""


def test_a_broken_torchvision_does_no_harm(tmp_path: Path) -> None:
    directory = save_family("qwen2_5_vl", tmp_path / "model")
    broken = tmp_path / "site" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    paths = os.pathsep.join([str(broken.parent), str(REPOSITORY), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(directory)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["False", "Qwen2VLImageProcessorPil", "True"], done.stderr
    assert "nms does not exist" in done.stderr


def test_a_processor_says_what_is_wrong(tmp_path: Path) -> None:
    directory = save_family("qwen2_5_vl", tmp_path / "model")
    file = directory / "preprocessor_config.json"
    stored = file.read_text()
    for damage, words in (
        ("{", "preprocessor_config"),
        ('{"image_processor_type": "NoSuchImageProcessor"}', "NoSuch|image processor"),
    ):
        file.write_text(damage)
        with pytest.raises(OwledError, match=f"the processor of .* cannot be loaded .*({words})"):
            load_processor(directory)
    file.write_text(stored)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(OwledError, match=r"the processor of .* cannot be loaded .*okenizer"):
        load_processor(directory)


def test_a_text_model_has_a_tokenizer_and_no_processor(tmp_path: Path) -> None:
    directory = save_family("llava", tmp_path / "model")
    tiny_model("llama").save_pretrained(directory)  # beside the files of the tokenizer
    (directory / "processor_config.json").unlink()
    assert load_processor(directory).eos_token == "</s>"


@pytest.mark.skipif(torchvision_works(), reason="the video part is left out only without torchvision")
def test_settings_of_videos_outlive_saving(tmp_path: Path) -> None:
    directory = save_family("qwen2_5_vl", tmp_path / "model")
    stored = json.loads((directory / "processor_config.json").read_text())
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "fps": 3, "patch_size": 14}
    (directory / "processor_config.json").write_text(json.dumps({**stored, "video_processor": video}))
    processor = load_processor(directory)
    processor.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "processor_config.json").read_text())
    assert again["video_processor"] == video
    assert again["processor_class"] == "Qwen2_5_VLProcessor"
    assert load_processor(tmp_path / "again").video_processor.fps == 3
    with pytest.raises(OwledError, match="videos need torchvision"):
        processor(text="<|video_pad|>", videos=[np.zeros((2, 28, 28, 3), np.uint8)], return_tensors="pt")


@pytest.mark.skipif(not torchvision_works(), reason="compares with torchvision")
@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "lfm2_vl"])
def test_both_ways_prepare_the_same(name: str, tmp_path: Path) -> None:
    directory = save_family(name, tmp_path / name)
    images = images_of([np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)])
    asked = Conversation((Turn("user", (IMAGE, "Go?")),))
    mine = load_processor(directory)
    prompts = [Prompter(mine).make(asked, images)]
    hidden = {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] == "torchvision"}
    sys.modules["torchvision"] = None
    try:
        prompts.append(Prompter(load_processor(directory)).make(asked, images))
    finally:
        sys.modules.update(hidden)
    assert prompts[0].ids == prompts[1].ids
    first, second = (prompt.inputs["pixel_values"].float().numpy() for prompt in prompts)
    assert np.abs(first - second).mean() < 0.01  # a grey level is about 0.01


def test_pixels_by_hand() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4)
    assert pixels.pad(image, [1, 0, 0, 2], fill=7).shape == (1, 5, 5)
    assert pixels.pad(image, [1, 0, 0, 2], fill=7)[0, :, 0].tolist() == [7] * 5
    assert pixels.crop(image, 1, 2, 2, 2)[0].tolist() == [[6, 7], [10, 11]]
    assert pixels.normalize(torch.tensor([[[3.0]], [[9.0]]]), [1.0, 3.0], [2.0, 3.0]).flatten().tolist() == [1.0, 2.0]
    assert pixels.grayscale_to_rgb(image).shape == (3, 3, 4)
    assert pixels.to_dtype(
        torch.tensor([0, 51, 255], dtype=torch.uint8), torch.float32, scale=True
    ).tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert pixels.to_dtype(torch.tensor([0.0, 0.2, 1.0]), torch.uint8, scale=True).tolist() == [0, 51, 255]
    with pytest.raises(ValueError, match="needs torchvision"):
        pixels.resize(image, (2, 2), pixels.InterpolationMode.LANCZOS)


@pytest.mark.parametrize(
    ("mode", "pil"), [("BILINEAR", Image.Resampling.BILINEAR), ("BICUBIC", Image.Resampling.BICUBIC)]
)
def test_resizing_is_that_of_pillow(mode: str, pil: Image.Resampling) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    got = pixels.resize(torch.from_numpy(image).permute(2, 0, 1), (32, 40), pixels.InterpolationMode[mode])
    want = np.asarray(Image.fromarray(image).resize((40, 32), pil))
    assert got.dtype == torch.uint8
    assert np.abs(got.permute(1, 2, 0).numpy().astype(int) - want.astype(int)).max() <= 1
