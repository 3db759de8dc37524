"""What the searches share: a model with its calibration ready, their state beside the output, and their pauses. Needs pruning and bags."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from owled_ros.commands._calibration import Sources, calibration_sets
from owled_ros.errors import OwledError
from owled_ros.pruning.config import PruneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from owled_ros.models.components import Structure
    from owled_ros.pruning.calibration import CalibrationSet

Step = TypeVar("Step")
PauseAfter = Annotated[
    float,
    typer.Option(
        min=0.0, help="Stop between two steps after so many real minutes; the same command goes on. 0: never."
    ),
]


@dataclass(frozen=True)
class Material:
    """What trials are made with."""

    model: PreTrainedModel
    structure: Structure
    calibration: CalibrationSet
    held_out: CalibrationSet
    sha256: str  # of the model

    def facts(self, place: Path) -> dict[str, Any]:
        """Return what the result tells of them."""
        from owled_ros.pruning.state import hash_batches

        return {
            "model": {"name": place.name, "sha256": self.sha256},
            "calibration_sha256": hash_batches(self.calibration.batches),
            "calibration": self.calibration.entries(),
        }


@contextlib.contextmanager
def ready(config: PruneConfig, sources: Sources, threads: int | None) -> Iterator[Material]:
    """Load the model of a search and its calibration; inside, products run as when it is pruned."""
    import torch

    from owled_ros.devices import on_device
    from owled_ros.models.components import find_structure
    from owled_ros.models.load import check_model, load_model, source_of
    from owled_ros.pruning.checks import check_calibration, check_inputs, choose_parts
    from owled_ros.pruning.passes import forward_precision, in_words
    from owled_ros.pruning.usage import settle_structure

    if threads is not None:
        torch.set_num_threads(threads)
    check_model(config.model)
    calibration, held_out = calibration_sets(config.model, sources)
    check_calibration(calibration.batches)
    model = load_model(config.model, config.device)
    check_inputs(model, calibration.batches + held_out.batches)
    with on_device(config.device), forward_precision(config.dtype, config.device):
        with in_words("the calibration"):
            structure = settle_structure(model, choose_parts(find_structure(model), config), calibration.batches)
        yield Material(model, structure, calibration, held_out, source_of(config.model).sha256)


def check_output(output: Path, kind: str) -> None:
    """Raise OwledError on a name that is none for what a search writes."""
    if output.suffix != ".json":
        raise OwledError(f"{output} is where the {kind} goes: give a name that ends in .json")


def state_of(output: Path) -> Path:
    """Return where the state of a search lies while it lasts."""
    return output.with_name(f".{output.name}.searching")


def kept(steps: Iterator[Step], output: Path) -> Iterator[Step]:
    """Say in one sentence that the state of a search cannot be written."""
    try:
        yield from steps
    except OSError as err:
        raise OwledError(
            f"cannot keep the state of the search beside {output}: {err}; give another place or free some disk space, and run the "
            "same command again"
        ) from err


class Pauses:
    """Ends a search between two steps when its real minutes are over."""

    def __init__(self, minutes: float, kind: str) -> None:
        self._minutes, self._kind, self._begun = minutes, kind, time.monotonic()

    def look(self, tried: int, evaluations: int, fresh: int) -> None:
        """Raise OwledError, which says how to go on, when time is over and something new was tried."""
        if self._minutes and fresh and time.monotonic() - self._begun > 60.0 * self._minutes:
            raise OwledError(
                f"paused after {tried} of {evaluations} evaluations (--pause-after {self._minutes:g}): no {self._kind} yet; "
                "the same command goes on from here"
            )
