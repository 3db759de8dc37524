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
    close(runner.prefill(inputs, SUFFIX), whole(model, inputs, SUFFIX))
    close(runner.extend([20]), whole(model, inputs, [*SUFFIX, 20]))
    close(runner.extend([21, 22, 23, 24]), whole(model, inputs, [*SUFFIX, 20, 21, 22, 23, 24]))
    runner.rewind()
    close(runner.extend(OTHER), whole(model, inputs, OTHER))
    close(runner.prefill(inputs, OTHER), whole(model, inputs, OTHER))  # a new image starts anew
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
    close(packed.prefill(inputs, SUFFIX), plain.prefill(inputs, SUFFIX))
    close(packed.prefill(inputs, SUFFIX), whole(model, inputs, SUFFIX))
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
    # Two tokens of text, then an image of 2 x 1 at time 2: heights 2 and 3. The next text comes behind the largest, 3.
    ids = torch.tensor([[[0, 1, 2, 2]], [[0, 1, 2, 3]], [[0, 1, 2, 2]]])
    got = pair_positions(ids, (1, 2, 1), more=2)
    want = [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [2, 3, 3, 2], [4, 4, 4, 4], [5, 5, 5, 5]]
    np.testing.assert_array_equal(got, want)
    assert pair_positions(None, (1, 2, 1), 2) is None
    assert pair_positions(ids, (), 2) is None


def whole(model: torch.nn.Module, inputs: dict[str, torch.Tensor], suffix: list[int]) -> np.ndarray:
    """Logits of the last token, everything read at once."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([suffix])], dim=1)
    more = {name: value for name, value in inputs.items() if name != "input_ids"}
    if "mm_token_type_ids" in more:
        more["mm_token_type_ids"] = torch.nn.functional.pad(more["mm_token_type_ids"], (0, len(suffix)))
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more, use_cache=False).logits[0, -1].numpy()


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())
