"""A model is tried when it is loaded: families that cannot be driven are refused by name, caches that mislead are not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_models import VISION, WIDTH
from tiny_vlms import save_family

from owled_ros.errors import OwledError
from owled_ros.models.driving_model import load_engine
from owled_ros.models.load import load_model
from owled_ros.models.runners import TorchRunner


def _blip2() -> Any:
    vision = {**VISION, "model_type": "blip_2_vision_model"}
    text = {"model_type": "opt", "hidden_size": WIDTH, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    former = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = hf.Blip2Config(
        vision_config=vision, text_config={**text, "word_embed_proj_dim": WIDTH, "vocab_size": 64}, num_query_tokens=4,
        qformer_config={**former, "encoder_hidden_size": WIDTH, "vocab_size": 8},
    )  # fmt: skip
    return hf.Blip2ForConditionalGeneration(config)


def _florence2() -> Any:
    vision = {
        "depths": [1], "embed_dim": [WIDTH], "num_heads": [4], "num_groups": [4], "patch_size": [7], "patch_stride": [4],
        "patch_padding": [3], "patch_prenorm": [False], "window_size": 2, "projection_dim": WIDTH,
    }  # fmt: skip
    text = {"model_type": "bart", "d_model": WIDTH, "vocab_size": 64}
    text |= {
        f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in (("layers", 1), ("ffn_dim", 64))
    }
    text |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    return hf.Florence2ForConditionalGeneration(hf.Florence2Config(vision_config=vision, text_config=text))


@pytest.mark.parametrize(
    ("made", "words"),
    [(_blip2, "blip-2 models cannot be driven: .* way of its own"), (_florence2, "florence2 .* encoder")],
)
def test_families_of_another_make_are_refused_by_name(made: Any, words: str, tmp_path: Path) -> None:
    made().save_pretrained(tmp_path / "model")
    with pytest.raises(OwledError, match=words):
        load_engine(tmp_path / "model", dtype="float32")


def test_a_model_that_does_not_see_is_refused(tmp_path: Path) -> None:
    directory = save_family("llava", tmp_path / "model")
    model = load_model(directory)
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.zero_()
    model.save_pretrained(directory)
    with pytest.raises(OwledError, match=r"llava models cannot be driven: .* not depend on what it is shown"):
        load_engine(directory, dtype="float32", runtime="torch")


def test_what_fails_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = save_family("llava", tmp_path / "model")

    def refuse(self: Any, token: int) -> Any:
        raise NotImplementedError("no second token")

    monkeypatch.setattr(TorchRunner, "extend", refuse)
    with pytest.raises(OwledError, match=r"llava models cannot be driven here .*no second token"):
        load_engine(directory, dtype="float32", runtime="torch")


def test_a_cache_that_misleads_or_fails_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = save_family("llava", tmp_path / "model")
    read = TorchRunner.read

    def wrong(self: Any, inputs: Any, keep: int = 0, room: int = 0) -> Any:
        logits = read(self, inputs, keep, room)
        return logits[::-1].copy() if keep else logits

    def failing(self: Any, inputs: Any, keep: int = 0, room: int = 0) -> Any:
        if keep:
            raise RuntimeError("cannot be cut")
        return read(self, inputs, keep, room)

    for kind, reuses in ((read, True), (wrong, False), (failing, False)):
        monkeypatch.setattr(TorchRunner, "read", kind)
        engine = load_engine(directory, dtype="float32", runtime="torch")
        assert engine.chat.reuses is reuses
        engine.close()
