"""source_node: the world, a bag or a clip as a camera and odometry; in the world the driving node's actions move the ego. Needs rclpy.

Real time: the world's stamps are wall-clock times; a bag or a clip plays in simulated time with /clock. Lockstep: simulated
time, the next picture is published when the last one has been answered, so that nothing depends on the machine's speed.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import rclpy
from rclpy.node import Node

from owled_ros.driving.frame import NANOSECONDS, EgoState, Frame
from owled_ros.driving.overlay import Overlay, PinholeView
from owled_ros.errors import OwledError
from owled_ros.nodes.camera_output import CameraOutput, Shown
from owled_ros.nodes.film import Film, Scribe
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.source_options import SourceOptions, read_options
from owled_ros.nodes.spinning import spin_node
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.player import fallback, look
from owled_ros.scenes.world import Outcome, World

FIRST_STAMP = 1_000 * NANOSECONDS  # of simulated time
ROUTE_GAP = 10 * NANOSECONDS  # between two routes: a bag's readers tell drives apart by it
CLOCK_PERIOD_S = 0.02
SLIP_S = 0.05  # a world that is later than this lets its clock slip, instead of catching up
ACTION_TOPIC, ACTION_TYPE = "/driving_node/output/action", "owled_ros/msg/PredictedAction"
IMAGE_TOPIC = "/camera/image/compressed"


class SourceNode(Node):
    """Plays in its own thread (`play`) while the executor hears the answers."""

    def __init__(self, stop: StopRequest) -> None:
        super().__init__("source_node")
        self.options = options = read_options(self)
        self.exit_code = 0
        self.stop = stop
        self.slipped_s = 0.0
        self.simulated = options.source != "world" or options.pace == "lockstep"
        self.camera = Camera().resized(options.width_px, options.height_px)
        self._scribe = Scribe()
        view = PinholeView(
            2.0 * math.atan(0.5 * self.camera.width / self.camera.fx),
            self.camera.mount_height,
            self.camera.pitch,
            self.camera.mount_forward,
        )
        self._film = Film(Path(options.film), options.rate_hz, options.film_width_px, view) if options.film else None
        self._bag = _open_bag(options.record)
        self.output = CameraOutput(self, options.driver, self.say, self._sketch, self.simulated)
        self._shift = 0  # [ns], between the stamps on the wire and those in the recording
        if self._bag is not None:
            self.output.on_action = self._keep_action

    def say(self, event: dict[str, Any]) -> None:
        """Write an event for whoever started this node."""
        with contextlib.suppress(BrokenPipeError):  # who started this node is gone, and will have it ended
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    def play(self) -> None:
        """Wait for the driver, play everything, say how it went."""
        self.say({"event": "waiting", "driver": self.options.driver})
        while not self.output.heard:
            if self.stop.event.wait(0.02):
                return
        self.say({"event": "started", "source": self.options.source, "simulated": self.simulated})
        if self.options.source == "world":
            drive_routes(self)
        else:
            replay(self, _bag_frames(self.options) if self.options.source == "bag" else _video_frames(self.options))
        self.stop.event.wait(0.2)  # for the last answer

    def close(self) -> None:
        """Finish film and bag."""
        self._scribe.close()
        for part in (self._film, self._bag):
            if part is not None:
                part.close()
        pictures = 0 if self._film is None else self._film.pictures
        self.say(
            {"event": "end", "film_pictures": pictures, "left_out": self._scribe.left_out, "problem": self._scribe.problem,
             "slipped_s": round(self.slipped_s, 3)}
        )  # fmt: skip

    def keep(self, shown: Shown) -> None:
        """Record a picture with its truth."""
        bag, shift = self._bag, self._shift
        if bag is None:
            return

        def write() -> None:
            bag.image(shown.stamp + shift, shown.image, IMAGE_TOPIC, encoding="jpeg")
            if shown.expert is not None:
                bag.expert_action(shown.stamp + shift, shown.expert)
            if shown.scene is not None:
                bag.scene_truth(shown.stamp + shift, shown.scene)

        self._scribe.do(write, wait=self.options.pace == "lockstep")

    def keep_ego(self, ego: EgoState, pose: tuple[float, float, float]) -> None:
        """Record the motion."""
        bag, stamp = self._bag, ego.stamp + self._shift
        if bag is not None:
            self._scribe.do(lambda: bag.odometry(stamp, ego, pose=pose), wait=True)

    def separate_routes(self) -> None:
        """Leave a gap in the recording."""
        self._shift += ROUTE_GAP

    def _keep_action(self, stamp: int, data: bytes) -> None:
        bag, shifted = self._bag, stamp + self._shift
        if bag is not None:
            self._scribe.do(lambda: bag.raw(ACTION_TOPIC, ACTION_TYPE, shifted, data))

    def _sketch(self, shown: Shown, overlay: Overlay) -> None:
        film = self._film
        if film is not None:
            self._scribe.do(lambda: film.add(shown.image, overlay), wait=False)


def drive_routes(node: SourceNode) -> None:
    """Drive the world's routes in closed loop."""
    options = node.options
    clock = WorldClock(node)
    driven_s = 0.0
    for route in range(options.routes):
        world = World(options.seed + route)
        node.output.forget_action()
        limit_s = options.seconds - driven_s if options.seconds else math.inf
        _drive(node, world, route, clock, limit_s)
        driven_s += world.time
        ended = world.outcome if world.outcome is not Outcome.RUNNING else None
        node.say(
            {"event": "route", "route": route, "seed": world.seed, "outcome": ended.value if ended else "stopped",
             "detail": world.detail, "progress": round(world.progress, 3), "seconds": round(world.time, 2),
             "mean_speed": round(world.distance / max(world.time, 1e-9), 2)}
        )  # fmt: skip
        clock.next_route(world.time)
        node.separate_routes()
        if node.stop() or (options.seconds and driven_s >= options.seconds - 1e-6):
            return


