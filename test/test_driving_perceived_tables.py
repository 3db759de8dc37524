"""Objects, lights and stop lines as tables: there and back, damaged bytes, numbers that cannot be, lights along a route."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.answer import Light
from owled_ros.driving.around import Around, Localised, SurroundingsError
from owled_ros.driving.ego import NANOSECONDS, EgoState, Pose
from owled_ros.driving.needs import InputNeeds, SurroundingsNeed
from owled_ros.driving.number_table import columns_of, layout_of
from owled_ros.driving.perceived import road_users_of, traffic_lights_of
from owled_ros.driving.perceived_tables import (
    LIGHTS,
    OBJECTS,
    STOP_LINES,
    is_table_of,
    lights_table,
    objects_table,
    stop_lines_in,
)
from owled_ros.driving.surroundings import RoadUser, RoadUserClass, Surroundings, TrafficLight
from owled_ros.errors import OwledError

NOW = 1_000 * NANOSECONDS
CAR = RoadUser(20.0, -3.0, 0.5, 4.5, 1.75, 5.0, 1.0, RoadUserClass.TRUCK, 2.5)
ASKED = InputNeeds(objects=SurroundingsNeed(0.5), lights=SurroundingsNeed(1.0), route=SurroundingsNeed(10.0))


def cloud(table: np.ndarray, frame: str = "base_link", **changes: Any) -> Any:
    step = table.dtype.itemsize
    fields = [SimpleNamespace(name=n, offset=o, datatype=k, count=1) for n, o, k in layout_of(table.dtype)]
    values = {
        "header": SimpleNamespace(frame_id=frame), "height": 1, "width": len(table), "fields": fields, "is_bigendian": False,
        "point_step": step, "row_step": step * len(table), "data": np.frombuffer(table.tobytes(), np.uint8),
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def rows(**columns: list[float]) -> np.ndarray:
    kind = np.dtype([(name, "<f8") for name in columns])
    return np.array(list(zip(*columns.values(), strict=True)), kind)


def test_there_and_back() -> None:
    unknown = RoadUser(1.0, 2.0, None, 0.5, 0.5, None, None, RoadUserClass.PEDESTRIAN, 1.75)
    assert road_users_of(cloud(objects_table((CAR, unknown)))) == (CAR, unknown)
    lights = (TrafficLight(7, Light.RED, 3.0, (24.0, 1.0)), TrafficLight(8, Light.GREEN))  # of 8 nobody knows where
    assert traffic_lights_of(cloud(lights_table(lights))) == (TrafficLight(7, Light.RED, None, (24.0, 1.0)),)
    assert road_users_of(cloud(objects_table(()))) == ()


def test_little_is_enough_and_an_unknown_class_is_unknown() -> None:
    (found,) = road_users_of(cloud(rows(x=[3.0], y=[4.0], **{"class": [99.0]})))
    assert found == RoadUser(3.0, 4.0, None, 4.5, 1.8, None, None, RoadUserClass.UNKNOWN, 1.5)
    assert [item.group for item in traffic_lights_of(cloud(rows(x=[1.0, 2.0], y=[0.0, 0.0], light=[2.0, 77.0])))] == [
        0,
        1,
    ]
    big = 2**52 + 1.0  # ids of a map are large
    assert stop_lines_in(cloud(rows(x=[1.0], y=[2.0], group=[big]))) == {int(big): ((1.0, 2.0),)}


def test_tables_are_told_apart_by_their_columns() -> None:
    lidar = cloud(rows(x=[1.0], y=[1.0], intensity=[3.0]))
    objects, lights = cloud(objects_table((CAR,))), cloud(lights_table(()))
    stop_lines = cloud(rows(x=[1.0], y=[2.0], group=[1.0]))
    tables = (lidar, objects, lights, stop_lines, SimpleNamespace())
    assert [is_table_of(item, OBJECTS) for item in tables] == [False, True, False, False, False]
    assert [is_table_of(item, LIGHTS) for item in tables] == [False, False, True, False, False]
    assert [is_table_of(item, STOP_LINES) for item in tables] == [False, False, False, True, False]
    with pytest.raises(OwledError, match="no column class; its columns are intensity, x, y"):
        road_users_of(lidar)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": np.zeros(3, np.uint8)}, "3 bytes for 1 rows"),
        ({"point_step": 8}, "do not fit"),
        ({"point_step": 0}, "do not fit"),
        ({"width": 2001}, "2001 rows; at most 2000"),
        ({"height": 2, "row_step": 999}, "do not fit"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OwledError, match=words):
        columns_of(cloud(objects_table((CAR,)), **changes), OBJECTS)


@given(st.binary(max_size=200), st.integers(0, 40), st.integers(0, 60), st.integers(0, 9), st.integers(0, 99))
def test_whatever_comes_is_a_table_or_refused(data: bytes, width: int, step: int, kind: int, offset: int) -> None:
    fields = [SimpleNamespace(name=name, offset=offset, datatype=kind, count=1) for name in OBJECTS]
    message = cloud(
        objects_table(()),
        fields=fields,
        data=np.frombuffer(data, np.uint8),
        width=width,
        point_step=step,
        row_step=step,
    )
    with contextlib.suppress(OwledError):
        assert len(road_users_of(message)) == width


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("x", math.nan, "not finite"), ("velocity_x", 900.0, "impossible: 900"), ("length", -1.0, "impossible"),
     ("heading", math.inf, "not finite"), ("width", 1e6, "impossible")],
)  # fmt: skip
def test_numbers_that_no_object_has_are_refused(column: str, value: float, words: str) -> None:
    table = objects_table((CAR, CAR))
    table[column][1] = value
    with pytest.raises(OwledError, match=f"object 1 .*{words}"):
        road_users_of(cloud(table))


# Along the route


def around_with(lights: Any, stop_lines: Any = None, frame: str = "base_link", shift: float = 0.0) -> Around:
    around = Around()
    around.hear_objects(NOW, cloud(objects_table(())))
    around.hear_lights(NOW, lights)
    places = [SimpleNamespace(pose=SimpleNamespace(position=SimpleNamespace(x=shift + x, y=0.0))) for x in (0.0, 80.0)]
    around.hear_route(NOW, SimpleNamespace(header=SimpleNamespace(frame_id=frame), poses=places))
    if stop_lines is not None:
        around.hear_stop_lines(0, stop_lines)
    return around


def seen(around: Around) -> Surroundings:
    here = Pose(100.0, 0.0, 0.0)
    found = around.at(NOW, ASKED, Localised("map", lambda at: EgoState(at, 0.0, pose=here)))
    assert found is not None
    return found


def groups(**colours: int) -> Any:
    lamps = {
        name: [SimpleNamespace(color=colour, confidence=0.9, shape=5, status=14)] for name, colour in colours.items()
    }
    return SimpleNamespace(
        traffic_light_groups=[
            SimpleNamespace(traffic_light_group_id=int(name[1:]), elements=lamp) for name, lamp in lamps.items()
        ]
    )


def test_a_light_with_a_place_stands_along_the_route() -> None:
    (light,) = seen(around_with(cloud(lights_table((TrafficLight(7, Light.RED, place=(24.0, 1.0)),))))).lights or ()
    assert light.distance == pytest.approx(24.0)


def test_groups_stand_at_their_stop_lines() -> None:
    # the vehicle is at x 100 of the map; the lines of 7 and 8 lie 20 m ahead, that of 8 on another lane; of 9 nothing is known
    lines = cloud(rows(x=[120.0, 120.0, 120.0], y=[3.5, 0.0, 6.0], group=[7.0, 7.0, 8.0]), "map")  # 7 is for two lanes
    lights = seen(around_with(groups(g7=1, g8=3, g9=2), lines, "map", 100.0)).lights or ()
    assert [(item.light, item.distance) for item in lights] == [
        (Light.RED, pytest.approx(20.0)), (Light.GREEN, None), (Light.YELLOW, None),
    ]  # fmt: skip
    without = seen(around_with(groups(g7=1))).lights or ()
    assert without[0].distance is None


@pytest.mark.parametrize(
    ("around", "words"),
    [
        (
            around_with(groups(g7=1), cloud(rows(x=[math.nan], y=[0.0], group=[7.0]), "map")),
            "stop line 0 holds numbers",
        ),
        (around_with(groups(g7=1), cloud(rows(x=[1.0], y=[0.0], group=[7.0]), "odom")), "frame 'odom'"),
        (around_with(groups(), None, "map", 150.0), "route points are of no use: the vehicle is 50.0 m off"),
    ],
)
def test_what_cannot_be_placed_is_said(around: Around, words: str) -> None:
    with pytest.raises(SurroundingsError, match=words):
        seen(around)


def test_a_route_that_is_too_old_or_has_not_come() -> None:
    around = around_with(groups())
    vehicle = Localised("map", lambda at: EgoState(at, 0.0))
    later = NOW + 11 * NANOSECONDS
    around.hear_objects(later, cloud(objects_table(())))
    around.hear_lights(later, groups())
    with pytest.raises(SurroundingsError, match=r"route points are 11\.000 s older") as caught:
        around.at(later, ASKED, vehicle)
    assert caught.value.stale
    around.clear()
    around.hear_objects(NOW, cloud(objects_table(())))
    with pytest.raises(SurroundingsError, match="asks for route points and none have come"):
        around.at(NOW, ASKED, vehicle)
