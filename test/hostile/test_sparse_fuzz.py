"""Damaged packed files: refused or decoded, never a crash; the same under the sanitizers where a compiler is."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from owled_ros.errors import OwledError
from owled_ros.sparse import SparseDecoder, library
from owled_ros.sparse.build import SOURCES
from owled_ros.sparse.format import HEADER_BYTES, read_packed
from owled_ros.sparse.pack import pack_model

FUZZ_ITERATIONS = 3000
TINY = {
    "hidden_size": 72,
    "intermediate_size": 136,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 41,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="module", params=["int8", "int4", "pairs", "even"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file per family of formats: int8 in groups of 128; int4 with zeros anywhere, in groups of 32; two of every four; four of every eight."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY, tie_word_embeddings=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = {"pairs": 4, "even": 8}.get(request.param)
            if "proj" in name and width:
                parameter.view(-1, width)[:, torch.randperm(width)[: width // 2]] = 0
            elif "proj" in name:
                parameter.mul_(torch.rand_like(parameter) > 0.6)
    precision, group = ("int8", 128) if request.param == "int8" else ("int4", 32)
    path = tmp_path_factory.mktemp("fuzz") / "good.owled"
    config = model.config.to_dict()
    return pack_model(model.state_dict(), path, precision, config=config, group=group).path


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sanitizers")
    configure = ["cmake", "-S", str(SOURCES), "-B", str(place), "-DOWLED_SANITIZE=ON", "-DOWLED_FUZZ=ON"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(place), "--target", "fuzz_packed"], check=True, capture_output=True)
    return place / "fuzz_packed"


def try_decoding(data: bytes, kernel: str) -> bool:
    """Open bytes without the checksum and decode; True when accepted."""
    native = library.load()
    block = np.zeros(len(data) + 64, np.uint8)
    start = -block.ctypes.data % 64
    block[start : start + len(data)] = np.frombuffer(data, np.uint8)
    options = library.Options(kernel.encode(), 1, 0, 0, 50, None)
    model, cache = ctypes.c_void_p(), ctypes.c_void_p()
    address = block.ctypes.data + start
    if native.owled_open_memory(address, len(data), ctypes.byref(options), ctypes.byref(model)):
        assert native.owled_last_error()
        return False
    facts = library.Facts()
    assert native.owled_model_facts(model, ctypes.byref(facts)) == 0
    if facts.has_decoder and native.owled_cache_new(model, 8, ctypes.byref(cache)) == 0:
        logits = np.zeros(facts.vocabulary, np.float32)
        for token in range(3):
            native.owled_step(model, cache, token, logits.ctypes.data)
        native.owled_cache_free(cache)
    native.owled_close(model)
    return True


@pytest.mark.skipif(not library.available(), reason="no native kernels")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_never_crash(good: Path, data: st.DataObject) -> None:
    content = bytearray(good.read_bytes())
    table = struct.unpack_from("<Q", content, 56)[0]
    regions = st.sampled_from([(0, HEADER_BYTES), (table, len(content)), (0, len(content))])
    for _ in range(data.draw(st.integers(1, 5))):
        low, high = data.draw(regions)
        content[data.draw(st.integers(low, high - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([len(content), len(content) - 64, len(content) // 128 * 64, 255, 1]))
    try_decoding(bytes(content[:size]), data.draw(st.sampled_from(library.kernels())))


@pytest.mark.skipif(not library.available(), reason="no native kernels")
def test_the_good_file_is_accepted_by_every_kernel(good: Path) -> None:
    for kernel in library.kernels():
        assert try_decoding(good.read_bytes(), kernel)


# Place in the file and value: what each check of the loader is there for.
LIES = {
    "other byte order": (8, struct.pack(">I", 0x01020304)),
    "future version": (12, struct.pack("<I", 99)),
    "header of another size": (40, struct.pack("<I", 4096)),
    "four billion tensors": (48, struct.pack("<I", 2**32 - 1)),
    "table far outside": (56, struct.pack("<Q", 2**64 - 64)),
    "more heads for keys than heads": (96, struct.pack("<I", 3)),
    "no layers": (88, struct.pack("<I", 0)),
    "huge vocabulary": (104, struct.pack("<I", 2**31)),
}


@pytest.mark.skipif(not library.available(), reason="no native kernels")
@pytest.mark.parametrize("lie", LIES)
def test_lies_in_the_header_are_refused(good: Path, tmp_path: Path, lie: str) -> None:
    place, value = LIES[lie]
    content = bytearray(good.read_bytes())
    content[place : place + len(value)] = value
    path = tmp_path / "lie.owled"
    path.write_bytes(content)
    with pytest.raises(OwledError):
        SparseDecoder.open(path, verify=False, kernel=library.kernels()[0])
    with pytest.raises(OwledError):
        read_packed(path)


@pytest.mark.skipif(not library.available(), reason="no native kernels")
@pytest.mark.parametrize("field", ["rows", "columns", "mask", "values", "value_bytes", "block_offset", "scales"])
@pytest.mark.parametrize("value", [0, 64, 2**31, 2**63])
def test_lies_in_the_table_are_refused(good: Path, field: str, value: int) -> None:
    content = bytearray(good.read_bytes())
    table = struct.unpack_from("<Q", content, 56)[0]
    names = [bytes(content[table + i * 224 :][:96]).rstrip(b"\0").decode() for i in range(14)]
    record = table + 224 * next(i for i, name in enumerate(names) if name.endswith("mlp.down_proj"))
    place = {
        "rows": 108,
        "columns": 112,
        "mask": 128,
        "values": 136,
        "value_bytes": 144,
        "block_offset": 152,
        "scales": 160,
    }
    width = "<I" if field in ("rows", "columns") else "<Q"
    struct.pack_into(width, content, record + place[field], value % 2 ** (32 if width == "<I" else 64))
    if field == "columns" and value == 64:
        pytest.skip("64 columns are possible, the decoder refuses them for their size")
    assert not try_decoding(bytes(content), library.kernels()[0])


@pytest.mark.skipif(not library.available(), reason="no native kernels")
def test_a_flipped_mask_bit_is_refused_without_the_checksum(good: Path) -> None:
    tensor = next(t for t in read_packed(good).tensors if t.mask is not None)
    content = good.read_bytes()
    place = content.index(tensor.mask.tobytes())  # type: ignore[union-attr]
    flipped = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
    assert not try_decoding(flipped, library.kernels()[0])


@pytest.mark.slow
@pytest.mark.skipif(not SOURCES.is_dir() or shutil.which("cmake") is None, reason="no CMake or no sources")
@pytest.mark.timeout(900)
def test_no_access_outside_under_the_sanitizers(good: Path, fuzzer: Path, tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer over thousands of damaged files, with every kernel; .ci/run goes on for longer."""
    kept = tmp_path / "kept.txt"
    command = [str(fuzzer), "--iterations", str(FUZZ_ITERATIONS), "--keep", str(kept), str(good)]
    environment = {"ASAN_OPTIONS": "allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"{FUZZ_ITERATIONS} damaged files" in result.stdout
    assert "none out of bounds" in result.stdout
    seeds = kept.read_text().splitlines()
    assert len(seeds) > 20, "new code was reached, and what reached it is kept"
    command = [command[0], "--iterations", "1", "--corpus", str(kept), str(good)]
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert f"{len(seeds) + 1} seeds and 0 new ones" in again.stdout, again.stdout
