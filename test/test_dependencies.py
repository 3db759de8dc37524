"""What the sources import is declared: PyPI packages in requirements/run.txt, ROS packages in package.xml; the lists agree."""

from __future__ import annotations

import ast
import functools
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

TOP = Path(__file__).resolve().parent.parent
PYPI_NAME = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow"}
COMES_WITH = {"markupsafe": "jinja2", "backports": "rosbags", "mpl_toolkits": "matplotlib"}
UNSEEN = {"rosbags-image": "imported as a part of rosbags"}
OPTIONAL = {
    "cv_bridge",
    "ray",
    "gguf",
    "triton",
    "torchvision",
    "peft",
    "accelerate",
    "av",
    "optuna",
}  # used where they are installed, with a way round
ROS_NAME = {"rosidl_runtime_py", "rclpy"}
ROSDEP = {  # PyPI name: the key by which rosdep installs it
    "jinja2": "python3-jinja2",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "opencv-python-headless": "python3-opencv",
    "pillow": "python3-pil",
    "psutil": "python3-psutil",
    "pydantic": "python3-pydantic",
    "pyyaml": "python3-yaml",
    "rich": "python3-rich",
    "typer": "python3-typer",
}
TEST_KEYS = {"python3-hypothesis", "python3-jsonschema", "python3-pytest", "python3-pytest-timeout"}


@functools.cache
def roots(folder: Path) -> list[tuple[str, str]]:
    """Return (file, first part of an imported name) of everything that is neither ours nor Python's."""
    return list(_imports(folder))


def _imports(folder: Path) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                root = name.split(".")[0]
                if (
                    root != "owled_ros"
                    and not root.startswith("_")  # of type checkers
                    and root not in sys.stdlib_module_names
                    and root not in OPTIONAL | {"compression"}
                ):
                    yield path.name, root


def is_ros(root: str) -> bool:
    """Tell a ROS package from one of PyPI by its name."""
    return root in ROS_NAME or root.endswith(("_msgs", "_srvs", "_interfaces"))


def requirements(name: str) -> dict[str, Requirement]:
    """Read a list of requirements; by name in PyPI's spelling."""
    lines = (TOP / "requirements" / name).read_text().splitlines()
    read = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {item.name.lower().replace("_", "-"): item for item in read}


def declared(*tags: str) -> set[str]:
    """Return what package.xml names under these tags."""
    package = ElementTree.parse(TOP / "package.xml").getroot()
    return {element.text or "" for element in package if element.tag in tags}


def test_imports_are_required() -> None:
    required = requirements("run.txt")
    for file, root in roots(TOP / "owled_ros"):
        if not is_ros(root):
            name = COMES_WITH.get(root, PYPI_NAME.get(root, root)).lower().replace("_", "-")
            assert name in required, f"{file} imports {root}: name {name} in requirements/run.txt"


def test_nothing_is_required_that_is_not_imported() -> None:
    imported = {COMES_WITH.get(root, PYPI_NAME.get(root, root)).lower() for _, root in roots(TOP / "owled_ros")}
    unused = set(requirements("run.txt")) - {name.replace("_", "-") for name in imported}
    assert unused == set(UNSEEN)


def test_ros_packages_are_declared() -> None:
    wanted = {root for folder in ("owled_ros", "launch") for _, root in roots(TOP / folder) if is_ros(root)}
    texts = [path.read_text() for kind in ("msg", "srv", "action") for path in (TOP / kind).iterdir()]
    wanted |= {found[1] for text in texts for found in re.finditer(r"^(\w+)/\w+(?:\[\d*\])? ", text, re.M)}
    if any((TOP / "launch").glob("*.xml")):
        wanted |= {"launch_xml", "ros2launch"}
    assert wanted <= declared("depend", "exec_depend")


def test_every_requirement_comes_by_rosdep_or_is_named_as_one_of_pip() -> None:
    package = (TOP / "package.xml").read_text()
    listed = re.search(r"From pip.*?: ([^.]+)\.", package, re.S)
    assert listed, "package.xml says which packages come from pip"
    by_pip = set(re.split(r",\s+", listed[1]))
    assert set(requirements("run.txt")) == set(ROSDEP) | by_pip
    assert not set(ROSDEP) & by_pip
    keys = {key for key in declared("depend", "exec_depend") if key.startswith("python3-")}
    assert keys == set(ROSDEP.values())
    assert {key for key in declared("test_depend") if key.startswith("python3-")} == TEST_KEYS


def test_cmake_finds_what_package_xml_declares() -> None:
    found = set(re.findall(r"find_package\((\w+)", (TOP / "CMakeLists.txt").read_text())) - {"Python3"}
    assert found <= declared("depend", "buildtool_depend", "test_depend")


@pytest.mark.parametrize("name", ["lock.txt", "constraints_jazzy.txt"])
def test_pins_are_within_the_bounds_of_what_is_required(name: str) -> None:
    pins = requirements(name)
    for wanted in (item for part in ("run.txt", "dev.txt", "colcon.txt") for item in requirements(part).items()):
        for pin in [pins[wanted[0]]] if wanted[0] in pins else []:
            exact = [specifier.version for specifier in pin.specifier if specifier.operator == "=="]
            assert all(wanted[1].specifier.contains(version) for version in exact), (
                f"{pin} of {name} against {wanted[1]}"
            )


def test_the_workspace_keeps_the_numpy_of_ubuntu() -> None:
    """rclpy and cv_bridge of Jazzy are built against NumPy 1.26; a wheel of OpenCV from 4.12 on wants NumPy 2."""
    pins = requirements("constraints_jazzy.txt")
    assert str(pins["numpy"].specifier) == "==1.26.4"
    assert Version(str(pins["opencv-python-headless"].specifier).removeprefix("==")) < Version("4.12")
    assert "constraints_jazzy.txt" in (TOP / "README.md").read_text()
    assert "constraints_jazzy.txt" in (TOP / "docs" / "install.md").read_text()


def test_package_files_agree() -> None:
    package = ElementTree.parse(TOP / "package.xml").getroot()
    assert package.findtext("license") == "Apache-2.0"
    maintainer = package.find("maintainer")
    assert maintainer is not None
    # colcon takes a package with an invalid address for plain Python, without a word
    assert re.fullmatch(r"[\w.%+-]+@[\w.-]+\.[A-Za-z]{2,6}", maintainer.attrib["email"])
