"""Every topic of autoware_node in one table. Needs nothing."""

from __future__ import annotations

from owled_ros.nodes.topics import DIAGNOSTICS, Topic

TRAJECTORY = Topic(
    "~/input/trajectory",
    "owled_ros/PredictedTrajectory",
    "in",
    "reliable, depth 10",
    "`~/output/trajectory` of driving_node",
)
WITHHELD = Topic(
    "~/input/withheld",
    "owled_ros/PredictedTrajectory",
    "in",
    "reliable, depth 10",
    "`~/output/withheld` of driving_node",
)
SCENE = Topic(
    "~/input/scene",
    "owled_ros/SceneDescription",
    "in",
    "reliable, depth 1",
    "`~/output/scene` of driving_node: what planning factors name as their reason",
)
MODEL = Topic(
    "~/input/model",
    "owled_ros/DrivingModel",
    "in",
    "reliable, depth 1, transient local",
    "`~/output/model` of driving_node: the plan of a model that no longer drives ends",
)
ODOMETRY = Topic(
    "~/input/odometry",
    "nav_msgs/Odometry",
    "in",
    "best effort, depth 50",
    "pose and twist: /localization/kinematic_state",
)
CANDIDATES = Topic(
    "~/output/trajectories",
    "autoware_internal_planning_msgs/CandidateTrajectories",
    "out",
    "reliable, depth 1",
    "one candidate, for /planning/generator/<name>/candidate_trajectories",
)
PLANNING_TRAJECTORY = Topic(
    "~/output/planning_trajectory",
    "autoware_planning_msgs/Trajectory",
    "out",
    "reliable, depth 1",
    "the same points, for a stack without generators and selector",
)
TURN_INDICATORS = Topic(
    "~/output/turn_indicators",
    "autoware_vehicle_msgs/TurnIndicatorsCommand",
    "out",
    "reliable, depth 1",
    "where it turns",
)
PLANNING_FACTORS = Topic(
    "~/output/planning_factors",
    "autoware_internal_planning_msgs/PlanningFactorArray",
    "out",
    "reliable, depth 1",
    "where and why it stops or slows down, for /planning/planning_factors/<module>; empty where it does neither",
)
CONTROL = Topic(
    "~/output/control",
    "autoware_control_msgs/Control",
    "out",
    "reliable, depth 1",
    "what the plan does now; only with `publish.control: true`, and never remapped by us",
)
PROCESSING_TIME = Topic(
    "~/debug/processing_time_ms",
    "autoware_internal_debug_msgs/Float64Stamped",
    "out",
    "reliable, depth 1",
    "what this node needs for a candidate [ms]",
)
MODEL_LATENCY = Topic(
    "~/debug/model_latency_ms",
    "autoware_internal_debug_msgs/Float64Stamped",
    "out",
    "reliable, depth 1",
    "arrival of the image in driving_node to its trajectory [ms]",
)
AUTOWARE_TOPICS = (
    TRAJECTORY,
    WITHHELD,
    SCENE,
    MODEL,
    ODOMETRY,
    CANDIDATES,
    PLANNING_TRAJECTORY,
    TURN_INDICATORS,
    PLANNING_FACTORS,
    CONTROL,
    PROCESSING_TIME,
    MODEL_LATENCY,
    DIAGNOSTICS,
)
