"""The parameters of recalibration_node: its own, and those of recalibration.parameters; values come from config/recalibration_node.param.yaml.

Needs rclpy (through nodes.parameters).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rclpy.node import Node

from owled_ros.nodes.parameters import Entry, entries_of, launch_entries, read_values, with_launch_arguments
from owled_ros.recalibration.courtesy import Pacer
from owled_ros.recalibration.parameters import JobParameters, read_goal
from owled_ros.recalibration.paths import inside
from owled_ros.recalibration.request import JobRequest
from owled_ros.settings import settings_of


@dataclass(frozen=True)
class RecalibrationSettings:
    """The values at configure; see ENTRIES for what each means."""

    autostart: bool
    exit_on_failure: bool
    deployment: str
    model_path: str
    store: str
    bag_roots: str
    pausing: bool
    driver_budget_ms: float
    driver_tolerance: float
    driving_node_required: bool
    job: JobParameters  # of goals that say nothing else

    def pacer(self) -> Pacer:
        """Return what decides about pauses."""
        return Pacer(budget_ms=self.driver_budget_ms, tolerance=self.driver_tolerance)

    def request(self, goal: Any, model: Path) -> JobRequest:
        """Turn a goal into a request; raises OwledError for a path outside the roots or a value that cannot work."""
        roots = [Path(root) for root in self.bag_roots.split(os.pathsep) if root]
        bags = tuple(inside(bag, roots, "bag") for bag in goal.bags)
        request = JobRequest(bags, model, replace(self.job, **read_goal(goal)))
        request.check()
        return request


LAUNCH_ARGUMENTS = ("deployment", "model_path", "autostart")
ENTRIES = (
    Entry("autostart", "bool", "Configure and activate at start.", read_only=True),
    Entry("exit_on_failure", "bool", "End the process with code 1 when autostart fails.", read_only=True),
    *launch_entries(LAUNCH_ARGUMENTS),
    Entry("deployment", "str", "Directory of the deployment (`owled deploy`), the one that the driving node drives from; empty: store, made for model_path when it is not there.", read_only=True),
    Entry("model_path", "str", "Dense model that is pruned, where deployment is empty; mini: the bundled model; empty: as the deployment in store names it.", read_only=True),
    Entry("store", "str", "Directory of the deployment where the parameter deployment is empty; made for model_path when it is not there.", read_only=True),
    Entry("bag_roots", "str", "Directories that goals may name bags below, separated by colons; empty: none.", read_only=True),
    Entry("pausing", "bool", "Stop the job while the driving node's latency is above its budget.", read_only=True),
    Entry("driver_budget_ms", "float", "Latency that driving may reach [ms]; 0: learned while no job runs.", 0.0, 60000.0, read_only=True),
    Entry("driver_tolerance", "float", "A learned budget is this many times the p99 without a job.", 1.0, 10.0, read_only=True),
    Entry("driving_node_required", "bool", "Promote only when the driving node has loaded the version.", read_only=True),
    *entries_of(JobParameters),
)  # fmt: skip


def read_recalibration_settings(node: Node) -> RecalibrationSettings:
    """Read what recalibration_node needs; raises OwledError for a value that may not be used."""
    values = with_launch_arguments(read_values(node, ENTRIES), ENTRIES, LAUNCH_ARGUMENTS)
    own = {field.name: values[field.name] for field in fields(RecalibrationSettings) if field.name != "job"}
    declared = settings_of(JobParameters).items()
    job = {name: values[item.parameter or name] for name, item in declared if item.parameter is not None}
    return RecalibrationSettings(**own, job=JobParameters(**job))
