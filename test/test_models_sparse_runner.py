"""The packed language model inside a VLM: prefix with an image, suffix, rewinding, against the stock model in float32."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.load import load_model
from owled_ros.models.packing import pack_directory, vision_matrices, wants_vision
from owled_ros.models.sparse_runner import SparseRunner, pair_positions
from owled_ros.sparse import library
from owled_ros.sparse.pack import pack_model

SUFFIX, OTHER = [11, 12, 13, 14], [15, 16, 17]


@pytest.mark.parametrize("kernel", ["auto", "torch"])
@pytest.mark.parametrize("name", ["llava", "smolvlm", "qwen2_vl", "qwen2_5_vl"])
def test_answers_like_the_stock_model(name: str, kernel: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    config = model.config.get_text_config().to_dict()
    pack_model(model.state_dict(), tmp_path / "p.owled", "bf16", config=config)
    inputs = tiny_batches(name, count=1, sequences=1)[0]
    runner = SparseRunner(copy.deepcopy(model), tmp_path / "p.owled", torch.float32, threads=1, kernel=kernel)
    prefix = inputs["input_ids"].shape[1]
    close(runner.read(longer(inputs, SUFFIX), 0, 8), whole(model, inputs, SUFFIX))
    close(runner.extend(20), whole(model, inputs, [*SUFFIX, 20]))
    close(runner.extend(21), whole(model, inputs, [*SUFFIX, 20, 21]))
    assert runner.can_keep(prefix + 6)
    assert not runner.can_keep(prefix + 7)
    close(runner.read(longer(inputs, OTHER), prefix, 8), whole(model, inputs, OTHER))
    close(runner.read(longer(inputs, OTHER), 0, 8), whole(model, inputs, OTHER))  # a new image starts over
    runner.close()


def test_the_cache_takes_what_is_needed(tmp_path: Path) -> None:
    model = tiny_model("llava")
    config = {**model.config.get_text_config().to_dict(), "max_position_embeddings": 4096}
    pack_model(model.state_dict(), tmp_path / "p.owled", "bf16", config=config)
    inputs = tiny_batches("llava", count=1, sequences=1)[0]
    runner = SparseRunner(model, tmp_path / "p.owled", torch.float32, threads=1)
    runner.read(inputs, 0, 8)
    assert runner.cache_tokens == 1024  # of 4096
    first = runner.read(inputs, 0, 2000)
    assert runner.cache_tokens == 2048
    prefix = inputs["input_ids"].shape[1]
    again = runner.read(longer(inputs, SUFFIX), prefix, 3000)  # no room behind: read again in a larger cache
    assert runner.cache_tokens == 3072
    close(again, runner.read(longer(inputs, SUFFIX), 0, 8))
    close(runner.read(inputs, 0, 8), first)
    with pytest.raises(OwledError, match="positions"):
        runner.read(longer(inputs, [11] * 4096), 0, 8)
    runner.close()


@pytest.mark.skipif(not library.available(), reason="no native kernels")
@pytest.mark.parametrize("name", ["llava", "smolvlm", "qwen2_vl"])
def test_a_packed_vision_tower_sees_the_same(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model.save_pretrained(tmp_path)
    dense, both = tmp_path / "dense.owled", tmp_path / "both.owled"
    pack_directory(tmp_path, dense, "bf16", vision=False)
    facts = pack_directory(tmp_path, both, "bf16", vision=True)
    inputs = tiny_batches(name, count=1, sequences=1)[0]
    plain, packed = (SparseRunner(copy.deepcopy(model), path, torch.float32, threads=1) for path in (dense, both))
    assert plain.packed_layers == 0
    assert packed.packed_layers == len(vision_matrices(load_model(tmp_path))) >= 8
    assert facts.path.stat().st_size > dense.stat().st_size
    asked = longer(inputs, SUFFIX)
    close(packed.read(asked), plain.read(asked))
    close(packed.read(asked), whole(model, inputs, SUFFIX))
    plain.close()
    packed.close()


def test_the_vision_tower_is_packed_where_images_have_many_patches(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    for tower, wanted in (
        ({"image_size": 336, "patch_size": 14}, True),  # 24 x 24 = 576
        ({"image_size": 192, "patch_size": 16}, False),  # 12 x 12 = 144
        ({"image_size": [448, 448], "patch_size": [14, 14]}, True),
        ({"patch_size": 14}, True),  # images of any size
    ):
        config.write_text(json.dumps({"vision_config": tower}))
        assert wants_vision(tmp_path, None) is wanted
        assert wants_vision(tmp_path, not wanted) is not wanted
    config.write_text(json.dumps({"model_type": "llama"}))
    assert not wants_vision(tmp_path, None)
    with pytest.raises(OwledError, match="no vision tower"):
        wants_vision(tmp_path, True)


def test_three_positions_spread_over_the_pairs() -> None:
    # Two tokens of text, then an image of 2 x 1 at time 2: heights 2 and 3.
    ids = torch.tensor([[[0, 1, 2, 2]], [[0, 1, 2, 3]], [[0, 1, 2, 2]]])
    want = [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [2, 3, 3, 2]]
    np.testing.assert_array_equal(pair_positions(ids, (1, 2, 1)), want)
    assert pair_positions(None, (1, 2, 1)) is None
    assert pair_positions(ids, ()) is None


def longer(inputs: dict[str, torch.Tensor], suffix: list[int]) -> dict[str, torch.Tensor]:
    """The same images with more text behind."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([suffix])], dim=1)
    kinds = {
        name: torch.nn.functional.pad(value, (0, len(suffix)))
        for name, value in inputs.items()
        if name == "mm_token_type_ids"
    }
    return {**inputs, **kinds, "input_ids": ids}


def whole(model: torch.nn.Module, inputs: dict[str, torch.Tensor], suffix: list[int]) -> np.ndarray:
    """Logits of the last token, everything read at once."""
    asked = longer(inputs, suffix)
    mask = torch.ones_like(asked["input_ids"])
    with torch.no_grad():
        return model(**asked, attention_mask=mask, use_cache=False).logits[0, -1].numpy()


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())
