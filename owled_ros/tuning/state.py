"""The state of a run on the disk: a killed one goes on from the last, and only one process works on a run. Needs safetensors.

Every state has a directory of its own, `checkpoint-STEP`, which takes its name when it is whole; the one before goes then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from owled_ros.errors import OwledError
from owled_ros.files import replace_directory, write_json
from owled_ros.tuning.learner import Learner

CHECKPOINT = "checkpoint-"  # and the step
LOCK_NAME = "lock"
SHAPE_MARK = "."  # parts the number of a parameter from the name of its moment


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold a run; raises OwledError where another process does. Whoever dies lets go."""
    with open(directory / LOCK_NAME, "a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OwledError(f"another process works on {directory}: wait for it, or choose another --out") from error
        yield


def last_state(directory: Path) -> Path | None:
    """Return the directory of the last whole state; None where there is none."""
    return max(directory.glob(f"{CHECKPOINT}*"), key=lambda path: path.name, default=None)


def save_state(learner: Learner, directory: Path, facts: dict[str, Any]) -> None:
    """Write a state; the last one goes when it is whole."""
    target = directory / f"{CHECKPOINT}{facts['step']:09d}"
    if target.exists():
        _forget_others(target)  # whoever wrote it may have been killed before
        return
    numbers = _numbers(learner)
    state = learner.optimizer.state_dict()["state"]
    moments = {f"{index}{SHAPE_MARK}{key}": value for index, entry in state.items() for key, value in entry.items()}
    weights = {str(index): parameter.detach().contiguous() for index, (_, parameter) in enumerate(numbers)}
    try:
        with replace_directory(target) as aside:
            save_file(weights, aside / "weights.safetensors")
            save_file(moments, aside / "moments.safetensors")
            write_json(aside / "state.json", {**facts, "trained": [name for name, _ in numbers]})
    except (OSError, SafetensorError) as error:
        raise OwledError(
            f"cannot write the state of the run to {directory} ({error}); the one before is whole: free some disk space and run "
            "the same command again"
        ) from error
    _forget_others(target)


def load_state(learner: Learner, directory: Path) -> dict[str, Any] | None:
    """Go on from the state on the disk; None where there is none."""
    checkpoint = last_state(directory)
    if checkpoint is None:
        return None
    try:
        facts: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
        numbers = _numbers(learner)
        if facts["trained"] != [name for name, _ in numbers]:
            raise ValueError("it is of other weights")
        weights = load_file(checkpoint / "weights.safetensors")
        with torch.no_grad():
            for index, (_, parameter) in enumerate(numbers):
                parameter.copy_(weights[str(index)])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in load_file(checkpoint / "moments.safetensors").items():
            index_of, key = name.split(SHAPE_MARK)
            state.setdefault(int(index_of), {})[key] = value
        groups = learner.optimizer.state_dict()["param_groups"]
        learner.optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise OwledError(f"{checkpoint} cannot be gone on from ({error}); delete it to begin anew") from error
    return facts


def _numbers(learner: Learner) -> list[tuple[str, torch.nn.Parameter]]:
    return sorted(learner.trained.items())


def _forget_others(state: Path) -> None:
    for other in state.parent.glob(f"{CHECKPOINT}*"):
        if other != state:
            shutil.rmtree(other, ignore_errors=True)
