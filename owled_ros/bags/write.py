"""A small recorder: images, ego motion, expert actions and true scenes into a rosbag2 bag. Needs rosbags and OpenCV.

`ros2 bag play` and everything in this room read what it writes. A recording grows in place, chunk by chunk, so that
what a crash leaves behind can still be read (bags.salvage). Leave more than 5 s between the stamps of two drives of
one bag: that is how a reader tells them apart.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError

from owled_ros.bags import message_types as types
from owled_ros.driving.answer import Action, Light, Scene, SceneObject, format_action, format_scene
from owled_ros.driving.frame import NANOSECONDS, EgoState, check_image
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.number_table import layout_of
from owled_ros.driving.perceived_tables import lights_table, objects_table
from owled_ros.driving.prediction import Reason
from owled_ros.driving.surroundings import Surroundings
from owled_ros.driving.vehicle import VehicleParameters, controls_of
from owled_ros.errors import OwledError

IMAGE_TOPIC = "/camera/image"
ODOMETRY_TOPIC = "/ego/odometry"
EXPERT_TOPIC = "/expert/action"
SCENE_TOPIC = "/truth/scene"
VELOCITY_TOPIC = "/vehicle/status/velocity_status"
STEERING_TOPIC = "/vehicle/status/steering_status"
ACCELERATION_TOPIC = "/localization/acceleration"
COMMAND_TOPIC = "/navigation/command"
OBJECTS_TOPIC, LIGHTS_TOPIC, PATH_TOPIC = "/perception/objects", "/perception/traffic_lights", "/planning/path"
CAMERA_FRAME = "camera"
BASE_FRAME = "base_link"
ODOM_FRAME = "odom"
BAG_VERSION: Literal[8] = 8  # read by Humble and newer
JPEG_QUALITY = 95
CLASS_CAR, CLASS_PEDESTRIAN = 1, 2  # SceneObject.msg
STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
COMPRESSIONS = {
    "chunk": CompressionMode.STORAGE,
    "message": CompressionMode.MESSAGE,
    "file": CompressionMode.FILE,
}


class BagWriter:
    """Writes one bag directory; use it as a context manager, or call `close`.

    Stamps are nanoseconds and go into the headers; the time of recording is the same unless `received` says otherwise.
    """

    def __init__(
        self,
        path: Path,
        storage: str = "mcap",
        compression: str = "",
        vehicle: VehicleParameters | None = None,
    ) -> None:
        """Open a new bag; storage "mcap" or "sqlite3", compression "", "chunk" (mcap), "message" or "file"."""
        if storage not in STORAGES or compression not in ("", *COMPRESSIONS):
            raise OwledError(
                f"bag storage {storage!r} with compression {compression!r} is unknown; expected one of "
                f"{', '.join(STORAGES)} with none or one of {', '.join(COMPRESSIONS)}"
            )
        self.path = Path(path)
        self._store = types.own_typestore()
        self._vehicle = vehicle or VehicleParameters()
        self._connections: dict[str, Connection] = {}
        try:
            self._writer = Writer(self.path, version=BAG_VERSION, storage_plugin=STORAGES[storage])
            if compression:
                self._writer.set_compression(COMPRESSIONS[compression], CompressionFormat.ZSTD)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise OwledError(f"cannot write the bag {self.path} ({error}); choose a new directory") from error

    def image(
        self,
        stamp: int,
        rgb: np.ndarray,
        topic: str = IMAGE_TOPIC,
        encoding: str = "rgb8",
        received: int | None = None,
    ) -> None:
        """Write an image (H, W, 3) uint8 RGB; encoding "rgb8", "bgr8", "mono8", "jpeg" or "png" (the last two compressed)."""
        check_image(rgb)
        header = self._header(stamp, CAMERA_FRAME)
        if encoding in ("jpeg", "png"):
            data = _compress(rgb, encoding)
            self._write(topic, types.COMPRESSED_IMAGE, stamp, received, header=header, format=encoding, data=data)
            return
        pixels = _arranged(rgb, encoding)
        height, width = pixels.shape[:2]
        step = pixels.size // height
        self._write(
            topic, types.IMAGE, stamp, received, header=header, height=height, width=width, encoding=encoding,
            is_bigendian=0, step=step, data=pixels.reshape(-1),
        )  # fmt: skip

    def odometry(
        self, stamp: int, ego: EgoState, topic: str = ODOMETRY_TOPIC, pose: tuple[float, float, float] = (0.0, 0.0, 0.0),
        received: int | None = None,
    ) -> None:  # fmt: skip
        """Write the ego motion; pose is (x [m], y [m], yaw [rad]) in the odometry frame."""
        x, y, yaw = pose
        self._write(
            topic, types.ODOMETRY, stamp, received, header=self._header(stamp, ODOM_FRAME), child_frame_id=BASE_FRAME,
            pose=self._make("geometry_msgs/msg/PoseWithCovariance", covariance=np.zeros(36), pose=self._make(
                "geometry_msgs/msg/Pose", position=self._vector("Point", x, y, 0.0),
                orientation=self._make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2)),
            )),
            twist=self._make("geometry_msgs/msg/TwistWithCovariance", covariance=np.zeros(36), twist=self._make(
                "geometry_msgs/msg/Twist", linear=self._vector("Vector3", ego.speed, 0.0, 0.0),
                angular=self._vector("Vector3", 0.0, 0.0, ego.yaw_rate),
            )),
        )  # fmt: skip

    def velocity_report(
        self, stamp: int, ego: EgoState, topic: str = VELOCITY_TOPIC, received: int | None = None
    ) -> None:
        """Write the ego motion as Autoware's VelocityReport."""
        self._write(
            topic, types.VELOCITY_REPORT, stamp, received, header=self._header(stamp, BASE_FRAME),
            longitudinal_velocity=ego.speed, lateral_velocity=0.0, heading_rate=ego.yaw_rate,
        )  # fmt: skip

    def steering_report(
        self, stamp: int, steering_tire_angle: float, topic: str = STEERING_TOPIC, received: int | None = None
    ) -> None:
        """Write a measured tire angle [rad], left positive, as Autoware's SteeringReport."""
        self._write(
            topic,
            types.STEERING_REPORT,
            stamp,
            received,
            stamp=self._time(stamp),
            steering_tire_angle=steering_tire_angle,
        )

    def expert_action(self, stamp: int, action: Action, topic: str = EXPERT_TOPIC, received: int | None = None) -> None:
        """Write what the expert does at the moment of the image with this stamp."""
        controls = controls_of(action.acceleration, action.steering_tire_angle, self._vehicle)
        self._write(
            topic, types.PREDICTED_ACTION, stamp, received, header=self._header(stamp, BASE_FRAME),
            valid=True, reason=int(Reason.VALID), throttle=controls.throttle, brake=controls.brake, steering=controls.steering,
            acceleration=action.acceleration, steering_tire_angle=action.steering_tire_angle, manoeuvre=int(action.manoeuvre),
            confidence=1.0, text=format_action(action), model_id="expert",
        )  # fmt: skip

    def scene_truth(self, stamp: int, scene: Scene, topic: str = SCENE_TOPIC, received: int | None = None) -> None:
        """Write what can really be seen in the image with this stamp."""
        self._write(
            topic, types.SCENE_DESCRIPTION, stamp, received, header=self._header(stamp, CAMERA_FRAME),
            valid=True, reason=int(Reason.VALID), text=format_scene(scene), traffic_light=int(scene.light or Light.NONE),
            cars=[self._object(CLASS_CAR, item) for item in scene.cars],
            pedestrians=[self._object(CLASS_PEDESTRIAN, item) for item in scene.pedestrians],
            light_distance=math.nan if scene.light_distance is None else scene.light_distance,
            confidence=1.0, complete=True, model_id="truth",
        )  # fmt: skip

    def navigation_command(
        self, stamp: int, command: NavigationCommand, topic: str = COMMAND_TOPIC, received: int | None = None
    ) -> None:
        """Write what the route asks for from this stamp on."""
        self._write(
            topic, types.NAVIGATION_COMMAND, stamp, received, header=self._header(stamp, BASE_FRAME),
            kind=int(command.kind), distance=math.nan if command.distance is None else command.distance, text=command.text,
        )  # fmt: skip

    def surroundings(self, stamp: int, around: Surroundings, received: int | None = None) -> None:
        """Write what another perception tells in base_link: objects and lights as tables, the route as a path."""
        for topic, table in (
            (OBJECTS_TOPIC, objects_table(around.objects or ())),
            (LIGHTS_TOPIC, lights_table(around.lights or ())),
        ):
            fields = [
                self._make(types.POINT_FIELD, name=name, offset=offset, datatype=kind, count=1)
                for name, offset, kind in layout_of(table.dtype)
            ]
            step = table.dtype.itemsize
            self._write(
                topic, types.POINT_CLOUD, stamp, received, header=self._header(stamp, BASE_FRAME), height=1, width=len(table),
                fields=fields, is_bigendian=False, point_step=step, row_step=step * len(table), is_dense=True,
                data=np.frombuffer(table.tobytes(), np.uint8),
            )  # fmt: skip
        still = self._make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
        header = self._header(stamp, BASE_FRAME)
        poses = [
            self._make("geometry_msgs/msg/PoseStamped", header=header, pose=self._make(
                "geometry_msgs/msg/Pose", position=self._vector("Point", place.x, place.y, 0.0), orientation=still,
            ))
            for place in around.route
        ]  # fmt: skip
        self._write(PATH_TOPIC, types.PATH, stamp, received, header=header, poses=poses)

    def acceleration(
        self, stamp: int, acceleration: float, topic: str = ACCELERATION_TOPIC, received: int | None = None
    ) -> None:
        """Write a measured acceleration [m/s2] along x of the vehicle, as Autoware's localisation does."""
        accel = self._make(
            "geometry_msgs/msg/Accel",
            linear=self._vector("Vector3", acceleration, 0.0, 0.0),
            angular=self._vector("Vector3", 0.0, 0.0, 0.0),
        )
        self._write(
            topic, types.ACCELERATION_WITH_COVARIANCE, stamp, received, header=self._header(stamp, BASE_FRAME),
            accel=self._make("geometry_msgs/msg/AccelWithCovariance", accel=accel, covariance=np.zeros(36)),
        )  # fmt: skip

    def raw(self, topic: str, typename: str, stamp: int, data: bytes) -> None:
        """Write serialised CDR bytes of any type that the store knows, received at `stamp`."""
        self._writer.write(self._connection(topic, typename), stamp, data)

    def close(self) -> None:
        """Finish the bag: index and metadata.yaml."""
        self._writer.close()

    def __enter__(self) -> BagWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the bag, also after an error: what was written stays readable."""
        self.close()

    def _write(self, topic: str, typename: str, at: int, received: int | None, /, **fields: Any) -> None:
        connection = self._connection(topic, typename)
        data = self._store.serialize_cdr(self._make(typename, **fields), typename)
        self._writer.write(connection, at if received is None else received, data)

    def _connection(self, topic: str, typename: str) -> Connection:
        known = self._connections.get(topic)
        if known is None:
            known = self._connections[topic] = self._writer.add_connection(topic, typename, typestore=self._store)
        elif known.msgtype != typename:
            raise OwledError(
                f"topic {topic} of {self.path} already holds {known.msgtype}; choose another topic for {typename}"
            )
        return known

    def _make(self, typename: str, /, **fields: Any) -> Any:
        """Build a message; numbers and texts that are not given are zero and empty."""
        for name, (kind, detail) in self._store.fielddefs[typename][1]:
            if name not in fields and kind == 1:
                fields[name] = "" if detail[0] == "string" else 0
        return self._store.types[typename](**fields)

    def _header(self, stamp: int, frame_id: str) -> Any:
        return self._make("std_msgs/msg/Header", stamp=self._time(stamp), frame_id=frame_id)

    def _time(self, stamp: int) -> Any:
        return self._make("builtin_interfaces/msg/Time", sec=stamp // NANOSECONDS, nanosec=stamp % NANOSECONDS)

    def _vector(self, kind: str, x: float, y: float, z: float) -> Any:
        return self._make(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)

    def _object(self, object_class: int, item: SceneObject) -> Any:
        return self._make(
            "owled_ros/msg/SceneObject",
            object_class=object_class,
            kind=int(item.kind),
            distance=item.distance,
        )


def _arranged(rgb: np.ndarray, encoding: str) -> np.ndarray:
    if encoding == "rgb8":
        return np.ascontiguousarray(rgb)
    if encoding == "bgr8":
        return np.ascontiguousarray(rgb[..., ::-1])
    if encoding == "mono8":
        return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    raise OwledError(f"image encoding {encoding!r} is unknown; expected rgb8, bgr8, mono8, jpeg or png")


def _compress(rgb: np.ndarray, encoding: str) -> np.ndarray:
    suffix, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]) if encoding == "jpeg" else (".png", [])
    done, data = cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]), options)
    if not done:
        raise OwledError(f"OpenCV could not write a {rgb.shape[1]}x{rgb.shape[0]} image as {encoding}; use rgb8")
    return data.reshape(-1)
