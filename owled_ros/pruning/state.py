"""The state of an unfinished pruning run on disk, so that a killed run resumes where it stopped. Needs safetensors.

A run is known by its fingerprint (settings, model, calibration). State of another run is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from owled_ros.files import sweep_asides, write_atomic, write_json
from owled_ros.models.components import Block
from owled_ros.pruning.blocks import Outcome
from owled_ros.pruning.config import Batch, PruneConfig

STATE_VERSION = 3
FALLBACKS = "fallbacks"  # key of the metadata of a block's file
SCALES = "scales of "  # before a matrix's name: the scales of its grid
logger = logging.getLogger(__name__)


class PruneState:
    """A directory with the plan and one file per finished block."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.directory = directory
        known = _read_json(directory / "run.json")
        if known is not None and known != {"version": STATE_VERSION, "fingerprint": fingerprint}:
            logger.info("the state in %s belongs to another run: starting afresh", directory)
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        sweep_asides(directory)
        write_json(directory / "run.json", {"version": STATE_VERSION, "fingerprint": fingerprint})
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a saved JSON object, or None."""
        return _read_json(self.directory / f"{name}.json")

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Save a JSON object in one step."""
        write_json(self.directory / f"{name}.json", value)

    def save_block(self, index: int, block: Block, outcome: Outcome) -> None:
        """Save the pruned weights of a block and its outcome in one step, while the next block is pruned; see `settle`."""
        self.settle()
        tensors = {matrix.name: matrix.weight().contiguous().cpu() for matrix in block.matrices}
        tensors |= {SCALES + name: scales.contiguous().cpu() for name, scales in outcome.scales.items()}
        content = {FALLBACKS: json.dumps(outcome.fallbacks)}
        self._writing = self._writer.submit(lambda: write_atomic(self._block_file(index), save(tensors, content)))

    def settle(self) -> None:
        """Wait until the last block is written; raises what went wrong then."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def load_block(self, index: int, block: Block) -> Outcome | None:
        """Put saved weights back into the model and return the outcome; None when the block was not finished."""
        file = self._block_file(index)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as stream:
                outcome = Outcome(json.loads(stream.metadata()[FALLBACKS]))
                kept = set(stream.keys())
                for matrix in block.matrices:
                    if SCALES + matrix.name in kept:
                        outcome.scales[matrix.name] = stream.get_tensor(SCALES + matrix.name)
                for matrix in block.matrices:
                    matrix.weight().copy_(stream.get_tensor(matrix.name))
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
            logger.warning("%s is damaged: its block is pruned again", file)
            return None
        return outcome

    def remove(self) -> None:
        """Delete the state: the artifact is finished."""
        self._writer.shutdown()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _block_file(self, index: int) -> Path:
        return self.directory / f"block-{index:04d}.safetensors"


def fingerprint(config: PruneConfig, model_sha256: str, batches_sha256: str) -> str:
    """Name a run by everything that decides its result."""
    settings = {
        key: value for key, value in asdict(config).items() if key not in ("output", "state", "model", "threads")
    }
    content = json.dumps([settings, model_sha256, batches_sha256], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def hash_batches(batches: Sequence[Batch]) -> str:
    """Hash the content of all tensors of a calibration set, in order."""
    digest = hashlib.sha256()
    for batch in batches:
        for key in sorted(batch):
            value = batch[key]
            if isinstance(value, torch.Tensor):
                digest.update(f"{key}:{value.dtype}:{tuple(value.shape)};".encode())
                digest.update(
                    value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b""
                )
            else:
                digest.update(f"{key}={value!r};".encode())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
