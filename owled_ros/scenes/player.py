"""Plays a closed-loop world: at every period an image, the ego state, the truth, and a driver that answers. Needs numpy and cv2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from owled_ros.driving.answer import Action, Manoeuvre, Scene
from owled_ros.driving.frame import EgoState, Frame
from owled_ros.driving.navigation import NavigationCommand
from owled_ros.driving.surroundings import Surroundings
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.expert import constant_speed_action, expert_action
from owled_ros.scenes.perception import Perception, surroundings_of
from owled_ros.scenes.render import RenderedView, render
from owled_ros.scenes.world import DriveEnd, World

FALLBACK_ACCELERATION = -2.5  # [m/s2], what the vehicle does when no action came: comfortable braking
PERIOD = 0.1  # [s]


@dataclass(frozen=True)
class Moment:
    """What there is at one stamp."""

    stamp: int  # [ns] of the world's clock
    image: np.ndarray | None  # (H, W, 3) uint8 RGB, None when nobody looks
    ego: EgoState
    scene: Scene  # what is visible
    expert: Action
    constant: Action  # what the constant-speed driver would do
    command: NavigationCommand | None = None  # of the route, in a world with turns
    around: Surroundings | None = None  # what another perception tells; None: not asked for


Driver = Callable[[Moment], Action | None]
Policy = Callable[[Frame], Action | None]


def look(world: World, camera: Camera, image: bool = True, perception: Perception | None = None) -> Moment:
    """Render what the ego's camera sees now; without `image` only the truth is computed."""
    noise = np.random.default_rng([world.seed, round(world.time * 1000)])
    view: RenderedView = render(world.stage, camera, noise, image)
    return Moment(
        stamp=world.ego.stamp,
        image=view.image,
        ego=world.ego,
        scene=view.seen.scene(),
        expert=expert_action(world.stage, view.seen),
        constant=constant_speed_action(world.stage),
        command=world.command,
        around=None if perception is None else surroundings_of(world.stage, perception, round(world.time * 1000)),
    )


def play(
    world: World,
    driver: Driver,
    camera: Camera,
    period: float = PERIOD,
    image: bool = True,
    perception: Perception | None = None,
) -> Iterator[tuple[Moment, Action | None]]:
    """Drive until the world ends; yields every moment with the driver's answer, before it takes effect.

    Without an answer the vehicle brakes comfortably (FALLBACK_ACCELERATION) and keeps its last tire angle.
    """
    steering = 0.0
    while world.outcome is DriveEnd.RUNNING:
        moment = look(world, camera, image, perception)
        if perception is not None:  # its vectors tell what the vehicle does
            measured = replace(moment.ego, acceleration=world.acceleration, steering_tire_angle=steering)
            moment = replace(moment, ego=measured)
        action = driver(moment)
        yield moment, action
        applied = action or fallback(steering)
        steering = applied.steering_tire_angle
        world.step(applied.acceleration, steering, period)


def fallback(steering: float) -> Action:
    """Return what is done without a valid action; `steering` [rad] is the last tire angle."""
    return Action(FALLBACK_ACCELERATION, steering, Manoeuvre.UNKNOWN)


def expert_driver(moment: Moment) -> Action:
    """Drive like the expert."""
    return moment.expert


def constant_driver(moment: Moment) -> Action:
    """Hold the speed and follow the lane, see nobody: the trivial driver beside which others are judged."""
    return moment.constant


def driver_of(policy: Policy) -> Driver:
    """Make a driver of a function that sees what a node would: image, ego state and command; told what is around, a blank image."""
    blank = np.zeros((2, 2, 3), np.uint8)

    def drive(moment: Moment) -> Action | None:
        image = moment.image if moment.around is None else blank
        assert image is not None, "a policy needs images: play with image=True"
        return policy(Frame(image, moment.ego.stamp, moment.ego, command=moment.command, around=moment.around))

    return drive
