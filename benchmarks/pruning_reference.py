"""Our outliers, OWL sparsities and Wanda perplexities against recorded numbers of OWL's reference code on SmolLM2-135M.

Needs the reference file (token ids, LOD, S_l, perplexities and tolerances), the drivingqa-like scenarios.jsonl that its test
text comes from, and the model. Prints one markdown row per value: ours, reference, difference, tolerance.

    python benchmarks/pruning_reference.py --reference owl_smollm2_135m.json --data scenarios.jsonl [--model DIR]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pruning_smollm2 import smollm2_gguf

from owled_ros.models.components import Structure, find_structure
from owled_ros.models.load import load_model
from owled_ros.models.processor import load_processor
from owled_ros.pruning.allocation import owl_reference
from owled_ros.pruning.config import Batch, PruneConfig
from owled_ros.pruning.measures import block_outliers
from owled_ros.pruning.plan import dense_statistics, make_plan
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.pruning.quality import measure

LOD_TOLERANCE, SPARSITY_TOLERANCE, PERPLEXITY_TOLERANCE = 2e-3, 5e-4, 2e-3  # absolute, absolute, relative
RUNS = {  # name in the reference: allocation, statistics
    "wanda_oneshot_uniform_S0.6": ("uniform", "oneshot"),
    "wanda_sequential_uniform_S0.6": ("uniform", "block"),
    "wanda_oneshot_owl_M5_lam0.08_S0.6": ("owl-reference", "oneshot"),
    "wanda_sequential_owl_M5_lam0.08_S0.6": ("owl-reference", "block"),
}


def main() -> None:
    """Compare everything; exits with 1 when a value is out of tolerance."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    reference = json.loads(arguments.reference.read_text())
    path = arguments.model or smollm2_gguf()
    model, tokenizer = load_model(path), load_processor(path)
    structure = find_structure(model)
    ids = torch.tensor(reference["calibration"]["ids"])  # (16, 256)
    batches: list[Batch] = [{"input_ids": part} for part in ids.split(8)]
    rows = list(_outlier_rows(model, structure, batches, reference))
    test = [{"input_ids": _test_ids(reference, tokenizer, arguments.data)}]
    rows.append(("perplexity dense", measure(model, test).perplexity, reference["ppl"]["dense"], None))
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, (allocation, statistics) in RUNS.items():
        model.load_state_dict(dense)
        config = PruneConfig(Path(), Path(), 0.6, "wanda", allocation, statistics)
        zeros = make_plan(model, structure, batches, config, lambda *_: None).zeros
        if allocation == "uniform":  # the reference rounds down in every row
            zeros = {m.name: int(m.columns * 0.6) * m.rows for block in structure.blocks for m in block.matrices}
        prune_blocks(model, structure, batches, zeros, config)
        rows.append((f"perplexity {name}", measure(model, test).perplexity, reference["ppl"][name]["ppl"], None))
    print("| value | ours | reference | difference | tolerance |\n| --- | --- | --- | --- | --- |")
    failed = False
    for name, ours, theirs, absolute in rows:
        difference = abs(ours - theirs) if absolute else abs(ours / theirs - 1)
        tolerance = absolute or PERPLEXITY_TOLERANCE
        failed |= difference > tolerance
        print(f"| {name} | {ours:.6f} | {theirs:.6f} | {difference:.1e} | {tolerance:.0e} |")
    raise SystemExit(int(failed))


def _outlier_rows(model: Any, structure: Structure, batches: list[Batch], reference: dict[str, Any]) -> Any:
    """Yield the value of the block that differs most, for LOD at every M and S_l at every sparsity."""
    seen = dense_statistics(model, structure, batches)
    for threshold, theirs in reference["LOD"].items():
        ours = list(block_outliers(structure, seen, float(threshold)).values())
        worst = int(np.argmax(np.abs(np.array(ours) - theirs)))
        yield f"LOD, M {threshold} (worst block {worst}) [%]", ours[worst], theirs[worst], LOD_TOLERANCE
    lod = np.array(list(block_outliers(structure, seen, 5.0).values()))
    for sparsity, theirs in reference["S_l_M5_lam0.08"].items():
        ours = owl_reference(lod, float(sparsity), 0.08)
        worst = int(np.argmax(np.abs(ours - theirs)))
        yield f"S_l at {sparsity} (worst block {worst})", float(ours[worst]), theirs[worst], SPARSITY_TOLERANCE


def _test_ids(reference: dict[str, Any], tokenizer: Any, data: Path) -> torch.Tensor:
    from owled_ros.pruning.calibration import read_driving_text

    texts = [
        read_driving_text(data, tokenizer, range(index, index + 1))[0]
        for index in reference["test"]["scenario_indices"]
    ]
    length = reference["test"]["tokens_per_sample"]
    return torch.tensor([tokenizer(text, add_special_tokens=False).input_ids[:length] for text in texts])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
