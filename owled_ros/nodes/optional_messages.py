"""Message types of packages that need not be installed, such as Autoware's. Needs nothing."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any


@cache
def message_class(name: str) -> Any | None:
    """Return the class of a type such as autoware_vehicle_msgs/msg/VelocityReport; None where its package is not installed."""
    package, folder, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{folder}"), kind, None)
    except ImportError:
        return None


def package_of(name: str) -> str:
    """Return the package of a type, as it is installed."""
    return name.split("/", maxsplit=1)[0]
