"""What a tuning run is told. Needs nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from owled_ros.errors import OwledError

METHODS = ("auto", "lora", "all")
SMALL = 500_000_000  # weights; a model of fewer learns with all of them
FREE = ("steps", "minutes", "learning_rate", "measure_every", "save_every_s", "device", "threads", "micro_batch")


@dataclass(frozen=True)
class TuneSettings:
    """Everything that decides the weights, beside the model, the bags and the profile."""

    method: str = "auto"  # lora, all, or auto: all weights of small models and of artifacts, LoRA for others
    rank: int = 16  # of LoRA
    steps: int = 0  # 0: three times through the frames
    minutes: float = 0.0  # [min], instead of steps: so many as fit, told after the first ones
    learning_rate: float = 0.0  # 0: by method and size
    batch_size: int = 8  # frames per step
    micro_batch: int = 0  # sequences at once; 0: all of a step, one of a model above SMALL
    frames: int = 2000  # at most, spread over speeds, turns and lights
    held_out_frames: int = 32
    held_out_share: float = 0.2  # of the drives, where no bag was named
    measure_every: int = 0  # steps; 0: a tenth of them
    save_every_s: float = 240.0
    seed: int = 0
    device: str = "cpu"
    threads: int = 0  # 0: torch's choice

    def check(self) -> None:
        """Raise OwledError for a value out of range."""
        if self.method not in METHODS:
            raise OwledError(f"weights {self.method!r} is not known; expected one of {', '.join(METHODS)}")
        for name, low in (("rank", 1), ("batch_size", 1), ("frames", 1), ("held_out_frames", 2), ("steps", 0)):
            if getattr(self, name) < low:
                raise OwledError(f"{name} is {getattr(self, name)}; expected at least {low}")
        for name in ("minutes", "learning_rate", "save_every_s", "held_out_share"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise OwledError(f"{name} is {value}; expected a number of at least 0")
        if self.steps and self.minutes:
            raise OwledError("give steps or minutes, not both")

    def binding(self) -> dict[str, Any]:
        """Return what must not change when a run goes on."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


@dataclass(frozen=True)
class TuneRequest:
    """One run."""

    model: Path  # Hugging Face directory or artifact
    bags: tuple[Path, ...]
    out: Path  # the tuned model
    profile: str = ""  # a preset, a file or a model directory; empty: the model's own
    held_out: tuple[Path, ...] = ()  # bags that only judge; empty: drives of the others
    cut_single: bool = False  # cut a lone drive in two
    accept_little: bool = False  # tune on drives that hold too little
    image_topic: str = ""
    ego_topic: str = ""
    ego_from: str = ""
    settings: TuneSettings = TuneSettings()

    @property
    def run(self) -> Path:
        """Where the run lives: examples, state, curves."""
        return self.out.with_name(f"{self.out.name}.run")
