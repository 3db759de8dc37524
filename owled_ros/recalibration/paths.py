"""Paths from goals and services stay below configured roots. Needs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from owled_ros.errors import OwledError


def inside(asked: str, roots: Sequence[Path], what: str) -> Path:
    """Return the real path of what was asked for, relative to a root or absolute below one.

    Raises OwledError for an empty path, "..", a link that leads out, nothing there, or no configured root.
    """
    if not asked or "\0" in asked:
        raise OwledError(f"the {what} has no path; give one below {_listed(roots)}")
    if not roots:
        raise OwledError(f"no root is configured for the {what}; set the parameter that lists the allowed directories")
    if ".." in PurePosixPath(asked).parts:
        raise OwledError(f"the {what} {asked!r} contains '..'; give a path below {_listed(roots)}")
    exists = False
    for root in roots:
        base = root.expanduser().resolve()
        place = base / asked
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            continue
        exists = True
        if real.is_relative_to(base):
            return real
    problem = "lies outside" if exists else "does not exist below"
    raise OwledError(f"the {what} {asked!r} {problem} {_listed(roots)}")


def _listed(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots) or "a configured root"
