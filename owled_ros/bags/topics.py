"""Which topics of a bag are the cameras, the ego motion and the truth. Needs bags.storage."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rosbags.interfaces import Connection

from owled_ros.bags import message_types as types
from owled_ros.bags.camera_topics import choose_cameras
from owled_ros.bags.conversions import ACCELERATION_CONVERTERS, STEERING_TYPES
from owled_ros.bags.ego_topics import GNSS, TWIST, EgoChoice, choose_ego, pose_beside
from owled_ros.bags.foreign import what_encoding_is
from owled_ros.bags.peek import first_messages
from owled_ros.bags.perception import LIGHT_TYPES, OBJECT_TYPES
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.speed_fields import SpeedField
from owled_ros.bags.storage import Bag, TopicSummary, list_topics
from owled_ros.bags.topic_names import listed
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.perceived_tables import LIGHTS, OBJECTS, STOP_LINES, is_table_of
from owled_ros.errors import OwledError

EXPERT_NAMESPACE = "/expert/"
TRUTH_NAMESPACE = "/truth/"
PREDICTED = r"debug|output|predicted|candidate"  # in the name of a path that is somebody's answer


@dataclass(frozen=True)
class TopicChoice:
    """The topics that are read; empty where the bag has none."""

    image: str  # of the first camera
    ego: str
    ego_type: str
    ego_kind: str = TWIST
    speed: SpeedField | None = None  # of ego_kind "can"
    pose: str = ""  # of another topic than the ego motion's, which the twist is checked with
    gyro: str = ""  # measured yaw rate, where the ego motion itself has none
    steering: str = ""  # measured tire angle
    expert: str = ""
    scene: str = ""
    perception: tuple[str, ...] = ()  # objects, traffic lights and the pose that goes with them, where scene is empty
    cameras: tuple[str, ...] = ()  # in the order of the profile's cameras, the first is `image`
    acceleration: str = ""
    command: str = ""  # of the navigation
    objects: str = ""  # of another perception, for models that ask for them
    lights: str = ""
    stop_lines: str = ""  # of the groups of lights
    path: str = ""  # the route as points
    types: frozenset[tuple[str, str]] = frozenset()  # (topic, message type) of everything that is read

    def reads(self, connection: Connection) -> bool:
        """Tell whether messages of a connection are read; another type on the same topic is not."""
        return (connection.topic, connection.msgtype) in self.types


def choose_topics(bag: Bag, options: ReadOptions | None = None) -> TopicChoice:
    """Choose by type and name; raises OwledError when something is missing or more than one topic would do."""
    options = options or ReadOptions()
    topics = list_topics(bag)
    if not topics:
        detail = f" ({'; '.join(bag.notes)})" if bag.notes else ""
        raise OwledError(f"bag {bag.path} holds no topics{detail}; record a camera and the ego motion")
    cameras = choose_cameras(bag, topics, options)
    ego = choose_ego(bag, topics, options.ego_topic, options.ego_from)
    others = {
        "steering": _first(topics, STEERING_TYPES),
        "expert": _first(topics, (types.PREDICTED_ACTION,), EXPERT_NAMESPACE),
        "scene": _first(topics, (types.SCENE_DESCRIPTION,), TRUTH_NAMESPACE),
        "acceleration": _first(topics, ACCELERATION_CONVERTERS),
        "command": _first(topics, (types.NAVIGATION_COMMAND,)),
        "pose": pose_beside(ego, topics, options.ego_from),
        "gyro": _first(topics, (types.IMU,)) if _wants_gyro(ego) else None,
        **_of_perception(bag, topics, options.needs),
    }
    perception = () if others["scene"] else _perception(topics, ego.topic)
    read = [*cameras, ego.topic, *perception, *filter(None, others.values())]
    if ego.note:
        bag.note(ego.note + _note_of_yaw_rate(ego, others["gyro"]))
    return TopicChoice(
        image=cameras[0].name,
        ego=ego.topic.name,
        ego_type=ego.topic.msgtype,
        ego_kind=ego.kind,
        speed=ego.speed,
        perception=tuple(topic.name for topic in perception),
        cameras=tuple(camera.name for camera in cameras),
        types=frozenset((topic.name, topic.msgtype) for topic in read),
        **{key: topic.name if topic else "" for key, topic in others.items()},
    )


def _wants_gyro(ego: EgoChoice) -> bool:
    return ego.kind == GNSS or (ego.speed is not None and not ego.speed.yaw_rate)


def _note_of_yaw_rate(ego: EgoChoice, gyro: TopicSummary | None) -> str:
    if ego.speed is not None and ego.speed.yaw_rate:
        return f", the yaw rate {ego.speed.yaw_rate}"
    if not _wants_gyro(ego):
        return ""
    if gyro is not None:
        return f", the yaw rate of {gyro.name}"
    return ", the yaw rate of the course" if ego.kind == GNSS else "; nothing tells the yaw rate, which is taken as 0"


def _of_perception(bag: Bag, topics: Sequence[TopicSummary], needs: InputNeeds) -> dict[str, TopicSummary | None]:
    """Find objects, lights, stop lines and route, as far as they are asked for: by type, and tables by their columns."""
    found = {
        "objects": _first_objects(topics) if needs.objects else None,
        "lights": _first(topics, LIGHT_TYPES) if needs.lights else None,
        "path": _first_path(bag, topics) if needs.route else None,
        "stop_lines": None,
    }
    wanted = {
        "objects": OBJECTS if needs.objects and not found["objects"] else None,
        "lights": LIGHTS if needs.lights and not found["lights"] else None,
        "stop_lines": STOP_LINES if needs.route and found["lights"] else None,
    }
    clouds = [topic for topic in topics if topic.msgtype == types.POINT_CLOUD and topic.count]
    if any(wanted.values()) and clouds:
        first = first_messages(bag, clouds)
        for part, columns in wanted.items():
            if columns:
                fitting = (topic for topic in clouds if topic.name in first and is_table_of(first[topic.name], columns))
                found[part] = next(fitting, None)
    return found


def _first_path(bag: Bag, topics: Sequence[TopicSummary]) -> TopicSummary | None:
    """Find the route; a path that this node or another driver made of its own answer is none."""
    paths = [topic for topic in topics if topic.msgtype in types.PATHS and not re.search(PREDICTED, topic.name)]
    found = next((found for kind in types.PATHS if (found := _first(paths, (kind,)))), None)
    if found is not None and len(paths) > 1:
        bag.note(f"the route is taken from {found.name}; the bag holds {listed(paths)}")
    return found


def _first_objects(topics: Sequence[TopicSummary]) -> TopicSummary | None:
    return next((found for kind in OBJECT_TYPES if (found := _first(topics, (kind,)))), None)


def _perception(topics: Sequence[TopicSummary], ego: TopicSummary) -> tuple[TopicSummary, ...]:
    objects = _first_objects(topics)
    if objects is None:
        return ()
    pose = ego if ego.msgtype == types.ODOMETRY else _first(topics, (types.ODOMETRY,))
    return tuple(filter(None, (objects, _first(topics, LIGHT_TYPES), pose)))


def _first(topics: Sequence[TopicSummary], kinds: Collection[str], namespace: str = "") -> TopicSummary | None:
    fitting = (topic for topic in topics if topic.msgtype in kinds and topic.name.startswith(namespace))
    return next((topic for topic in fitting if not what_encoding_is(topic.encoding)), None)
