"""The pruning procedure: a model directory and calibration batches in, an artifact directory out.

Needs torch, transformers and safetensors; the batches are made by `calibration` or by the caller.
"""

from __future__ import annotations

import datetime
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.devices import on_device, resolve_device
from owled_ros.errors import OwledError
from owled_ros.pruning.config import Batch, ProgressCallback, PruneConfig, PruneProgress

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from owled_ros.models.components import Structure
    from owled_ros.models.load import ModelSource
    from owled_ros.pruning.plan import SparsityPlan
    from owled_ros.pruning.state import PruneState

__all__ = ["Batch", "PruneConfig", "PruneProgress", "prune"]

logger = logging.getLogger(__name__)


@dataclass
class _Job:
    """What the stages of one run share."""

    config: PruneConfig
    batches: list[Batch]
    held_out: list[Batch]
    progress: ProgressCallback | None
    cancelled: Callable[[], bool] | None
    timings: dict[str, float] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)  # by matrix name: what was done instead of the score
    scales: dict[str, Tensor] = field(default_factory=dict)  # by matrix name: of its grid

    def report(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Tell the progress; stop here when the job was cancelled."""
        if self.progress is not None:
            self.progress(PruneProgress(stage, done, total, detail))
        if self.cancelled is not None and self.cancelled():
            raise OwledError(f"cancelled in stage {stage} ({done} of {total}); the same call resumes from here")


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
            later call with the same config and batches resumes from there to the identical artifact.

    Raises:
        OwledError: on a bad value, an empty, one-sample or NaN calibration, a model without Linear layers, a full disk.
    """
    import torch

    from owled_ros.compute_type import computing_dtype
    from owled_ros.models.components import find_structure
    from owled_ros.models.load import load_model, source_of
    from owled_ros.pruning.artifact import check_space
    from owled_ros.pruning.checks import check_calibration, check_inputs, choose_parts
    from owled_ros.pruning.passes import forward_precision, in_words
    from owled_ros.pruning.state import PruneState, fingerprint, hash_batches
    from owled_ros.pruning.usage import settle_structure

    config.check()
    config = replace(config, device=resolve_device(config.device))
    job = _Job(config, list(calibration), list(held_out), progress, cancelled)
    check_calibration(job.batches)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    start = time.monotonic()
    job.report("load", 0, 1, str(config.model))
    source = source_of(config.model)
    weights_dtype = _weights_dtype(config, source.dtype, computing_dtype(config.dtype, config.device))
    model = load_model(config.model, config.device, weights_dtype)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # one product per expert, so that each expert's inputs can be seen
    check_inputs(model, job.batches + job.held_out)
    structure = choose_parts(find_structure(model), config)
    batches_sha256 = hash_batches(job.batches)
    name = fingerprint(config, source.sha256, batches_sha256)
    check_space(config.output, 2 * sum(p.numel() * p.element_size() for p in model.parameters()))
    job.timings["load_s"] = time.monotonic() - start
    try:
        state = PruneState(config.state or config.output.parent / f".{config.output.name}.pruning", name)
        with (
            on_device(config.device),
            forward_precision("float32" if weights_dtype == "float16" else config.dtype, config.device),
        ):
            structure = settle_structure(model, structure, job.batches, tuple(config.budgets))
            with in_words("the calibration"):
                plan = _plan(job, state, model, structure)
            _prune_blocks(job, state, model, structure, plan)
            _round_ends(job, model, structure)
            _recover(job, state, model, structure)
            _measure(job, model, "pruned")
            job.report("write", 0, 1, str(config.output))
            _write(job, model, source, structure, plan, provenance or [], batches_sha256)
    except OSError as err:
        raise OwledError(
            f"cannot write the state of the run: {err}; free some disk space and run the same command again"
        ) from err
    state.remove()
    if job.progress is not None:
        job.progress(PruneProgress("write", 1, 1, str(config.output)))
    return config.output


def _weights_dtype(config: PruneConfig, stored: str, computing: str) -> str:
    """Choose the type of the weights in memory: the stored one where it is computed in, else float32.

    A model stored in float16 stays so on a GPU, and multiplies in it (no autocast); its statistics are float32. Weights that are
    reconstructed, or whose scales are fitted, move by less than 16 bits can hold.
    """
    if config.reconstruct_steps or (config.recovery_steps and config.bits):
        return "float64" if stored == "float64" else "float32"
    halves = stored == "float16" and config.dtype == "auto" and config.device != "cpu" and not config.recovery_steps
    return stored if halves or stored in (computing, "float64") else "float32"


def _plan(job: _Job, state: PruneState, model: nn.Module, structure: Structure) -> SparsityPlan:
    from owled_ros.pruning.plan import SparsityPlan, make_plan

    start = time.monotonic()
    saved = state.read("plan")
    if saved is None:
        _measure(job, model, "dense")
        plan = make_plan(
            model,
            structure,
            job.batches,
            job.config,
            lambda done, total, detail: job.report("plan", done, total, detail),
        )
        state.write("plan", {"plan": plan.to_json(), "quality": job.quality})
    else:
        logger.info("resuming with the plan found in %s", state.directory)
        plan, job.quality = SparsityPlan(**saved["plan"]), saved["quality"]
    job.timings["plan_s"] = time.monotonic() - start
    return plan


def _prune_blocks(job: _Job, state: PruneState, model: nn.Module, structure: Structure, plan: SparsityPlan) -> None:
    from owled_ros.pruning.procedure import prune_blocks

    start = time.monotonic()
    outcome = prune_blocks(
        model,
        structure,
        job.batches,
        plan.zeros,
        job.config,
        state,
        lambda done, total, name: job.report("prune", done, total, name),
    )
    job.fallbacks, job.scales = outcome.fallbacks, outcome.scales
    job.timings["prune_s"] = time.monotonic() - start


def _round_ends(job: _Job, model: nn.Module, structure: Structure) -> None:
    grid = job.config.grid_of_ends
    if grid is None or "language" not in structure.component_sizes():
        return
    from owled_ros.pruning.ends import round_ends

    start = time.monotonic()
    job.scales |= round_ends(
        model,
        job.batches,
        grid,
        job.config.damping,
        lambda done, total: job.report("ends", done, total, "words of embedding and output matrix"),
    )
    job.timings["ends_s"] = time.monotonic() - start


def _recover(job: _Job, state: PruneState, model: nn.Module, structure: Structure) -> None:
    if job.config.recovery_steps == 0:
        return
    from owled_ros.models.load import load_model
    from owled_ros.pruning.fitted import BesideCodes
    from owled_ros.pruning.recovery import recover

    start = time.monotonic()
    _measure(job, model, "before_recovery")
    dense = load_model(job.config.model, job.config.device)
    config = job.config
    grid, ends = config.grid, config.grid_of_ends
    fitted = BesideCodes(model, structure, job.scales, grid, ends) if grid else None
    recover(
        model,
        dense,
        structure,
        job.batches,
        config.recovery_steps,
        config.seed,
        lambda done, total, loss: job.report("recover", done, total, f"loss {loss:.3f}"),
        fitted,
    )
    if fitted:
        job.scales |= fitted.scales
    job.timings["recover_s"] = time.monotonic() - start


def _measure(job: _Job, model: nn.Module, name: str) -> None:
    """Measure the loss on the held-out batches, if any."""
    if job.held_out:
        from owled_ros.pruning.quality import measure

        found = measure(model, job.held_out)
        if not math.isfinite(found.loss):
            raise OwledError(f"the loss of the {name} model on the held-out batches is NaN")
        job.quality[name] = {"loss": found.loss, "perplexity": found.perplexity, "tokens": found.tokens}
        job.report("measure", 1, 1, f"{name}: perplexity {found.perplexity:.2f}")


def _write(
    job: _Job,
    model: PreTrainedModel,
    source: ModelSource,
    structure: Structure,
    plan: SparsityPlan,
    provenance: list[dict[str, Any]],
    sha256: str,
) -> None:
    from owled_ros.models.grid import StoredGrid
    from owled_ros.pruning.account import block_entries, check_target, fallback_entries, plain
    from owled_ros.pruning.artifact import versions, write_artifact
    from owled_ros.pruning.binary_file import write_levels

    config = job.config
    settings = {
        key: value for key, value in asdict(config).items() if key not in ("model", "output", "state", "threads")
    } | {"correct_drift": config.corrects_drift}
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def describe(written: nn.Module) -> dict[str, Any]:
        check_target(written, structure, plan, config)
        blocks = block_entries(written, structure, plan)
        job.timings["peak_memory_bytes"] = float(peak_memory_bytes())
        return {
            "format": "owled",
            "format_version": 1,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "base": {
                "name": source.path.name,
                "sha256": source.sha256,
                "architecture": type(written).__name__,
                "parameters": parameters,
            },
            "method": {
                **{
                    key: settings[key]
                    for key in ("score", "allocation", "statistics", "pattern", "lod_threshold", "seed")
                },
                "owl_lambda": config.spread,
                "settings": plain(settings),
            },
            "sparsity": sum(block["zeros"] for block in blocks) / sum(block["parameters"] for block in blocks),
            "blocks": blocks,
            "skipped": structure.skipped,
            "fallbacks": fallback_entries(job.fallbacks, structure),
            "calibration": provenance,
            "calibration_sha256": sha256,
            "quality": job.quality,
            "timings": {key: round(value, 3) for key, value in job.timings.items()},
            "versions": versions(),
        }

    smallest = min(job.batches, key=lambda batch: int(batch["input_ids"].numel()))
    grid, ends = config.grid, config.grid_of_ends
    stored = (
        None
        if grid is None
        else StoredGrid(grid.bits, grid.group, job.scales, *((ends.bits, ends.group) if ends else ()))
    )
    finish = (lambda aside: None) if config.binary is None else write_levels(structure, job.scales, config)
    write_artifact(model, source, config.output, describe, config.device, smallest, stored, finish)


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far [bytes]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
