"""The packed decoder against transformers: every family, every kernel, prefix reuse, limits, cancel, threads, fork."""

from __future__ import annotations

import copy
import os
import resource
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from packed_samples import BASE, FAMILIES, pruned_model
from transformers import PreTrainedModel

from owled_ros.errors import OwledError
from owled_ros.sparse import Decoder, SparseDecoder, library
from owled_ros.sparse.format import Format, Role, read_packed
from owled_ros.sparse.pack import pack_matrices, pack_model
from owled_ros.sparse.quantise import unpack_matrix

KERNELS = [*(library.kernels() if library.available() else []), "torch"]
PROMPT, ANSWER = 37, 12
# Largest difference relative to the largest logit. int8 prefill on bf16 tiles rounds activations to 8 bits of mantissa.
TOLERANCE = {("bf16", "step"): 2e-5, ("bf16", "prefill"): 2e-5, ("int8", "step"): 1e-3, ("int8", "prefill"): 1.5e-2}


@dataclass(frozen=True)
class Case:
    """A pruned random model, its packed file, and transformers' logits on the very weights that were packed."""

    path: Path
    ids: torch.Tensor
    logits: np.ndarray  # (T, V)
    model: PreTrainedModel


def make_case(directory: Path, family: str, precision: str) -> Case:
    model = pruned_model(family)
    facts = pack_model(model.state_dict(), directory / f"{family}.owled", precision, config=model.config.to_dict())
    reference = copy.deepcopy(model)
    with torch.no_grad():
        state = reference.state_dict()
        for tensor in read_packed(facts.path).tensors:
            if tensor.format is not Format.VECTOR:
                state[f"{tensor.name}.weight"].copy_(torch.from_numpy(unpack_matrix(tensor).copy()))
        ids = torch.randint(0, BASE["vocab_size"], (1, PROMPT + ANSWER))
        logits = reference(ids).logits[0].numpy()
    return Case(facts.path, ids, logits, reference)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(tmp_path_factory.mktemp("llama"), "llama", "bf16")


@pytest.fixture
def decoder(llama: Case) -> Decoder:
    return SparseDecoder.open(llama.path)


