"""Every topic and service of driving_node in one table: name, type, direction, default quality of service. Needs nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One row of the table."""

    name: str
    type: str
    direction: str  # "in", "out" or "service"
    quality: str  # default quality of service
    meaning: str


IMAGE = Topic("~/input/image", "sensor_msgs/Image", "in", "best effort, depth 1", "camera, with `image_transport: raw`")
COMPRESSED = Topic(
    "~/input/image/compressed",
    "sensor_msgs/CompressedImage",
    "in",
    "best effort, depth 1",
    "camera, with `image_transport: compressed`",
)
ODOMETRY = Topic("~/input/odometry", "nav_msgs/Odometry", "in", "best effort, depth 50", "speed and yaw rate (twist)")
ACTION = Topic(
    "~/output/action",
    "owled_ros/PredictedAction",
    "out",
    "reliable, depth 1",
    "what the vehicle should do; only valid actions, none is published otherwise",
)
SCENE = Topic(
    "~/output/scene", "owled_ros/SceneDescription", "out", "reliable, depth 1", "what is to be seen, at its own rate"
)
DEBUG_IMAGE = Topic(
    "~/debug/image", "sensor_msgs/Image", "out", "best effort, depth 1", "overlay, drawn only when subscribed"
)
DEBUG_COMPRESSED = Topic(
    "~/debug/image/compressed", "sensor_msgs/CompressedImage", "out", "best effort, depth 1", "the same as JPEG"
)
DEBUG_ANSWER = Topic(
    "~/debug/answer",
    "std_msgs/String",
    "out",
    "reliable, depth 10",
    "JSON for every image that was taken up: raw text, confidence, and the reason where no action was published",
)
PROCESSING_TIME = Topic(
    "~/debug/processing_time_ms",
    "owled_ros/Float64Stamped",
    "out",
    "reliable, depth 1",
    "arrival of the image to its answer [ms], for every image that the model answered, also where the action was withheld",
)
DIAGNOSTICS = Topic(
    "/diagnostics",
    "diagnostic_msgs/DiagnosticArray",
    "out",
    "reliable, depth 10",
    "1 Hz, and at once when a level changes",
)
LOAD_MODEL = Topic(
    "~/load_model",
    "owled_ros/LoadModel",
    "service",
    "",
    "load a model beside the running one, switch between two frames",
)
ASK = Topic("~/ask", "owled_ros/AskQuestion", "service", "", "ask about the newest image; driving goes first")

DRIVING_TOPICS = (
    IMAGE,
    COMPRESSED,
    ODOMETRY,
    ACTION,
    SCENE,
    DEBUG_IMAGE,
    DEBUG_COMPRESSED,
    DEBUG_ANSWER,
    PROCESSING_TIME,
    DIAGNOSTICS,
    LOAD_MODEL,
    ASK,
)
