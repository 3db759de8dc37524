"""What a recalibration may be told: every value, declared once. Needs the standard library.

The options of `owled recalibrate`, its yaml file, the parameters of recalibration_node, the fields of Recalibrate.action and the
request to the child process are read off this one dataclass; a test holds the files equal to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.errors import OwledError
from owled_ros.pruning.config import ALLOCATIONS, SCORES
from owled_ros.recalibration.courtesy import Courtesy
from owled_ros.settings import check_settings, setting, settings_of, types_of

if TYPE_CHECKING:
    from owled_ros.deployment.store import Retention

COMPONENTS = {
    "vision_tower": "vision",
    "vision": "vision",
    "projector": "projector",
    "language_model": "language",
    "language": "language",
}
BUDGETS = ("budget_components", "budget_sparsities")  # the two lists of a goal that make `budgets`
GIGABYTE = 1 << 30


@dataclass(frozen=True)
class JobParameters:
    """Names and units of these fields are those of the command line, the node and the yaml files, but where one is given here."""

    sparsity: float = setting(
        0.5,
        "Share of zero weights over the pruned matrices.",
        low=0.0,
        high=1.0,
        inside=True,
        parameter=None,
        goal="sparsity",
    )
    score: str = setting("sparsegpt", "Pruning score.", choices=SCORES, parameter="method", goal="method")
    allocation: str = setting(
        "uniform", "How the zeros are spread over the blocks.", choices=ALLOCATIONS, goal="allocation"
    )
    budgets: Mapping[str, float] = setting(
        {}, "Share of zeros of one component, for example vision=0.3; may be repeated.", low=0.0, high=1.0, inside=True,
        flags=("--budget",), parameter=None,
    )  # fmt: skip
    recovery_steps: int = setting(0, "Steps of masked distillation after pruning; 0: none.", low=0, high=100_000)
    calibration_frames: int = setting(48, "Images that the model is pruned with.", low=2, high=100_000)
    gate_frames: int = setting(120, "Held-out images that judge the candidate.", low=2, high=100_000)
    gate_share: float = setting(0.3, "Share of the images whose drives are held out.", low=0.05, high=0.95)
    gate_file: str = setting("", "Rules of the gate; empty: config/gate.yaml.", flags=("--gate",))
    cut_single_drive: bool = setting(False, "Cut a lone drive in two, with a guard between, instead of refusing it.")
    image_topic: str = setting("", "Camera in the bags; empty: the only one; for several NAME=TOPIC,NAME=TOPIC.")
    ego_topic: str = setting("", "Ego motion in the bags; empty: chosen by type.")
    ego_from: str = setting("", "twist, pose, gnss, can or can:FIELD:UNIT; empty: by the topic's type (docs/bags.md).")
    seed: int = setting(0, "Same seed and bags: same masks.", low=0, high=2**64 - 1, parameter=None, goal="seed")
    go_on: bool = setting(
        False, "Go on although none of the model's first 16 answers is in its form.", flags=("--go-on",), parameter=None
    )
    promote: bool = setting(True, "Make the candidate current when the gate passes it.", parameter=None, goal="promote")
    pack: bool = setting(True, "Also write the weights that the sparse runtime drives on.")
    device: str = setting("auto", "Torch device of the job: auto (CUDA where there is one), cpu, cuda, cuda:1.")
    threads: int = setting(1, "CPU threads of the job.", low=1, high=256)
    cores: str = setting("", "Cores that the job may use, for example 2,3; empty: all.", bare=True)
    idle_scheduling: bool = setting(
        False, "Run the job only where nobody else wants the processor, the disk or the GPU: for a vehicle that drives.",
        flags=("--idle",), parameter_value=True,
    )  # fmt: skip
    time_limit_s: float = setting(
        0.0, "End without a candidate after this long [s]; 0: never.", low=0.0, parameter=None, goal="time_budget"
    )
    keep_versions: int = setting(8, "Versions that the store keeps.", low=2, high=10_000, flags=("--keep",))
    keep_gb: float = setting(50.0, "Bytes that the store keeps [GiB].", low=0.001, high=1e6)
    load_timeout_s: float = setting(120.0, "How long the driving node may take to load [s].", low=0.1, high=3600.0)

    def __post_init__(self) -> None:
        """Take components by their other names too."""
        budgets = {COMPONENTS.get(name, name): share for name, share in self.budgets.items()}
        if len(budgets) != len(self.budgets):
            raise OwledError(f"budgets name one component twice: {', '.join(self.budgets)}")
        object.__setattr__(self, "budgets", budgets)

    def check(self) -> None:
        """Raise OwledError on a value that cannot work."""
        check_settings(self)
        unknown = [name for name in self.budgets if name not in COMPONENTS.values()]
        if unknown:
            raise OwledError(f"component {unknown[0]!r} is not known; expected one of {', '.join(COMPONENTS)}")
        cores_of(self.cores)

    @property
    def rules(self) -> Path:
        """The file with the rules of the gate."""
        from owled_ros.recalibration.gate_rules import packaged_rules

        return Path(self.gate_file).expanduser().absolute() if self.gate_file else packaged_rules()

    @property
    def courtesy(self) -> Courtesy:
        """What the job gives up for others on the machine."""
        idle = self.idle_scheduling
        return Courtesy(idle, cores_of(self.cores), self.threads, gpu_pauses=idle, gpu_bounded=idle)

    @property
    def retention(self) -> Retention:
        """What the store keeps."""
        from owled_ros.deployment.store import Retention

        return Retention(self.keep_versions, int(self.keep_gb * GIGABYTE))


def cores_of(text: str) -> tuple[int, ...]:
    """Read a list of cores such as "2,3"; raises OwledError for cores that this machine lacks."""
    try:
        cores = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise OwledError(f"cores is {text!r}; expected numbers separated by commas, for example 2,3") from error
    allowed = os.sched_getaffinity(0)
    if not set(cores) <= allowed:
        raise OwledError(f"cores is {text!r}; this process may use {sorted(allowed)}")
    return cores


def budgets_of(names: list[str], shares: list[float]) -> dict[str, float]:
    """Pair components with their shares of zeros; raises OwledError for lists of different length."""
    if len(names) != len(shares):
        raise OwledError(f"{len(names)} budget components but {len(shares)} sparsities; give one for each")
    return dict(zip(names, shares, strict=True))


def read_goal(goal: Any) -> dict[str, Any]:
    """Return what a goal of Recalibrate.action says, by the names of JobParameters; an empty text says nothing.

    A goal's numbers have 32 bits: 0.3 there is the 0.3 that was meant, not 0.30000001192092896.
    """
    values: dict[str, Any] = {}
    for name, declared in settings_of(JobParameters).items():
        value: Any = getattr(goal, declared.goal) if declared.goal else ""
        if value == "":
            continue
        values[name] = _as_meant(value) if types_of(JobParameters)[name] is float else value
    components, sparsities = (getattr(goal, name) for name in BUDGETS)
    return {**values, "budgets": budgets_of(list(components), [_as_meant(share) for share in sparsities])}


def _as_meant(value: float) -> float:
    return float(f"{value:.7g}")