def distance(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("precision", ["int4", "int3", "int2", "ternary"])
def test_embeddings_of_few_bits_are_those_of_the_file(tmp_path: Path, precision: str) -> None:
    model = pruned_model("llama_odd_tied")
    path = tmp_path / "m.owled"
    pack_model(model.state_dict(), path, precision, config=model.config.to_dict(), group=64, ends=precision)
    table = unpack_matrix(next(tensor for tensor in read_packed(path).tensors if tensor.role is Role.EMBEDDING))
    for kernel in KERNELS:
        decoder = SparseDecoder.open(path, threads=1, kernel=kernel)
        np.testing.assert_array_equal(decoder.embed(np.arange(len(table))), table)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_match_transformers(tmp_path: Path, family: str, precision: str) -> None:
    case = make_case(tmp_path, family, precision)
    for kernel in KERNELS:
        for threads in (1, 2):
            decoder = SparseDecoder.open(case.path, threads=threads, kernel=kernel)
            cache = decoder.new_cache(64)
            got = decoder.prefill(cache, decoder.embed(case.ids[0, :PROMPT].numpy()))
            assert distance(got, case.logits[PROMPT - 1]) < TOLERANCE[precision, "prefill"], (kernel, threads)
            for t in range(PROMPT, PROMPT + ANSWER):
                got = decoder.step(cache, int(case.ids[0, t]))
                assert distance(got, case.logits[t]) < TOLERANCE[precision, "prefill"], (kernel, threads, t)
            single = decoder.new_cache(64)
            for t in range(PROMPT):
                got = decoder.step(single, int(case.ids[0, t]))
            assert distance(got, case.logits[PROMPT - 1]) < TOLERANCE[precision, "step"], (kernel, threads)
            decoder.close()


@pytest.mark.skipif("avx2" not in KERNELS, reason="no AVX2")
def test_avx2_fills_in_the_zeros_where_few_threads_decode(tmp_path: Path) -> None:
    """Dense int8 is faster there; a mapped file and many threads keep the masks. The answers are the same to the bit."""
    case = make_case(tmp_path, "llama_odd_tied", "int8")
    answers, sizes = [], []
    for copied, threads in ((True, 1), (False, 1), (True, 3)):
        decoder = SparseDecoder.open(case.path, threads=threads, kernel="avx2", copy=copied)
        cache = decoder.new_cache(64)
        decoder.prefill(cache, decoder.embed(case.ids[0, :PROMPT].numpy()))
        answers.append(decoder.step(cache, 5))
        sizes.append(decoder.facts.step_bytes)
        decoder.close()
    assert sizes[0] > 1.3 * sizes[1]
    assert sizes[1] == sizes[2]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


@pytest.mark.parametrize("kernel", KERNELS)
def test_long_prefill_in_pieces(llama: Case, kernel: str) -> None:
    """More tokens than one batch of panels takes, started in the middle of a key block."""
    decoder = SparseDecoder.open(llama.path, kernel=kernel)
    ids = torch.randint(0, BASE["vocab_size"], (1, 400))
    with torch.no_grad():
        want = llama.model(ids).logits[0, -1].numpy()
    cache, embeddings = decoder.new_cache(512), decoder.embed(ids[0].numpy())
    decoder.prefill(cache, embeddings[:5])
    decoder.prefill(cache, embeddings[5:7])
    assert distance(decoder.prefill(cache, embeddings[7:]), want) < TOLERANCE["bf16", "prefill"]
    assert cache.length == 400


@pytest.mark.parametrize("kernel", KERNELS)
def test_greedy_answer_equals_transformers(llama: Case, kernel: str) -> None:
    decoder = SparseDecoder.open(llama.path, kernel=kernel)
    cache = decoder.new_cache(64)
    logits = decoder.prefill(cache, decoder.embed(llama.ids[0, :PROMPT].numpy()))
    answer = decoder.generate(cache, logits, ANSWER)
    with torch.no_grad():
        want = llama.model.generate(
            llama.ids[:, :PROMPT], attention_mask=torch.ones(1, PROMPT), max_new_tokens=ANSWER, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )[0, PROMPT:].tolist()  # fmt: skip
        scores = torch.log_softmax(llama.model(torch.tensor([llama.ids[0, :PROMPT].tolist() + want])).logits[0], dim=-1)
    assert answer.tokens == want
    assert answer.finish == "length"
    expected = [float(scores[PROMPT - 1 + i, token]) for i, token in enumerate(want)]
    np.testing.assert_allclose(answer.log_probabilities, expected, atol=2e-3)
    assert cache.length == PROMPT + ANSWER - 1  # the last token is not fed


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_two_answers_from_one_prefix(llama: Case, kernel: str) -> None:
    decoder = SparseDecoder.open(llama.path, kernel=kernel)
    cache = decoder.new_cache(64)
    prefix = decoder.prefill(cache, decoder.embed(llama.ids[0, :20].numpy()))
    first = decoder.generate(cache, prefix, 6)
    cache.truncate(20)
    fork = cache.fork()
    assert decoder.generate(cache, prefix, 6) == first
    assert fork.length == 20
    assert decoder.generate(fork, prefix, 6) == first
    cache.truncate(0)
    assert distance(decoder.step(cache, int(llama.ids[0, 0])), llama.logits[0]) < TOLERANCE["bf16", "step"]
    with pytest.raises(OwledError, match="cannot be cut"):
        cache.truncate(5)


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_stop_cancel_and_callbacks(llama: Case, kernel: str) -> None:
    decoder = SparseDecoder.open(llama.path, kernel=kernel)
    cache = decoder.new_cache(64)
    logits = decoder.prefill(cache, decoder.embed(llama.ids[0, :20].numpy()))
    free = decoder.generate(cache, logits, 8).tokens

    def again(**options: object) -> object:
        cache.truncate(20)
        return decoder.generate(cache, logits, 8, **options)  # type: ignore[arg-type]

    stop = free[3]
    stopped = again(stop_ids=[stop])
    assert (stopped.tokens, stopped.finish) == (free[: free.index(stop) + 1], "stop")
    seen: list[int] = []
    assert again(on_token=lambda token, _: seen.append(token)).tokens == free
    assert seen == free
    ended = again(on_token=lambda token, _: token == free[2])
    assert (ended.tokens[-1], ended.finish) == (free[2], "callback")
    calls = iter([False, False, True, True, True])
    cancelled = again(cancelled=lambda: next(calls))
    assert cancelled.finish == "cancelled"
    assert cancelled.tokens == free[:2]
    assert again(cancelled=lambda: True).tokens == []

    def broken(token: int, log_probability: float) -> None:
        raise KeyError(token)

    with pytest.raises(KeyError):
        again(on_token=broken)
    assert again().tokens == free  # and the decoder still works


def test_sampling_is_seeded_and_follows_the_probabilities(llama: Case, decoder: Decoder) -> None:
    cache = decoder.new_cache(64)
    logits = decoder.prefill(cache, decoder.embed(llama.ids[0, :20].numpy()))
    draws = [decoder.generate(cache, logits, 1, temperature=0.7, seed=seed).tokens[0] for seed in range(3000)]
    again = [decoder.generate(cache, logits, 1, temperature=0.7, seed=seed).tokens[0] for seed in range(50)]
    assert again == draws[:50]
    expected = torch.softmax(torch.from_numpy(logits) / 0.7, dim=0).numpy()
    observed = np.bincount(draws, minlength=len(expected)) / len(draws)
    # Total variation of 3000 draws over about 300 tokens stays below 0.5 * sqrt(300 / 3000) = 0.16.
    assert 0.5 * np.abs(observed - expected).sum() < 0.16
    with pytest.raises(OwledError, match="temperature"):
        decoder.generate(cache, logits, 1, temperature=-1.0)


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_the_limits_of_the_context(llama: Case, kernel: str) -> None:
    decoder = SparseDecoder.open(llama.path, kernel=kernel)
    for size in (0, -1, 513):
        with pytest.raises(OwledError, match="1 to 512"):
            decoder.new_cache(size)
    cache = decoder.new_cache(20)
    embeddings = decoder.embed(llama.ids[0, :21].numpy())
    with pytest.raises(OwledError, match="cache is full"):
        decoder.prefill(cache, embeddings)
    assert cache.length == 0
    logits = decoder.prefill(cache, embeddings[:18])
    answer = decoder.generate(cache, logits, 10)
    assert (len(answer.tokens), answer.finish, cache.length) == (3, "length", 20)  # two fed, the third not
    with pytest.raises(OwledError, match="cache is full"):
        decoder.step(cache, 0)
    full = decoder.new_cache(512)
    decoder.prefill(full, np.tile(embeddings, (25, 1))[:512])
    assert full.length == 512


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_bad_inputs_are_refused(llama: Case, kernel: str) -> None:
    decoder = SparseDecoder.open(llama.path, kernel=kernel)
    cache = decoder.new_cache(8)
    for token in (-1, BASE["vocab_size"]):
        with pytest.raises(OwledError, match="vocabulary"):
            decoder.step(cache, token)
    with pytest.raises(OwledError, match="NaN"):
        decoder.prefill(cache, np.full((2, BASE["hidden_size"]), np.nan))
    with pytest.raises(OwledError, match="shape"):
        decoder.prefill(cache, np.zeros((2, 5)))
    with pytest.raises(OwledError):
        decoder.prefill(cache, np.zeros((0, BASE["hidden_size"])))
    with pytest.raises(OwledError, match="another"):
        SparseDecoder.open(llama.path, kernel="torch" if kernel == "auto" else "scalar").step(cache, 0)


def test_opening_what_is_no_model(tmp_path: Path, llama: Case) -> None:
    with pytest.raises(OwledError, match="owled pack"):
        SparseDecoder.open(tmp_path / "absent.owled")
    (tmp_path / "text.owled").write_text("hello" * 100)
    with pytest.raises(OwledError, match="not a packed model"):
        SparseDecoder.open(tmp_path / "text.owled")
    (tmp_path / "empty.owled").touch()
    with pytest.raises(OwledError, match="not a packed model"):
        SparseDecoder.open(tmp_path / "empty.owled")
    data = bytearray(llama.path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.owled").write_bytes(data)
    with pytest.raises(OwledError, match="checksum"):
        SparseDecoder.open(tmp_path / "flipped.owled")
    (tmp_path / "cut.owled").write_bytes(data[:-64])
    with pytest.raises(OwledError, match="truncated"):
        SparseDecoder.open(tmp_path / "cut.owled")
    pack_matrices({"only": (np.ones((8, 64), np.float32), None)}, tmp_path / "matrices.owled")
    with pytest.raises(OwledError, match="no decoder"):
        SparseDecoder.open(tmp_path / "matrices.owled")


def test_facts_and_residence(llama: Case) -> None:
    mapped, copied = SparseDecoder.open(llama.path, copy=False), SparseDecoder.open(llama.path)
    assert mapped.facts.file_bytes == llama.path.stat().st_size
    assert (mapped.facts.hidden, mapped.facts.vocabulary) == (BASE["hidden_size"], BASE["vocab_size"])
    assert 0 < mapped.facts.nonzeros < mapped.facts.weights
    assert mapped.facts.step_bytes < mapped.facts.file_bytes
    np.testing.assert_array_equal(mapped.step(mapped.new_cache(1), 3), copied.step(copied.new_cache(1), 3))
    mapped.close()
    mapped.close()
    with pytest.raises(OwledError, match="closed"):
        mapped.new_cache(4)


@pytest.mark.skipif(not library.available(), reason="no native kernels")
def test_two_decoders_in_two_threads(llama: Case) -> None:
    answers: dict[int, list[int]] = {}

    def work(index: int) -> None:
        decoder = SparseDecoder.open(llama.path, threads=2)
        for _ in range(5):
            cache = decoder.new_cache(64)
            logits = decoder.prefill(cache, decoder.embed(llama.ids[0, :20].numpy()))
            answers[index] = decoder.generate(cache, logits, 20).tokens

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.skipif(not library.available(), reason="no native kernels")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_decodes_too(llama: Case, threads: int) -> None:
    decoder = SparseDecoder.open(llama.path, threads=threads)
    cache = decoder.new_cache(8)
    want = decoder.step(cache, 3)
    child = os.fork()
    if child == 0:  # only async-signal-safe habits here: compute, then leave without cleaning up
        cache.truncate(0)
        os._exit(0 if np.array_equal(decoder.step(cache, 3), want) else 7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    cache.truncate(0)
    np.testing.assert_array_equal(decoder.step(cache, 3), want)


@pytest.mark.skipif(not library.available(), reason="no native kernels")
def test_a_thousand_loads_do_not_grow(llama: Case) -> None:
    def load_once() -> None:
        decoder = SparseDecoder.open(llama.path, verify=False)
        decoder.step(decoder.new_cache(64), 1)
        decoder.close()

    for _ in range(50):
        load_once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # [KiB]
    for _ in range(1000):
        load_once()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096
    assert len(os.listdir("/proc/self/fd")) < 200
