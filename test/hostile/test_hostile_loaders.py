"""Every hostile model directory through everything that reads one: refused with words or loaded whole, and no code of it runs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile_models
import numpy as np
import pytest

from owled_ros.driving.ego import EgoState
from owled_ros.driving.familiarity import read_familiarity
from owled_ros.driving.frame import Frame
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import load_engine
from owled_ros.models.load import check_directory
from owled_ros.models.packed_weights import packed_weights
from owled_ros.onboard.loading import ModelChoice, weight_bytes
from owled_ros.onboard.quarantine import TrialLimits, check_files, try_in_child

CODE_RAN = Path("/tmp/owled_code_ran")
READERS: tuple[Callable[[Path], Any], ...] = (
    check_files,
    read_profile,
    read_familiarity,
    check_directory,
    packed_weights,
    lambda place: weight_bytes(place, "float32"),
)
SOUND = (  # odd, and sound all the same
    "packed.json is missing", "a template that looks around", "two hundred folders", "its own code", "a pickle beside",
    "generation_config.json, nothing", "generation_config.json, lists in lists", "generation_config.json, NaN",
    "generation_config.json, not UTF-8", "a flipped byte", "positions without end",
)  # fmt: skip
LIGHT = [name for name in hostile_models.MODELS if name not in hostile_models.HEAVY]
CHOSEN_HEAVY = ("a template that multiplies", "a hidden size of 2**40", "tokenizer.json is a pipe")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    CODE_RAN.unlink(missing_ok=True)
    yield tmp_path / "model"
    assert not CODE_RAN.exists(), "code of a model directory was run"


def made(place: Path, name: str, plain: bool = False) -> Path:
    hostile_models.sound(place, plain)
    with contextlib.suppress(FileNotFoundError):  # a file that only packed models have
        hostile_models.MODELS[name](place)
    return place


def refusal_of(work: Callable[[], object]) -> str:
    """Return the words with which something is refused; empty when it is not."""
    words = ""
    try:
        work()
    except OwledError as error:
        words = str(error)
    assert not words or 10 < len(words) < 5_000
    return words


@pytest.mark.parametrize("name", hostile_models.MODELS)
def test_readers_have_words_for_everything(place: Path, name: str) -> None:
    made(place, name)
    for read in READERS:
        refusal_of(lambda: read(place))  # noqa: B023
        if "pipe" in name:
            break  # what the first reader refuses is given to no other


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["packed", "plain"])
@pytest.mark.parametrize("name", LIGHT)
def test_what_loads_drives_by_numbers(place: Path, name: str, plain: bool) -> None:
    """Load beside nothing: OwledError, or an engine whose action is finite or withheld."""
    made(place, name, plain)
    engines: list[Any] = []
    if refusal_of(lambda: (check_files(place), engines.append(load_engine(place, dtype="float32")))):
        return
    engine = engines[0]
    frame = Frame(np.full((360, 640, 3), 127, np.uint8), 1, EgoState(1, 5.0, 0.0))
    answer = engine.act(engine.see(frame))
    engine.close()
    assert 0.0 <= answer.generation.confidence <= 1.0
    if answer.action is not None:
        assert math.isfinite(answer.action.acceleration)
        assert math.isfinite(answer.action.steering_tire_angle)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN_HEAVY)
def test_what_starves_is_stopped_in_its_child(place: Path, name: str) -> None:
    made(place, name)
    choice = ModelChoice(str(place), "cpu", "float32", 1, "torch")
    with pytest.raises(OwledError):
        try_in_child(choice, TrialLimits(60.0, memory_mb=1_200.0))
