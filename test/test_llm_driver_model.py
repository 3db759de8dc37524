"""LlmDriver as a Hugging Face model: saved and loaded, what pruning finds in it, asked by the engine, pruned and packed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from owled_ros.driving.ego import EgoState
from owled_ros.driving.frame import Frame
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings
from owled_ros.errors import OwledError
from owled_ros.llm_driver.batches import collate, prompt_text
from owled_ros.llm_driver.examples import ask, world_scene
from owled_ros.llm_driver.host import build_on, build_tiny, save
from owled_ros.models.components import find_structure
from owled_ros.models.load import is_vision_language, load_model
from owled_ros.models.processor import load_processor
from owled_ros.models.vector_encoder import Crowd, VectorConfig

SMALL = {"hidden_size": 32, "num_latents": 6, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
DRIVE_SEED = 800_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an untrained tiny model."""
    place = tmp_path_factory.mktemp("llm_driver") / "model"
    model, processor = build_tiny(0, VectorConfig(**SMALL))
    save(model, processor, place, "untrained")
    return place


def batch_of(processor: Any, count: int = 2) -> Any:
    return collate(processor, [ask(world_scene(DRIVE_SEED + number), "What do you do?") for number in range(count)])


def test_what_is_saved_is_loaded(directory: Path) -> None:
    model, processor = build_tiny(0, VectorConfig(**SMALL))
    loaded, read = load_model(directory), load_processor(directory)
    assert loaded.config.model_type == "llm_driver"
    assert is_vision_language(loaded.config)
    batch = batch_of(processor)
    assert batch_of(read).inputs["input_ids"].equal(batch.inputs["input_ids"])
    with torch.no_grad():
        assert torch.equal(loaded(**batch.inputs).logits, model.eval()(**batch.inputs).logits)


def test_generation_reads_the_vectors_once(directory: Path) -> None:
    """Greedy tokens with the cache equal those of whole passes, in which the vectors are given every time."""
    model, processor = load_model(directory), load_processor(directory)
    inputs = processor(
        prompt_text(processor, "What do you do?"), images=[world_scene(1).scene.packed()], return_tensors="pt"
    )
    with torch.no_grad():
        said = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=None)[0].tolist()
        ids = inputs["input_ids"]
        for _ in range(4):
            best = model(input_ids=ids, vectors=inputs["vectors"]).logits[0, -1].argmax()
            ids = torch.cat([ids, best.view(1, 1)], dim=1)
    assert ids[0].tolist() == said


def test_empty_rows_change_nothing_and_taken_ones_do(directory: Path) -> None:
    model, processor = load_model(directory), load_processor(directory)
    batch = batch_of(processor, 1)
    free = int((batch.inputs["vectors"][0, 31:61, 0] == 0).nonzero()[0]) + 31  # the first empty row of vehicles
    changed = {**batch.inputs, "vectors": batch.inputs["vectors"].clone()}
    with torch.no_grad():
        before = model(**batch.inputs).logits
        changed["vectors"][0, free, 3] = 2.0  # a place in a row whose first number says that nobody is there
        assert torch.equal(model(**changed).logits, before)
        changed["vectors"][0, free, 0] = 1.0
        assert not torch.equal(model(**changed).logits, before)


def test_rows_of_a_sort_are_counted_and_empty_ones_never() -> None:
    """A softmax sees shares: of five rows that are alike and of ten it tells the same. The crowd's row does not."""
    torch.manual_seed(0)
    crowd = Crowd(8)
    with torch.no_grad():
        crowd.sort["vehicle"].weight.zero_()
        crowd.sort["vehicle"].weight[0, 2] = 100.0  # the first sort: whoever has something in the third place
        crowd.sort["vehicle"].bias.copy_(torch.tensor([-50.0, 50.0, 0.0, -50.0]))  # the second: all; the third: halves
    rows = torch.zeros(2, 6, 8)
    rows[0, :2, 2], rows[1, :5, 2] = 1.0, 1.0
    taken = torch.tensor([[True] * 4 + [False] * 2, [True] * 3 + [False] * 3])
    counts = crowd.count("vehicle", rows, taken)
    assert torch.allclose(counts, torch.tensor([[2.0, 4.0, 2.0, 0.0], [3.0, 3.0, 1.5, 0.0]]), atol=1e-6)
    nobody = {"vehicle": taken, "pedestrian": torch.zeros_like(taken)}
    told = crowd({"vehicle": rows, "pedestrian": rows}, nobody)
    assert told.shape == (2, 1, 8)
    assert not torch.allclose(told[0], told[1], atol=1e-2)


def test_pruning_finds_encoder_adapter_and_host() -> None:
    model, _ = build_tiny(0, VectorConfig(**SMALL))
    sizes = find_structure(model).component_sizes()
    cross_and_self, mlp = 8 * 32 * 32, 2 * 32 * 48
    assert sizes["vision"] == 2 * (cross_and_self + mlp)
    assert sizes["projector"] == 32 * 128 + 128 * 128
    assert sizes["language"] == 3 * (4 * 128 * 128 + 3 * 128 * 384)


