"""Are Autoware's message packages here, which only autoware_node needs? Needs the standard library only."""

from __future__ import annotations

import importlib.util

from owled_ros.doctor.findings import Finding, Severity

PACKAGES = (
    "autoware_control_msgs",
    "autoware_internal_debug_msgs",
    "autoware_internal_planning_msgs",
    "autoware_planning_msgs",
    "autoware_vehicle_msgs",
)
REPOSITORIES = "autoware_msgs and autoware_internal_msgs of github.com/autowarefoundation"


def check_autoware() -> Finding:
    """Can autoware_node speak to an Autoware?"""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if not missing:
        return Finding("autoware", Severity.OK, "message packages are there")
    advice = f"Source an Autoware workspace, or build {REPOSITORIES} in yours; docs/autoware_node.md."
    if len(missing) == len(PACKAGES):
        return Finding("autoware", Severity.OK, "no message packages; only autoware_node needs them", advice)
    return Finding("autoware", Severity.WARN, f"missing: {', '.join(missing)}", advice)
