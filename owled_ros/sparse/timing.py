"""Time a decoder on this machine: decoding, prefill and the memory limit. Needs numpy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from owled_ros.sparse import library
from owled_ros.sparse.protocol import Decoder

STREAM_BYTES = 256 << 20  # larger than any cache
Clock = Callable[[], float]  # [s]; time.process_time sees through other processes, but only with one thread


@dataclass(frozen=True)
class Timing:
    """One way of running a model."""

    step_ms: float  # median per decoded token
    prefill_ms: Mapping[int, float]  # median by number of tokens
    step_bytes: int
    kernel: str
    threads: int

    @property
    def bandwidth(self) -> float:
        """Weights read per second of decoding [bytes/s]."""
        return self.step_bytes / self.step_ms * 1e3


def interleave(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every candidate once per round, so that all of them meet the same neighbours on the machine."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(run())
    return times


def time_steps(decoder: Decoder, prompt: int, tokens: int, clock: Clock = time.perf_counter) -> float:
    """Decode greedily behind a prompt of random tokens; seconds per token."""
    cache = decoder.new_cache(prompt + tokens)
    ids = np.random.default_rng(0).integers(0, decoder.facts.vocabulary, prompt)
    logits = decoder.prefill(cache, decoder.embed(ids))
    start = clock()
    answer = decoder.generate(cache, logits, tokens)
    seconds = clock() - start
    cache.close()
    return seconds / max(len(answer.tokens) - 1, 1)  # the first token needs no step


def time_prefill(decoder: Decoder, tokens: int, clock: Clock = time.perf_counter) -> float:
    """Read a prompt of random tokens; seconds."""
    cache = decoder.new_cache(tokens)
    embeddings = decoder.embed(np.random.default_rng(0).integers(0, decoder.facts.vocabulary, tokens))
    start = clock()
    decoder.prefill(cache, embeddings)
    seconds = clock() - start
    cache.close()
    return seconds


def time_decoder(decoder: Decoder, prompts: tuple[int, ...] = (64, 256), tokens: int = 32, rounds: int = 5) -> Timing:
    """Measure a decoder, everything interleaved."""
    longest = decoder.facts.max_positions
    tokens = min(tokens, longest - 1)
    runs: dict[str, Callable[[], float]] = {"step": lambda: time_steps(decoder, min(16, longest - tokens), tokens)}
    for count in prompts:
        if count <= longest:
            runs[str(count)] = lambda count=count: time_prefill(decoder, count)  # type: ignore[misc]
    times = interleave(runs, rounds)
    return Timing(
        step_ms=statistics.median(times.pop("step")) * 1e3,
        prefill_ms={int(name): statistics.median(values) * 1e3 for name, values in times.items()},
        step_bytes=decoder.facts.step_bytes,
        kernel=decoder.facts.kernel,
        threads=decoder.facts.threads,
    )


def read_bandwidth(threads: int, repeats: int = 7) -> float:
    """Measure how fast memory is read [bytes/s]; 0 without the native library."""
    if not library.available():
        return 0.0
    return float(library.load().owled_read_bandwidth(STREAM_BYTES, threads, repeats))
