"""Progress of long jobs: a rich bar on a terminal, a log line every few seconds otherwise. Needs rich."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

LOG_PERIOD_S = 5.0
Item = TypeVar("Item")
logger = logging.getLogger(__name__)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and show how far the job is; `total` is needed where `len` does not work."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _track_terminal(items, description, total)
    else:
        yield from _track_log(items, description, total)


def _track_terminal(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=description)


def _track_log(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_PERIOD_S:
            last = now
            logger.info("%s: %d of %s, %.0f s", description, done, "?" if total is None else total, now - start)
    logger.info("%s: done, %d in %.1f s", description, done, time.monotonic() - start)
