"""owled doctor: each finding follows the machine that it is shown, and the exit code follows the findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from owled_ros import doctor
from owled_ros.commands.doctor import register
from owled_ros.doctor import Finding, Severity, autoware, discovery, libraries, machine, ros, transport

TOP = Path(__file__).resolve().parent.parent


def run(checks: tuple[doctor.Check, ...], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Run the command with these checks; returns exit code and output."""
    monkeypatch.setattr(doctor, "CHECKS", checks)
    app = typer.Typer()
    register(app)
    app.command()(lambda: None)  # a second command keeps typer from folding the first into the program
    result = CliRunner().invoke(app, ["doctor", *words])
    return result.exit_code, result.output


def well() -> Finding:
    return Finding("well", Severity.OK, "fine")


def worse() -> Finding:
    return Finding("worse", Severity.WARN, "slow", "do this")


def check_that_raises() -> Finding:
    raise KeyError("nothing there")


def test_warnings_do_not_fail_and_advice_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run((well, worse), monkeypatch)
    assert code == 0
    assert "do this" in output


def test_a_check_that_raises_is_a_failed_line_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run((check_that_raises, well), monkeypatch, "--json")
    assert code == 1
    first, second = json.loads(output)
    assert (first["severity"], first["name"]) == ("fail", "that raises")
    assert "nothing there" in first["found"]
    assert second == {"name": "well", "severity": "ok", "found": "fine", "advice": ""}


def test_shipped_profile_is_large_enough_and_a_missing_one_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(TOP / "config" / "fastdds.xml"))
    assert transport.check_transport_profile().severity is Severity.OK
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(TOP / "absent.xml"))
    assert transport.check_transport_profile().severity is Severity.FAIL
    for name in transport.PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    finding = transport.check_transport_profile()
    assert finding.severity is Severity.WARN
    assert "85-98 %" in finding.advice


def test_small_segment_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "small.xml"
    profile.write_text('<profiles xmlns="x"><d><segment_size>524288</segment_size></d></profiles>')
    assert transport.largest_segment(profile) == 524288
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    assert transport.check_transport_profile().severity is Severity.WARN


def test_malloc_settings_that_are_missing_are_named() -> None:
    assert transport.missing_malloc({"MALLOC_ARENA_MAX": "1"}) == ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]


def test_doctor_knows_the_settings_that_are_shipped() -> None:
    shipped = [
        line.split("=")[0] for line in (TOP / "config" / "transport.env").read_text().splitlines() if "=" in line
    ]
    assert sorted(shipped) == sorted(transport.MALLOC_VARIABLES)


@pytest.mark.skipif(not transport.SHARED_MEMORY.is_dir(), reason="no /dev/shm on this machine")
def test_segment_that_nobody_holds_is_an_orphan() -> None:
    held = transport.SHARED_MEMORY / "owled_doctor_test_held"
    left = transport.SHARED_MEMORY / "owled_doctor_test_left"
    try:
        left.touch()
        with open(held, "w"):
            assert transport.orphaned([held, left]) == [left]
    finally:
        held.unlink(missing_ok=True)
        left.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("flags", "features"),
    [
        ("flags : fpu sse2", []),
        ("flags : fma avx2 avx512f avx512_vnni", ["avx512_vnni", "avx512f", "avx2", "fma"]),
        ("Features : fp asimd", ["neon"]),
    ],
)
def test_cpu_features_are_read(flags: str, features: list[str]) -> None:
    assert machine.cpu_features(flags) == features


def test_library_that_breaks_on_import_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = libraries.check_torch()
    assert finding.severity is Severity.FAIL
    assert "libcudart.so.13" in finding.found


