"""What a directory's model is: strangers beside it change nothing, and what would be misread is refused in one sentence."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_models import INDEX, LFS, PAGE, Q_PROJ, REFUSED, WEIGHTS, configure, halves, put, shards, tensors_of
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models import load as load_room
from owled_ros.models.load import load_model, source_of
from owled_ros.models.packing import pack_directory
from owled_ros.models.weights import find_weights, read_header, weight_files
from owled_ros.pruning.prune import PruneConfig, prune
from owled_ros.sparse import SparseDecoder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("good") / "model"
    model = tiny_model("llama")
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0, 0.15)
    model.save_pretrained(place)
    return place


@pytest.fixture
def place(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def packed_distance(directory: Path, out: Path) -> float:
    """Distance of the packed decoder's logits from transformers' over their length."""
    pack_directory(directory, out, "bf16")
    ids = torch.arange(9, 17)
    decoder = SparseDecoder.open(out)
    got = decoder.prefill(decoder.new_cache(16), decoder.embed(ids.numpy()))
    decoder.close()
    with torch.no_grad():
        want = load_model(directory)(ids[None]).logits[0, -1].numpy()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_misread_is_refused(kind: str, place: Path, tmp_path: Path) -> None:
    make, sentence = REFUSED[kind]
    make(place)
    with pytest.raises(OwledError, match=f"(?s){sentence}"):
        load_model(place)
    for work in (
        lambda: pack_directory(place, tmp_path / "p.owled"),
        lambda: prune(PruneConfig(place, tmp_path / "out", 0.5, "wanda", "uniform"), tiny_batches("llama")),
    ):
        with pytest.raises(OwledError):
            work()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]  # nothing was written


@pytest.mark.parametrize("stranger", ["model_old.safetensors", "consolidated.safetensors", "model.fp16.safetensors"])
def test_a_stray_file_changes_nothing(stranger: str, place: Path, tmp_path: Path) -> None:
    hash_before = source_of(place).sha256
    other = {name: tensor + 1 for name, tensor in tensors_of(place).items()}
    put(place, other, stranger)
    assert source_of(place).sha256 == hash_before
    assert weight_files(place) == (place / WEIGHTS,)
    assert packed_distance(place, tmp_path / "p.owled") < 0.02


def test_stray_shards_beside_an_index(place: Path, tmp_path: Path) -> None:
    tensors = tensors_of(place)
    shards(place, halves(tensors))
    put(place, {name: tensor + 1 for name, tensor in tensors.items()}, "model-00001-of-00003.safetensors")
    assert [file.name[6:11] for file in find_weights(place).files] == ["00001", "00002"]
    assert packed_distance(place, tmp_path / "p.owled") < 0.02


def test_a_whole_file_counts_before_an_index_as_in_transformers(place: Path) -> None:
    tensors = tensors_of(place)
    shards(place, halves({name: tensor + 1 for name, tensor in tensors.items()}))
    put(place, tensors)
    assert weight_files(place) == (place / WEIGHTS,)
    assert torch.equal(load_model(place).lm_head.weight, tensors["lm_head.weight"])


def test_the_file_that_the_config_names(place: Path, tmp_path: Path) -> None:
    tensors = tensors_of(place)
    put(place, {name: tensor * 0.5 for name, tensor in tensors.items()}, "other.safetensors")
    configure(place, transformers_weights="other.safetensors")
    assert weight_files(place) == (place / "other.safetensors",)
    assert torch.equal(load_model(place).lm_head.weight, tensors["lm_head.weight"] * 0.5)
    assert packed_distance(place, tmp_path / "p.owled") < 0.02


def test_links_as_in_the_hubs_cache_are_followed(place: Path, tmp_path: Path) -> None:
    (place / WEIGHTS).rename(tmp_path / "blob")
    (place / WEIGHTS).symlink_to(tmp_path / "blob")
    assert len(find_weights(place).tensors) == len(load_model(place).state_dict())
    (tmp_path / "blob").unlink()
    with pytest.raises(OwledError, match="link to nothing"):
        load_model(place)


@pytest.mark.parametrize("tied", [True, False])
def test_a_stored_head_of_its_own_is_kept_whatever_the_config_says(tied: bool, place: Path, tmp_path: Path) -> None:
    configure(place, tie_word_embeddings=tied)
    model = load_model(place)
    assert not model.config.tie_word_embeddings
    assert packed_distance(place, tmp_path / "p.owled") < 0.02
    out = prune(PruneConfig(place, tmp_path / "out", 0.5, "wanda", "uniform"), tiny_batches("llama"))
    assert torch.equal(load_model(out).lm_head.weight, tensors_of(place)["lm_head.weight"])


def test_a_head_that_is_the_embedding_is_packed_once(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in tensors_of(tmp_path / "tied")
    assert packed_distance(tmp_path / "tied", tmp_path / "p.owled") < 0.02
    once = (tmp_path / "p.owled").stat().st_size
    tensors = tensors_of(tmp_path / "tied")
    put(tmp_path / "tied", tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert packed_distance(tmp_path / "tied", tmp_path / "p.owled") < 0.02
    assert (tmp_path / "p.owled").stat().st_size == once


@pytest.mark.parametrize("cut", ["whole", "shards", "shards the other way"])
def test_the_stored_type_does_not_depend_on_the_cut(cut: str, place: Path) -> None:
    tensors = {name: t if "norm" in name else t.bfloat16() for name, t in tensors_of(place).items()}
    put(place, tensors)
    if cut != "whole":
        parts = [{n: t for n, t in tensors.items() if ("norm" in n) == which} for which in (False, True)]
        shards(place, parts if cut == "shards" else parts[::-1])
    source = source_of(place)
    assert source.dtype == "float32"
    assert source.dtypes["model.norm.weight"] == "float32"
    assert source.dtypes[f"{Q_PROJ}.weight"] == "bfloat16"


def test_fp8_blocks_are_undone_by_transformers(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    tensors, codes, want = tensors_of(place), {}, {}
    for name, tensor in tensors.items():
        if "proj" in name:
            scale = tensor.abs().max() / 448
            codes[name] = (tensor / scale).to(torch.float8_e4m3fn)
            codes[f"{name}_scale_inv"] = scale.reshape(1, 1)
            want[name] = codes[name].float() * scale
    put(place, tensors | codes)
    configure(place, quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]}, dtype="bfloat16")
    state = load_model(place).state_dict()
    for name, weight in want.items():
        torch.testing.assert_close(state[name], weight, rtol=1e-2, atol=0)
    assert {weight.dtype for weight in load_model(place, dtype="bfloat16").parameters()} == {torch.bfloat16}
    assert source_of(place).dtype == "bfloat16"
    assert packed_distance(place, tmp_path / "p.owled") < 0.02
    out = prune(PruneConfig(place, tmp_path / "out", 0.5, "wanda", "uniform"), tiny_batches("llama"))
    assert "quantization_config" not in (out / "config.json").read_text()
    pruned = load_model(out).state_dict()[f"{Q_PROJ}.weight"]
    torch.testing.assert_close(pruned[pruned != 0], want[f"{Q_PROJ}.weight"][pruned != 0], rtol=1e-2, atol=0)


def test_fp8_scales_that_do_not_fit_their_blocks_are_refused(place: Path) -> None:
    pytest.importorskip("accelerate")
    tensors = tensors_of(place)
    name = "model.layers.0.mlp.up_proj.weight"  # 64 rows in blocks of 48: transformers would take two halves of 32
    put(place, tensors | {name: tensors[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(2, 1)})
    configure(place, quantization_config={"quant_method": "fp8", "weight_block_size": [48, 48]})
    with pytest.raises(OwledError, match="do not fit its scales"):
        load_model(place)


def test_gguf_files_that_are_none(tmp_path: Path) -> None:
    for name, content, sentence in (
        ("lfs.gguf", LFS, "git lfs pull"),
        ("page.gguf", PAGE, "web page"),
        ("noise.gguf", b"noise" * 20, "does not start with GGUF"),
        ("model-00001-of-00002.gguf", b"GGUF" + bytes(60), "one part"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OwledError, match=sentence):
            load_model(tmp_path / name)


def test_too_little_memory_is_said_before_loading(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_room, "available_bytes", lambda: 1000)
    with pytest.raises(OwledError, match="GB of memory as float32"):
        load_model(place)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", "cuda"])
def test_devices_that_are_not_there(device: str, place: Path) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(OwledError, match=f"device '{device}'"):
        load_model(place, device=device)


def test_a_hub_name_says_how_to_download() -> None:
    with pytest.raises(OwledError, match="hf download some/model --local-dir model"):
        load_model("some/model")


def test_more_tensors_than_the_kernels_compute_with_are_not_packed(place: Path, tmp_path: Path) -> None:
    from owled_ros.sparse.pack import pack_model

    model = load_model(place)
    state = {**model.state_dict(), "model.layers.0.self_attn.sinks": torch.ones(4)}
    with pytest.raises(OwledError, match="sinks"):
        pack_model(state, tmp_path / "p.owled", config=model.config.to_dict())


def test_a_packed_file_that_answers_otherwise_is_not_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from owled_ros.sparse import pack

    right = pack.architecture.rotary_frequencies
    with monkeypatch.context() as patch:
        patch.setattr(pack.architecture, "rotary_frequencies", lambda *given: 30 * right(*given) + 1)
        with pytest.raises(OwledError, match="away from the model's"):
            pack_directory(place, tmp_path / "p.owled", "bf16")
    weights = pack.pack_matrix
    monkeypatch.setattr(
        pack, "pack_matrix", lambda name, role, layer, weight, *rest: weights(name, role, layer, -weight, *rest)
    )
    with pytest.raises(OwledError, match="other weights than the model's"):
        pack_directory(place, tmp_path / "p.owled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@given(data=st.binary(max_size=200), as_header=st.booleans())
def test_any_bytes_give_a_header_or_a_sentence(
    data: bytes, as_header: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes((len(data).to_bytes(8, "little") if as_header else b"") + data)
    with contextlib.suppress(OwledError):
        assert isinstance(read_header(file), dict)


def test_the_index_is_told_apart_from_other_indexes(place: Path) -> None:
    (place / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "pytorch_model-00001.bin"}}')
    assert weight_files(place) == (place / WEIGHTS,)
    assert not (place / INDEX).exists()
