"""Packages that transformers looks for and that may be missing or broken here: torchvision, num2words. Needs nothing."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys

logger = logging.getLogger(__name__)


def torchvision_works() -> bool:
    """Tell whether torchvision can be used; one that is broken (built for another torch) is hidden from transformers."""
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"] is not None
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision.transforms.v2.functional")
    except (ImportError, RuntimeError, OSError, AttributeError) as err:
        logger.warning("torchvision is installed but does not work (%s); images are prepared with PIL", err)
        for module in [key for key in sys.modules if key.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's way to say: not to be imported
        _forget_torchvision()
        return False
    return True


def _forget_torchvision() -> None:
    """Let transformers look again, should it have been imported before."""
    known = sys.modules.get("transformers.utils.import_utils")
    for name in ("is_torchvision_available", "is_torchvision_v2_available", "is_torchvision_greater_or_equal"):
        clear = getattr(getattr(known, name, None), "cache_clear", None)
        if clear is not None:
            clear()


def without_num2words() -> None:
    """Let SmolVLM's processor be made without the package num2words, which writes how many frames a video has."""
    if importlib.util.find_spec("num2words") is None and importlib.util.find_spec("transformers.models.smolvlm"):
        importlib.import_module("transformers.models.smolvlm.processing_smolvlm").num2words = str  # type: ignore[attr-defined]