@pytest.mark.parametrize(("shear", "severity"), [(0, Severity.OK), (1, Severity.WARN)])
def test_cv_bridge_is_judged_by_its_pixels(
    shear: int, severity: Severity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that converts rightly is sound; one that ignores the padding of rows is not."""
    (tmp_path / "cv_bridge.py").write_text(
        "import numpy as np\n"
        "class CvBridge:\n"
        "    def imgmsg_to_cv2(self, message, encoding=None):\n"
        "        kind, channels = (np.uint16, 1) if message.encoding == '16UC1' else (np.uint8, 3)\n"
        "        width = message.width * channels\n"
        f"        step = width if {shear} else message.step // np.dtype(kind).itemsize\n"
        "        flat = np.frombuffer(message.data, kind)[:message.height * step]\n"
        "        rows = flat.reshape(message.height, step)[:, :width]\n"
        "        image = rows if channels == 1 else rows.reshape(message.height, message.width, channels)\n"
        "        return image[..., ::-1] if encoding == 'bgr8' else image\n"
    )
    (tmp_path / "sensor_msgs").mkdir()
    (tmp_path / "sensor_msgs" / "msg.py").write_text(
        "class Image:\n    def __init__(self, **fields):\n        self.__dict__.update(fields)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert libraries.check_cv_bridge().severity is severity


def test_missing_ros_is_a_failure_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finding = ros.check_ros()
    assert finding.severity is Severity.FAIL
    assert "./owled" in finding.advice


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, ""),
        ({"ROS_DOMAIN_ID": ""}, ""),
        ({"ROS_DOMAIN_ID": " 232 "}, ""),
        ({"ROS_DOMAIN_ID": "233"}, "ROS_DOMAIN_ID is '233'; expected a whole number from 0 to 232"),
        ({"ROS_DOMAIN_ID": "-1"}, "expected a whole number"),  # rcl takes it for 0 without a word
        ({"ROS_DOMAIN_ID": "5x"}, "expected a whole number"),
        ({"ROS_DOMAIN_ID": "9" * 30}, "expected a whole number"),
        ({"RMW_IMPLEMENTATION": "rmw_a"}, ""),
        (
            {"RMW_IMPLEMENTATION": "rmw_x"},
            "RMW_IMPLEMENTATION is 'rmw_x', which is not installed; here are rmw_a, rmw_b",
        ),
        (
            {"RMW_IMPLEMENTATION": "rmw_implementation"},
            "is not installed",
        ),  # the package that chooses, not a middleware
        ({"RMW_IMPLEMENTATION": "rmw_x", "AMENT_PREFIX_PATH": ""}, ""),  # nobody knows what is installed
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, ""),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "no node finds another"),
        ({"ROS_STATIC_PEERS": "127.0.0.1;"}, ""),
        ({"ROS_STATIC_PEERS": "127.0.0.1;nowhere.invalid"}, "'nowhere.invalid', which cannot be resolved"),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}, "cannot be read (No such file or directory)"),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": str(TOP / "README.md")}, "no XML"),
    ],
)
def test_what_keeps_nodes_apart_is_one_sentence(variables: dict[str, str], words: str, tmp_path: Path) -> None:
    for name in ("rmw_a", "rmw_b", "rmw_implementation"):
        path = tmp_path / discovery.MIDDLEWARES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    problem = discovery.discovery_problem({"AMENT_PREFIX_PATH": str(tmp_path), **variables})
    assert words in problem
    assert bool(words) == bool(problem)
    assert "\n" not in problem


def test_settings_of_discovery_are_listed_for_a_bug_report(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in discovery.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert discovery.check_discovery().found == "none is set"
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert discovery.check_discovery() == Finding("discovery", Severity.OK, "ROS_DOMAIN_ID=7")
    monkeypatch.setenv("ROS_DOMAIN_ID", "700")
    assert discovery.check_discovery().severity is Severity.FAIL


@pytest.mark.parametrize(
    ("present", "severity", "words"),
    [
        (autoware.PACKAGES, Severity.OK, "are there"),
        ((), Severity.OK, "only autoware_node needs them"),
        (autoware.PACKAGES[1:], Severity.WARN, "missing: autoware_control_msgs"),
    ],
)
def test_autowares_packages_are_all_there_or_not_wanted_or_a_half(
    present: tuple[str, ...], severity: Severity, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoware.importlib.util, "find_spec", lambda name: name if name in present else None)
    finding = autoware.check_autoware()
    assert finding.severity is severity
    assert words in finding.found