def test_another_causal_lm_is_a_host(tmp_path: Path) -> None:
    """A host without a pad token: its end token stands in; its own weights and answers about text stay what they were."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<e>": 0, "what": 1, "do": 2, "you": 3, "?": 4}, unk_token="<e>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>", unk_token="<e>").save_pretrained(tmp_path / "host")
    host = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=5, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    host.eval().save_pretrained(tmp_path / "host")
    model, processor = build_on(tmp_path / "host", 0, VectorConfig(**SMALL))
    assert processor.tokenizer.pad_token == "<e>"
    text = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.allclose(model.eval()(input_ids=text).logits[..., :5], host(text).logits, atol=1e-6)
    save(model, processor, tmp_path / "driver", "untrained")
    batch = batch_of(load_processor(tmp_path / "driver"))
    with torch.no_grad():
        again = load_model(tmp_path / "driver")(**batch.inputs).logits
        assert torch.allclose(again, model(**batch.inputs).logits, atol=1e-6)


def test_a_host_without_pad_and_end_token_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a").save_pretrained(tmp_path)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(OwledError, match="neither a pad token nor an end token"):
        build_on(tmp_path, 0)


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (np.full((81, 33), np.nan, np.float32), "NaN"),
        (np.full((81, 33), 1e5, np.float32), "holds 100000; expected at most 100"),
        (np.zeros((80, 33), np.float32), r"shape \(80, 33\)"),
    ],
)
def test_scenes_that_are_none_are_refused(directory: Path, scene: np.ndarray, words: str) -> None:
    processor = load_processor(directory)
    with pytest.raises(OwledError, match=words):
        processor(prompt_text(processor, "What do you do?"), images=[scene], return_tensors="pt")


def test_a_damaged_processor_is_refused(directory: Path, tmp_path: Path) -> None:
    load_processor(directory).tokenizer.save_pretrained(tmp_path)
    (tmp_path / "llm_driver_processor.json").write_text('{"latents": "many"}')
    with pytest.raises(OwledError, match="cannot be read"):
        load_processor(tmp_path)


def frame(*others: RoadUser) -> Frame:
    image = np.zeros((4, 4, 3), np.uint8)
    return Frame(image, 0, EgoState(0, 5.0, 0.0, 0.0, steering_tire_angle=0.0), around=Surroundings(others, ()))


def logits_of(engine: Any, shown: Frame) -> np.ndarray:
    prefix = engine.see(shown)
    return np.asarray(engine.chat.read(engine.chat.prompt(engine.first_conversation(shown), prefix.images), 1))


def test_the_engine_asks_it_in_torch_and_packed(directory: Path, tmp_path: Path) -> None:
    from owled_ros.models.driving_model import load_engine
    from owled_ros.models.packed_weights import vouch
    from owled_ros.models.packing import pack_directory
    from owled_ros.sparse.pack import PACKED_NAME

    engine = load_engine(directory)
    assert engine.profile.needs.objects is not None
    car = RoadUser(12.0, 0.0, 0.0, 4.5, 1.8, 0.0, 0.0, RoadUserClass.CAR, 1.5)
    heard = [logits_of(engine, frame(*others)) for others in ((), (car,), ())]
    assert np.array_equal(heard[0], heard[2])
    assert not np.array_equal(heard[0], heard[1])
    said = engine.act(engine.see(frame(car))).generation
    engine.close()

    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    pack_directory(copy, copy / PACKED_NAME, "bf16")
    vouch(copy)
    packed = load_engine(copy, runtime="sparse")
    assert np.abs(logits_of(packed, frame(car)) - heard[1]).max() < 0.05 * np.ptp(heard[1])
    assert packed.act(packed.see(frame(car))).generation.tokens == said.tokens
    packed.close()


def test_it_is_pruned_like_any_other_model(directory: Path, tmp_path: Path) -> None:
    from owled_ros.pruning.config import PruneConfig
    from owled_ros.pruning.prune import prune

    processor = load_processor(directory)
    batches = []
    for first in (0, 4):
        batch = collate(processor, [ask(world_scene(DRIVE_SEED + first + n), "What do you do?") for n in range(4)])
        batches.append({**batch.inputs, "labels": batch.labels})
    config = PruneConfig(directory, tmp_path / "pruned", 0.5, "sparsegpt", "uniform", components=("vision", "language"))
    prune(config, batches, [{"kind": "test"}], batches)
    pruned = load_model(tmp_path / "pruned")
    structure = find_structure(pruned)
    for component in ("vision", "language"):
        weights = [m.weight() for block in structure.blocks if block.component == component for m in block.matrices]
        zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
        assert zeros == pytest.approx(0.5, abs=0.005), component
    assert load_processor(tmp_path / "pruned").latents == 6