class WorldClock:
    """Turns the world's time into stamps, and waits for the wall clock where it is real time."""

    def __init__(self, node: SourceNode) -> None:
        self._node = node
        self._anchor = FIRST_STAMP if node.simulated else time.time_ns()

    def stamp(self, world_s: float) -> int:
        """Return the stamp [ns] of a world time [s]."""
        return self._anchor + round(world_s * NANOSECONDS)

    def wait(self, world_s: float) -> None:
        """Sleep until a world time is there; a world that is late lets its clock slip."""
        if self._node.simulated:
            return
        early_s = (self.stamp(world_s) - time.time_ns()) / NANOSECONDS
        if early_s > 0:
            self._node.stop.event.wait(early_s)
        elif early_s < -SLIP_S:
            self._anchor -= round(early_s * NANOSECONDS)
            self._node.slipped_s -= early_s

    def next_route(self, world_s: float) -> None:
        """Go on after a route; its successor's time begins at 0."""
        self._anchor = self.stamp(world_s) + NANOSECONDS if self._node.simulated else time.time_ns()


def _drive(node: SourceNode, world: World, route: int, clock: WorldClock, limit_s: float) -> None:
    options = node.options
    steps = max(round(options.ego_rate_hz / options.rate_hz), 1)
    dt = 1.0 / (options.rate_hz * steps)
    steering, step = 0.0, 0
    while world.outcome is Outcome.RUNNING and world.time < limit_s - 1e-6 and not node.stop():
        clock.wait(world.time)
        stamp = clock.stamp(world.time)
        ego = EgoState(stamp, world.ego.speed, world.ego.yaw_rate)
        pose = (world.stage.ego.x, world.stage.ego.y, world.stage.ego.yaw)
        node.output.tick(stamp)
        node.output.move(ego, pose)
        node.keep_ego(ego, pose)
        if step % steps == 0:
            _show_world(node, world, ego, route)
            if options.pace == "lockstep":
                _await_answer(node)
        step += 1
        action = node.output.fresh_action(options.action_timeout_s) or fallback(steering)
        steering = action.steering_tire_angle
        world.step(action.acceleration, steering, dt)


def _show_world(node: SourceNode, world: World, ego: EgoState, route: int) -> None:
    moment = look(world, node.camera)
    assert moment.image is not None
    waited = 0.0 if node.simulated else max(time.time_ns() - ego.stamp, 0) / NANOSECONDS
    facts = {"progress": round(world.progress, 3), "time": round(world.time, 2), "seed": world.seed}
    shown = Shown(ego.stamp, moment.image, ego, time.monotonic(), waited, route, moment.expert, moment.scene, facts)
    node.output.show(shown)
    node.keep(shown)


