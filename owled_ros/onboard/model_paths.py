"""Which directory a request for a model means. Needs nothing."""

from __future__ import annotations

from pathlib import Path

from owled_ros.errors import OwledError

CURRENT = "current"


def requested_model(path: str, configured: str, root: str, store: str) -> str:
    """Return the directory to load; raises OwledError when it lies outside the allowed root.

    Empty means the store's current artifact; where no store is configured or nothing was promoted yet, the configured model.
    """
    if not path:
        current = Path(store).expanduser() / CURRENT
        return str(current.resolve()) if store and current.exists() else configured
    asked = Path(path).expanduser()
    if not root:
        return str(asked)
    base = Path(root).expanduser().resolve()
    resolved = (base / asked).resolve()
    if not resolved.is_relative_to(base):
        raise OwledError(f"{path} lies outside model_root {base}; load_model accepts only directories below it")
    return str(resolved)
