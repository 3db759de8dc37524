"""Which models the decoder knows: sizes from a Hugging Face config, tensor names, and reasons to refuse. Needs nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from owled_ros.errors import OwledError
from owled_ros.sparse.format import Role, Shape

# Texts inside Qwen-VL turn pairs by three positions; the caller gives them where an image is (Decoder.prefill).
IN_THREE_DIMENSIONS = ("qwen2_vl_text", "qwen2_5_vl_text")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", *IN_THREE_DIMENSIONS)
# Older configs keep what belongs to the text at the top.
WHOLE_MODELS = {"qwen2_vl": "qwen2_vl_text", "qwen2_5_vl": "qwen2_5_vl_text"}
TEXT_PARTS = ("text_config", "llm_config", "language_config")
# Where the decoder's tensors start: plain models, and the language model inside LLaVA, SmolVLM and Qwen-VL.
PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "model.text_model.",
    "model.model.",
    "model.",
    "",
)
MATRICES = {
    Role.QUERY: "self_attn.q_proj",
    Role.KEY: "self_attn.k_proj",
    Role.VALUE: "self_attn.v_proj",
    Role.OUTPUT: "self_attn.o_proj",
    Role.GATE: "mlp.gate_proj",
    Role.UP: "mlp.up_proj",
    Role.DOWN: "mlp.down_proj",
}
NORMS = {Role.ATTENTION_NORM: "input_layernorm", Role.MLP_NORM: "post_attention_layernorm"}
HEAD_NORMS = {Role.QUERY_NORM: "self_attn.q_norm", Role.KEY_NORM: "self_attn.k_norm"}
HEADS = ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight")


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the language model's part of a config.json."""
    for part in TEXT_PARTS:
        if isinstance(config.get(part), Mapping):
            return config[part]
    family = str(config.get("model_type", ""))
    return {**config, "model_type": WHOLE_MODELS[family]} if family in WHOLE_MODELS else config


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Read the decoder's sizes from a language model's config.

    Raises:
        OwledError: The model is not of the LLaMA family, or uses something that the kernels do not compute.
    """
    reason = refusal(config)
    if reason:
        raise OwledError(f"the packed decoder cannot run this model: {reason}; it runs with torch as before")
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    return Shape(
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config["vocab_size"]),
        max_positions=int(config.get("max_position_embeddings") or 2048),
        window=_window(config),
        norm_epsilon=float(config.get("rms_norm_eps") or 1e-6),
        rotary_scale=1.0,
    )


def refusal(config: Mapping[str, Any]) -> str:
    """Say why the decoder cannot run a model; empty when it can."""
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        return f"model type {family!r} is not one of {', '.join(FAMILIES)}"
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        return f"activation {config['hidden_act']!r}, expected silu"
    rope = _rope(config)
    if "mrope_section" in rope and family not in IN_THREE_DIMENSIONS:
        return "three-dimensional rotary positions (mrope)"
    if rope_kind(rope) not in ("default", "linear", "llama3"):
        return f"rotary scaling {rope_kind(rope)!r}"
    if float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor") or 1.0)) != 1.0:
        return "partial rotary positions"
    kinds = set(config.get("layer_types") or ())
    if len(kinds) > 1:
        return "layers with and without a sliding window"
    return ""


def rope_kind(rope: Mapping[str, Any]) -> str:
    """Name the kind of rotary scaling; three-dimensional positions scale nothing."""
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    return "default" if kind == "mrope" else kind


def position_sections(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Give how many neighbouring pairs turn by the first, second and third position; empty with plain positions."""
    return tuple(int(size) for size in _rope(config).get("mrope_section") or ())


def rotary_frequencies(config: Mapping[str, Any], shape: Shape) -> np.ndarray:
    """Compute the angle per position of each pair, float32 (head_dim / 2).

    Plain: Su et al., arXiv 2104.09864, equation 15. "llama3" lowers the slow ones smoothly, as Llama 3.1 does.
    """
    rope = _rope(config)
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    exponents = np.arange(0, shape.head_dim, 2, dtype=np.float32) / np.float32(shape.head_dim)
    frequencies = (1.0 / (np.float32(theta) ** exponents)).astype(np.float32)
    if rope_kind(rope) == "linear":
        return frequencies / np.float32(rope["factor"])
    if rope_kind(rope) != "llama3":
        return frequencies
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    wavelength = 2 * math.pi / frequencies
    smooth = (float(rope["original_max_position_embeddings"]) / wavelength - low) / (high - low)
    smooth = smooth.clip(0, 1)
    return (((1 - smooth) / factor + smooth) * frequencies).astype(np.float32)


def find_prefix(names: Collection[str]) -> str:
    """Find where the decoder's tensors start in a checkpoint."""
    known = set(names)
    for prefix in PREFIXES:
        if f"{prefix}embed_tokens.weight" in known and f"{prefix}layers.0.self_attn.q_proj.weight" in known:
            return prefix
    raise OwledError(
        "no decoder found: no embed_tokens and layers.0.self_attn.q_proj under one name in this checkpoint"
    )


def find_head(names: Collection[str]) -> str | None:
    """Find the output matrix; None when it is tied to the embedding."""
    return next((name for name in HEADS if name in names), None)


def unknown_tensors(names: Collection[str], prefix: str, layers: int) -> list[str]:
    """List the decoder's tensors that the kernels would leave out: norms, gates, adapters or layers of another family."""
    biased = {*MATRICES.values()}
    inner = {f"{name}.{part}" for name in biased for part in ("weight", "bias")}
    inner |= {f"{name}.weight" for name in (*NORMS.values(), *HEAD_NORMS.values())}
    known = {f"layers.{layer}.{name}" for layer in range(layers) for name in inner}
    known |= {"embed_tokens.weight", "norm.weight"}
    own = (name for name in names if name.startswith((f"{prefix}layers.", f"{prefix}norm.", f"{prefix}embed_tokens.")))
    return sorted(name for name in own if name.removeprefix(prefix) not in known and not name.endswith("inv_freq"))


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    merged: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(config.get(key), Mapping):
            merged.update(config[key])
    return merged


def _window(config: Mapping[str, Any]) -> int:
    if config.get("layer_types"):
        used = config["layer_types"][0] == "sliding_attention"
    elif config.get("model_type") == "mistral":
        used = True
    else:
        used = bool(config.get("use_sliding_window"))
    return int(config.get("sliding_window") or 0) if used else 0
