"""owled demo on bags that leave a choice, decoded and with the messages as they were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("owled_ros.msg")

from driving_rig import free_domain
from fake_driving_node import make_model
from odd_bags import camera, drive, raw_camera, write
from recorded_drives import START, image
from test_demo import CRUISE, FAKE, quiet

from owled_ros.bags.reading import ReadOptions
from owled_ros.bags.recorded import COMMAND, EGO, IMAGE, open_recording
from owled_ros.bags.write import BagWriter
from owled_ros.demo.run import DemoOptions, run_demo
from owled_ros.driving.ego import EgoState
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.needs import CameraNeed, InputNeeds
from owled_ros.errors import OwledError

DOMAIN = free_domain()


def options(tmp_path: Path, bag: Path, **changes: Any) -> DemoOptions:
    model = make_model(tmp_path / "model", text=CRUISE)
    return DemoOptions(
        out=tmp_path / "out", source="bag", path=str(bag), model=str(model), driver=FAKE, lockstep=True, domain=DOMAIN,
        film=False, **changes,
    )  # fmt: skip


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Two cameras, one of them compressed, and two odometries: neither can be chosen by itself."""
    return write(
        tmp_path / "bag", camera("/front/compressed"), raw_camera("/rear/image", "mono8", 1), drive(),
        drive("/odometry/filtered", told=8.1), images=12,
    )  # fmt: skip


@pytest.mark.parametrize("recorded", [False, True])
def test_a_bag_that_leaves_a_choice_plays_with_the_topics_named(tmp_path: Path, bag: Path, recorded: bool) -> None:
    with pytest.raises(OwledError, match="several cameras; choose one with --image-topic"):
        run_demo(options(tmp_path, bag), quiet())
    chosen = {"image_topic": "/front/compressed", "ego_topic": "/odometry/filtered", "recorded": recorded}
    tally = run_demo(options(tmp_path, bag, **chosen), quiet())
    assert tally.sent == 12
    assert tally.reasons["VALID"] >= 10  # the first image may meet a node that has not heard the odometry
    assert tally.answer["speed"] == 8.1


def test_what_is_recorded_is_played_as_it_was(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.navigation_command(START, NavigationCommand(CommandKind.LEFT, 30.0))
        for number in range(3):
            stamp = START + number * 100_000_000
            bag.odometry(stamp, EgoState(stamp, 8.0), received=stamp + 5_000_000)
            bag.image(stamp, image(number), topic="/front/image", received=stamp + 30_000_000)
            bag.image(stamp, image(number), topic="/left/image", encoding="jpeg", received=stamp + 40_000_000)
    needs = InputNeeds((CameraNeed("front"), CameraNeed("left")))
    recording = open_recording(tmp_path / "bag", ReadOptions(needs=needs))
    messages = list(recording.messages())
    assert [(item.part, item.camera) for item in messages[:4]] == [
        (COMMAND, ""),
        (EGO, ""),
        (IMAGE, "front"),
        (IMAGE, "left"),
    ]
    assert [item.clock - item.stamp for item in messages[1:4]] == [5_000_000, 30_000_000, 40_000_000]
    assert recording.types == {"front": "sensor_msgs/msg/Image", "left": "sensor_msgs/msg/CompressedImage"}
    assert bytes(image(0).reshape(-1)) in messages[2].data


def test_what_no_driving_node_hears_is_refused(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.image(START, image(0))
        bag.raw("/twist", "geometry_msgs/msg/TwistStamped", START, bytes(4 + 12 + 48 + 8))
    words = "driving nodes subscribe to nav_msgs/msg/Odometry or .*VelocityReport only; replay the bag decoded"
    with pytest.raises(OwledError, match=words):
        open_recording(tmp_path / "bag", ReadOptions())


def test_options_of_a_bag_need_a_bag() -> None:
    import typer
    from typer.testing import CliRunner

    from owled_ros.commands import demo

    app = typer.Typer()
    demo.register(app)
    result = CliRunner().invoke(app, ["--ego-topic", "/odom"])
    assert "belong to --bag" in str(result.exception)


@pytest.mark.parametrize("messages", ["decoded", "recorded"])
def test_further_cameras_and_the_command_go_to_the_inputs_of_the_driver(tmp_path: Path, messages: str) -> None:
    import rclpy
    from driving_rig import BEST_EFFORT, NodeProcess, until
    from nav_msgs.msg import Odometry
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image

    from owled_ros.msg import NavigationCommand as CommandMessage
    from owled_ros.msg import PredictedAction

    with BagWriter(tmp_path / "bag") as bag:
        bag.navigation_command(START, NavigationCommand(CommandKind.LEFT, 30.0))
        for number in range(20):
            stamp = START + number * 100_000_000
            bag.odometry(stamp, EgoState(stamp, 8.0), pose=(5.0 + 0.8 * number, 0.0, 0.0))
            bag.image(stamp, image(number), topic="/a/image")
            bag.image(stamp, image(number + 100), topic="/b/image")
    heard: dict[str, list[Any]] = {"front": [], "left": [], "ego": [], "command": []}
    domain, context = free_domain(), Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("ears", context=context)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(Image, "/camera/image", heard["front"].append, BEST_EFFORT)
    node.create_subscription(Image, "/driving_node/input/left/image", heard["left"].append, BEST_EFFORT)
    node.create_subscription(Odometry, "/ego/odometry", heard["ego"].append, 50)
    node.create_subscription(CommandMessage, "/driving_node/input/command", heard["command"].append, latched)
    node.create_publisher(PredictedAction, "/driving_node/output/action", 1)  # a source waits for one that can answer
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    words = ["-m", "owled_ros.nodes", "source_node", "--ros-args"]
    values = {
        "source": "bag", "path": tmp_path / "bag", "messages": messages, "image_topic": "front=/a/image,left=/b/image",
    }  # fmt: skip
    words += [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
    try:
        with NodeProcess(words, domain, tmp_path / "source.log") as source:

            def everything() -> bool:
                executor.spin_once(timeout_sec=0.05)
                return all(heard.values()) and len(heard["left"]) > 3

            assert until(everything, 60, 0.0), ({key: len(value) for key, value in heard.items()}, source.text())
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert heard["command"][0].kind == CommandKind.LEFT
    assert heard["left"][0].data[0] >= 100 > heard["front"][0].data[0]
    assert heard["ego"][-1].pose.pose.position.x >= 5.0


def test_a_model_of_several_cameras_finds_them_by_their_names(tmp_path: Path) -> None:
    from owled_ros.demo.bag_choice import choose_from_bag

    with BagWriter(tmp_path / "bag") as bag:
        bag.odometry(START, EgoState(START, 8.0))
        for side in ("front", "left", "right"):
            bag.image(START, image(0), topic=f"/CAM_{side.upper()}/image/compressed", encoding="jpeg")
    model = make_model(tmp_path / "model", text=CRUISE)
    cameras = [{"name": "front"}, {"name": "left"}]
    calls = [{"name": "drive", "user": "{images}Drive.", "max_tokens": 32}]
    profile = {"format_version": 2, "cameras": cameras, "calls": calls, "answer": {"kind": "line"}}
    (model / "driving.json").write_text(json.dumps(profile))
    choice = choose_from_bag(tmp_path / "bag", str(model), "", "", "", recorded=True)
    assert choice.image_topic == "front=/CAM_FRONT/image/compressed,left=/CAM_LEFT/image/compressed"
    assert choice.transport == "compressed"
