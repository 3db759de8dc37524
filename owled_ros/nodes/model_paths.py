"""Which directory a request for a model means. Needs nothing."""

from __future__ import annotations

from pathlib import Path

from owled_ros.errors import OwledError

CURRENT = "current"


def requested_model(path: str, configured: str, root: str, store: str) -> str:
    """Return the directory to load; raises OwledError when it lies outside the allowed root or does not exist.

    Empty means the store's current artifact, or the configured model where no store is configured.
    """
    if not path:
        return str(current_artifact(Path(store).expanduser())) if store else configured
    asked = Path(path).expanduser()
    if not root:
        return str(asked)
    base = Path(root).expanduser().resolve()
    resolved = (base / asked).resolve()
    if not resolved.is_relative_to(base):
        raise OwledError(f"{path} lies outside model_root {base}; load_model accepts only directories below it")
    return str(resolved)


def current_artifact(store: Path) -> Path:
    """Return the artifact that a store points to."""
    current = store / CURRENT
    if not current.exists():
        raise OwledError(f"{store} names no current artifact; promote one, or ask for a path")
    return current.resolve()
