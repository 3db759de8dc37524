"""Let `ros2 launch` end with code 1 when a node of this package gave up; included by the launch files beside it.

A launch system ends with 0 whatever became of its processes; only an exception while it runs makes it 1. So a failure is remembered
and raised when everything ends, and at once where `required` says that nothing shall go on without the node. An interrupt, or a
node that ends with code 0, is no failure.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnShutdown
from launch.events import Shutdown


def generate_launch_description():
    """Describe the arguments and what is watched."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("executable", description="Executable of this package that is watched"),
            DeclareLaunchArgument(
                "required", default_value="false", description="true: everything ends when it gives up"
            ),
            OpaqueFunction(function=watch),
        ]
    )


def watch(context):
    """Register the handlers with what the arguments say here."""
    executable = context.launch_configurations["executable"]
    required = context.launch_configurations["required"].lower() == "true"
    failures = []

    def ended(event, context):
        watched = any(
            Path(word).parts[-2:] == ("owled_ros", executable) for word in event.cmd
        )  # a prefix may stand before it
        if not watched or event.returncode == 0 or context.is_shutdown:
            return None
        failures.append(f"{executable} gave up with code {event.returncode}")
        return EmitEvent(event=Shutdown(reason=failures[-1])) if required else None

    def end(event, context):
        if failures:
            raise RuntimeError(failures[-1])

    return [
        RegisterEventHandler(OnProcessExit(on_exit=ended)),
        RegisterEventHandler(OnShutdown(on_shutdown=end)),
    ]
