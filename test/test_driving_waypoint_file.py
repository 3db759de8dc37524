"""A route as a text file: read as it is written, or refused by the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.waypoint_file import read_waypoints
from owled_ros.errors import OwledError


def test_lines_are_places(tmp_path: Path) -> None:
    path = tmp_path / "route.txt"
    path.write_text("# from home\n0, 0\n\n12.5 -3e1 7 # and a height\n\t1;")
    with pytest.raises(OwledError, match=r"line 5 of .* is"):
        read_waypoints(path)
    path.write_text("# from home\n0, 0\n\n12.5 -3e1 7 # and a height\n")
    assert read_waypoints(path).tolist() == [[0.0, 0.0], [12.5, -30.0]]


@pytest.mark.parametrize(("text", "words"), [("1", "line 1"), ("a, b", "line 1"), ("1, 2\n3", "line 2")])
def test_a_line_that_is_no_place_is_said(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(OwledError, match=words):
        read_waypoints(tmp_path / "x")


def test_a_file_that_is_not_there_or_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(OwledError, match="are not there"):
        read_waypoints(tmp_path / "none")
    (tmp_path / "x").write_text("1 2\n" * 100_001)
    with pytest.raises(OwledError, match="more than 100000 places"):
        read_waypoints(tmp_path / "x")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("route") / "x"
    path.write_bytes(data)
    try:
        read_waypoints(path)
    except OwledError:
        return
