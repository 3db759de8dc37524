"""Launch files without a launch system: every argument explained and used, every file, executable and name exists."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent
XML_FILES = sorted((TOP / "launch").glob("*.launch.xml"))
PYTHON_FILES = sorted((TOP / "launch").glob("*.launch.py"))
COMMON = {"namespace", "params_file", "model_path", "use_sim_time", "autostart", "log_level", "use_respawn"}
SHARE = "$(find-pkg-share owled_ros)/"


def by_name(path: Path) -> str:
    return path.name


def flat(parameters: dict[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of parameters."""
    for name, value in parameters.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def values(root: ElementTree.Element) -> list[str]:
    """Return the text of every attribute but descriptions."""
    return [value for element in root.iter() for key, value in element.attrib.items() if key != "description"]


@pytest.mark.parametrize("path", XML_FILES, ids=by_name)
def test_every_argument_is_described_has_a_default_and_is_used(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    arguments = [element for element in root.findall("arg") if "value" not in element.attrib]
    names = {element.attrib["name"] for element in arguments}
    assert names >= COMMON
    assert all(len(element.get("description", "")) > 10 for element in arguments)
    assert all("default" in element.attrib for element in arguments), "it starts with its defaults alone"
    used = set(re.findall(r"\$\(var ([^)]+)\)", " ".join(values(root))))
    assert used == names


@pytest.mark.parametrize("path", XML_FILES, ids=by_name)
def test_files_and_executables_exist(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    named = [value.removeprefix(SHARE) for value in values(root) if value.startswith(SHARE)]
    assert named
    for name in named:
        assert (TOP / name).is_file(), name
    for node in root.iter("node"):
        executable = node.attrib["exec"]
        assert (TOP / "scripts" / executable).stat().st_mode & 0o111
        assert (TOP / "owled_ros" / "nodes" / f"{executable}.py").is_file()
        assert executable in (TOP / "CMakeLists.txt").read_text()


@pytest.mark.parametrize("path", XML_FILES, ids=by_name)
def test_parameters_and_remaps_are_known_to_the_node(path: Path) -> None:
    for node in ElementTree.parse(path).getroot().iter("node"):
        config = yaml.safe_load((TOP / "config" / f"{node.attrib['exec']}.param.yaml").read_text())
        declared = config["/**"]["ros__parameters"]
        known = {*flat(declared), "use_sim_time"}
        assert {param.attrib["name"] for param in node.findall("param") if "name" in param.attrib} <= known
        sources = "".join(source.read_text() for source in (TOP / "owled_ros" / "nodes").glob("*.py"))
        for remap in node.findall("remap"):
            assert f'"{remap.attrib["from"]}"' in sources, remap.attrib["from"]


def test_autoware_launch_passes_every_argument_on_and_commands_no_vehicle() -> None:
    inner = ElementTree.parse(TOP / "launch" / "driving.launch.xml").getroot()
    outer = ElementTree.parse(TOP / "launch" / "autoware_driving.launch.xml").getroot()
    passed = {element.attrib["name"] for include in outer.findall("include") for element in include.findall("arg")}
    assert passed == {element.attrib["name"] for element in inner.findall("arg")}
    followed = ("/control/", "/vehicle/command", "/planning/trajectory", "/planning/turn_indicators_cmd")
    assert not [value for value in values(outer) if any(topic in value for topic in followed)]
    assert not [element for element in outer.iter("remap") if "control" in element.attrib["from"]]


def test_two_instances_share_no_topic_that_they_publish() -> None:
    """Absolute names of outputs hold the instance; all others are relative or private, and the namespace sets them apart."""
    root = ElementTree.parse(TOP / "launch" / "autoware_driving.launch.xml").getroot()
    outputs = [item for item in root.findall("arg") if item.attrib["name"].startswith("output/")]
    assert len(outputs) == 7
    for item in outputs:
        default = item.attrib["default"]
        assert not default.startswith("/") or "$(var instance)" in default, default


def test_an_argument_that_was_not_given_says_nothing() -> None:
    """Only parameters named launch.* come behind the parameter file, and their arguments are empty by default."""
    for path in XML_FILES:
        root = ElementTree.parse(path).getroot()
        defaults = {element.attrib["name"]: element.get("default") for element in root.findall("arg")}
        for node in root.iter("node"):
            places = list(node.findall("param"))
            file = next(index for index, param in enumerate(places) if "from" in param.attrib)
            for param in places[file + 1 :]:
                name, argument = param.attrib["name"], param.attrib["value"].removeprefix("$(var ").removesuffix(")")
                assert name.startswith("launch."), f"{path.name}: {name} would overwrite params_file"
                assert argument == "params_file" or defaults[argument] == "", (
                    f"{path.name}: {argument} counts although it was not given"
                )


def test_transport_settings_are_those_that_are_shipped_and_stay_in_the_node() -> None:
    lines = (TOP / "config" / "transport.env").read_text().splitlines()
    shipped = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    profile = "$(var transport_profile)"
    shipped |= {"FASTRTPS_DEFAULT_PROFILES_FILE": profile, "FASTDDS_DEFAULT_PROFILES_FILE": profile}
    for name in ("driving.launch.xml", "autoware_driving.launch.xml"):
        root = ElementTree.parse(TOP / "launch" / name).getroot()
        assert not list(root.iter("set_env")), "it would reach every process that is started after it"
        for node in root.iter("node"):
            given = {element.attrib["name"]: element.attrib["value"] for element in node.findall("env")}
            assert given == {name: f"$(env {name} {value})" for name, value in shipped.items()}, (
                "an exported value wins"
            )


@pytest.mark.parametrize("path", PYTHON_FILES, ids=by_name)
def test_python_launch_describes_its_arguments_and_runs_known_nodes(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not {call.func.id for call in calls if isinstance(call.func, ast.Name)} & {"eval", "exec", "open"}
    for call in calls:
        words = {keyword.arg: keyword.value for keyword in call.keywords}
        name = getattr(call.func, "id", "")
        if name == "DeclareLaunchArgument":
            assert "description" in words
        if name == "Node":
            executable = words["executable"]
            assert isinstance(executable, ast.Constant)
            assert (TOP / "scripts" / str(executable.value)).is_file()
            assert (TOP / "owled_ros" / "nodes" / f"{executable.value}.py").is_file()


def test_every_executable_starts_the_python_of_the_environment() -> None:
    for path in (TOP / "scripts").iterdir():
        assert path.read_text().startswith("#!/usr/bin/env python3\n"), path.name
        module = re.search(r'run\("owled_ros\.([\w.]+)"\)|from owled_ros\.([\w.]+) import main', path.read_text())
        assert module, path.name
        assert (TOP / "owled_ros" / ((module[1] or module[2]).replace(".", "/") + ".py")).is_file(), path.name


@pytest.mark.parametrize("name", ["rviz/autoware.rviz", "foxglove/autoware.json"])
def test_layouts_for_autoware_are_those_for_the_plain_names(name: str) -> None:
    """Every topic below the namespace of the launch file, or one of Autoware's."""
    plain = (TOP / name.replace("autoware.", "driving.")).read_text()
    topics = set(re.findall(r"/driving_node/[\w/]+", plain))
    text = (TOP / name).read_text()
    assert topics
    assert all(f"/planning/owled{topic}" in text for topic in topics)
    assert not re.search(r"[\s\"]/(driving_node|ego|camera)/", text)


def test_the_image_of_the_chain_is_what_its_script_draws() -> None:
    script = TOP / "docs" / "make_autoware_chain.py"
    made: dict[str, object] = {"__file__": str(script), "__name__": "chain"}
    exec(compile(script.read_text(), str(script), "exec"), made)
    assert made["drawn"]() == (TOP / "docs" / "autoware_chain.svg").read_text()  # type: ignore[operator]
