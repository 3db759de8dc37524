"""Which topics of a bag are the cameras, the ego motion and the truth. Needs bags.storage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rosbags.interfaces import Connection

from owled_ros.bags import message_types as types
from owled_ros.bags.camera_topics import choose_cameras
from owled_ros.bags.conversions import ACCELERATION_CONVERTERS, EGO_CONVERTERS, STEERING_TYPES
from owled_ros.bags.perception import LIGHT_TYPES, OBJECT_TYPES
from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.storage import Bag, TopicSummary, list_topics
from owled_ros.bags.topic_names import listed, named
from owled_ros.errors import OwledError

EXPERT_NAMESPACE = "/expert/"
TRUTH_NAMESPACE = "/truth/"


@dataclass(frozen=True)
class TopicChoice:
    """The topics that are read; empty where the bag has none."""

    image: str  # of the first camera
    ego: str
    ego_type: str
    steering: str = ""  # measured tire angle
    expert: str = ""
    scene: str = ""
    perception: tuple[str, ...] = ()  # objects, traffic lights and the pose that goes with them, where scene is empty
    cameras: tuple[str, ...] = ()  # in the order of the profile's cameras, the first is `image`
    acceleration: str = ""
    command: str = ""  # of the navigation
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
    ego = _the_ego(bag, topics, options.ego_topic)
    others = {
        "steering": _first(topics, STEERING_TYPES),
        "expert": _first(topics, (types.PREDICTED_ACTION,), EXPERT_NAMESPACE),
        "scene": _first(topics, (types.SCENE_DESCRIPTION,), TRUTH_NAMESPACE),
        "acceleration": _first(topics, ACCELERATION_CONVERTERS),
        "command": _first(topics, (types.NAVIGATION_COMMAND,)),
    }
    perception = () if others["scene"] else _perception(topics, ego)
    read = [*cameras, ego, *perception, *filter(None, others.values())]
    return TopicChoice(
        image=cameras[0].name,
        ego=ego.name,
        ego_type=ego.msgtype,
        perception=tuple(topic.name for topic in perception),
        cameras=tuple(camera.name for camera in cameras),
        types=frozenset((topic.name, topic.msgtype) for topic in read),
        **{key: topic.name if topic else "" for key, topic in others.items()},
    )


def _perception(topics: Sequence[TopicSummary], ego: TopicSummary) -> tuple[TopicSummary, ...]:
    objects = next((found for kind in OBJECT_TYPES if (found := _first(topics, (kind,)))), None)
    if objects is None:
        return ()
    pose = ego if ego.msgtype == types.ODOMETRY else _first(topics, (types.ODOMETRY,))
    return tuple(filter(None, (objects, _first(topics, LIGHT_TYPES), pose)))


def _the_ego(bag: Bag, topics: Sequence[TopicSummary], wanted: str) -> TopicSummary:
    if wanted:
        return named(bag, topics, wanted, EGO_CONVERTERS, "ego_topic")
    for msgtype in EGO_CONVERTERS:
        found = [topic for topic in topics if topic.msgtype == msgtype and topic.count]
        if len(found) > 1:
            raise OwledError(f"bag {bag.path} holds several ego motions; choose one with --ego-topic: {listed(found)}")
        if found:
            return found[0]
    raise OwledError(
        f"bag {bag.path} holds no ego motion; expected one of {', '.join(EGO_CONVERTERS)} in {listed(topics)}"
    )


def _first(topics: Sequence[TopicSummary], kinds: Collection[str], namespace: str = "") -> TopicSummary | None:
    return next((topic for topic in topics if topic.msgtype in kinds and topic.name.startswith(namespace)), None)
