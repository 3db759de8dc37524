"""Repairs of the ROS 2 Jazzy wheels in a virtual environment. Needs the standard library only.

The wheels' CMake and pkg-config files name the machine that they were built on; without the repair no interface package
can be built against them. Repairing twice changes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

BUILDER_PYTHON = re.compile(r"/opt/python/cp\d+-cp\d+t?/include/python3\.\d+t?")
BUILDER_NUMPY = re.compile(r"/opt/python/cp\d+-cp\d+t?/lib/python3\.\d+t?/site-packages/numpy/_core/include")
BUILDER_TINYXML = "/usr/lib64/libtinyxml2.so"


def repair_ros_wheels(prefix: Path, site_packages: Path, python_include: Path) -> int:
    """Rewrite the builder's paths to this environment's; returns the number of files changed."""
    changed = 0
    for path in _build_files(prefix):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        repaired = repair_text(text, site_packages, python_include)
        if repaired != text:
            path.write_text(repaired, encoding="utf-8", errors="surrogateescape")
            changed += 1
    return changed


def repair_text(text: str, site_packages: Path, python_include: Path) -> str:
    """Rewrite the builder's paths in the text of one file."""
    text = BUILDER_NUMPY.sub(str(site_packages / "numpy" / "_core" / "include"), text)
    text = BUILDER_PYTHON.sub(str(python_include), text)
    if BUILDER_TINYXML in text:
        bundled = sorted((site_packages / "ros_fastrtps.libs").glob("libtinyxml2-*.so*"))
        text = text.replace(BUILDER_TINYXML, str(bundled[0]) if bundled else "tinyxml2")
    return text


def _build_files(prefix: Path) -> list[Path]:
    found = [path for room in ("share", "lib/cmake") for path in (prefix / room).rglob("*.cmake")]
    return found + [path for room in ("share", "lib") for path in (prefix / room).rglob("*.pc")]
