"""What a search has learnt so far, in a file, line by line: one that is killed at any moment goes on where it was. Needs files only.

A search that follows from its seed and its losses alone is run again from its start and asks this for what it knows already.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from owled_ros.errors import OwledError
from owled_ros.files import write_atomic

STATE_VERSION = 1
Tried = TypeVar("Tried")
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def remembering(
    loss_of: Callable[[Tried], float], path: Path, name: str, known_as: Callable[[str], str]
) -> Iterator[Callable[[Tried], float]]:
    """Give `loss_of` a memory: what the file knows, by its text, is not asked again, every new answer is written and flushed.

    Args:
        path: the state of a search; that of another one, by `name`, is begun afresh.
        known_as: reads the text of something tried and returns it as it is written now; raises ValueError or OwledError where it is none.
    """
    losses = _read(path, name, known_as)
    with open(path, "a", encoding="utf-8") as stream:

        def remembered(tried: Tried) -> float:
            text = str(tried)
            if text not in losses:
                losses[text] = loss_of(tried)
                stream.write(json.dumps([text, losses[text] if math.isfinite(losses[text]) else None]) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            return losses[text]

        yield remembered


def _read(path: Path, name: str, known_as: Callable[[str], str]) -> dict[str, float]:
    """Return the losses of a search, cutting off a last line that is half there; an empty state is written where there is none."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
    try:
        head, *lines = [json.loads(line) for line in whole.splitlines()]
        if head == {"version": STATE_VERSION, "search": name}:
            losses = {known_as(text): math.inf if loss is None else float(loss) for text, loss in lines}
            os.truncate(path, len(whole) + 1)
            return losses
        logger.info("the state in %s belongs to another search: starting afresh", path)
    except (ValueError, TypeError, OwledError):
        if path.exists():
            logger.warning("the state in %s is damaged: starting afresh", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"version": STATE_VERSION, "search": name}) + "\n")
    return {}
