"""The command line as a newcomer meets it: helps that render and fit, the version, what comes first, and `owled run`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from owled_ros import cli
from owled_ros.commands.run import NODES, node_arguments
from owled_ros.errors import OwledError
from owled_ros.version import VERSION

TOP = Path(__file__).resolve().parent.parent
WIDTH = 80


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    cli.register_commands()


def paths() -> list[list[str]]:
    """Return the words of every command and every command of a group."""
    cli.register_commands()
    found: list[list[str]] = [[]]
    for name, command in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        found.append([name])
        found += [[name, inner] for inner in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize("words", paths(), ids=" ".join)
def test_every_help_renders_within_eighty_columns(words: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": str(WIDTH), "TERM": "dumb"})
    assert result.exit_code == 0, result.exception
    assert max(map(len, result.output.splitlines())) <= WIDTH


def test_newcomers_commands_come_first() -> None:
    names = get_command(cli.app).list_commands(None)  # type: ignore[arg-type,attr-defined]
    assert tuple(names[: len(cli.FIRST)]) == cli.FIRST
    assert names[len(cli.FIRST) :] == sorted(names[len(cli.FIRST) :])


def test_version_is_one_everywhere() -> None:
    shown = CliRunner().invoke(cli.app, ["--version"])
    assert shown.exit_code == 0
    assert shown.output.startswith(f"owled_ros {VERSION} (")
    assert f"Python {sys.version.split()[0]}" in shown.output
    assert ElementTree.parse(TOP / "package.xml").findtext("version") == VERSION


WORDS = [
    (["model_path:=/models/a b"], ["-p", "model_path:=/models/a b"]),
    (["input/image:=/camera/front"], ["-r", "~/input/image:=/camera/front"]),
    (["~/input/image:=/a", "/diagnostics:=/b"], ["-r", "~/input/image:=/a", "-r", "/diagnostics:=/b"]),
    (["params_file:=p.yaml", "log_level:=debug"], ["--params-file", "p.yaml", "--log-level", "debug"]),
    (["namespace:=/car"], ["-r", "__ns:=/car"]),
    (["namespace:=car"], ["-r", "__ns:=/car"]),
    (["vehicle.wheel_base_m:=2.7", "--ros-args", "-p", "x:=1"], ["-p", "vehicle.wheel_base_m:=2.7", "-p", "x:=1"]),
    (["--ros-args", "--remap", "a:=b"], ["--remap", "a:=b"]),
]


@pytest.mark.parametrize(("words", "expected"), WORDS)
def test_words_become_ros_arguments(words: list[str], expected: list[str]) -> None:
    assert node_arguments(words) == ["--ros-args", *expected]


def test_other_words_are_refused_and_none_are_none() -> None:
    assert node_arguments([]) == []
    with pytest.raises(OwledError, match="'model_path=x' is not understood"):
        node_arguments(["model_path=x"])


def test_run_knows_every_node_that_is_shipped() -> None:
    assert set(NODES) == {path.name for path in (TOP / "scripts").iterdir()} - {"owled"}


def test_an_empty_value_is_one_that_ros_can_read() -> None:
    assert node_arguments(["model_path:=", "threads:=2"]) == [
        "--ros-args", "-p", "model_path:=''", "-p", "threads:=2"
    ]  # fmt: skip


def test_a_node_is_started_without_ros2_and_ends_on_interrupt(tmp_path: Path) -> None:
    """The real driving node, not configured: it takes our parameter and remapping, and says so over DDS."""
    pytest.importorskip("rclpy")
    pytest.importorskip("owled_ros.msg")
    from driving_rig import Bench, NodeProcess, free_domain
    from rcl_interfaces.srv import GetParameters

    domain = free_domain()
    words = ["run", "driving_node", "autostart:=false", "namespace:=car", "output_frame_id:=rear"]
    with NodeProcess(["-m", "owled_ros", *words], domain, tmp_path / "log") as process, Bench(domain) as bench:
        request = GetParameters.Request(names=["output_frame_id", "autostart"])
        values = bench.call(GetParameters, "/car/driving_node/get_parameters", request).values
        assert (values[0].string_value, values[1].bool_value) == ("rear", False)
        assert process.end(signal.SIGINT)[0] == 0, process.text()


@pytest.mark.parametrize(
    ("variables", "words"),
    [({"ROS_DOMAIN_ID": "233"}, "from 0 to 232"), ({"RMW_IMPLEMENTATION": "rmw_nonsense"}, "rmw_nonsense")],
)
def test_run_says_in_one_sentence_what_cannot_work(variables: dict[str, str], words: str) -> None:
    pytest.importorskip("rclpy")
    pytest.importorskip("owled_ros.msg")
    command = [sys.executable, "-m", "owled_ros", "run", "driving_node"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    assert ended.returncode == 1
    assert words in ended.stderr
    assert re.match(r"error: .*\n\Z", ended.stderr)


def test_an_interrupt_while_the_command_is_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        [sys.executable, "-m", "owled_ros", "--help"], capture_output=True, text=True, env=environment
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_an_interrupt_while_a_class_is_built_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 makes a RuntimeError of what is raised in `__set_name__`, where a dataclass's fields spend their time."""

    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "register_commands", lambda: type("Config", (), {"budgets": Interrupted()}))
    with pytest.raises(KeyboardInterrupt):
        cli.main()

    def faulty() -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(cli, "register_commands", faulty)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main()
