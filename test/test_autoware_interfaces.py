"""The messages that stand in for Autoware's have the type hashes of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from autoware_standins import DEFINITIONS, real_types, use_autoware

get_package_share_directory = pytest.importorskip(
    "ament_index_python", reason="needs ROS 2"
).packages.get_package_share_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first of all builds the stand-ins


def test_every_definition_has_a_recorded_hash() -> None:
    written = {f"{path.parent.parent.name}/msg/{path.stem}" for path in DEFINITIONS.glob("*/msg/*.msg")}
    assert written == set(real_types())


def test_the_generated_types_have_the_hashes_of_the_real_ones() -> None:
    use_autoware()
    found = {}
    for name in real_types():
        package, _, kind = name.split("/")
        described = json.loads((Path(get_package_share_directory(package)) / "msg" / f"{kind}.json").read_text())
        found[name] = {row["type_name"]: row["hash_string"] for row in described["type_hashes"]}[name]
    assert found == real_types()
