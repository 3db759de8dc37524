"""Do the ROS variables of an environment allow two nodes on this machine to find each other? Needs the standard library only.

What is wrong here otherwise shows late and badly: a node that ends with a message of the middleware, or two that wait
for each other for ever.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from owled_ros.doctor.findings import Finding, Severity
from owled_ros.doctor.transport import PROFILE_VARIABLES

MAX_DOMAIN = 232  # DDS computes its ports from it; above, they do not fit into 16 bits
MIDDLEWARES = "share/ament_index/resource_index/rmw_typesupport"
SETTINGS = (
    "ROS_DOMAIN_ID", "RMW_IMPLEMENTATION", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER", "ROS_SUPER_CLIENT", "ROS_SECURITY_ENABLE", "CYCLONEDDS_URI", "ZENOH_SESSION_CONFIG_URI", *PROFILE_VARIABLES,
)  # fmt: skip


def discovery_problem(environ: Mapping[str, str]) -> str:
    """Say in one sentence what keeps nodes from starting or from finding each other, and what to do; empty when nothing does."""
    checks = (_domain_problem, _middleware_problem, _range_problem, _peers_problem, _profile_problem)
    return next((problem for check in checks if (problem := check(environ))), "")


def missing_ros(who: str) -> str:
    """Say what nodes need and do not have here; empty when they have it."""
    for module in ("rclpy", "owled_ros.nodes", "owled_ros.msg"):
        if importlib.util.find_spec(module) is None:
            return (
                f"{module} is not there: {who} needs ROS 2, the nodes and the built messages; start with ./owled, which sets all up, "
                "or source your ROS 2 and the workspace"
            )
    return ""


def settings_in_force(environ: Mapping[str, str]) -> str:
    """List the variables that decide who finds whom, as they are set."""
    return ", ".join(f"{name}={environ[name]}" for name in SETTINGS if environ.get(name)) or "none is set"


def middlewares(environ: Mapping[str, str]) -> set[str]:
    """Return the RMW implementations that are installed; empty where the environment does not tell."""
    prefixes = [Path(prefix) for prefix in environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    names = {path.name for prefix in prefixes for path in (prefix / MIDDLEWARES).glob("rmw_*")}
    return names - {"rmw_implementation"}


def check_discovery() -> Finding:
    """Can nodes start and find each other with the ROS variables that are set?"""
    problem = discovery_problem(os.environ)
    if problem:
        return Finding("discovery", Severity.FAIL, problem, f"Set here: {settings_in_force(os.environ)}.")
    shown = {
        name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES
    }  # these have a line of their own
    return Finding("discovery", Severity.OK, settings_in_force(shown))


def _domain_problem(environ: Mapping[str, str]) -> str:
    value = environ.get("ROS_DOMAIN_ID", "")
    if not value or (re.fullmatch(r"\s*\d+\s*", value) and int(value) <= MAX_DOMAIN):
        return ""
    return f"ROS_DOMAIN_ID is '{value}'; expected a whole number from 0 to {MAX_DOMAIN}: set one, or unset it for 0"


def _middleware_problem(environ: Mapping[str, str]) -> str:
    wanted, known = environ.get("RMW_IMPLEMENTATION", ""), middlewares(environ)
    if not wanted or not known or wanted in known:
        return ""
    return (
        f"RMW_IMPLEMENTATION is '{wanted}', which is not installed; here are {', '.join(sorted(known))}: name one of them, "
        "unset the variable, or install the middleware"
    )


def _range_problem(environ: Mapping[str, str]) -> str:
    if environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") != "OFF":
        return ""
    return (
        "ROS_AUTOMATIC_DISCOVERY_RANGE is OFF, so that no node finds another; expected LOCALHOST or SUBNET: set one of them, "
        "or unset the variable"
    )


def _peers_problem(environ: Mapping[str, str]) -> str:
    for peer in filter(None, environ.get("ROS_STATIC_PEERS", "").split(";")):
        try:
            socket.getaddrinfo(peer.strip(), None)
        except OSError as error:
            return f"ROS_STATIC_PEERS names '{peer}', which cannot be resolved ({error.strerror or error}): correct or unset it"
    return ""


def _profile_problem(environ: Mapping[str, str]) -> str:
    for name in PROFILE_VARIABLES:
        path = environ.get(name)
        if not path:
            continue
        try:
            ElementTree.parse(path)
        except (OSError, ElementTree.ParseError) as error:
            why = error.strerror if isinstance(error, OSError) else f"no XML: {error}"
            return f"{name} names {path}, which cannot be read ({why}): correct the path, or unset it to use ours"
    return ""
