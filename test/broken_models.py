"""Model directories as the field has them: wrong, half, quantised or with strangers beside. Each maker changes a good one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Q_PROJ = "model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]


def tensors_of(place: Path) -> Tensors:
    return dict(load_file(place / WEIGHTS))


def put(place: Path, tensors: Tensors, name: str = WEIGHTS) -> None:
    save_file(tensors, place / name, {"format": "pt"})


def configure(place: Path, **changes: Any) -> None:
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **changes}))


def shards(place: Path, parts: list[Tensors], weight_map: dict[str, str] | None = None) -> None:
    """Write tensors as shards with an index; the whole file goes."""
    (place / WEIGHTS).unlink(missing_ok=True)
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        put(place, part, name)
        places |= dict.fromkeys(part, name)
    (place / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map or places}))


def halves(tensors: Tensors) -> list[Tensors]:
    names = sorted(tensors)
    return [{name: tensors[name] for name in names[start::2]} for start in range(2)]


def _codes(place: Path, dtype: torch.dtype, **more: torch.Tensor) -> None:
    tensors = tensors_of(place)
    weight = tensors[f"{Q_PROJ}.weight"]
    tensors[f"{Q_PROJ}.weight"] = (weight / weight.abs().max() * 7).to(dtype)
    put(place, {**tensors, **{f"{Q_PROJ}.{name}": value for name, value in more.items()}})


def _int8_with_scale(place: Path) -> None:
    _codes(place, torch.int8, weight_scale=torch.ones(32, 1))


def _rounded_floats_with_scale(place: Path) -> None:
    tensors = tensors_of(place)
    tensors[f"{Q_PROJ}.weight"] = (tensors[f"{Q_PROJ}.weight"] * 1000).round()
    put(place, {**tensors, f"{Q_PROJ}.scale": torch.ones(32, 1)})


def _packed_int4(place: Path) -> None:
    tensors = tensors_of(place)
    tensors.pop(f"{Q_PROJ}.weight")
    extra = {"qweight": torch.zeros(4, 32, dtype=torch.int32), "scales": torch.ones(1, 32), "qzeros": torch.zeros(1, 4)}
    put(place, tensors | {f"{Q_PROJ}.{name}": value for name, value in extra.items()})
    configure(place, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32})


def _nf4(place: Path) -> None:
    _codes(place, torch.uint8, **{"weight.absmax": torch.ones(4)})
    configure(place, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})


def _fp8_per_tensor(place: Path) -> None:
    _codes(place, torch.float8_e4m3fn, weight_scale=torch.ones(()))
    configure(place, quantization_config={"quant_method": "fp8", "activation_scheme": "static"})


def _mlx(place: Path) -> None:
    _codes(place, torch.int32, scales=torch.ones(32, 1), biases=torch.ones(32, 1))
    configure(place, quantization={"group_size": 32, "bits": 4})


def _lora_inside(place: Path) -> None:
    put(place, tensors_of(place) | {f"{Q_PROJ}.lora_A.weight": torch.ones(2, 32)})


def _lora_beside(place: Path) -> None:
    (place / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    put(place, {"base_model.model.x.lora_A.weight": torch.ones(2, 32)}, "adapter_model.safetensors")


def _lora_alone(place: Path) -> None:
    _lora_beside(place)
    (place / WEIGHTS).unlink()
    (place / "config.json").unlink()


def _cut_off(place: Path) -> None:
    (place / WEIGHTS).write_bytes((place / WEIGHTS).read_bytes()[:-100])


def _replaced(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda place: (place / file).write_bytes(content) and None


def _missing_shard(place: Path) -> None:
    shards(place, halves(tensors_of(place)))
    (place / "model-00002-of-00002.safetensors").unlink()


def _tensor_twice(place: Path) -> None:
    first, second = halves(tensors_of(place))
    shards(place, [first, second | {sorted(first)[0]: first[sorted(first)[0]] + 1}])


def _shard_of_another_model(place: Path) -> None:
    first, second = halves(tensors_of(place))
    shards(place, [first, second | {"extra.weight": torch.ones(2)}], dict.fromkeys(first, "model-00001-of-00002.safetensors")
           | dict.fromkeys(second, "model-00002-of-00002.safetensors"))  # fmt: skip


def _index_leaves(place: Path) -> None:
    tensors = tensors_of(place)
    shards(place, [tensors], dict.fromkeys(tensors, "../model.safetensors"))


def _only_pickles(place: Path) -> None:
    torch.save(tensors_of(place), place / "pytorch_model.bin")
    (place / WEIGHTS).unlink()


def _other_name(place: Path) -> None:
    (place / WEIGHTS).rename(place / "consolidated.safetensors")


def _index_without_map(place: Path) -> None:
    shards(place, halves(tensors_of(place)))
    (place / INDEX).write_text("[]")


def _half_a_model(place: Path) -> None:
    tensors = tensors_of(place)
    tensors.pop(f"{Q_PROJ}.weight")
    put(place, tensors)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
PAGE = b"\n<!DOCTYPE html><html>Access denied</html>" + b" " * 100
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {  # what is wrong: how it is made, what the sentence must say
    "int8 with a scale": (_int8_with_scale, "quantised.*weight_scale"),
    "int8 alone": (lambda place: _codes(place, torch.int8), "quantised.*I8"),
    "fp8 alone": (lambda place: _codes(place, torch.float8_e4m3fn), "quantised.*F8_E4M3"),
    "whole floats with a scale": (_rounded_floats_with_scale, r"quantised.*q_proj\.scale"),
    "gptq": (_packed_int4, "quantised.*gptq"),
    "nf4": (_nf4, "quantised.*bitsandbytes"),
    "fp8 per tensor": (_fp8_per_tensor, "fp8.*no weight_scale_inv"),
    "mlx": (_mlx, "quantised.*quantization"),
    "lora inside": (_lora_inside, "unmerged adapter"),
    "lora beside": (_lora_beside, "merge-adapter"),
    "lora alone": (_lora_alone, "LoRA adapter for some/base"),
    "cut off": (_cut_off, "cut off"),
    "empty file": (_replaced(WEIGHTS, b""), "0 bytes"),
    "lfs weights": (_replaced(WEIGHTS, LFS), "git lfs pull"),
    "lfs config": (_replaced("config.json", LFS), "git lfs pull"),
    "html weights": (_replaced(WEIGHTS, PAGE), "web page"),
    "html config": (_replaced("config.json", PAGE), "web page"),
    "pickle named safetensors": (_replaced(WEIGHTS, b"PK\x03\x04" + bytes(60)), "pickled"),
    "noise": (_replaced(WEIGHTS, b"\xff" * 80), "cut off or no safetensors"),
    "config list": (_replaced("config.json", b"[1]"), "holds a list"),
    "config not json": (_replaced("config.json", b"{model_type: llama}"), "not valid JSON"),
    "config without type": (_replaced("config.json", b"{}"), "cannot be loaded"),
    "missing shard": (_missing_shard, "00002-of-00002.*missing"),
    "tensor twice": (_tensor_twice, "which one counts"),
    "foreign shard": (_shard_of_another_model, "not of one model"),
    "index leaves": (_index_leaves, "of this directory"),
    "index without map": (_index_without_map, "holds a list"),
    "only pickles": (_only_pickles, "pickled weights are refused"),
    "other name": (_other_name, "consolidated"),
    "half a model": (_half_a_model, "incomplete"),
}
