"""Low-rank updates of a host (LoRA, arXiv 2106.09685), merged into its weights at the end. Needs peft (optional)."""

from __future__ import annotations

import importlib.util
from typing import Any

from owled_ros.errors import OwledError

SCALE = 2  # alpha over rank


def add_low_rank(model: Any, rank: int, seed: int) -> None:
    """Put updates of a rank beside every Linear layer of the host's blocks.

    Raises:
        OwledError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise OwledError(
            "training a host by low-rank updates needs the peft package: pip install peft, or give --lora-rank 0"
        )
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules="all-linear")
    model.model.language_model = get_peft_model(model.model.language_model, settings)


def merge_low_rank(model: Any) -> None:
    """Add the updates to the weights, where there are any."""
    merge = getattr(model.model.language_model, "merge_and_unload", None)
    if merge is not None:
        model.model.language_model = merge()
