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
VIEW = Topic(
    "~/input/<camera>/image",
    "sensor_msgs/Image",
    "in",
    "best effort, depth 1",
    "every further camera of the driving profile, by its name; `/compressed` behind it with compressed transport; depth 3 where past images are needed",
)
ODOMETRY = Topic(
    "~/input/odometry",
    "nav_msgs/Odometry",
    "in",
    "best effort, depth 50",
    "speed and yaw rate (twist), and the pose where the profile asks for the past",
)
ACCELERATION = Topic(
    "~/input/acceleration",
    "geometry_msgs/AccelWithCovarianceStamped",
    "in",
    "best effort, depth 50",
    "measured acceleration; without it the slope of the speed is taken",
)
VELOCITY_REPORT = Topic(
    "~/input/velocity_report",
    "autoware_vehicle_msgs/VelocityReport",
    "in",
    "best effort, depth 50",
    "speed and yaw rate with `ego_source: velocity_report`, and until the first odometry comes; may also come on `~/input/odometry`; where the package is installed",
)
STEERING_REPORT = Topic(
    "~/input/steering_report",
    "autoware_vehicle_msgs/SteeringReport",
    "in",
    "best effort, depth 50",
    "measured tire angle: the field `steering_tire_angle` of profiles, and where the wheels of a trajectory may start; where the package is installed",
)
OBJECTS = Topic(
    "~/input/objects",
    "autoware_perception_msgs/TrackedObjects",
    "in",
    "best effort, depth 5",
    "road users, only where the profile has `objects` or `vectors`; PredictedObjects, DetectedObjects or a table as sensor_msgs/PointCloud2 too, whichever is published",
)
LIGHTS = Topic(
    "~/input/traffic_lights",
    "autoware_perception_msgs/TrafficLightGroupArray",
    "in",
    "best effort, depth 5",
    "traffic lights, only where the profile has `lights` or `vectors`; a table as sensor_msgs/PointCloud2 too",
)
STOP_LINES = Topic(
    "~/input/stop_lines",
    "sensor_msgs/PointCloud2",
    "in",
    "reliable, depth 1, transient local",
    "where the stop line of each traffic light group crosses its lane, only where the profile has `vectors`; needed for lights without places",
)
PATH = Topic(
    "~/input/path",
    "nav_msgs/Path",
    "in",
    "best effort, depth 5",
    "the route as points, only where the profile has `vectors`; autoware_planning_msgs/Path or Trajectory too, whichever is published",
)
COMMAND = Topic(
    "~/input/command",
    "owled_ros/NavigationCommand",
    "in",
    "reliable, depth 1, transient local",
    "where the route goes next; expires after `command_timeout_s`",
)
TRAJECTORY = Topic(
    "~/output/trajectory",
    "owled_ros/PredictedTrajectory",
    "out",
    "reliable, depth 1",
    "where the model would drive; only valid ones, nothing is published otherwise",
)
WITHHELD = Topic(
    "~/output/withheld",
    "owled_ros/PredictedTrajectory",
    "out",
    "reliable, depth 10",
    "the reason for every image that was taken up and gave no valid answer; `valid: false`, no points",
)
WITHHELD_ACTION = Topic(
    "~/output/withheld_action",
    "owled_ros/PredictedAction",
    "out",
    "reliable, depth 10",
    "the same for those who hear actions; `valid: false`, the numbers are NaN",
)
ACTION = Topic(
    "~/output/action",
    "owled_ros/PredictedAction",
    "out",
    "reliable, depth 1",
    "what the vehicle should do; only valid actions, none is published otherwise",
)
SCENE = Topic(
    "~/output/scene", "owled_ros/SceneDescription", "out", "reliable, depth 1", "what can be seen, at its own rate"
)
MODEL = Topic(
    "~/output/model",
    "owled_ros/DrivingModel",
    "out",
    "reliable, latched, depth 1",
    "what drives now, since when and why; the only truth about it",
)
DEBUG_IMAGE = Topic(
    "~/debug/image", "sensor_msgs/Image", "out", "best effort, depth 1", "overlay, drawn only when subscribed"
)
DEBUG_COMPRESSED = Topic(
    "~/debug/image/compressed", "sensor_msgs/CompressedImage", "out", "best effort, depth 1", "the same as JPEG"
)
DEBUG_PATH = Topic(
    "~/debug/path", "nav_msgs/Path", "out", "reliable, depth 1", "the trajectory for viewers, made only when subscribed"
)
DEBUG_MARKERS = Topic(
    "~/debug/markers",
    "visualization_msgs/MarkerArray",
    "out",
    "reliable, depth 1",
    "the trajectory as a band with its text, made only when subscribed",
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
SWITCH_MODEL = Topic(
    "~/switch_model",
    "owled_ros/SwitchModel",
    "service",
    "",
    "the same in two steps, prepare and commit, for whoever changes the deployment",
)
ASK = Topic("~/ask", "owled_ros/AskQuestion", "service", "", "ask about the newest image; driving goes first")

DRIVING_TOPICS = (
    IMAGE,
    COMPRESSED,
    VIEW,
    ODOMETRY,
    ACCELERATION,
    VELOCITY_REPORT,
    STEERING_REPORT,
    COMMAND,
    OBJECTS,
    LIGHTS,
    STOP_LINES,
    PATH,
    TRAJECTORY,
    ACTION,
    SCENE,
    WITHHELD,
    WITHHELD_ACTION,
    MODEL,
    DEBUG_IMAGE,
    DEBUG_COMPRESSED,
    DEBUG_PATH,
    DEBUG_MARKERS,
    DEBUG_ANSWER,
    PROCESSING_TIME,
    DIAGNOSTICS,
    LOAD_MODEL,
    SWITCH_MODEL,
    ASK,
)
