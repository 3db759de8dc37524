"""Is a calibration fit for a model, and does the model have what is asked for? Needs torch and a loaded model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from owled_ros.errors import OwledError
from owled_ros.models.components import Structure
from owled_ros.pruning.config import COMPONENTS_BY_DEFAULT, Batch, PruneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIN_SEQUENCES = 2
logger = logging.getLogger(__name__)


def check_calibration(batches: Sequence[Batch]) -> None:
    """Raise OwledError on an empty, one-sample or NaN calibration."""
    sequences = 0
    for batch in batches:
        for key, value in batch.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                raise OwledError(f"the calibration holds NaN or infinities in {key}: check where its frames come from")
        ids = batch.get("input_ids")
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.numel() == 0:
            raise OwledError("every calibration batch needs input_ids (B, T) with at least one token")
        sequences += ids.shape[0]
    if sequences < MIN_SEQUENCES:
        raise OwledError(
            f"the calibration holds {sequences} sample(s); statistics of fewer than {MIN_SEQUENCES} mean nothing"
        )


def check_inputs(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Raise OwledError when a batch has token ids that the model does not know, or more tokens than it has positions."""
    embedding = model.get_input_embeddings()
    vocabulary = int(getattr(embedding, "num_embeddings", 0) or 0)
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    for batch in batches:
        ids, labels = batch["input_ids"], batch.get("labels")
        low, high = int(ids.min()), int(ids.max())
        if isinstance(labels, torch.Tensor):
            high = max(high, int(labels.max()))
        if vocabulary and not 0 <= low <= high < vocabulary:
            raise OwledError(
                f"the calibration has token {high if high >= vocabulary else low}, the model knows 0 to {vocabulary - 1}: the "
                "tokenizer belongs to another model"
            )
        if isinstance(positions, int) and 0 < positions < ids.shape[1]:
            raise OwledError(
                f"a calibration sample has {ids.shape[1]} tokens, the model {positions} positions: give --tokens {positions} "
                "or fewer (of frames: smaller images or shorter questions)"
            )


def choose_parts(structure: Structure, config: PruneConfig) -> Structure:
    """Keep the components that are to be pruned.

    Raises:
        OwledError: when there is nothing to prune, or a sparsity was given for a part that is not there or not pruned.
    """
    present = list(structure.component_sizes())
    for name in config.budgets:
        if name not in present:
            raise OwledError(
                f"a sparsity is given for {name}, but {config.model} has no such part that can be pruned; it has "
                f"{', '.join(present)}"
            )
    for name in config.budgets:
        if name not in config.components:
            raise OwledError(f"a sparsity is given for {name}, which is not pruned: add --component {name}")
    chosen = structure.only(config.components)
    if not chosen.blocks:
        raise OwledError(f"{config.model} has no component {' or '.join(config.components)} that can be pruned")
    absent = set(config.components) - set(present) - set(COMPONENTS_BY_DEFAULT)
    if absent:
        logger.warning("%s has no %s that can be pruned", config.model, " or ".join(sorted(absent)))
    return chosen
