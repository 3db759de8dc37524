"""Small random models of the LLaMA family with zeros, for the tests of the packed decoder.

As a program it packs each in every precision, for the self test of a cross-compiled build (csrc/selftest.cpp):

    python test/packed_samples.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from owled_ros.sparse.pack import pack_model

BASE = {
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 301,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
ODD = {"hidden_size": 72, "intermediate_size": 100, "num_attention_heads": 3, "num_key_value_heads": 1}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**BASE)),
    "llama_odd_tied": lambda: LlamaForCausalLM(LlamaConfig(**{**BASE, **ODD, "tie_word_embeddings": True})),
    "llama3_rotary": lambda: LlamaForCausalLM(LlamaConfig(**BASE, rope_parameters=LLAMA3)),
    "llama_biases": lambda: LlamaForCausalLM(LlamaConfig(**BASE, attention_bias=True, mlp_bias=True)),
    "mistral_window": lambda: MistralForCausalLM(MistralConfig(**BASE, sliding_window=20)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**BASE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**BASE, head_dim=48)),
}
FINE = ("llama", "llama_odd_tied", "llama_biases")  # packed with fewer bits and small groups too


def pruned_model(family: str) -> PreTrainedModel:
    """Make a random model of bf16 weights, 60 % of its projections zero."""
    torch.manual_seed(1)
    model = FAMILIES[family]().eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "q_norm" in name:
                parameter.normal_(0.5, 0.5)
            elif "proj" in name:
                parameter.mul_(3 * (torch.rand_like(parameter) > 0.6))
            parameter.copy_(parameter.bfloat16().float())
    return model


def zero_smallest(weight: torch.Tensor, zeros: int, group: int) -> torch.Tensor:
    """Zero some of every `group` neighbouring weights."""
    groups = weight.reshape(-1, group)
    smallest = groups.abs().topk(zeros, largest=False).indices
    return groups.scatter(1, smallest, 0.0).reshape(weight.shape)


def main() -> None:
    """Write <family>_<form>.owled into the directory given: every family in version 1's forms, some in later ones'."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        model = pruned_model(family)
        state, config = model.state_dict(), model.config.to_dict()
        pairs, even = (
            {
                name: zero_smallest(tensor, *pattern) if "proj.weight" in name else tensor
                for name, tensor in state.items()
            }
            for pattern in ((2, 4), (5, 8))
        )
        forms = {"int8": (state, "int8", 128), "bf16": (state, "bf16", 128)}
        if family in FINE:
            forms |= {"int8_32": (state, "int8", 32), "int4_32": (state, "int4", 32), "int4_64": (state, "int4", 64)}
            forms |= {"int3_64": (state, "int3", 64), "int2_32": (state, "int2", 32)}
            forms |= {"ternary_64": (state, "ternary", 64)}
            forms |= {"pairs_32": (pairs, "int4", 32), "pairs_128": (pairs, "int4", 128)}
            forms |= {"even_32": (even, "int4", 32), "even_64": (even, "int4", 64)}
        for form, (weights, precision, group) in forms.items():
            pack_model(weights, directory / f"{family}_{form}.owled", precision, config=config, group=group)


if __name__ == "__main__":
    main()
