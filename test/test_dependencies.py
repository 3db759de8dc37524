"""What the sources import is declared: PyPI packages in requirements/run.txt, ROS packages in package.xml."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PYPI_NAME = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow"}
COMES_WITH = {"markupsafe": "jinja2", "backports": "rosbags", "mpl_toolkits": "matplotlib"}
OPTIONAL = {
    "cv_bridge",
    "ray",
    "gguf",
    "triton",
    "torchvision",
    "peft",
    "accelerate",
}  # used where they are installed, with a way round
ROS_NAME = {"rosidl_runtime_py", "rclpy"}


def roots(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, first part of an imported name) of everything that is neither ours nor Python's."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                root = name.split(".")[0]
                if (
                    root != "owled_ros"
                    and root not in sys.stdlib_module_names
                    and root not in OPTIONAL | {"compression"}
                ):
                    yield path.name, root


def is_ros(root: str) -> bool:
    """Tell a ROS package from one of PyPI by its name."""
    return root in ROS_NAME or root.endswith(("_msgs", "_srvs", "_interfaces"))


def test_imports_are_required() -> None:
    lines = (TOP / "requirements" / "run.txt").read_text().lower().splitlines()
    required = {re.split(r"[<>=\[ ]", line)[0] for line in lines if line and not line.startswith("#")}
    for file, root in roots(TOP / "owled_ros"):
        if not is_ros(root):
            name = COMES_WITH.get(root, PYPI_NAME.get(root, root)).lower().replace("_", "-")
            assert name in required, f"{file} imports {root}: name {name} in requirements/run.txt"


def test_ros_packages_are_declared() -> None:
    package = ElementTree.parse(TOP / "package.xml").getroot()
    declared = {element.text for element in package if element.tag in ("depend", "exec_depend")}
    for file, root in roots(TOP / "owled_ros" / "nodes"):
        assert not is_ros(root) or root in declared, f"{file} imports {root}: name it in package.xml"


def test_package_files_agree() -> None:
    package = ElementTree.parse(TOP / "package.xml").getroot()
    assert f'version="{package.findtext("version")}"' in (TOP / "setup.py").read_text()
    assert package.findtext("license") == "Apache-2.0"
    maintainer = package.find("maintainer")
    assert maintainer is not None
    # colcon takes a package with an invalid address for plain Python, without a word
    assert re.fullmatch(r"[\w.%+-]+@[\w.-]+\.[A-Za-z]{2,6}", maintainer.attrib["email"])
