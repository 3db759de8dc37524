"""ms per token and prefill of packed models against transformers and llama.cpp, interleaved in one process.

Two settings: `smollm2` (SmolLM2-135M, dense directory and pruned ones given) and `1b` (a random LLaMA of TinyLlama's
shape, made here; linears at --sparsity). Every number is the median of --rounds interleaved rounds; ratios are ratios of
medians of one run. Needs llama-cpp-python for llama.cpp rows; point PYTHONPATH to another build of it to compare.

    python benchmarks/sparse_decode.py smollm2 --dense DIR --pruned 0.5=DIR 0.6=DIR 0.7=DIR --work DIR --threads 1
    python benchmarks/sparse_decode.py 1b --sparsity 0.6 --work DIR --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sparse_rivals import LlamaCpp, Transformers, bundled_gguf, make_gguf, write_gguf

from owled_ros.compute_type import cpu_multiplies_bfloat16
from owled_ros.models.packing import pack_directory
from owled_ros.sparse import Decoder, SparseDecoder
from owled_ros.sparse.pack import pack_model
from owled_ros.sparse.quantise import BITS
from owled_ros.sparse.timing import interleave, read_bandwidth, time_prefill, time_steps

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SHAPE_1B = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


class RandomModel(Mapping[str, torch.Tensor]):
    """A LLaMA's tensors drawn on demand, so that 1.1 billion weights are never in memory at once."""

    def __init__(self, config: Mapping[str, Any], sparsity: float, pattern: str | None = None) -> None:
        hidden, inner, vocabulary = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
        keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
        self._sparsity, self._pattern = sparsity, pattern
        self._shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (vocabulary, hidden),
            "model.norm.weight": (hidden,),
            "lm_head.weight": (vocabulary, hidden),
        }
        for layer in range(config["num_hidden_layers"]):
            base = f"model.layers.{layer}."
            for name, size in {
                "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
                "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
                "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
            }.items():  # fmt: skip
                self._shapes[f"{base}{name}.weight"] = size

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.ones(shape)
        generator = torch.Generator().manual_seed(sum(name.encode()))
        weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        if "proj" in name and self._pattern:
            zeros, group = map(int, self._pattern.split(":"))
            groups = weight.view(-1, group)
            groups.scatter_(1, groups.abs().topk(zeros, largest=False).indices, 0.0)
        elif "proj" in name and self._sparsity:
            weight *= torch.rand(shape, generator=generator) >= self._sparsity
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def main() -> None:
    """Measure and print."""
    arguments = parse()
    clock = CLOCKS[arguments.clock]
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    packed = pack_smollm2(arguments) if arguments.setting == "smollm2" else pack_1b(arguments)
    decoders: dict[str, Decoder] = {}
    for name, path in packed.items():
        for kernel in arguments.kernels:
            label = f"ours {name}" + ("" if kernel == "auto" else f" {kernel}")
            decoders[label] = SparseDecoder.open(
                path, threads=arguments.threads, kernel=kernel, copy=not arguments.mapped
            )
    steps: dict[str, Callable[[], float]] = {}
    prefills: dict[str, Callable[[], float]] = {}
    rivals = make_rivals(arguments)
    for name, rival in rivals.items():
        steps[name] = lambda rival=rival: rival.step(arguments.tokens)  # type: ignore[misc]
        for length in arguments.prefill:
            prefills[f"{name} @{length}"] = lambda rival=rival, length=length: rival.prefill(length)  # type: ignore[misc]
    for name, decoder in decoders.items():
        steps[name] = lambda decoder=decoder: time_steps(decoder, 4, arguments.tokens + 1, clock)  # type: ignore[misc]
        for length in arguments.prefill:
            prefills[f"{name} @{length}"] = lambda d=decoder, length=length: time_prefill(d, length, clock)  # type: ignore[misc]
    interleave(steps, 1)  # warm
    times = interleave(steps, arguments.rounds)
    prefill_times = interleave(prefills, max(3, arguments.rounds // 3)) if prefills else {}
    report(arguments, times, prefill_times, decoders)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=("smollm2", "1b"))
    parser.add_argument("--work", type=Path, required=True, help="packed and GGUF files are made and kept here")
    parser.add_argument("--dense", type=Path, help="Hugging Face directory of the dense model")
    parser.add_argument("--pruned", nargs="*", default=[], metavar="SPARSITY=DIR")
    parser.add_argument("--sparsity", type=float, nargs="*", default=[0.6], help="of the 1b model")
    parser.add_argument("--precisions", nargs="*", default=["int8"], choices=(*BITS, "bf16"))
    parser.add_argument("--group", type=int, default=128, help="columns that share a scale of int8 and int4")
    parser.add_argument(
        "--ends",
        choices=("int8", "int4"),
        help="embedding and head of int4; otherwise int8, which int4 files of ours have",
    )
    parser.add_argument(
        "--patterns", nargs="*", default=[], help="the 1b model also with these in int4, 2:4 and 8:16 say"
    )
    parser.add_argument("--kernels", nargs="*", default=["auto"])
    torch_rivals = ["hf-fp32", "hf-bf16"] if cpu_multiplies_bfloat16() else ["hf-fp32"]
    parser.add_argument("--rivals", nargs="*", default=[*torch_rivals, "F32", "BF16", "Q8_0", "Q4_0"])
    parser.add_argument("--gguf-source", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--prefill", type=int, nargs="*", default=[])
    parser.add_argument("--mapped", action="store_true", help="map the packed files instead of copying to huge pages")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: for a busy machine, one thread")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args()


def pack_smollm2(arguments: argparse.Namespace) -> dict[str, Path]:
    """Pack the dense and the pruned directories."""
    sources = {"0": arguments.dense, **dict(entry.split("=", 1) for entry in arguments.pruned)}
    packed = {}
    for sparsity, directory in sources.items():
        for precision in arguments.precisions:
            path = arguments.work / f"smollm2_{sparsity}_{_form(arguments, precision)}.owled"
            if not path.exists():
                pack_directory(
                    Path(directory), path, precision, group=arguments.group, ends=_ends(arguments, precision)
                )
            packed[f"{precision} {sparsity}"] = path
    return packed


def pack_1b(arguments: argparse.Namespace) -> dict[str, Path]:
    """Draw and pack the random model."""
    packed = {}
    for sparsity in arguments.sparsity:
        for precision in arguments.precisions:
            path = arguments.work / f"1b_{sparsity}_{_form(arguments, precision)}.owled"
            if not path.exists():
                model = RandomModel(SHAPE_1B, sparsity)
                pack_model(
                    model, path, precision, config=SHAPE_1B, group=arguments.group, ends=_ends(arguments, precision)
                )
            packed[f"{precision} {sparsity}"] = path
    for pattern in arguments.patterns:
        path = packed[f"int4 {pattern}"] = (
            arguments.work / f"1b_{pattern.replace(':', '-of-')}_{_form(arguments, 'int4')}.owled"
        )
        if not path.exists():
            model = RandomModel(SHAPE_1B, 0.0, pattern)
            pack_model(model, path, "int4", config=SHAPE_1B, group=arguments.group, ends=_ends(arguments, "int4"))
    return packed


def _ends(arguments: argparse.Namespace, precision: str) -> str | None:
    return arguments.ends if precision == "int4" else None


def _form(arguments: argparse.Namespace, precision: str) -> str:
    ends = _ends(arguments, precision)
    return f"{precision}_{arguments.group}" + (f"_ends-{ends}" if ends else "")


def make_rivals(arguments: argparse.Namespace) -> dict[str, Any]:
    """Open transformers and llama.cpp."""
    rivals: dict[str, Any] = {}
    clock = CLOCKS[arguments.clock]
    context = max([64, *arguments.prefill]) + 64
    types = {"hf-fp32": torch.float32, "hf-bf16": torch.bfloat16}
    wanted = [name for name in arguments.rivals if name not in types]
    files: dict[str, Path] = {}
    if wanted and arguments.setting == "smollm2":
        files = make_gguf(arguments.work / "gguf", arguments.gguf_source or bundled_gguf())
    for name in wanted:
        path = files.get(name, arguments.work / f"1b_{name}.gguf")
        if not path.exists():
            model = RandomModel(SHAPE_1B, 0.0)
            write_gguf(path, SHAPE_1B, list(model), lambda key, model=model: model[key].numpy(), name)  # type: ignore[misc]
        rivals[f"llama.cpp {name}"] = LlamaCpp(path, arguments.threads, context, clock)
    if arguments.setting == "smollm2":
        for name in set(arguments.rivals) & set(types):
            rivals[f"transformers {name[3:]}"] = Transformers(arguments.dense, types[name], arguments.threads, clock)
    return rivals


def report(
    arguments: argparse.Namespace,
    times: dict[str, list[float]],
    prefill_times: dict[str, list[float]],
    decoders: dict[str, Decoder],
) -> None:
    """Print markdown; each of ours beside every rival as ratio of medians."""
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    rivals = [name for name in medians if not name.startswith("ours")]
    stream = read_bandwidth(arguments.threads)
    print(f"{arguments.setting}, {arguments.threads} threads, {arguments.clock} clock, {arguments.rounds} rounds of {arguments.tokens} tokens, "
          f"load {os.getloadavg()[0]:.1f}, stream read {stream / 1e9:.1f} GB/s\n")  # fmt: skip
    print("| | ms/token | p10 - p90 | GB/s | " + " | ".join(f"x {name}" for name in rivals) + " |")
    print("|---" * (4 + len(rivals)) + "|")
    for name, median in medians.items():
        low, high = np.percentile(times[name], [10, 90]) * 1e3
        speed = f"{decoders[name].facts.step_bytes / median / 1e6:.1f}" if name in decoders else ""
        ratios = (f"{medians[rival] / median:.2f}" for rival in rivals)
        print(f"| {name} | {median:.2f} | {low:.2f} - {high:.2f} | {speed} | " + " | ".join(ratios) + " |")
    if prefill_times:
        print("\n| prefill | ms | p10 - p90 |\n|---|---|---|")
    for name, values in prefill_times.items():
        low, high = np.percentile(values, [10, 90]) * 1e3
        print(f"| {name} | {statistics.median(values) * 1e3:.1f} | {low:.1f} - {high:.1f} |")
    if arguments.json:
        content = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "stream": stream, "steps": times,
                   "prefill": prefill_times}  # fmt: skip
        arguments.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
