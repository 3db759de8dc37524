"""Operators' mistakes on real nodes: what drives is what ~/output/model says, and never the bundled model unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from driving_rig import NODE, TEST, NodeProcess, fake_node, until
from fake_driving_node import make_model
from in_a_mount import unshare
from test_node_deployment import DOMAIN, FOLLOW_S, Listener, add

from owled_ros.deployment.deployment import Deployment, create_deployment
from owled_ros.errors import OwledError
from owled_ros.msg import DrivingModel
from owled_ros.nodes.quality import LATCHED

TOY = ("BUNDLED", "the bundled model")


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as made:
        yield made


@pytest.fixture
def car(tmp_path: Path) -> Deployment:
    base = make_model(tmp_path / "base")
    (base / "config.json").write_text("{}")
    return create_deployment(tmp_path / "car", base)


def write(file: Path, **values: object) -> Path:
    """Write a parameter file."""
    file.write_text("/**:\n  ros__parameters:\n" + "".join(f"    {name}: {value}\n" for name, value in values.items()))
    return file


def launched(log: Path, file: Path | None = None, **arguments: object) -> NodeProcess:
    """Start the node as the launch file does: a parameter file, and after it what was given as launch arguments."""
    words = [str(TEST / "fake_driving_node.py"), "--ros-args", "-p", "exit_on_failure:=true"]
    if file is not None:
        words += ["--params-file", str(file), "-p", f"launch.params_file:={file}"]
    for name, value in arguments.items():
        words += ["-p", f"launch.{name}:={value}"]
    return NodeProcess(words, DOMAIN, log)


def assert_nothing_drives(process: NodeProcess, listener: Listener, *words: str) -> None:
    assert process.process.wait(FOLLOW_S) == 1, process.text()
    for word in words:
        assert word in process.text()
    until(lambda: listener.executor.spin_once(timeout_sec=0.05) or bool(listener.said), 1.0, 0.0)
    assert not any(message.loaded for message in listener.said)
    assert not any(word in process.text() for word in TOY)
    assert "Traceback" not in process.text()


def test_a_wrong_path_drives_nothing(tmp_path: Path, listener: Listener) -> None:
    with fake_node(DOMAIN, tmp_path / "log", model_path=tmp_path / "modle", exit_on_failure=True) as process:
        assert_nothing_drives(process, listener, f"cannot load {tmp_path / 'modle'}")


def test_a_wrong_key_in_the_parameter_file_drives_nothing_and_is_named(tmp_path: Path, listener: Listener) -> None:
    file = write(tmp_path / "mine.yaml", model_pth=make_model(tmp_path / "model"))
    with launched(tmp_path / "log", file) as process:
        words = "parameter model_pth was given, but driving_node has none of that name; did you mean model_path?"
        assert_nothing_drives(process, listener, words, "a parameter file was given but no model")


@pytest.mark.parametrize(
    "words",
    [["-p", "model_path:="], ["--params-file", "/nowhere.yaml"], ["--params-fiel", "x"], ["--params-file", __file__]],
)
def test_ros_arguments_that_cannot_be_used_are_a_sentence(tmp_path: Path, words: list[str], listener: Listener) -> None:
    with NodeProcess([str(TEST / "fake_driving_node.py"), "--ros-args", *words], DOMAIN, tmp_path / "log") as process:
        assert_nothing_drives(process, listener, "the ROS arguments cannot be used")


def test_an_older_store_needs_its_base_and_then_drives(tmp_path: Path, car: Deployment, listener: Listener) -> None:
    version = add(car, "a")
    car.store.promote(version.name)
    (car.root / "deployment.json").unlink()  # as older releases left it
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root, exit_on_failure=True) as process:
        assert_nothing_drives(process, listener, "names no base model", "owled deploy")
    with fake_node(DOMAIN, tmp_path / "log2", artifact_store=car.root, model_path=car.base):
        assert listener.drives(version)


def test_a_version_that_was_deleted_drives_on_where_it_is_loaded_and_nothing_else_at_the_next_start(
    tmp_path: Path, car: Deployment, listener: Listener
) -> None:
    version = add(car, "a")
    car.store.promote(version.name)
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root) as process:
        assert listener.drives(version)
        shutil.rmtree(version)
        said = len(listener.said)
        until(lambda: listener.executor.spin_once(timeout_sec=0.05), 2.5, 0.0)
        assert len(listener.said) == said, "nothing else is loaded for it"
        assert process.process.poll() is None
    listener.said.clear()
    with fake_node(DOMAIN, tmp_path / "log2", deployment=car.root, exit_on_failure=True) as process:
        assert_nothing_drives(process, listener, "which is gone; promote another version or roll back")


def test_a_base_that_was_deleted_drives_nothing(tmp_path: Path, car: Deployment, listener: Listener) -> None:
    shutil.rmtree(car.base)
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root, exit_on_failure=True) as process:
        assert_nothing_drives(process, listener, "is not there; restore it or correct the file")


def test_two_nodes_on_one_deployment_drive_the_same_and_switch_alike(
    tmp_path: Path, car: Deployment, listener: Listener
) -> None:
    version = add(car, "a")
    other: list[DrivingModel] = []
    listener.node.create_subscription(DrivingModel, f"/second{NODE}/output/model", other.append, LATCHED)
    second = [str(TEST / "fake_driving_node.py"), "--ros-args", "-p", f"deployment:={car.root}", "-r", "__ns:=/second"]
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root), NodeProcess(second, DOMAIN, tmp_path / "log2"):
        assert listener.drives(car.base)
        car.store.promote(version.name)
        assert listener.drives(version)
        assert until(
            lambda: listener.executor.spin_once(timeout_sec=0.05) or (other and other[-1].loaded), FOLLOW_S, 0.0
        )
        assert until(
            lambda: listener.executor.spin_once(timeout_sec=0.05) or other[-1].artifact_path == str(version),
            FOLLOW_S,
            0.0,
        )


def test_the_model_of_a_parameter_file_drives_under_launch(tmp_path: Path, listener: Listener) -> None:
    mine, given = make_model(tmp_path / "mine"), make_model(tmp_path / "given")
    file = write(tmp_path / "mine.yaml", model_path=mine)
    with launched(tmp_path / "log", file):
        assert listener.drives(mine)
        assert listener.said[-1].source == DrivingModel.SOURCE_MODEL_PATH
    listener.said.clear()
    with launched(tmp_path / "log2", file, model_path=given):
        assert listener.drives(given), "an argument that was given goes before the file"


def test_a_deployment_that_is_a_file_drives_nothing(tmp_path: Path, listener: Listener) -> None:
    (tmp_path / "car").write_text("{}")
    with fake_node(DOMAIN, tmp_path / "log", deployment=tmp_path / "car", exit_on_failure=True) as process:
        assert_nothing_drives(process, listener, f"there is no deployment at {tmp_path / 'car'}")


def test_model_path_beside_a_deployment_is_not_used_and_that_is_said(
    tmp_path: Path, car: Deployment, listener: Listener
) -> None:
    other = make_model(tmp_path / "other")
    file = write(tmp_path / "mine.yaml", model_path=other)
    with launched(tmp_path / "log", file, deployment=car.root) as process:
        assert listener.drives(car.base)
        assert listener.said[-1].source == DrivingModel.SOURCE_DEPLOYMENT
        assert f"model_path {other} is not used" in process.text()


def test_the_wrong_directory_for_a_deployment_drives_nothing(
    tmp_path: Path, car: Deployment, listener: Listener
) -> None:
    """The artifact itself, or the model, instead of the deployment that holds it."""
    for place in (add(car, "a"), car.base):
        with fake_node(DOMAIN, tmp_path / "log", deployment=place, exit_on_failure=True) as process:
            assert_nothing_drives(process, listener, "has no deployment.json and so names no base model")


def test_a_deployment_of_a_newer_release_drives_nothing(tmp_path: Path, car: Deployment, listener: Listener) -> None:
    (car.root / "deployment.json").write_text(json.dumps({"format_version": 2, "base": str(car.base)}))
    with fake_node(DOMAIN, tmp_path / "log", deployment=car.root, exit_on_failure=True) as process:
        assert_nothing_drives(process, listener, "format 2, expected 1")


def test_a_read_only_deployment_drives(tmp_path: Path, car: Deployment, listener: Listener) -> None:
    """As on a vehicle whose disk is mounted read-only: what drives is read, nothing is written."""
    version = add(car, "a")
    car.store.promote(version.name)
    program = (
        "import os, sys\nos.execvp(sys.argv[1], [*sys.argv[1:-1], 'sh', '-c', sys.argv[-1]])\n"  # one process to end
    )
    node = f"{Path(TEST / 'fake_driving_node.py')} --ros-args -p deployment:={car.root}"
    mount = (
        f"mount --bind {car.root} {car.root} && mount -o remount,bind,ro {car.root} && ! touch {car.root}/x 2>/dev/null"
    )
    script = f"{mount} && exec python3 {node}"
    with NodeProcess(["-c", program, *unshare(), script], DOMAIN, tmp_path / "log"):
        assert listener.drives(version)


def test_an_artifact_of_another_base_is_refused_and_the_base_drives(tmp_path: Path, car: Deployment) -> None:
    """Promotion by the operator's commands; the store of tests names a base of zeros."""
    import numpy as np
    from safetensors.numpy import save_file

    version = add(car, "a")
    save_file({"weight": np.zeros(2, np.float32)}, car.base / "model.safetensors")
    with pytest.raises(OwledError, match="with other weights than the base"):
        car.promote(version.name)
    assert car.driving() == car.base
