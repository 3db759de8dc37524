"""Load a model beside the running one: memory looked at before, warmed up and tried on an image after. Needs psutil, no ROS."""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from owled_ros.compute_type import SPARSE_GOALS, fast_dtype
from owled_ros.devices import AUTO, free_device_bytes, give_back_memory, resolve_device
from owled_ros.driving.around import made_up_surroundings
from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.engine import Engine
from owled_ros.driving.frame import Frame, View
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import Reason
from owled_ros.driving.shrinking import shrunk
from owled_ros.errors import OwledError
from owled_ros.models.weights import weight_files
from owled_ros.onboard.ladder import needs_of, withhold_unsure

MEGABYTE = 1e6
BYTES_OF = {  # while it loads: int8 codes and packed forms are made on the device
    "float32": 4, "bfloat16": 2, "float16": 2, "int8": 2, **dict.fromkeys(SPARSE_GOALS, 2)
}  # fmt: skip
STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
WARM_UP_RUNS = 2
WARM_UP_TOKENS = 4  # of a description
BLANK_SPEED = 5.0  # [m/s]
RECOMMENDED = -1.0  # confidence floor: that of the model
NOT_ANSWERS = (Reason.UNPARSED, Reason.INCOMPLETE)


class Loader(Protocol):
    """What loads a model: owled_ros.models.driving_model.load_engine, or a stand-in in tests."""

    def __call__(self, path: str, *, device: str, dtype: str, threads: int, runtime: str) -> Engine:
        """Load a model directory."""


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it runs."""

    path: str
    device: str
    dtype: str
    threads: int
    runtime: str


class LoadJob:
    """A load in its own thread; `done` is called there with the engine or the words of the failure."""

    def __init__(self, work: Callable[[], Engine], done: Callable[[Engine | None, str], None] | None = None) -> None:
        self.engine: Engine | None = None
        self.problem = ""
        self.finished = threading.Event()
        self._work, self._done = work, done
        self._forgotten = False
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    def forget(self) -> None:
        """Free the engine, now or when it comes: nobody waits for it any more."""
        with self._lock:
            self._forgotten = True
            left, self.engine = self.engine, None
        if left is not None:
            left.close()

    def _run(self) -> None:
        try:
            self.engine = self._work()
        except OwledError as error:
            self.problem = str(error)
        except Exception as error:  # a damaged model can raise anything; its words are what the user needs
            self.problem = f"{type(error).__name__}: {error}"
        if self.engine is None:
            give_back_memory()  # what was half loaded; the running model may need it
        with self._lock:
            left, self.engine = (self.engine, None) if self._forgotten else (None, self.engine)
        if left is not None:
            left.close()
        self.finished.set()
        if self._done is not None:
            self._done(self.engine, self.problem)


def load_default(path: str, *, device: str, dtype: str, threads: int, runtime: str) -> Engine:
    """Load with the package's own loader; torch is imported here."""
    from owled_ros.models.driving_model import load_engine

    return load_engine(path, device=device, dtype=dtype, threads=threads, runtime=runtime)


def load_and_warm(choice: ModelChoice, load: Loader, frame: Frame | None, memory_reserve_mb: float | None) -> Engine:
    """Load a model and run it once; with a real image its answer must parse. Raises what the loader raises.

    `memory_reserve_mb` is given when another model stays loaded beside this one: memory is checked first.
    """
    choice = replace(choice, device=choose_device(choice))
    if memory_reserve_mb is not None:
        check_memory(choice, memory_reserve_mb)
    engine = load(choice.path, device=choice.device, dtype=choice.dtype, threads=choice.threads, runtime=choice.runtime)
    try:
        _warm_up(engine, frame)
    except BaseException:
        engine.close()
        raise
    give_back_memory()
    return engine


def choose_device(choice: ModelChoice) -> str:
    """Name the device of a choice; the sparse runtime is the CPU's. Raises OwledError for a device that is not here."""
    return resolve_device("cpu" if choice.runtime == "sparse" and choice.device == AUTO else choice.device)


