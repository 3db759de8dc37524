"""The parameters of recalibration_node: declared once, without defaults; values come from config/recalibration_node.param.yaml.

Needs rclpy (through nodes.parameters).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node

from owled_ros.deployment.store import Retention
from owled_ros.errors import OwledError
from owled_ros.nodes.parameters import Entry, launch_entries, read_values, with_launch_arguments
from owled_ros.pruning.config import ALLOCATIONS, SCORES
from owled_ros.recalibration.courtesy import Courtesy, Pacer
from owled_ros.recalibration.gate_rules import packaged_rules
from owled_ros.recalibration.job import JobOptions
from owled_ros.recalibration.paths import inside
from owled_ros.recalibration.request import JobRequest, budgets_of

GIGABYTE = 1 << 30


@dataclass(frozen=True)
class RecalibrationSettings:
    """The values at configure; see ENTRIES for what each means."""

    autostart: bool
    exit_on_failure: bool
    deployment: str
    model_path: str
    store: str
    bag_roots: str
    gate_file: str
    method: str
    allocation: str
    recovery_steps: int
    calibration_frames: int
    gate_frames: int
    gate_share: float
    cut_single_drive: bool
    image_topic: str
    ego_topic: str
    ego_from: str
    pack: bool
    device: str
    threads: int
    cores: str
    idle_scheduling: bool
    pausing: bool
    driver_budget_ms: float
    driver_tolerance: float
    keep_versions: int
    keep_gb: float
    driving_node_required: bool
    load_timeout_s: float

    @property
    def gate(self) -> Path:
        """The rules."""
        return Path(self.gate_file).expanduser() if self.gate_file else packaged_rules()

    def plan(self, promote: bool, time_limit_s: float) -> JobOptions:
        """Return how a job is run."""
        cores = cores_of(self.cores)
        courtesy = Courtesy(idle=self.idle_scheduling, cores=cores, threads=self.threads)
        retention = Retention(self.keep_versions, int(self.keep_gb * GIGABYTE))
        return JobOptions(courtesy=courtesy, retention=retention, promote=promote, time_limit_s=time_limit_s)

    def pacer(self) -> Pacer:
        """Return what decides about pauses."""
        return Pacer(budget_ms=self.driver_budget_ms, tolerance=self.driver_tolerance)

    def request(
        self, bags: Sequence[str], sparsity: float, method: str, allocation: str, budgets: tuple[list[str], list[float]],
        seed: int, model: Path,
    ) -> JobRequest:  # fmt: skip
        """Turn a goal into a request; raises OwledError for a path outside the roots or a value that cannot work."""
        roots = [Path(root) for root in self.bag_roots.split(os.pathsep) if root]
        request = JobRequest(
            bags=tuple(inside(bag, roots, "bag") for bag in bags),
            model=model,
            work=Path(),
            gate=self.gate,
            sparsity=sparsity,
            score=method or self.method,
            allocation=allocation or self.allocation,
            budgets=budgets_of(*budgets),
            recovery_steps=self.recovery_steps,
            seed=seed,
            calibration_frames=self.calibration_frames,
            gate_frames=self.gate_frames,
            gate_share=self.gate_share,
            cut_single_drive=self.cut_single_drive,
            image_topic=self.image_topic,
            ego_topic=self.ego_topic,
            ego_from=self.ego_from,
            pack=self.pack,
            device=self.device,
            threads=self.threads,
        )
        request.check()
        return request


LAUNCH_ARGUMENTS = ("deployment", "model_path", "autostart")
ENTRIES = (
    Entry("autostart", "bool", "Configure and activate at start.", read_only=True),
    Entry("exit_on_failure", "bool", "End the process with code 1 when autostart fails.", read_only=True),
    *launch_entries(LAUNCH_ARGUMENTS),
    Entry("deployment", "str", "Directory of the deployment (`owled deploy`), the one that the driving node drives from; empty: store with model_path as its base.", read_only=True),
    Entry("model_path", "str", "Dense model that is pruned, where deployment is empty; empty: the bundled model.", read_only=True),
    Entry("store", "str", "Directory of the deployment where the parameter deployment is empty; made when it is not there.", read_only=True),
    Entry("bag_roots", "str", "Directories that goals may name bags below, separated by colons; empty: none.", read_only=True),
    Entry("gate_file", "str", "Rules of the gate; empty: config/gate.yaml.", read_only=True),
    Entry("method", "str", "Pruning score of goals that name none.", choices=SCORES, read_only=True),
    Entry("allocation", "str", "Sparsity per block of goals that name none.", choices=ALLOCATIONS, read_only=True),
    Entry("recovery_steps", "int", "Steps of masked distillation after pruning; 0: none.", 0, 100000, read_only=True),
    Entry("calibration_frames", "int", "Images that the model is pruned with.", 2, 100000, read_only=True),
    Entry("gate_frames", "int", "Held-out images that judge the candidate.", 2, 100000, read_only=True),
    Entry("gate_share", "float", "Share of the images whose drives are held out.", 0.05, 0.95, read_only=True),
    Entry("cut_single_drive", "bool", "Cut a lone drive in two, with a guard between, instead of refusing it.", read_only=True),
    Entry("image_topic", "str", "Camera in the bags; empty: the only one.", read_only=True),
    Entry("ego_topic", "str", "Ego motion in the bags; empty: chosen by type.", read_only=True),
    Entry("ego_from", "str", "twist, pose, gnss, can or can:FIELD:UNIT; empty: by the topic's type.", read_only=True),
    Entry("pack", "bool", "Also write the weights that the sparse runtime drives on.", read_only=True),
    Entry("device", "str", "Torch device of the job: auto (CUDA where there is one), cpu, cuda, cuda:1.", read_only=True),
    Entry("threads", "int", "CPU threads of the job.", 1, 256, read_only=True),
    Entry("cores", "str", "Cores that the job may use, for example 2,3; empty: all.", read_only=True, bare=True),
    Entry("idle_scheduling", "bool", "Run the job only where nobody else wants the processor or the disk.", read_only=True),
    Entry("pausing", "bool", "Stop the job while the driving node's latency is above its budget.", read_only=True),
    Entry("driver_budget_ms", "float", "Latency that driving may reach [ms]; 0: learned while no job runs.", 0.0, 60000.0, read_only=True),
    Entry("driver_tolerance", "float", "A learned budget is this many times the p99 without a job.", 1.0, 10.0, read_only=True),
    Entry("keep_versions", "int", "Versions that the store keeps.", 2, 10000, read_only=True),
    Entry("keep_gb", "float", "Bytes that the store keeps [GiB].", 0.001, 1e6, read_only=True),
    Entry("driving_node_required", "bool", "Promote only when the driving node has loaded the version.", read_only=True),
    Entry("load_timeout_s", "float", "How long the driving node may take to load [s].", 0.1, 3600.0, read_only=True),
)  # fmt: skip


def read_recalibration_settings(node: Node) -> RecalibrationSettings:
    """Read what recalibration_node needs; raises OwledError for a value that may not be used."""
    return RecalibrationSettings(**with_launch_arguments(read_values(node, ENTRIES), ENTRIES, LAUNCH_ARGUMENTS))


def cores_of(text: str) -> tuple[int, ...]:
    """Read a list of cores such as "2,3"; raises OwledError for cores that this machine lacks."""
    try:
        cores = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise OwledError(
            f"parameter cores is {text!r}; expected numbers separated by commas, for example 2,3"
        ) from error
    allowed = os.sched_getaffinity(0)
    if not set(cores) <= allowed:
        raise OwledError(f"parameter cores is {text!r}; this process may use {sorted(allowed)}")
    return cores
