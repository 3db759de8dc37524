"""Which topics of a bag are the camera, the ego motion and the truth. Needs bags.storage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from owled_ros.bags import message_types as types
from owled_ros.bags.conversions import EGO_CONVERTERS, IMAGE_TYPES, STEERING_TYPES
from owled_ros.bags.perception import LIGHT_TYPES, OBJECT_TYPES
from owled_ros.bags.storage import Bag, TopicSummary, list_topics
from owled_ros.errors import OwledError

COMPRESSED_SUFFIX = "/compressed"
EXPERT_NAMESPACE = "/expert/"
TRUTH_NAMESPACE = "/truth/"
DEBUG_PART = "/debug/"  # images that a node drew are no camera


@dataclass(frozen=True)
class TopicChoice:
    """The topics that are read; empty where the bag has none."""

    image: str
    ego: str
    ego_type: str
    steering: str = ""  # measured tire angle
    expert: str = ""
    scene: str = ""
    perception: tuple[str, ...] = ()  # objects, traffic lights and the pose that goes with them, where scene is empty

    @property
    def names(self) -> frozenset[str]:
        """Every topic that is read."""
        return frozenset(filter(None, (self.image, self.ego, self.steering, self.expert, self.scene, *self.perception)))


def choose_topics(bag: Bag, image_topic: str = "", ego_topic: str = "") -> TopicChoice:
    """Choose by type and name; raises OwledError when something is missing or more than one topic would do."""
    topics = list_topics(bag)
    if not topics:
        detail = f" ({'; '.join(bag.notes)})" if bag.notes else ""
        raise OwledError(f"bag {bag.path} holds no topics{detail}; record a camera and the ego motion")
    image = _the_camera(bag, topics, image_topic)
    ego = _the_ego(bag, topics, ego_topic)
    scene = _first(topics, (types.SCENE_DESCRIPTION,), TRUTH_NAMESPACE)
    return TopicChoice(
        image=image.name,
        ego=ego.name,
        ego_type=ego.msgtype,
        steering=_first(topics, STEERING_TYPES),
        expert=_first(topics, (types.PREDICTED_ACTION,), EXPERT_NAMESPACE),
        scene=scene,
        perception=() if scene else _perception(topics, ego),
    )


def _perception(topics: Sequence[TopicSummary], ego: TopicSummary) -> tuple[str, ...]:
    objects = next((name for kind in OBJECT_TYPES if (name := _first(topics, (kind,)))), "")
    if not objects:
        return ()
    pose = ego.name if ego.msgtype == types.ODOMETRY else _first(topics, (types.ODOMETRY,))
    return tuple(filter(None, (objects, _first(topics, LIGHT_TYPES), pose)))


def _the_camera(bag: Bag, topics: Sequence[TopicSummary], wanted: str) -> TopicSummary:
    if wanted:
        return _named(bag, topics, wanted, IMAGE_TYPES, "image_topic")
    cameras = [
        topic for topic in topics if topic.msgtype in IMAGE_TYPES and topic.count and DEBUG_PART not in topic.name
    ]
    names = {topic.name for topic in cameras}
    cameras = [topic for topic in cameras if topic.name.removesuffix(COMPRESSED_SUFFIX) == topic.name
               or topic.name.removesuffix(COMPRESSED_SUFFIX) not in names]  # fmt: skip
    if not cameras:
        raise OwledError(
            f"bag {bag.path} holds no camera image; expected {' or '.join(IMAGE_TYPES)} in {_listed(topics)}"
        )
    if len(cameras) > 1:
        raise OwledError(f"bag {bag.path} holds several cameras; choose one with --image-topic: {_listed(cameras)}")
    return cameras[0]


def _the_ego(bag: Bag, topics: Sequence[TopicSummary], wanted: str) -> TopicSummary:
    if wanted:
        return _named(bag, topics, wanted, EGO_CONVERTERS, "ego_topic")
    for msgtype in EGO_CONVERTERS:
        found = [topic for topic in topics if topic.msgtype == msgtype and topic.count]
        if len(found) > 1:
            raise OwledError(f"bag {bag.path} holds several ego motions; choose one with --ego-topic: {_listed(found)}")
        if found:
            return found[0]
    raise OwledError(
        f"bag {bag.path} holds no ego motion; expected one of {', '.join(EGO_CONVERTERS)} in {_listed(topics)}"
    )


def _named(bag: Bag, topics: Sequence[TopicSummary], name: str, kinds: Collection[str], option: str) -> TopicSummary:
    found = [topic for topic in topics if topic.name == name]
    if not found:
        raise OwledError(f"{option} {name} is not in bag {bag.path}; expected one of {_listed(topics)}")
    fitting = [topic for topic in found if topic.msgtype in kinds]
    if not fitting:
        raise OwledError(f"{option} {name} of bag {bag.path} is {found[0].msgtype}; expected {' or '.join(kinds)}")
    return fitting[0]


def _first(topics: Sequence[TopicSummary], kinds: Collection[str], namespace: str = "") -> str:
    return next((topic.name for topic in topics if topic.msgtype in kinds and topic.name.startswith(namespace)), "")


def _listed(topics: Sequence[TopicSummary]) -> str:
    return ", ".join(f"{topic.name} ({topic.msgtype}, {topic.count})" for topic in topics) or "no topic"