def check_memory(choice: ModelChoice, reserve_mb: float) -> None:
    """Raise OwledError when the model would not fit beside the running one."""
    path = Path(choice.path).expanduser()
    dtype = fast_dtype(choice.device) if choice.dtype == AUTO else choice.dtype
    needed = weight_bytes(path, dtype) / MEGABYTE if path.is_dir() else 0.0
    free = free_bytes(choice.device) / MEGABYTE
    if needed + reserve_mb > free:
        raise OwledError(
            f"{path} needs about {needed:.0f} MB beside the running model and {reserve_mb:.0f} MB stay in reserve, but only "
            f"{free:.0f} MB are free on {choice.device}; the running model drives on. Deactivate and clean up the node first, or "
            "lower memory_reserve_mb"
        )


def weight_bytes(directory: Path, dtype: str) -> float:
    """Estimate the size [bytes] of a model's weights in memory from the headers of its safetensors files; 0 without any."""
    try:
        files = weight_files(directory)
    except OwledError:  # the loader says what is wrong
        return 0.0
    total = 0.0
    for file in files:
        with open(file, "rb") as stream:
            head = stream.read(8)
            if len(head) < 8:
                continue
            text = stream.read(min(struct.unpack("<Q", head)[0], 1 << 20))
        stored = max((size for name, size in STORED_BYTES.items() if f'"{name}"'.encode() in text), default=4)
        total += file.stat().st_size * BYTES_OF.get(dtype, 4) / min(stored, 4)
    return total


def free_bytes(device: str) -> float:
    """Return the free memory of a device [bytes]."""
    free = free_device_bytes(device)
    return float(psutil.virtual_memory().available if free is None else free)


def _warm_up(engine: Engine, frame: Frame | None) -> None:
    """Do everything that driving does, judging included; a frame of a model that is shown something else proves nothing."""
    needs = needs_of(engine)
    real = frame is not None and fits(frame, needs)
    tried = frame if real and frame is not None else blank_frame(needs)
    for _ in range(WARM_UP_RUNS):
        prefix = engine.see(tried)
        answer = withhold_unsure(engine.act(prefix), engine, RECOMMENDED)
        engine.describe(prefix, _after(WARM_UP_TOKENS))
    if real and answer.reason in NOT_ANSWERS:
        raise OwledError(
            f"the model loads, but on the newest image its answer is of no use: {answer.detail}; choose a driving model"
        )


def _after(times: int) -> Callable[[], bool]:
    """Become true when it has been asked so often."""
    asked = itertools.count(1)
    return lambda: next(asked) > times


def fits(frame: Frame, needs: InputNeeds) -> bool:
    """Tell whether a frame holds what a model asks for."""
    cameras = tuple(dict.fromkeys(view.camera for view in frame.views))
    wanted = () if needs.single else tuple(need.name for need in needs.cameras)
    images = len(frame.images) == len(needs.cameras) * len(needs.image_offsets_s)
    past = len(frame.past) == len(needs.ego_offsets_s)
    around = (needs.objects is None and needs.lights is None) or frame.around is not None
    return cameras == wanted and images and past and around and (frame.command is not None or not needs.needs_command)


def blank_frame(needs: InputNeeds) -> Frame:
    """Make a frame that holds what a model asks for: grey images, straight on at constant speed."""
    now = round(max(needs.image_past_s, needs.ego_past_s, 0.0) * NANOSECONDS)
    grey = np.full((360, 640, 3), 127, np.uint8)
    main = shrunk(grey, needs.cameras[0].max_pixels)
    views = [
        View(need.name, shrunk(shrunk(grey, need.max_pixels), need.past_max_pixels), now - round(offset * NANOSECONDS))
        if offset
        else View(need.name, main if place == 0 else shrunk(grey, need.max_pixels), now)
        for place, need in enumerate(needs.cameras)
        for offset in needs.image_offsets_s
    ]
    past = tuple(
        EgoState(now - round(offset * NANOSECONDS), BLANK_SPEED, 0.0, 0.0, Pose(-BLANK_SPEED * offset, 0.0, 0.0), 0.0)
        for offset in needs.ego_offsets_s
    )
    ego = EgoState(now, BLANK_SPEED, 0.0, 0.0, Pose(0.0, 0.0, 0.0), 0.0)
    command = NavigationCommand(CommandKind.FOLLOW_LANE, stamp=now) if needs.needs_command else None
    shown = () if needs.single else tuple(views)
    return Frame(main, now, ego, "", shown, past, command, made_up_surroundings(needs))
