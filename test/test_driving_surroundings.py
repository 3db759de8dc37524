"""Objects and lights of another perception: into base_link of the frame, fresh or not at all, and in a profile's words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving import asking
from owled_ros.driving.answer import Light
from owled_ros.driving.around import Around, Localised, SurroundingsError, made_up_surroundings
from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.frame import Frame
from owled_ros.driving.needs import InputNeeds, SurroundingsNeed
from owled_ros.driving.perceived import road_users_of, traffic_lights_of
from owled_ros.driving.profile import DrivingProfile, parse_profile
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, TrafficLight, agreed_light
from owled_ros.errors import OwledError

NOW = 100 * NANOSECONDS
HALF = NANOSECONDS // 2
IMAGE = np.zeros((4, 6, 3), np.uint8)
CAR, PEDESTRIAN = 1, 7
ASKED = InputNeeds(objects=SurroundingsNeed(0.5), lights=SurroundingsNeed(0.5))


def item(
    x: float = 20.0, y: float = 0.0, yaw: float | None = 0.0, speed: float = 0.0, label: int = CAR, **more: Any
) -> Any:
    """Make a TrackedObject by the names of its fields; its twist is along its own heading."""
    turn = SimpleNamespace(x=more.get("qx", 0.0), y=0.0, z=0.0, w=0.0)
    if yaw is not None:
        turn.z, turn.w = math.sin(yaw / 2), math.cos(yaw / 2)
    kinematics = SimpleNamespace(
        pose_with_covariance=SimpleNamespace(
            pose=SimpleNamespace(position=SimpleNamespace(x=x, y=y, z=0.0), orientation=turn)
        ),
        twist_with_covariance=SimpleNamespace(twist=SimpleNamespace(linear=SimpleNamespace(x=speed, y=0.0, z=0.0))),
        orientation_availability=more.get("available", 2),
    )
    size = SimpleNamespace(x=more.get("length", 4.0), y=1.8, z=1.5)
    return SimpleNamespace(
        classification=[
            SimpleNamespace(label=0, probability=0.2),
            SimpleNamespace(label=label, probability=0.7),
        ],
        kinematics=kinematics,
        shape=SimpleNamespace(dimensions=size),
    )


def objects(*items: Any, frame: str = "base_link") -> Any:
    return SimpleNamespace(header=SimpleNamespace(frame_id=frame), objects=list(items))


def lamp(colour: int, confidence: float = 0.9, shape: int = 5, status: int = 14) -> Any:
    return SimpleNamespace(color=colour, confidence=confidence, shape=shape, status=status)


def lights(*groups: list[Any]) -> Any:
    return SimpleNamespace(
        traffic_light_groups=[
            SimpleNamespace(traffic_light_group_id=number, elements=group) for number, group in enumerate(groups)
        ]
    )


def driving(speed: float = 10.0, pose: Pose | None = None, frame: str = "") -> Localised:
    """Drive straight on; the pose is that of NOW."""

    def at(stamp: int) -> EgoState:
        moved = None if pose is None else replace(pose, x=pose.x + speed * (stamp - NOW) / NANOSECONDS)
        return EgoState(stamp, speed, pose=moved)

    return Localised(frame, at)


def heard(message: Any, age: int = 0) -> Around:
    around = Around()
    around.hear_objects(NOW - age, message)
    around.hear_lights(NOW - age, lights())
    return around


def test_an_object_of_the_map_is_seen_from_the_vehicle() -> None:
    # the vehicle at (100, 200) looks north; 20 m further north, 3 m to the west, something drives north with 5 m/s
    ego = Pose(100.0, 200.0, math.pi / 2)
    found = RoadUser(97.0, 220.0, math.pi / 2, 4.0, 1.8, 0.0, 5.0).seen_from(ego)
    assert (found.x, found.y, found.heading) == pytest.approx((20.0, 3.0, 0.0))
    assert (found.velocity_x, found.velocity_y, found.speed) == pytest.approx((5.0, 0.0, 5.0))
    assert found.distance == pytest.approx(math.sqrt(409.0))


def test_a_twist_is_in_the_frame_of_its_object() -> None:
    (found,) = road_users_of(objects(item(yaw=math.pi / 2, speed=4.0)))
    assert (found.velocity_x, found.velocity_y) == pytest.approx((0.0, 4.0))
    assert (found.kind, found.length, found.width, found.height) == (RoadUserClass.CAR, 4.0, 1.8, 1.5)


def test_a_heading_without_sign_points_where_the_object_goes() -> None:
    (backwards,) = road_users_of(objects(item(yaw=0.0, speed=-3.0, available=1)))
    assert backwards.heading == pytest.approx(math.pi)
    assert (backwards.velocity_x, backwards.velocity_y) == (-3.0, 0.0)
    (reversing,) = road_users_of(objects(item(yaw=0.0, speed=-3.0, available=2)))
    assert reversing.heading == 0.0
    (unknown,) = road_users_of(objects(item(yaw=None, speed=2.0)))
    assert (unknown.heading, unknown.velocity_x, unknown.speed) == (None, None, None)
    (standing,) = road_users_of(objects(item(yaw=None)))
    assert (standing.heading, standing.speed) == (None, 0.0)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (item(x=math.nan), "object 1 holds numbers that are not finite"),
        (item(yaw=math.nan), "not finite"),
        (item(qx=1e200), "not finite"),  # its square is not
        (item(speed=900.0), "object 1 is impossible: 900 m/s"),
        (item(length=-1.0), "impossible"),
        (item(length=1e9), "impossible"),
    ],
)
def test_a_message_with_a_number_that_cannot_be_is_refused_whole(bad: Any, words: str) -> None:
    with pytest.raises(OwledError, match=words):
        road_users_of(objects(item(), bad))


def test_lists_beyond_all_measure_are_refused() -> None:
    with pytest.raises(OwledError, match="holds 2001 objects; at most 2000"):
        road_users_of(objects(*[item()] * 2001))
    with pytest.raises(OwledError, match="1001 traffic light groups"):
        traffic_lights_of(lights(*[[]] * 1001))


def test_an_unknown_class_is_unknown() -> None:
    (found,) = road_users_of(objects(item(label=99)))
    assert found.kind is RoadUserClass.UNKNOWN


def test_the_lamp_that_is_lit_says_the_colour() -> None:
    groups = (
        [lamp(1)],  # red
        [lamp(1, 0.3), lamp(2, 0.8)],  # amber is surer
        [lamp(1, 0.9, status=13), lamp(3, 0.4)],  # red is off
        [lamp(1, 0.5), lamp(3, 0.9, shape=7)],  # a green arrow beside a round red
        [lamp(3, 0.9, shape=8)],  # nothing but an arrow
        [lamp(16)],
        [],
    )
    assert [item.light for item in traffic_lights_of(lights(*groups))] == [
        Light.RED, Light.YELLOW, Light.GREEN, Light.RED, Light.GREEN, Light.UNKNOWN, Light.UNKNOWN,
    ]  # fmt: skip
    assert agreed_light(()) is Light.NONE
    assert agreed_light((TrafficLight(1, Light.RED), TrafficLight(2, Light.RED))) is Light.RED
    assert agreed_light((TrafficLight(1, Light.RED), TrafficLight(2, Light.GREEN))) is Light.UNKNOWN


def test_objects_are_carried_on_to_the_frame() -> None:
    # 0.2 s ago 20 m ahead, 5 m/s; the vehicle drove 2 m since: 20 + 1 - 2
    around = heard(objects(item(speed=5.0)), age=NANOSECONDS // 5)
    for vehicle in (driving(), driving(pose=Pose(7.0, 0.0, 0.0), frame="odom")):
        found = around.at(NOW, ASKED, vehicle)
        assert found is not None
        assert found.objects is not None
        assert (found.objects[0].x, found.objects[0].y) == pytest.approx((19.0, 0.0))
    # in the map they moved by 1 m and the vehicle is where it is now
    around = heard(objects(item(x=30.0, speed=5.0), frame="map"), age=NANOSECONDS // 5)
    found = around.at(NOW, ASKED, driving(pose=Pose(7.0, 0.0, 0.0), frame="map"))
    assert found is not None
    assert found.objects is not None
    assert found.objects[0].x == pytest.approx(24.0)


def test_the_nearest_come_first() -> None:
    found = heard(objects(item(30.0), item(-5.0), item(12.0))).at(NOW, ASKED, driving())
    assert found is not None
    assert [round(one.x) for one in found.objects or ()] == [-5, 12, 30]


@pytest.mark.parametrize(
    ("around", "vehicle", "words", "stale"),
    [
        (Around(), driving(), "asks for objects and none have come", False),
        (heard(objects(item()), age=HALF + 1_000_000), driving(), "objects are 0.501 s older", True),
        (heard(objects(item()), age=-1), driving(), "all newer than the image", True),
        (heard(objects(item(), frame="map")), driving(pose=Pose(0.0, 0.0, 0.0), frame="odom"), "frame 'map'", False),
        (heard(objects(item(), frame="map")), driving(), "the odometry names none", False),
        (heard(objects(item(), frame="map")), driving(frame="map"), "has no pose", False),
        (heard(objects(item(x=math.nan))), driving(), "of no use: object 0 holds", False),
    ],
)
def test_what_is_required_and_cannot_be_used_is_said(
    around: Around, vehicle: Localised, words: str, stale: bool
) -> None:
    with pytest.raises(SurroundingsError, match=words) as caught:
        around.at(NOW, ASKED, vehicle)
    assert caught.value.stale is stale
    free = InputNeeds(objects=SurroundingsNeed(0.5, required=False), lights=SurroundingsNeed(0.5, required=False))
    found = around.at(NOW, free, vehicle)
    assert found is not None
    assert found.objects is None


def test_nothing_is_looked_up_for_a_model_that_does_not_ask() -> None:
    assert heard(objects(item(x=math.nan))).at(NOW, InputNeeds(), driving()) is None
    assert made_up_surroundings(InputNeeds()) is None


def test_a_clock_that_begins_anew_forgets_what_was_before() -> None:
    around = heard(objects(item()))
    around.hear_objects(5, objects(item(8.0)))
    around.hear_lights(5, lights())
    found = around.at(5, ASKED, driving())
    assert found is not None
    assert [one.x for one in found.objects or ()] == [8.0]


# In words


def profile_of(**values: Any) -> DrivingProfile:
    called = {"user": "{images}" + "".join(f"{{{name}}}|" for name in values), "max_tokens": 8}
    whole = {"format_version": 2, "answer": {"kind": "line"}, "calls": [called], **values}
    return parse_profile(json.dumps(whole), "driving.json")


def said(profile: DrivingProfile, around: Surroundings | None) -> str:
    frame = Frame(IMAGE, NOW, EgoState(NOW, 5.0), around=around)
    (turn,) = asking.conversation(profile, profile.calls[0], frame).turns
    return "".join(part for part in turn.parts if isinstance(part, str))


SEEN = Surroundings(
    (
        RoadUser(8.0, -6.0, 0.5, 0.6, 0.6, 0.0, 1.0, RoadUserClass.PEDESTRIAN),
        RoadUser(20.0, 0.0, 0.0, 4.5, 1.8, 3.0, 4.0, RoadUserClass.CAR),
        RoadUser(21.0, 0.0, 0.0, 4.5, 1.8, 0.0, 0.0, RoadUserClass.OVER_DRIVABLE),
        RoadUser(90.0, 0.0, 0.0, 4.5, 1.8, 0.0, 0.0, RoadUserClass.CAR),
    ),
    (TrafficLight(1, Light.RED),),
)
LINE = "{number} {kind} {distance:.1f} m, {speed:.0f} m/s"


def test_the_nearest_objects_are_said_in_lines() -> None:
    profile = profile_of(objects={"line": LINE, "within_m": 50})
    assert said(profile, SEEN) == "1 pedestrian 10.0 m, 1 m/s\n2 car 20.0 m, 5 m/s\n3 over drivable 21.0 m, 0 m/s|"
    few = profile_of(objects={"line": LINE, "max": 1, "words": {"pedestrian": "", "car": "vehicle"}})
    assert said(few, SEEN) == "1 vehicle 20.0 m, 5 m/s|"
    assert said(few, Surroundings((), ())) == "none|"


def test_numbers_of_objects_are_written_as_the_profile_says() -> None:
    whole = {
        "format_version": 2,
        "answer": {"kind": "line"},
        "calls": [{"user": "{images}{objects}", "max_tokens": 8}],
        "objects": {"line": "{distance:.0f}", "separator": " "},
        "numbers": {"distance": {"step": 5.0, "max": 15}},
    }
    assert said(parse_profile(json.dumps(whole), "driving.json"), SEEN) == "10 15 15"


def test_lights_are_said_in_the_words_of_the_profile() -> None:
    profile = profile_of(lights={"words": {"none": "no light", "red": "RED", "unknown": "?"}})
    assert said(profile, SEEN) == "RED|"
    assert said(profile, Surroundings(None, ())) == "no light|"
    with pytest.raises(OwledError, match="no word for traffic lights that are 'green'"):
        said(profile, Surroundings(None, (TrafficLight(1, Light.GREEN),)))


def test_what_is_missing_is_no_answer_unless_the_profile_says_so() -> None:
    strict = profile_of(objects={"line": "{kind}"}, lights={"words": {"none": "-"}})
    assert (strict.needs.objects, strict.needs.lights) == (SurroundingsNeed(0.5), SurroundingsNeed(1.0))
    with pytest.raises(OwledError, match="asks for the objects around"):
        said(strict, None)
    with pytest.raises(OwledError, match="asks for the traffic lights"):
        said(strict, Surroundings((), None))
    free = profile_of(
        objects={"line": "{kind}", "required": False},
        lights={"words": {"none": "-"}, "required": False, "missing": "x"},
    )
    assert said(free, None) == "unknown|x|"
    assert said(strict, made_up_surroundings(strict.needs)) == "car|-|"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objects": {"line": "{colour}"}}, "colour"),
        ({"objects": {"line": "{kind}", "words": {"spaceship": "x"}}}, "spaceship"),
        ({"objects": {"line": "{kind}", "max": 0}}, "max"),
        ({"objects": {"line": "{kind:.1f}"}}, "takes no format"),
        ({"lights": {"words": {"red": "red"}}}, "no word for 'none'"),
        ({"lights": {"words": {}}}, "words"),
    ],
)
def test_a_profile_that_cannot_be_said_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OwledError, match=words):
        profile_of(**values)


def test_a_description_that_no_call_says_is_refused() -> None:
    whole = {
        "format_version": 2, "answer": {"kind": "line"}, "calls": [{"user": "{images}", "max_tokens": 8}],
        "objects": {"line": "{kind}"},
    }  # fmt: skip
    with pytest.raises(OwledError, match="objects is described, but no call says"):
        parse_profile(json.dumps(whole), "driving.json")


def test_an_object_whose_motion_nobody_knows_is_not_made_up() -> None:
    profile = profile_of(objects={"line": "{speed:.0f}"})
    unknown = Surroundings((RoadUser(5.0, 0.0, None, 1.0, 1.0, None, None),), None)
    with pytest.raises(OwledError, match="speed, which is not known"):
        said(profile, unknown)


@given(
    st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(-3, 3), st.floats(-50, 50), st.floats(-1e3, 1e3), st.floats(-3, 3)
)  # fmt: skip
def test_seen_from_keeps_distances_and_speeds(
    x: float, y: float, yaw: float, speed: float, ego: float, turn: float
) -> None:
    (user,) = road_users_of(objects(item(x, y, yaw, speed)))
    seen = user.seen_from(Pose(ego, -ego, turn))
    assert seen.distance == pytest.approx(math.dist((x, y), (ego, -ego)), abs=1e-6)
    assert seen.speed == pytest.approx(abs(speed), abs=1e-6)