def _await_answer(node: SourceNode) -> None:
    """Lockstep: wait for the answer to the last picture; without a valid one the last action is void."""
    end = time.monotonic() + node.options.answer_timeout_s
    while not node.output.answered.wait(0.05):
        if node.stop() or time.monotonic() > end:
            break
    answer = node.output.last_answer
    if answer is None or answer["reason"] != "VALID":
        node.output.forget_action()
        return
    while (
        node.output.action is None or node.output.action[0].text != answer["text"]
    ):  # the two topics may overtake each other
        if node.stop.event.wait(0.001) or time.monotonic() > end:
            return


def replay(node: SourceNode, frames: Iterator[Frame]) -> None:
    """Play recorded pictures with their ego states, in simulated time."""
    first: int | None = None
    started = 0.0
    for number, frame in enumerate(frames):
        first = frame.stamp if first is None else first
        played_s = (frame.stamp - first) / NANOSECONDS
        if node.stop() or (node.options.seconds and played_s > node.options.seconds):
            return
        if node.options.pace == "realtime":
            started = started or time.monotonic() - played_s
            _wait_and_tick(node, frame.stamp, started + played_s)
        shown = Shown(
            frame.stamp,
            frame.image,
            frame.ego,
            time.monotonic(),
            0.0,
            0,
            None,
            None,
            {"time": round(played_s, 2), "number": number},
        )
        for again in range(50 if number == 0 else 1):  # the first picture may meet a node whose clock has not started
            node.output.tick(frame.stamp)
            node.output.move(frame.ego)
            node.output.show(shown)
            if number == 0 or node.options.pace == "lockstep":
                _await_first(node, again) if number == 0 else _await_answer(node)
            if node.output.answered.is_set() or node.stop():
                break
        node.keep_ego(frame.ego, (0.0, 0.0, 0.0))
        node.keep(shown)


def _await_first(node: SourceNode, again: int) -> None:
    if (
        node.output.answered.wait(0.3)
        and (node.output.last_answer or {}).get("reason") in ("CLOCK_JUMP", "NO_EGO")
        and again < 10
    ):
        node.output.answered.clear()


def _wait_and_tick(node: SourceNode, stamp: int, due: float) -> None:
    """Let simulated time run until a picture is due [s] monotonic."""
    while (left := due - time.monotonic()) > 0 and not node.stop():
        node.output.tick(stamp - round(left * NANOSECONDS))
        time.sleep(min(left, CLOCK_PERIOD_S))


def _bag_frames(options: SourceOptions) -> Iterator[Frame]:
    from owled_ros.bags.frames import read_frames

    return read_frames(Path(options.path))


def _video_frames(options: SourceOptions) -> Iterator[Frame]:
    """Read a clip; it has no ego state, so a constant speed is reported."""
    clip = cv2.VideoCapture(options.path)
    if not clip.isOpened():
        raise OwledError(
            f"{options.path} cannot be read as a video; expected a file that OpenCV plays, for example mp4"
        )
    period = NANOSECONDS / (clip.get(cv2.CAP_PROP_FPS) or 30.0)
    number = 0
    try:
        while True:
            there, picture = clip.read()
            if not there:
                return
            stamp = FIRST_STAMP + round(number * period)
            yield Frame(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), stamp, EgoState(stamp, options.video_speed_mps))
            number += 1
    finally:
        clip.release()


def _open_bag(path: str) -> Any:
    if not path:
        return None
    from owled_ros.bags.write import BagWriter

    return BagWriter(Path(path))


def start(node: SourceNode) -> None:
    """Play in a thread; the process ends when everything is played."""

    def work() -> None:
        try:
            node.play()
        except OwledError as error:
            node.say({"event": "error", "message": str(error)})
            node.exit_code = 1
        except Exception as error:
            if not node.stop():  # publishing fails once the context is shut down
                node.get_logger().error(f"{type(error).__name__}: {error}")
                node.say({"event": "error", "message": f"{type(error).__name__}: {error}"})
                node.exit_code = 1
        rclpy.try_shutdown()

    threading.Thread(target=work, name="play", daemon=True).start()


def main() -> int:
    """Run the node; returns the exit code."""
    return spin_node(SourceNode, start, "source_node.param.yaml")
