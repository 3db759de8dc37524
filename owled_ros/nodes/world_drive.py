"""Closed-loop drives of the world, in real time or in lockstep; played by source_node. Needs the scenes room.

In real time a valid action holds until the next one, at most `action_timeout_s`; in lockstep, as in the evaluation, an image without
a valid action brakes at once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time

from owled_ros.driving.frame import NANOSECONDS, EgoState
from owled_ros.nodes.camera_output import Shown
from owled_ros.nodes.playback import FIRST_STAMP, Playback
from owled_ros.scenes.perception import Perception
from owled_ros.scenes.player import fallback, look
from owled_ros.scenes.world import DriveEnd, World

SLIP_S = 0.05  # a world that is later than this lets its clock slip, instead of catching up


def drive_routes(playback: Playback) -> None:
    """Drive the world's routes in closed loop."""
    options = playback.options
    clock = WorldClock(playback)
    driven_s = 0.0
    for route in range(options.routes):
        world = World(options.seed + route, options.turns)
        playback.output.forget_action()
        limit_s = options.seconds - driven_s if options.seconds else math.inf
        _drive(playback, world, route, clock, limit_s)
        driven_s += world.time
        ended = world.outcome if world.outcome is not DriveEnd.RUNNING else None
        playback.say(
            {"event": "route", "route": route, "seed": world.seed, "outcome": ended.value if ended else "stopped",
             "detail": world.detail, "progress": round(world.progress, 3), "seconds": round(world.time, 2),
             "mean_speed": round(world.distance / max(world.time, 1e-9), 2)}
        )  # fmt: skip
        clock.next_route(world.time)
        playback.separate_routes()
        if playback.stop() or (options.seconds and driven_s >= options.seconds - 1e-6):
            return


class WorldClock:
    """Turns the world's time into stamps, and waits for the wall clock where it is real time."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback
        self._anchor = FIRST_STAMP if playback.simulated else time.time_ns()

    def stamp(self, world_s: float) -> int:
        """Return the stamp [ns] of a world time [s]."""
        return self._anchor + round(world_s * NANOSECONDS)

    def wait(self, world_s: float) -> None:
        """Sleep until a world time is there; a world that is late lets its clock slip."""
        if self._playback.simulated:
            return
        early_s = (self.stamp(world_s) - time.time_ns()) / NANOSECONDS
        if early_s > 0:
            self._playback.stop.event.wait(early_s)
        elif early_s < -SLIP_S:
            self._anchor -= round(early_s * NANOSECONDS)
            self._playback.slipped_s -= early_s

    def next_route(self, world_s: float) -> None:
        """Go on after a route; its successor's time begins at 0."""
        self._anchor = self.stamp(world_s) + NANOSECONDS if self._playback.simulated else time.time_ns()


def _drive(playback: Playback, world: World, route: int, clock: WorldClock, limit_s: float) -> None:
    options = playback.options
    steps = max(round(options.ego_rate_hz / options.rate_hz), 1)
    dt = 1.0 / (options.rate_hz * steps)
    steering, step = 0.0, 0
    patience_s = (
        math.inf if options.pace == "lockstep" else options.action_timeout_s
    )  # the wall clock decides nothing in lockstep
    while world.outcome is DriveEnd.RUNNING and world.time < limit_s - 1e-6 and not playback.stop():
        clock.wait(world.time)
        stamp = clock.stamp(world.time)
        ego = EgoState(stamp, world.ego.speed, world.ego.yaw_rate)
        pose = (world.stage.ego.x, world.stage.ego.y, world.stage.ego.heading)
        playback.output.tick(stamp)
        playback.output.perception.accelerate(stamp, world.acceleration)
        playback.output.move(ego, pose)
        playback.keep_ego(ego, pose, world.acceleration)
        if step % steps == 0:
            shown = _look(playback, world, ego, route)
            if options.pace == "lockstep" and playback.output.sent == 0:
                playback.show_first(functools.partial(_send, playback, ego, pose, shown))
            else:
                playback.output.show(shown)
            playback.keep(shown)
            if options.pace == "lockstep":
                playback.await_answer()
        step += 1
        action = playback.output.fresh_action(patience_s) or fallback(steering)
        steering = action.steering_tire_angle
        world.step(action.acceleration, steering, dt)


def _send(playback: Playback, ego: EgoState, pose: tuple[float, float, float], shown: Shown) -> None:
    playback.output.tick(shown.stamp)
    playback.output.move(ego, pose)
    playback.output.show(shown)


def _look(playback: Playback, world: World, ego: EgoState, route: int) -> Shown:
    options = playback.options
    moment = look(
        world,
        playback.camera,
        perception=Perception(options.perception_noise_m, options.perception_dropped, world.seed),
    )
    assert moment.image is not None
    waited = 0.0 if playback.simulated else max(time.time_ns() - ego.stamp, 0) / NANOSECONDS
    facts = {"progress": round(world.progress, 3), "time": round(world.time, 2), "seed": world.seed}
    command = None if moment.command is None else dataclasses.replace(moment.command, stamp=ego.stamp)
    return Shown(
        ego.stamp, moment.image, ego, time.monotonic(), waited, route, moment.expert, moment.scene, facts, moment.around,
        command,
    )  # fmt: skip
