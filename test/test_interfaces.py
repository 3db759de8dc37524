"""The message files: enums equal Python's, every field is explained, numbers have a unit."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from owled_ros.driving.answer import Light, Manoeuvre, ObjectKind
from owled_ros.driving.prediction import Reason

TOP = Path(__file__).resolve().parent.parent
FILES = sorted([*TOP.glob("msg/*.msg"), *TOP.glob("srv/*.srv"), *TOP.glob("action/*.action")])
NUMBERS = re.compile(r"(float|int|uint)\d+(\[\])?$")
UNIT = re.compile(
    r"\[[^\]]+\]|one of \w|in \[0, 1\]|in \(0, 1\)|\[0, 1\)|count|number of|same seed|the number, in the unit"
)


def lines_of(path: Path) -> list[tuple[str, str, str]]:
    """Return (type, rest, comment) of every declaration."""
    rows = []
    for line in path.read_text().splitlines():
        code, _, comment = line.partition("#")
        words = code.split(None, 1)
        if len(words) == 2:
            rows.append((words[0], words[1].strip(), comment.strip()))
    return rows


def constants(file: str, prefix: str) -> dict[str, int]:
    """Return the constants NAME = VALUE of a message with this prefix, the prefix taken off."""
    found = {}
    for kind, rest, _ in lines_of(TOP / "msg" / file):
        name, equals, value = rest.partition("=")
        if equals and name.strip().startswith(prefix):
            assert kind == "uint8"
            found[name.strip().removeprefix(prefix)] = int(value)
    return found


@pytest.mark.parametrize(
    ("file", "prefix", "enum"),
    [
        ("PredictedAction.msg", "REASON_", Reason),
        ("PredictedAction.msg", "MANOEUVRE_", Manoeuvre),
        ("SceneObject.msg", "KIND_", ObjectKind),
        ("SceneDescription.msg", "LIGHT_", Light),
    ],
)
def test_enums_of_messages_and_python_are_equal(file: str, prefix: str, enum: type[IntEnum]) -> None:
    assert constants(file, prefix) == {value.name: value.value for value in enum}


def test_every_enum_begins_with_unknown_zero() -> None:
    for path in FILES:
        names = [rest for _, rest, _ in lines_of(path) if "=" in rest]
        zeros = [name for name in names if re.search(r"=\s*0$", name)]
        assert all("_UNKNOWN" in name for name in zeros), path.name
        assert len(zeros) == len({name.split("_")[0] for name in names}), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_field_is_explained_and_every_number_has_a_unit(path: Path) -> None:
    assert path.read_text().startswith("# "), "the first line says what the message is"
    for kind, rest, comment in lines_of(path):
        if "=" in rest:
            continue
        assert comment or kind == "SceneObject[]", f"{rest} has no comment"
        if NUMBERS.match(kind):
            assert UNIT.search(comment), f"{rest}: '{comment}' gives no unit, range or enum"


def test_header_comes_first_in_messages_about_a_image() -> None:
    for name in ("PredictedAction", "SceneDescription", "GateVerdict"):
        fields = [rest for _, rest, _ in lines_of(TOP / "msg" / f"{name}.msg") if "=" not in rest]
        assert fields[0] == "header"


def test_generated_messages_are_those_of_the_files() -> None:
    messages = pytest.importorskip("owled_ros.msg", reason="the messages are not built; run through ./owled test")
    built = messages.PredictedAction.get_fields_and_field_types()
    written = [rest for _, rest, _ in lines_of(TOP / "msg" / "PredictedAction.msg") if "=" not in rest]
    assert list(built) == written
    assert messages.PredictedAction.REASON_LATE == Reason.LATE
