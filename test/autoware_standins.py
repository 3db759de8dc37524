"""Autoware's message packages for tests: the real ones where they are installed, else stand-ins of the same wire format.

The stand-ins are generated from test/autoware_interfaces/ (names, types and constants, which are interface) with CMake and rosidl
into build/autoware_interfaces/<hash>/, once for each content, and are never installed. Only what Python needs is generated: C, the
type support of the middleware in use, and the Python modules. hashes.json there holds the RIHS01 hash of every real type.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
DEFINITIONS = TOP / "test" / "autoware_interfaces"
HASHES = DEFINITIONS / "hashes.json"
BUILDS = TOP / "build" / "autoware_interfaces"
_loaded: list[ctypes.CDLL] = []
TYPE_OF_FIELD = re.compile(r"^([a-z_0-9]+)/\w+", re.M)
CMAKE = """\
cmake_minimum_required(VERSION 3.20)
project({package} LANGUAGES C CXX)
find_package(ament_cmake REQUIRED)
find_package(ament_cmake_python REQUIRED)
find_package(rosidl_cmake REQUIRED)
find_package(rosidl_generator_type_description REQUIRED)
find_package(rosidl_generator_c REQUIRED)
find_package(rosidl_typesupport_introspection_c REQUIRED)
find_package(rosidl_typesupport_fastrtps_c REQUIRED)
find_package(rosidl_typesupport_c REQUIRED)
find_package(rosidl_generator_py REQUIRED)
foreach(needed {needed})
  find_package(${{needed}} REQUIRED)
endforeach()
foreach(point idl_interfaces interfaces)
  list(FILTER AMENT_EXTENSIONS_rosidl_generate_${{point}} EXCLUDE REGEX "_cpp:")
endforeach()
file(GLOB interfaces RELATIVE ${{CMAKE_CURRENT_SOURCE_DIR}} msg/*.msg)
rosidl_generate_interfaces({package} ${{interfaces}} DEPENDENCIES {needed})
foreach(kind fastrtps_c introspection_c)
  set_target_properties({package}__rosidl_typesupport_${{kind}} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
endforeach()
ament_package()
"""
PACKAGE = """\
<?xml version="1.0"?>
<package format="3">
  <name>{package}</name>
  <version>0.0.0</version>
  <description>Stand-in for the tests of owled_ros</description>
  <maintainer email="nobody@example.org">nobody</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
{depends}
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""


def packages() -> list[str]:
    """Name the packages, each after those that it needs."""
    left = sorted(path.name for path in DEFINITIONS.iterdir() if path.is_dir())
    ordered: list[str] = []
    while left:
        ready = [name for name in left if not needs(name) & set(left)]
        assert ready, f"these packages need one another in a circle: {left}"
        ordered += ready
        left = [name for name in left if name not in ready]
    return ordered


def needs(package: str) -> set[str]:
    """Name the packages whose types this one uses."""
    texts = [path.read_text() for path in (DEFINITIONS / package / "msg").glob("*.msg")]
    return {name for text in texts for name in TYPE_OF_FIELD.findall(text)} - {package}


def real_types() -> dict[str, str]:
    """Return the recorded RIHS01 hash of every type that stands in."""
    types: dict[str, str] = json.loads(HASHES.read_text())["types"]
    return types


def use_autoware() -> None:
    """Make Autoware's messages importable in this process; skip the test where they cannot be built."""
    missing = [name for name in packages() if importlib.util.find_spec(name) is None]
    if not missing:
        return
    place = installed()
    sys.path[:0] = [str(folder) for folder in _python_folders(place)]
    os.environ.update(environment(os.environ))
    for library in sorted(place.glob("lib/*.so")):  # LD_LIBRARY_PATH is read when a process starts, not later
        _loaded.append(ctypes.CDLL(str(library)))
    importlib.invalidate_caches()


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a child process that sees Autoware's messages."""
    env = dict(environ)
    if all(importlib.util.find_spec(name) for name in packages()) and not _is_ours():
        return env
    place = installed()
    for name, folders in (
        ("PYTHONPATH", _python_folders(place)),
        ("LD_LIBRARY_PATH", [place / "lib"]),
        ("AMENT_PREFIX_PATH", [place]),
    ):
        words = [str(folder) for folder in folders]
        env[name] = os.pathsep.join(words + [word for word in env.get(name, "").split(os.pathsep) if word not in words])
    return env


def hide_autoware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the packages from child processes; skip the test where the real ones are installed."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if not _is_ours():
        pytest.skip("Autoware's messages are installed here")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if not path.startswith(str(BUILDS))))


def installed() -> Path:
    """Build the stand-ins unless they are there; returns where. A second process waits for the first."""
    if shutil.which("cmake") is None or importlib.util.find_spec("rosidl_generator_py") is None:
        pytest.skip("the stand-ins of Autoware's messages need CMake and rosidl")
    place = BUILDS / _key()
    BUILDS.mkdir(parents=True, exist_ok=True)
    with open(BUILDS / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            for package in packages():  # goes on where an interrupted build ended
                done = place / f"{package}.done"
                if not done.exists():
                    _build(package, place)
                    done.touch()
            shutil.rmtree(place / "work")
            (place / "ready").touch()
    return place


def _key() -> str:
    digest = hashlib.sha256("\0".join((CMAKE, PACKAGE, sys.executable, str(TOP))).encode())
    for path in sorted(DEFINITIONS.rglob("*.msg")):
        digest.update(f"\0{path.relative_to(DEFINITIONS)}\0{path.read_text()}".encode())
    return digest.hexdigest()[:12]


def _build(package: str, place: Path) -> None:
    source, build = place / "work" / package / "source", place / "work" / package / "build"
    shutil.rmtree(source.parent, ignore_errors=True)
    shutil.copytree(DEFINITIONS / package, source)
    needed = sorted(needs(package))
    depends = "\n".join(f"  <depend>{name}</depend>" for name in needed)
    (source / "CMakeLists.txt").write_text(CMAKE.format(package=package, needed=" ".join(needed)))
    (source / "package.xml").write_text(PACKAGE.format(package=package, depends=depends))
    libraries = ";".join([str(place / "lib"), *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)])
    configure = [
        "cmake", "-S", str(source), "-B", str(build), *(["-G", "Ninja"] if shutil.which("ninja") else []),
        f"-DCMAKE_INSTALL_PREFIX={place}", f"-DCMAKE_PREFIX_PATH={place};{sys.prefix}", f"-DPython3_EXECUTABLE={sys.executable}",
        "-DPython3_FIND_VIRTUALENV=ONLY", "-DBUILD_TESTING=OFF", "-DCMAKE_C_FLAGS=-O0", "-DCMAKE_CXX_FLAGS=-O0",
        f"-DCMAKE_INSTALL_RPATH={libraries}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(build), "--parallel", "2", "--target", "install"]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, f"{package} cannot be built:\n{done.stdout[-4000:]}"


def _python_folders(place: Path) -> list[Path]:
    return sorted(place.glob("**/python3*/*-packages"))


def _is_ours() -> bool:
    found = importlib.util.find_spec(packages()[0])
    return found is not None and str(BUILDS) in str(found.origin)
