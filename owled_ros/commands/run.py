"""`owled run`: a node of this package without the ros2 command, with the transport settings that images need. Needs typer."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import typer

NODES = ("driving_node", "recalibration_node", "evaluation_node", "source_node", "autoware_node", "route_node")
ROS_ARGUMENTS = "--ros-args"
OPTIONS = {"params_file": ("--params-file", "{}"), "log_level": ("--log-level", "{}"), "namespace": ("-r", "__ns:=/{}")}
ASSIGNMENT = re.compile(r"([~/\w.]+):=(.*)", re.S)


def register(app: typer.Typer) -> None:
    """Add the command."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command("run", context_settings=settings)(run)


def run(
    context: typer.Context,
    node: str = typer.Argument(..., help=f"{', '.join(NODES)}."),
    words: list[str] = typer.Argument(None, help="name:=value, or --ros-args and what ROS 2 knows after it."),
) -> None:
    """Start a node of this package, without ros2 run or a launch file.

    NAME:=VALUE sets a parameter; a name with a slash is remapped (input/image stands for ~/input/image); params_file,
    log_level and namespace mean what they mean to the launch files. Ctrl-C ends the node.

    Examples:  owled run driving_node model_path:=artifacts/mini-50 input/image:=/camera/front
    |   owled run recalibration_node --ros-args -p use_sim_time:=true
    """
    from owled_ros.demo.processes import transport_environment
    from owled_ros.doctor.discovery import discovery_problem, missing_ros
    from owled_ros.errors import OwledError

    if node not in NODES:
        raise OwledError(f"there is no node '{node}'; expected one of {', '.join(NODES)}")
    arguments = node_arguments(words or [])
    environment = transport_environment()
    problem = missing_ros("owled run") or discovery_problem(environment)
    if problem:
        raise OwledError(problem)
    command = [sys.executable, "-m", "owled_ros.nodes", node, *arguments]
    sys.stdout.flush()
    os.execvpe(command[0], command, environment)


def node_arguments(words: Sequence[str]) -> list[str]:
    """Turn name:=value words into ROS arguments; raises OwledError for any other word before --ros-args."""
    from owled_ros.errors import OwledError

    end = list(words).index(ROS_ARGUMENTS) if ROS_ARGUMENTS in words else len(words)
    arguments: list[str] = []
    for word in words[:end]:
        assignment = ASSIGNMENT.fullmatch(word)
        if assignment is None:
            raise OwledError(
                f"'{word}' is not understood; expected name:=value, or {ROS_ARGUMENTS} before ROS arguments"
            )
        name, value = assignment.groups()
        if name in OPTIONS:
            option, form = OPTIONS[name]
            arguments += [option, form.format(value.lstrip("/") if name == "namespace" else value)]
        elif "/" in name:
            arguments += ["-r", f"{name if name.startswith(('~', '/')) else f'~/{name}'}:={value}"]
        else:
            arguments += ["-p", word if value else f"{name}:=''"]  # ROS cannot read an empty value
    return [ROS_ARGUMENTS, *arguments, *words[end + 1 :]] if arguments or words[end:] else []
