"""Vector scenes: read by hand-worked numbers, said in LLM-Driver's sentences, made from frames; bad numbers are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from owled_ros.driving.answer import Light
from owled_ros.driving.ego import EgoState, Pose
from owled_ros.driving.frame import Frame
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, TrafficLight
from owled_ros.driving.vector_facts import facts_of
from owled_ros.driving.vector_frame import vectors_of
from owled_ros.driving.vector_rows import pedestrian_row, vehicle_row, write_nearest
from owled_ros.driving.vector_words import QUESTIONS, Pedals, action, description, direction, drive_answer
from owled_ros.driving.vectors import Ego, Route, VectorScene, Vehicle, empty_scene, unpack
from owled_ros.errors import OwledError

SIZE = (4.4, 1.8, 1.5)
IMAGE = np.zeros((4, 4, 3), np.uint8)


def scene() -> VectorScene:
    """A car 30 m ahead and 40 m to the right of that, one 3 m and 4 m; a child 12 m away; red light on the third route point."""
    made = empty_scene()
    made.vehicles[0] = vehicle_row(3.0, -4.0, math.pi, 5.0, SIZE, True)
    made.vehicles[1] = vehicle_row(30.0, -40.0, 0.0, 5.0, SIZE, True)  # 50 m away: too far
    made.vehicles[2] = vehicle_row(10.0, 0.0, 0.0, 0.0, SIZE, False)  # parked
    made.vehicles[3] = vehicle_row(-8.0, 0.0, 0.0, 5.0, SIZE, True)  # behind
    made.pedestrians[0] = pedestrian_row(12.0, 0.0, math.pi / 2, 1.4, True)
    made.route[:, Route.X], made.route[:, Route.DX] = 0.2 + 0.2 * np.arange(30), 1.0
    made.route[:, Route.Y] = 0.05
    made.route[2, [Route.LIGHT, Route.RED]] = 1.0
    made.route[10:14, Route.JUNCTION] = 1.0
    made.ego[Ego.SPEED], made.ego[Ego.STEERING_WHEEL] = 1.0, math.radians(45.5)
    return made


def test_facts_by_hand() -> None:
    facts = facts_of(scene())
    (car,), (child,) = facts.vehicles, facts.pedestrians
    assert (car.distance, car.angle) == (pytest.approx(5.0), pytest.approx(math.degrees(math.atan2(4, 3))))
    assert abs(car.travelling) == pytest.approx(180.0)
    assert (child.distance, child.crossing) == (pytest.approx(12.0), True)
    assert (facts.light, facts.light_distance) == ("red", pytest.approx(math.hypot(6.0, 0.5)))
    assert facts.junction == pytest.approx(math.hypot(22.0, 0.5))
    assert (facts.speed, facts.wheel, facts.lane_offset) == (5.0, pytest.approx(10.0), pytest.approx(0.5))


def test_sentences_by_hand() -> None:
    assert description(facts_of(scene())) == (
        "I'm observing 1 cars and 1 pedestrians.\n"
        "A moving car; Angle in degrees: 53.13; Distance: 5.00m; Direction of travel: opposite direction from me;\n"
        "A pedestrian; Angle in degrees: 0.00; Distance: 12.00m; Direction of travel: from right to left; Crossing: True;\n"
        "The distance to the closest intersection is 22.01m\n"
        "There is a traffic light and it is red. It is 6.02m ahead.\n"
        "My car 0.50m from the lane center and 0.00 degrees right off center.\n"
        "My current speed is 11.18 mph\nSteering wheel is 10.00% left.\nI need to go straight for at least 60.00m."
    )


def test_the_action_is_cut_off_and_not_rounded() -> None:
    said = action(Pedals(0.629, 0.0, -0.0399))
    assert said == "Here are my actions:\n- Accelerator pedal 62%\n- Brake pedal 0%\n- Going to steer 3% to the right."
    assert drive_answer(facts_of(empty_scene()), Pedals(0.0, 1.0, 0.29)).endswith("Going to steer 29% to the left.")


@pytest.mark.parametrize(
    ("degrees", "words"),
    [
        (0, "same direction as me"),
        (-179, "opposite direction from me"),
        (90, "from left to right"),
        (-60, "from right to left"),
    ],
)
def test_directions(degrees: float, words: str) -> None:
    assert direction(degrees) == words


def test_every_question_has_an_answer_where_nobody_is() -> None:
    assert all(answer(facts_of(empty_scene())) for answer in QUESTIONS.values())


def test_packed_and_back() -> None:
    again = unpack(scene().packed())
    for part in ("ego", "route", "vehicles", "pedestrians"):
        assert np.array_equal(getattr(again, part), getattr(scene(), part))


@pytest.mark.parametrize(("value", "words"), [(math.nan, "NaN"), (math.inf, "NaN or inf"), (1e4, "at most 100")])
def test_numbers_that_no_scene_has_are_refused(value: float, words: str) -> None:
    rows = scene().packed()
    rows[40, 3] = value
    with pytest.raises(OwledError, match=words):
        unpack(rows)


def test_of_too_many_the_nearest_win() -> None:
    made = empty_scene()
    write_nearest(
        made.vehicles, [vehicle_row(float(x), 0.0, 0.0, 5.0, SIZE, True) for x in range(40, 0, -1)], Vehicle.X
    )
    assert made.vehicles[:, Vehicle.X] == pytest.approx(np.arange(1, 31) / 10)


def frame(objects: tuple[RoadUser, ...] | None = (), **around: object) -> Frame:
    command = around.pop("command", None)
    seen = None if objects is None else Surroundings(objects, **around)  # type: ignore[arg-type]
    ego = EgoState(0, 5.0, 0.0, -3.0, steering_tire_angle=0.3)
    return Frame(IMAGE, 0, ego, command=command, around=seen)  # type: ignore[arg-type]


def user(x: float, y: float, kind: RoadUserClass, velocity: tuple[float, float] = (5.0, 0.0)) -> RoadUser:
    return RoadUser(x, y, math.atan2(velocity[1], velocity[0]), 4.4, 1.8, *velocity, kind)


def test_a_frame_becomes_vectors() -> None:
    walker = user(10.0, -3.0, RoadUserClass.PEDESTRIAN, (0.0, 1.4))  # towards the lane
    other = user(12.0, -8.0, RoadUserClass.PEDESTRIAN, (1.4, 0.0))
    strange = user(3.0, 0.0, RoadUserClass.UNKNOWN, (0.0, 0.0))
    parked = user(8.0, -4.0, RoadUserClass.CAR, (0.0, 0.0))
    animal = user(6.0, 0.0, RoadUserClass.ANIMAL)
    facts = facts_of(
        vectors_of(
            frame(
                (user(20.0, 0.0, RoadUserClass.TRUCK), walker, other, strange, parked, animal),
                lights=(TrafficLight(1, Light.RED, 24.3), TrafficLight(2, Light.GREEN)),
            )
        )
    )
    assert [round(item.distance) for item in facts.vehicles] == [3, 20]  # of an unknown class, on the route; the truck
    assert [item.crossing for item in facts.pedestrians] == [True, False]
    assert (facts.light, facts.light_distance) == ("red", pytest.approx(24.3))
    assert facts.junction == pytest.approx(26.3)  # the point behind the light
    assert facts.last_pedals == (0.0, pytest.approx(0.5), pytest.approx(0.5))
    assert facts.wheel == pytest.approx(50.0, rel=1e-3)


def test_the_route_is_that_of_the_frame_or_of_the_command() -> None:
    bend = tuple(Pose(20 * math.sin(a), 20 * (1 - math.cos(a)), a) for a in np.linspace(0.0, math.pi / 2, 30))
    assert facts_of(vectors_of(frame(route=bend))).turn == pytest.approx(-90.0, abs=0.1)
    right = NavigationCommand(CommandKind.RIGHT, 10.0)
    assert facts_of(vectors_of(frame(command=right))).turn == pytest.approx(90.0, abs=0.1)
    assert facts_of(vectors_of(frame())).turn == 0.0


def test_a_frame_without_objects_has_no_vectors() -> None:
    with pytest.raises(OwledError, match="asks for the objects"):
        vectors_of(frame(None))
    with pytest.raises(OwledError, match="at most 100"):
        vectors_of(frame((user(5000.0, 0.0, RoadUserClass.CAR),)))
