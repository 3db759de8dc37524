"""Dataclasses without checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


def dataclass(frozen: bool = False, config: Any = None) -> Callable[[type], type]:
    """Make a usual dataclass."""
    return dataclasses.dataclass(frozen=frozen)
