"""The pruning procedure: a model directory and calibration batches in, an artifact directory out.

Needs torch, transformers and safetensors; the batches are made by `calibration` or by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from owled_ros.pruning.config import Batch, ProgressCallback, PruneConfig, PruneProgress

__all__ = ["Batch", "PruneConfig", "PruneProgress", "prune"]


def prune(
    config: PruneConfig,
    calibration: Iterable[Batch],
    provenance: list[dict[str, Any]] | None = None,
    held_out: Iterable[Batch] = (),
    progress: ProgressCallback | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Path:
    """Prune a model and write its artifact; returns `config.output`.

    Args:
        config: what to prune and how (see `PruneConfig`).
        calibration: model-ready batches: mappings of tensors for the model's forward, e.g. `input_ids (B, T)`, optional
            `attention_mask`, `pixel_values`, optional `labels` (else every token is a target). No padding is best.
        provenance: one entry per source of the calibration, goes into the manifest as it is
            (see `calibration.Provenance`; keys kind, name, sha256, samples, tokens).
        held_out: batches never calibrated on; dense and pruned loss on them go into the manifest.
        progress: called with a `PruneProgress` after every step.
        cancelled: asked between steps; when it answers True the job stops with OwledError, its state stays and a
            later call with the same config and batches goes on from there to the identical artifact.

    Raises:
        OwledError: on a bad value, an empty, one-sample or NaN calibration, a model without Linear layers, a full disk.
    """
    raise NotImplementedError
