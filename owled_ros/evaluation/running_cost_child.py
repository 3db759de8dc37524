"""The child process of running_cost: loads one model, then measures a round for every line on its standard input.

Needs torch and transformers. It ends with its standard input, so it cannot outlive whoever started it by more than a round.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError

STEPS = 16  # further tokens that are timed
PROMPT = 32  # tokens of a prompt for a model without a camera
SEED = 900_000  # of the rendered scene that is shown
MESSAGE = 500  # characters


def main() -> int:
    """Load and measure; every answer is a JSON line."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    asked: dict[str, Any] = json.loads(sys.stdin.readline())
    try:
        import torch
        import transformers  # noqa: F401 (counted as a library, not as the model)

        torch.set_num_threads(int(asked["threads"]))
        libraries = resident_bytes()
        measure, disk = opened(Path(asked["path"]), str(asked["runtime"]), int(asked["threads"]))
        loaded = {"library_bytes": libraries} if disk is None else {"library_bytes": libraries, "disk_bytes": disk}
        answers.write(json.dumps(loaded) + "\n")
        for _ in sys.stdin:
            token_ms, action_ms = measure()
            found = {"token_ms": token_ms, "action_ms": action_ms, "resident_bytes": resident_bytes()}
            answers.write(json.dumps(found) + "\n")
    except Exception as error:  # foreign models raise anything; its words are one row of a table
        words = str(error) if isinstance(error, OwledError) else f"{type(error).__name__}: {error}"
        answers.write(json.dumps({"problem": words[:MESSAGE]}) + "\n")
    return 0


Round = Callable[[], tuple[float | None, float | None]]  # ms per token, ms from the image to the action
Opened = tuple[
    Round, int | None
]  # and the weights that it runs on [bytes], where they are not simply all that are stored


def opened(path: Path, runtime: str, threads: int) -> Opened:
    """Load a model; returns what measures one round."""
    from owled_ros.models.load import is_vision_language, load_config

    if path.is_dir() and is_vision_language(load_config(path)):
        return _driving(path, runtime, threads)
    return _packed_text(path, threads) if runtime == "sparse" else _text(path)


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _driving(path: Path, runtime: str, threads: int) -> Opened:
    from owled_ros.models.driving_model import load_engine

    engine = load_engine(path, device="cpu", threads=threads, runtime=runtime)
    frame, runner = _shown(engine.profile), engine.chat.runner

    def measure() -> tuple[float | None, float | None]:
        started = time.perf_counter()
        prefix = engine.see(frame)
        engine.act(prefix)
        action_ms = (time.perf_counter() - started) * 1e3
        engine.see(frame)  # the prompt of the first call, with room for its answer
        token_ms = _steps(runner.extend, min(STEPS, engine.profile.calls[0].max_tokens))
        engine.chat.forget()
        return token_ms, action_ms

    return measure, int(engine.facts["disk_bytes"])


def _text(path: Path) -> Opened:
    import torch

    from owled_ros.compute_type import fast_dtype
    from owled_ros.models.load import load_model
    from owled_ros.models.runners import TorchRunner

    dtype = fast_dtype("cpu")
    model = load_model(path, device="cpu", dtype=dtype)
    ids = torch.arange(PROMPT)[None] % model.config.get_text_config().vocab_size
    runner = TorchRunner(model, "cpu", getattr(torch, dtype))

    def measure() -> tuple[float | None, float | None]:
        runner.read({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, room=STEPS)
        return _steps(runner.extend, STEPS), None

    return measure, None


def _packed_text(path: Path, threads: int) -> Opened:
    from owled_ros.models.packed_weights import packed_weights
    from owled_ros.sparse.decoder import SparseDecoder

    packed = packed_weights(path)
    if packed is None:
        raise OwledError(f"{path} has no packed weights")
    decoder = SparseDecoder.open(packed, threads=threads)
    count = min(PROMPT, decoder.facts.max_positions - STEPS)
    cache = decoder.new_cache(count + STEPS)
    ids = [token % decoder.facts.vocabulary for token in range(count)]

    def measure() -> tuple[float | None, float | None]:
        cache.truncate(0)
        decoder.prefill(cache, decoder.embed(ids))
        return _steps(lambda token: decoder.step(cache, token), STEPS), None

    return measure, packed.stat().st_size


def _steps(extend: Callable[[int], Any], count: int) -> float | None:
    """Read so many tokens, one after the other; returns the median [ms]."""
    spent = []
    for _ in range(count):
        started = time.perf_counter()
        extend(1)
        spent.append((time.perf_counter() - started) * 1e3)
    return statistics.median(spent) if spent else None


def _shown(profile: Any) -> Any:
    """Make the frame that a profile asks for, of a rendered scene, so that there is something to answer."""
    from owled_ros.driving.asking import made_up_frame
    from owled_ros.scenes.camera import Camera
    from owled_ros.scenes.sample import sample_snapshot

    camera = Camera() if profile.image_size is None else Camera().resized(*profile.image_size)
    snapshot = sample_snapshot(SEED, camera)
    return made_up_frame(profile, [snapshot.image], snapshot.ego)


if __name__ == "__main__":
    sys.stdout.flush()
    code = main()
    sys.stderr.flush()
    os._exit(code)
