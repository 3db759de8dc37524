"""Replay a bag through the driving node and judge it: player, node and evaluator; ends when the verdict is written.

    ros2 launch owled_ros replay_eval.launch.py bag:=drive1 result:=result
Python, because it ends on an event: the evaluator leaves when its verdict is written, and takes the others with it. The launch ends
with code 0 when the verdict is a success, and with 1 when it is none, when there is none, or when the driving node gave up: only an
exception makes a launch system end with another code than 0.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("owled_ros")
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_ARENA_MAX": "1"}


def config(name):
    """Return the path of a shipped parameter file."""
    return PathJoinSubstitution([SHARE, "config", name])


def text(name):
    """Return an argument as a parameter that stays text, whatever it looks like."""
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def generate_launch_description():
    """Describe the three processes and how they end."""
    arguments = [
        DeclareLaunchArgument("bag", description="Bag that is replayed: rosbag2 directory, .mcap or .db3"),
        DeclareLaunchArgument("result", default_value="replay_result", description="New directory for result.jsonl"),
        DeclareLaunchArgument(
            "scenario", default_value="", description="Conditions of the verdict (yaml); empty: the shipped ones"
        ),
        DeclareLaunchArgument(
            "model_path",
            default_value="",
            description="Model or artifact that drives; mini: the bundled one; empty: as in params_file",
        ),
        DeclareLaunchArgument(
            "pace",
            default_value="realtime",
            description="realtime: as recorded, late frames are missed; lockstep: every frame waits for its answer",
        ),
        DeclareLaunchArgument(
            "messages",
            default_value="decoded",
            description="decoded: images and ego states as they are read; recorded: the messages as they were",
        ),
        DeclareLaunchArgument(
            "image_transport",
            default_value="",
            description="compressed: with recorded CompressedImage messages; empty: as params_file says, else raw",
        ),
        DeclareLaunchArgument(
            "image_topic",
            default_value="",
            description="Camera of the bag; empty: the only one; for several NAME=TOPIC,NAME=TOPIC",
        ),
        DeclareLaunchArgument(
            "ego_topic", default_value="", description="Ego motion of the bag; empty: chosen by type"
        ),
        DeclareLaunchArgument(
            "ego_from",
            default_value="",
            description="twist, pose, gnss, can or can:FIELD:UNIT; empty: by the topic's type",
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
        DeclareLaunchArgument(
            "params_file", default_value=config("driving_node.param.yaml"), description="Parameters of the driving node"
        ),
        DeclareLaunchArgument(
            "transport_profile",
            default_value=PathJoinSubstitution([SHARE, "config", "fastdds.xml"]),
            description="Fast DDS profile with shared memory large enough for images",
        ),
    ]
    profiles = {
        f"{kind}_DEFAULT_PROFILES_FILE": LaunchConfiguration("transport_profile") for kind in ("FASTRTPS", "FASTDDS")
    }
    environment = {
        name: EnvironmentVariable(name, default_value=value) for name, value in {**MALLOC, **profiles}.items()
    }  # in the nodes only, and what was exported wins
    inputs = [
        ("~/input/image", "/camera/image"),
        ("~/input/image/compressed", "/camera/image/compressed"),
        ("~/input/odometry", "/ego/odometry"),
    ]
    topics = {name: text(name) for name in ("image_topic", "ego_topic", "ego_from")}
    level = ["--log-level", LaunchConfiguration("log_level")]
    driver = Node(
        package="owled_ros",
        executable="driving_node",
        name="driving_node",
        namespace="/",  # a full name: below a wildcard rcl passes over names with dots where a file is read twice
        output="screen",
        additional_env=environment,
        ros_arguments=level,
        parameters=[
            {"use_sim_time": True},
            LaunchConfiguration("params_file"),
            {"launch.params_file": text("params_file"), "launch.model_path": text("model_path")},
            {"launch.image_transport": text("image_transport")},
        ],
        remappings=inputs,
    )
    evaluator = Node(
        package="owled_ros",
        executable="evaluation_node",
        name="evaluation_node",
        output="screen",
        additional_env=environment,
        ros_arguments=level,
        parameters=[
            config("evaluation_node.param.yaml"),
            {
                "use_sim_time": True,
                "bag": text("bag"),
                "result": text("result"),
                "scenario": text("scenario"),
                **topics,
            },
        ],
    )
    player = Node(
        package="owled_ros",
        executable="source_node",
        name="source_node",
        output="log",
        additional_env=environment,
        ros_arguments=level,
        parameters=[
            config("source_node.param.yaml"),
            {"source": "bag", "path": text("bag"), "pace": text("pace"), "messages": text("messages"), **topics},
            {"wait_for": "/evaluation_node/debug/result"},
        ],
    )
    end = RegisterEventHandler(OnProcessExit(target_action=evaluator, on_exit=judged))
    gone = RegisterEventHandler(OnProcessExit(target_action=driver, on_exit=gave_up))
    return LaunchDescription([*arguments, end, gone, driver, evaluator, player])


def judged(event, context):
    """End everything with the evaluator, whose code is the verdict."""
    if context.is_shutdown:  # interrupted
        return None
    if event.returncode != 0:
        raise RuntimeError(
            "the verdict is no success, or there is none: see the evaluator's last words and result.jsonl"
        )
    return EmitEvent(event=Shutdown(reason="the evaluator has ended; its verdict is the last line of result.jsonl"))


def gave_up(event, context):
    """End everything when nobody drives any more."""
    if not context.is_shutdown:
        raise RuntimeError(f"the driving node ended with code {event.returncode} before there was a verdict")
