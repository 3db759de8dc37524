"""Autoware's objects and traffic lights as the truth of a scene: layouts registered from the bag, numbers by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_driver import spec
from recorded_drives import MILLISECOND, START, image
from recorded_drives import make_bag as make_stated_bag
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from owled_ros.bags.frames import ReadStatistics, read_samples
from owled_ros.bags.perception import light_of
from owled_ros.bags.storage import find_bag
from owled_ros.bags.topics import choose_topics
from owled_ros.driving.answer import Light, ObjectKind
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.scenario import Scenario

PERCEPTION = "autoware_perception_msgs/msg"
TEXTS = {
    "ObjectClassification": "uint8 label\nfloat32 probability",
    "PredictedObjectKinematics": "geometry_msgs/PoseWithCovariance initial_pose_with_covariance\n"
    "geometry_msgs/TwistWithCovariance initial_twist_with_covariance",
    "Shape": "uint8 type\ngeometry_msgs/Polygon footprint\ngeometry_msgs/Vector3 dimensions",
    "PredictedObject": "float32 existence_probability\nautoware_perception_msgs/ObjectClassification[] classification\n"
    "autoware_perception_msgs/PredictedObjectKinematics kinematics\nautoware_perception_msgs/Shape shape",
    "PredictedObjects": "std_msgs/Header header\nautoware_perception_msgs/PredictedObject[] objects",
    "TrafficLightElement": "uint8 color\nuint8 shape\nuint8 status\nfloat32 confidence",
    "TrafficLightGroup": "int64 traffic_light_group_id\nautoware_perception_msgs/TrafficLightElement[] elements",
    "TrafficLightGroupArray": "builtin_interfaces/Time stamp\n"
    "autoware_perception_msgs/TrafficLightGroup[] traffic_light_groups",
}
EGO = (100.0, 200.0, math.pi / 2)  # x, y [m] and yaw in the map: the vehicle looks north
CAR, BICYCLE, PEDESTRIAN = 1, 6, 7
SEEN = [  # label, metres forward and left of the vehicle, heading against it
    (CAR, 22.0, 0.5, 0.0),  # near end at 22 - 4/2 = 20 m, in the own lane
    (CAR, 12.0, 3.5, math.pi),  # 10 m, towards us
    (CAR, -8.0, 0.0, 0.0),  # behind
    (CAR, 60.0, 0.0, 0.0),  # 58 m: beyond 50 m
    (CAR, 5.0, 6.0, 0.0),  # atan(6/5) = 50 degrees: outside the camera's 35
    (PEDESTRIAN, 15.0, -4.0, 0.0),  # beside the road, 15 - 0.5/2 m
    (BICYCLE, 10.0, 0.0, 0.0),  # neither car nor pedestrian
]


@pytest.fixture(scope="module")
def store() -> Typestore:
    found = get_typestore(Stores.ROS2_JAZZY)
    for name, text in TEXTS.items():
        found.register(get_types_from_msg(text, f"{PERCEPTION}/{name}"))
    return found


def time_of(store: Typestore, stamp: int) -> Any:
    return store.types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)


def header(store: Typestore, stamp: int, frame: str) -> Any:
    return store.types["std_msgs/msg/Header"](stamp=time_of(store, stamp), frame_id=frame)


def pose(store: Typestore, x: float, y: float, yaw: float) -> Any:
    geometry = "geometry_msgs/msg"
    inner = store.types[f"{geometry}/Pose"](
        position=store.types[f"{geometry}/Point"](x=x, y=y, z=0.0),
        orientation=store.types[f"{geometry}/Quaternion"](x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2)),
    )
    return store.types[f"{geometry}/PoseWithCovariance"](pose=inner, covariance=np.zeros(36))


def twist(store: Typestore, speed: float) -> Any:
    vector = store.types["geometry_msgs/msg/Vector3"]
    inner = store.types["geometry_msgs/msg/Twist"](
        linear=vector(x=speed, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=0.0)
    )
    return store.types["geometry_msgs/msg/TwistWithCovariance"](twist=inner, covariance=np.zeros(36))


def objects(store: Typestore, stamp: int, frame: str) -> Any:
    ego_x, ego_y, ego_yaw = EGO if frame == "map" else (0.0, 0.0, 0.0)
    cos, sin = math.cos(ego_yaw), math.sin(ego_yaw)
    items = []
    for label, x, y, heading in SEEN:
        size = (0.5, 0.5) if label == PEDESTRIAN else (4.0, 1.8)
        placed = pose(store, ego_x + cos * x - sin * y, ego_y + sin * x + cos * y, ego_yaw + heading)
        items.append(
            store.types[f"{PERCEPTION}/PredictedObject"](
                existence_probability=1.0,
                classification=[
                    store.types[f"{PERCEPTION}/ObjectClassification"](label=0, probability=0.1),
                    store.types[f"{PERCEPTION}/ObjectClassification"](label=label, probability=0.9),
                ],
                kinematics=store.types[f"{PERCEPTION}/PredictedObjectKinematics"](
                    initial_pose_with_covariance=placed, initial_twist_with_covariance=twist(store, 5.0)
                ),
                shape=store.types[f"{PERCEPTION}/Shape"](
                    type=0,
                    footprint=store.types["geometry_msgs/msg/Polygon"](points=[]),
                    dimensions=store.types["geometry_msgs/msg/Vector3"](x=size[0], y=size[1], z=1.5),
                ),
            )
        )
    return store.types[f"{PERCEPTION}/PredictedObjects"](header=header(store, stamp, frame), objects=items)


def lights(store: Typestore, stamp: int, *colours: int) -> Any:
    groups = [
        store.types[f"{PERCEPTION}/TrafficLightGroup"](
            traffic_light_group_id=number,
            elements=[
                store.types[f"{PERCEPTION}/TrafficLightElement"](color=colour, shape=1, status=2, confidence=0.8)
            ],
        )
        for number, colour in enumerate(colours)
    ]
    return store.types[f"{PERCEPTION}/TrafficLightGroupArray"](stamp=time_of(store, stamp), traffic_light_groups=groups)


def make_bag(
    path: Path, store: Typestore, frame: str = "map", colours: tuple[int, ...] = (1,), images: int = 12
) -> Path:
    """Write images at 10/s; odometry in the map at 50/s; objects and lights stamped 20 ms off the images."""
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connections: dict[str, Any] = {}

        def write(topic: str, msgtype: str, stamp: int, message: Any) -> None:
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, msgtype, typestore=store)
            bag.write(connections[topic], stamp, store.serialize_cdr(message, msgtype))

        for step in range(images * 5):
            stamp = START + step * 20 * MILLISECOND
            odometry = store.types["nav_msgs/msg/Odometry"](
                header=header(store, stamp, "map"),
                child_frame_id="base_link",
                pose=pose(store, *EGO),
                twist=twist(store, 8.0),
            )
            write("/localization/kinematic_state", "nav_msgs/msg/Odometry", stamp, odometry)
            if step % 5 == 0:
                pixels = image(step // 5)
                message = store.types["sensor_msgs/msg/Image"](
                    header=header(store, stamp, "camera"), height=36, width=64, encoding="rgb8", is_bigendian=0, step=192,
                    data=pixels.reshape(-1),
                )  # fmt: skip
                write("/camera/image", "sensor_msgs/msg/Image", stamp, message)
            if step % 5 == 1:
                write("/perception/objects", f"{PERCEPTION}/PredictedObjects", stamp, objects(store, stamp, frame))
                write(
                    "/perception/lights", f"{PERCEPTION}/TrafficLightGroupArray", stamp, lights(store, stamp, *colours)
                )
    return path


@pytest.mark.parametrize("frame", ["map", "base_link"])
def test_objects_are_seen_from_the_vehicle(tmp_path: Path, store: Typestore, frame: str) -> None:
    samples = list(read_samples(make_bag(tmp_path / "bag", store, frame)))
    assert len(samples) == 12
    for sample in samples:
        assert sample.scene is not None
        assert [(car.kind, round(car.distance, 3)) for car in sample.scene.cars] == [
            (ObjectKind.ONCOMING, 10.0), (ObjectKind.LEAD, 20.0),
        ]  # fmt: skip
        assert [(item.kind, round(item.distance, 3)) for item in sample.scene.pedestrians] == [
            (ObjectKind.SIDEWALK, 14.75)
        ]
        assert sample.scene.light is Light.RED


def test_an_unknown_frame_gives_no_truth_and_says_why(tmp_path: Path, store: Typestore) -> None:
    statistics = ReadStatistics()
    samples = list(read_samples(make_bag(tmp_path / "bag", store, "lidar"), statistics=statistics))
    assert [sample.scene for sample in samples] == [None] * 12
    assert statistics.notes == [
        "objects are in frame lidar; expected base_link, or the frame of an odometry in the bag"
    ]


def test_lights_that_differ_are_unknown(store: Typestore) -> None:
    assert light_of(lights(store, 0)) is Light.NONE
    assert light_of(lights(store, 0, 2, 2)) is Light.YELLOW
    assert light_of(lights(store, 0, 1, 3)) is Light.UNKNOWN
    assert light_of(lights(store, 0, 16)) is Light.UNKNOWN  # a colour that no release calls red, amber or green


@pytest.mark.parametrize(("colours", "accuracy"), [((1,), 1.0), ((3,), 0.0), ((1, 3), None)])
def test_a_model_is_scored_by_it(
    tmp_path: Path, store: Typestore, colours: tuple[int, ...], accuracy: float | None
) -> None:
    scenario = Scenario.model_validate({"conditions": {"must_beat": []}})
    bag = make_bag(tmp_path / "bag", store, colours=colours)
    (result,) = evaluate(EvaluationRequest([bag], [spec()], tmp_path / "out", scenario, camera_test_frames=0))
    means = result.metrics["means"]  # the driver always tells one car, no pedestrian, a red light at 20 m
    assert (means["E_car"], means["E_ped"]) == (1.0, 1.0)
    assert means["Acc_TL"] == accuracy  # nobody is judged by a light that is not known
    assert means["D_TL_m"] is None  # Autoware does not tell how far it is


def test_a_scene_that_the_bag_states_goes_first(tmp_path: Path, store: Typestore) -> None:
    stated = choose_topics(find_bag(make_stated_bag(tmp_path / "stated")))
    assert (stated.scene, stated.perception) == ("/truth/scene", ())
    perceived = choose_topics(find_bag(make_bag(tmp_path / "perceived", store)))
    topics = ("/perception/objects", "/perception/lights", "/localization/kinematic_state")
    assert (perceived.scene, perceived.perception) == ("", topics)
