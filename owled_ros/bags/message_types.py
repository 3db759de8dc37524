"""The message types that bags are read and written with, without ROS. Needs rosbags and the package's msg/ files.

Types come from the bag itself where it carries their definitions; the standard ones, those of this package, and those of
Autoware and of videos (written down here as far as they are read) fill in where it does not.
"""

from __future__ import annotations

from functools import cache, lru_cache

from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from owled_ros.errors import OwledError
from owled_ros.shipped import shipped

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
ODOMETRY = "nav_msgs/msg/Odometry"
TWIST = "geometry_msgs/msg/TwistStamped"
TWIST_WITH_COVARIANCE = "geometry_msgs/msg/TwistWithCovarianceStamped"
VELOCITY_REPORT = "autoware_vehicle_msgs/msg/VelocityReport"
STEERING_REPORT = "autoware_vehicle_msgs/msg/SteeringReport"
OLD_VELOCITY_REPORT = "autoware_auto_vehicle_msgs/msg/VelocityReport"
OLD_STEERING_REPORT = "autoware_auto_vehicle_msgs/msg/SteeringReport"
PREDICTED_ACTION = "owled_ros/msg/PredictedAction"
SCENE_DESCRIPTION = "owled_ros/msg/SceneDescription"
NAVIGATION_COMMAND = "owled_ros/msg/NavigationCommand"
UNSTAMPED_TWIST = "geometry_msgs/msg/Twist"
POSE = "geometry_msgs/msg/PoseStamped"
POSE_WITH_COVARIANCE = "geometry_msgs/msg/PoseWithCovarianceStamped"
NAV_SAT_FIX = "sensor_msgs/msg/NavSatFix"
IMU = "sensor_msgs/msg/Imu"
COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
FOXGLOVE_IMAGE = "foxglove_msgs/msg/CompressedImage"
FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
POINT_CLOUD, POINT_FIELD = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/PointField"
PATH = "nav_msgs/msg/Path"
PATHS = (PATH, "autoware_planning_msgs/msg/Path", "autoware_planning_msgs/msg/Trajectory")
ACCELERATION = "geometry_msgs/msg/AccelStamped"
ACCELERATION_WITH_COVARIANCE = "geometry_msgs/msg/AccelWithCovarianceStamped"

OWN_MESSAGES = ("SceneObject", "SceneDescription", "PredictedAction", "NavigationCommand")  # those that bags hold
IDL_SEPARATOR = "=" * 80 + "\n"
VELOCITY_REPORT_TEXT = """
std_msgs/Header header
float32 longitudinal_velocity
float32 lateral_velocity
float32 heading_rate
"""
STEERING_REPORT_TEXT = """
builtin_interfaces/Time stamp
float32 steering_tire_angle
"""
COMPRESSED_VIDEO_TEXT = """
builtin_interfaces/Time timestamp
string frame_id
uint8[] data
string format
"""
FFMPEG_PACKET_TEXT = """
std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
"""
FOREIGN_TEXTS = {
    COMPRESSED_VIDEO: COMPRESSED_VIDEO_TEXT,
    FOXGLOVE_IMAGE: COMPRESSED_VIDEO_TEXT,
    FFMPEG_PACKET: FFMPEG_PACKET_TEXT,
    VELOCITY_REPORT: VELOCITY_REPORT_TEXT,
    OLD_VELOCITY_REPORT: VELOCITY_REPORT_TEXT,
    STEERING_REPORT: STEERING_REPORT_TEXT,
    OLD_STEERING_REPORT: STEERING_REPORT_TEXT,
}


def own_typestore() -> Typestore:
    """Return every standard type, those of this package, the Autoware reports and videos; a fresh store each time."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name in OWN_MESSAGES:
        typename = f"owled_ros/msg/{name}"
        store.register(get_types_from_msg(_interface_text(name), typename))
    for typename, text in FOREIGN_TEXTS.items():
        store.register(get_types_from_msg(text, typename))
    return store


def typestore_for(connection: Connection) -> Typestore:
    """Return a store that reads the messages of one connection, as the bag defines them; do not change it."""
    definition = connection.msgdef
    if definition.format == MessageDefinitionFormat.NONE or not definition.data.strip():
        return _fallback_store(connection.msgtype)
    try:
        return _defined_store(connection.msgtype, definition)
    except (TypesysError, ValueError, KeyError, SyntaxError) as error:
        raise OwledError(
            f"the bag defines {connection.msgtype} ({connection.topic}) in a way that cannot be read ({error}); "
            "record the topic again with a current rosbag2"
        ) from error


@lru_cache(maxsize=64)
def _defined_store(msgtype: str, definition: MessageDefinition) -> Typestore:
    store = get_typestore(Stores.EMPTY)
    if definition.format == MessageDefinitionFormat.MSG:
        store.register(get_types_from_msg(definition.data, msgtype))
    else:
        for part in _idl_parts(definition.data):
            store.register(get_types_from_idl(part))
    return store


@cache
def _shared_store() -> Typestore:
    return own_typestore()


def _fallback_store(typename: str) -> Typestore:
    store = _shared_store()
    if typename not in store.fielddefs:
        raise OwledError(
            f"the bag does not define {typename} and it is not a standard type; "
            "record the bag with definitions (rosbag2 Iron or newer, or mcap)"
        )
    return store


def _idl_parts(text: str) -> list[str]:
    if not text.startswith(IDL_SEPARATOR):
        return [text]
    return [part.split("\n", 1)[1] for part in text.split(IDL_SEPARATOR)[1:]]


@cache
def _interface_text(name: str) -> str:
    path = shipped(f"msg/{name}.msg")
    if not path.is_file():
        raise OwledError(
            f"{name}.msg of owled_ros was not found; expected it in msg/ of the sources or in share/owled_ros/msg"
        )
    return path.read_text()
