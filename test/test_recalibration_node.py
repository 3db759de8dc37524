"""The recalibration node over real DDS: goals, cancels, deaths, paths, the store's services, and parameters as written."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import jsonschema
import rclpy
import yaml
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from driving_rig import SETTLED_S, NodeProcess, free_domain, until
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from stored_artifacts import make_artifact

from owled_ros.action import Recalibrate
from owled_ros.deployment.store import Store
from owled_ros.models.manifest import verify
from owled_ros.msg import DrivingModel, Float64Stamped, GateVerdict
from owled_ros.nodes.quality import LATCHED
from owled_ros.nodes.recalibration_settings import ENTRIES
from owled_ros.recalibration.parameters import JobParameters, cores_of, read_goal
from owled_ros.settings import default_of, settings_of, types_of
from owled_ros.srv import ListArtifacts, PromoteArtifact, RollbackArtifact, SwitchModel

TEST = Path(__file__).resolve().parent
ROOT = TEST.parent
NODE = "/recalibration_node"
DOMAIN, SECOND_DOMAIN, THIRD_DOMAIN = free_domain(), free_domain(), free_domain()
PATIENCE_S = 60.0
KINDS = {"bool": "boolean", "int": "integer", "float": "number", "str": "string"}


class Bench:
    """Talks to the node, and is its driving node."""

    def __init__(self, root: Path, domain: int = DOMAIN) -> None:
        self.root, self.store = root, Store(root / "store")
        for name in ("model", "bags/drive", "outside"):
            (root / name).mkdir(parents=True)
        (root / "model" / "config.json").write_text("{}")
        (root / "bags" / "escape").symlink_to(root / "outside")
        self.control()
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("bench", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.loads: list[str] = []  # what was committed
        self.prepared: dict[str, str] = {}
        self.refuse, self.deaf = "", False
        self.verdicts: list[GateVerdict] = []
        self.feedback: list[Recalibrate.Feedback] = []
        self.statuses: dict[str, Any] = {}
        self.goals = ActionClient(self.node, Recalibrate, f"{NODE}/recalibrate")
        self.node.create_service(SwitchModel, "/bench/switch_model", self._on_switch)
        self.model = self.node.create_publisher(DrivingModel, "/bench/output/model", LATCHED)
        self.drive_from(self.store.root)
        self.latency = self.node.create_publisher(Float64Stamped, "/bench/debug/processing_time_ms", 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def drive_from(self, deployment: Path | str) -> None:
        self.model.publish(
            DrivingModel(loaded=True, deployment=str(deployment), artifact_path=str(self.root / "model"))
        )

    def control(self, **values: Any) -> None:
        (self.root / "model" / "control.json").write_text(json.dumps(values))

    def arguments(self, **parameters: Any) -> list[str]:
        values = {
            "model_path": self.root / "model",
            "store": self.store.root,
            "bag_roots": self.root / "bags",
            **parameters,
        }
        values = {"idle_scheduling": "false", **values}
        arguments = [str(TEST / "stubbed_recalibration_node.py"), "--ros-args"]
        for name, value in values.items():
            arguments += ["-p", f"{name}:={value}"]
        arguments += ["-r", "~/driving/switch_model:=/bench/switch_model", "-r", "~/driving/model:=/bench/output/model"]
        return [*arguments, "-r", "~/driving/processing_time_ms:=/bench/debug/processing_time_ms"]

    def send(self, **values: Any) -> Any:
        """Send a goal and wait until it is accepted."""
        assert self.goals.wait_for_server(PATIENCE_S)
        goal = Recalibrate.Goal(bags=["drive"], sparsity=0.5, promote=True)
        for name, value in values.items():
            setattr(goal, name, value)
        self.feedback.clear()
        handle = self.wait(self.goals.send_goal_async(goal, lambda message: self.feedback.append(message.feedback)))
        assert handle.accepted
        return handle

    def result(self, handle: Any) -> tuple[int, Recalibrate.Result]:
        answer = self.wait(handle.get_result_async())
        return answer.status, answer.result

    def recalibrate(self, **values: Any) -> Recalibrate.Result:
        return self.result(self.send(**values))[1]

    def call(self, kind: Any, name: str, **values: Any) -> Any:
        client = self.node.create_client(kind, f"{NODE}/{name}")
        assert client.wait_for_service(PATIENCE_S)
        self.spin_until(lambda: False, SETTLED_S)
        answer = self.wait(client.call_async(kind.Request(**values)))
        self.node.destroy_client(client)
        return answer

    def wait(self, future: Any) -> Any:
        assert self.spin_until(future.done)
        return future.result()

    def spin_until(self, condition: Any, timeout: float = PATIENCE_S) -> bool:
        end = time.monotonic() + timeout
        while time.monotonic() < end and not condition():
            self.executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    def at(self, stage: int) -> bool:
        return self.spin_until(lambda: any(feedback.stage == stage for feedback in self.feedback))

    def current(self) -> str | None:
        path = self.store.current()
        return None if path is None else verify(path).base.name

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _on_switch(self, request: SwitchModel.Request, response: SwitchModel.Response) -> SwitchModel.Response:
        if request.step == SwitchModel.Request.STEP_PREPARE and not self.refuse:
            self.prepared[request.request_id] = request.path
        if request.step == SwitchModel.Request.STEP_COMMIT and not self.deaf:
            self.loads.append(self.prepared.pop(request.request_id))
        if request.step == SwitchModel.Request.STEP_ABORT:
            self.prepared.pop(request.request_id, None)
        response.success, response.message = not self.refuse and not self.deaf, self.refuse
        return response

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses.update({status.name.partition(": ")[2]: status for status in message.status})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("recalibration"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def node(bench: Bench) -> Iterator[NodeProcess]:
    with running(bench, DOMAIN) as process:
        yield process


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Bench]:
    """A bench with an empty store and a node of its own, whatever ran before."""
    made = Bench(tmp_path / "untouched", SECOND_DOMAIN)
    with running(made, SECOND_DOMAIN):
        yield made
    made.close()


@contextmanager
def running(bench: Bench, domain: int) -> Iterator[NodeProcess]:
    with NodeProcess(bench.arguments(), domain, bench.root / "node.log") as process:
        process.wait_for_text("current: none", PATIENCE_S)
        yield process
        code, _ = process.end()
        assert code == 0, process.text()
        assert "Traceback" not in process.text()


def test_goals_promote_reject_and_roll_back(untouched: Bench) -> None:
    bench = untouched
    keeps_last = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    first = bench.recalibrate(seed=1)
    assert (first.success, first.passed, first.promoted) == (True, True, True)
    assert bench.current() == "seed1"
    assert bench.loads == [first.artifact_path]
    assert json.loads(first.verdict_json)["frames"] == 3
    stages = {feedback.stage for feedback in bench.feedback}
    assert {Recalibrate.Feedback.STAGE_PRUNING, Recalibrate.Feedback.STAGE_GATING} <= stages
    bench.node.create_subscription(GateVerdict, f"{NODE}/output/verdict", bench.verdicts.append, keeps_last)
    assert bench.spin_until(lambda: bench.verdicts)  # also for those who come late
    assert (bench.verdicts[0].candidate_id, bench.verdicts[0].promoted) == (first.artifact_id, True)

    bench.control(passed=False)
    worse = bench.recalibrate(seed=2)
    assert (worse.success, worse.passed, worse.promoted) == (True, False, False)
    assert Path(worse.artifact_path).is_dir()
    bench.control()
    assert not bench.recalibrate(seed=3, promote=False).promoted
    assert bench.current() == "seed1"

    listed = bench.call(ListArtifacts, "list_artifacts").artifacts
    assert [(item.current, item.passed) for item in listed] == [(False, True), (False, False), (True, True)]
    refused = bench.call(PromoteArtifact, "promote_artifact", artifact_id=worse.artifact_id)
    assert not refused.success
    assert "refused by the gate" in refused.message
    done = bench.call(PromoteArtifact, "promote_artifact", artifact_id=listed[0].artifact_id)
    assert (done.success, done.previous_id) == (True, first.artifact_id)
    assert bench.current() == "seed3"
    back = bench.call(RollbackArtifact, "rollback_artifact")
    assert (back.success, back.artifact_id) == (True, first.artifact_id)
    assert bench.loads[-1] == first.artifact_path
    dense = bench.call(RollbackArtifact, "rollback_artifact")
    assert (dense.success, dense.artifact_id) == (True, "")
    assert bench.loads[-1] == str(bench.root / "model")
    assert not bench.call(RollbackArtifact, "rollback_artifact").success


def test_nothing_switches_when_the_driving_node_refuses(bench: Bench, node: NodeProcess) -> None:
    assert bench.recalibrate(seed=10).promoted
    bench.refuse = "two models need 9 GB"
    result = bench.recalibrate(seed=11)
    bench.refuse = ""
    assert (result.passed, result.promoted) == (True, False)
    assert "two models need 9 GB" in result.message
    assert bench.current() == "seed10"


def test_a_driver_of_another_deployment_is_never_switched(bench: Bench, node: NodeProcess) -> None:
    before, loads = bench.current(), list(bench.loads)
    for theirs in ("/elsewhere", ""):
        bench.drive_from(theirs)
        result = bench.recalibrate(seed=12)
        assert not result.promoted
        assert "would not survive its restart" in result.message
    bench.drive_from(bench.store.root)
    assert (bench.current(), bench.loads) == (before, loads)


def test_a_damaged_store_is_an_answer_and_never_the_end_of_the_node(bench: Bench, node: NodeProcess) -> None:
    assert bench.recalibrate(seed=15).promoted  # something to damage, also where this test runs first
    artifacts = bench.store.root / "artifacts"
    broken = artifacts / "000999-abcdef123456"
    broken.mkdir()
    (broken / "owled.json").write_text("[" * 100_000)
    history, kept = bench.store.root / "history.json", (bench.store.root / "history.json").read_text()
    history.write_text('{"promoted": [NaN, {}, []]}')
    listed = bench.call(ListArtifacts, "list_artifacts")
    assert listed.success
    assert not bench.call(PromoteArtifact, "promote_artifact", artifact_id="abcdef", force=True).success
    for odd in ("", "0", "x" * 100_000, "../../etc"):
        assert not bench.call(PromoteArtifact, "promote_artifact", artifact_id=odd, force=True).success
    shutil.rmtree(broken)
    history.write_text(kept)
    artifacts.rename(bench.store.root / "aside")
    artifacts.write_text("a file where a directory should be")
    assert not bench.call(RollbackArtifact, "rollback_artifact").success
    assert bench.result(bench.send(seed=13))[0] == GoalStatus.STATUS_ABORTED
    artifacts.unlink()
    (bench.store.root / "aside").rename(artifacts)
    assert bench.recalibrate(seed=14).promoted


@pytest.mark.parametrize("bags", [["../outside"], ["escape"], ["/etc"], ["missing"], []])
def test_paths_outside_the_roots_are_refused(bench: Bench, node: NodeProcess, bags: list[str]) -> None:
    status, result = bench.result(bench.send(bags=bags))
    assert status == GoalStatus.STATUS_ABORTED
    assert not result.success
    assert any(words in result.message for words in ("'..'", "lies outside", "does not exist", "no bag"))


@pytest.mark.parametrize(
    "values",
    [{"sparsity": 1.5}, {"sparsity": float("nan")}, {"budget_components": ["wheels"], "budget_sparsities": [0.5]}],
)
def test_values_that_cannot_work_are_refused(bench: Bench, node: NodeProcess, values: dict[str, Any]) -> None:
    assert bench.result(bench.send(**values))[0] == GoalStatus.STATUS_ABORTED


@pytest.mark.parametrize("how", ["crash", "kill", "error"])
def test_a_dying_child_never_takes_the_node(bench: Bench, node: NodeProcess, how: str) -> None:
    before = bench.current()
    bench.control(at="pruning", how=how)
    status, result = bench.result(bench.send(seed=20))
    assert status == GoalStatus.STATUS_ABORTED
    assert result.message
    assert bench.spin_until(lambda: bench.statuses["job"].message == result.message)
    assert bench.current() == before
    bench.control()
    assert bench.recalibrate(seed=21).success


def test_cancel_and_a_second_goal(bench: Bench, node: NodeProcess) -> None:
    bench.control(at="pruning", how="hang")
    handle = bench.send(seed=30)
    assert bench.at(Recalibrate.Feedback.STAGE_PRUNING)
    status, second = bench.result(bench.send(seed=31))
    assert status == GoalStatus.STATUS_ABORTED
    assert "another recalibration is running" in second.message
    bench.wait(handle.cancel_goal_async())
    assert bench.result(handle)[0] == GoalStatus.STATUS_CANCELED
    assert list((bench.store.root / "work").iterdir()) == []
    bench.control()
    assert bench.recalibrate(seed=32).success


def test_the_job_is_paused_while_driving_is_slow(bench: Bench, node: NodeProcess) -> None:

    def learned() -> bool:
        bench.latency.publish(Float64Stamped(data=20.0))
        return "driving may take 23 ms" in bench.statuses["courtesy"].message  # 1.15 times the p99

    assert bench.spin_until(lambda: "courtesy" in bench.statuses)
    assert bench.spin_until(learned)
    bench.control(step_s=0.3)
    handle = bench.send(seed=40)
    assert bench.spin_until(
        lambda: bench.feedback
    )  # the child runs; before, the latency would be that of driving alone
    paused = Recalibrate.Feedback.STAGE_PAUSED

    def slow() -> bool:
        bench.latency.publish(Float64Stamped(data=60.0))
        return any(feedback.stage == paused for feedback in bench.feedback)

    assert bench.spin_until(slow)
    assert bench.result(handle)[1].success


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_in_the_middle_of_a_job_ends_node_and_child(tmp_path: Path, number: int, expected: int) -> None:
    bench = Bench(tmp_path / "second", SECOND_DOMAIN)
    bench.control(at="gating", how="hang")
    with NodeProcess(bench.arguments(), SECOND_DOMAIN, tmp_path / "log") as process:
        process.wait_for_text("deployment ", PATIENCE_S)
        bench.send(seed=50)
        assert bench.at(Recalibrate.Feedback.STAGE_GATING)
        assert running_children(bench.root)
        code, _ = process.end(number)
    bench.close()
    assert code == expected, process.text()
    assert "Traceback" not in process.text()
    assert until(lambda: not running_children(bench.root), PATIENCE_S)
    with bench.store.job() as work:
        bench.store.add(make_artifact(work / "candidate", "after"))


def running_children(root: Path) -> list[str]:
    """Find stub children by the store in their environment's working files."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                links = [os.readlink(entry) for entry in (process / "fd").iterdir()]
            except OSError:
                continue
            if (
                any(link.startswith(str(root / "store" / "work")) for link in links)
                and int(process.name) != os.getpid()
            ):
                found.append(process.name)
    return found


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model_path": "/nowhere"}, "does not exist"),
        ({"model_path": "''", "store": "nowhere"}, "neither deployment nor model_path is given"),
        ({"gate_file": "/nowhere.yaml"}, "cannot be read"),
        ({"cores": "4711,4712"}, "may use"),
        ({"cores": "4711"}, "may use"),  # ROS reads it as a number
        ({"gate_share": "1"}, "for example 1.0"),
        ({"model_path": "1"}, "needs quotes inside quotes"),
        ({"threads": "0"}, "a whole number"),
    ],
)
def test_a_wrong_parameter_is_said_at_the_start(
    bench: Bench, parameters: dict[str, str], words: str, tmp_path: Path
) -> None:
    with NodeProcess(bench.arguments(exit_on_failure="true", **parameters), THIRD_DOMAIN, tmp_path / "log") as process:
        process.process.wait(PATIENCE_S)
        assert process.process.returncode == 1
        assert words in process.text()
        assert "Traceback" not in process.text()


def test_file_schema_and_declaration_hold_the_same() -> None:
    written = yaml.safe_load((ROOT / "config" / "recalibration_node.param.yaml").read_text())
    schema = json.loads((ROOT / "schema" / "recalibration_node.schema.json").read_text())
    jsonschema.validate(written, schema)
    given = written["/**"]["ros__parameters"]
    values, rows = {}, {}
    for name, row in schema["definitions"]["recalibration_node"]["properties"].items():
        inner = row["properties"] if row["type"] == "object" else {"": row}
        for part, value in inner.items():
            rows[f"{name}.{part}".rstrip(".")] = value
            values[f"{name}.{part}".rstrip(".")] = given[name][part] if part else given[name]
    assert list(given) == list(schema["definitions"]["recalibration_node"]["properties"])
    assert list(values) == list(rows) == [entry.name for entry in ENTRIES]
    documented = (ROOT / "docs" / "recalibration.md").read_text()
    for entry in ENTRIES:
        row = rows[entry.name]
        assert (row["type"], row["description"], row["default"]) == (
            KINDS[entry.kind],
            entry.description,
            values[entry.name],
        )
        assert (row.get("minimum"), row.get("maximum")) == (entry.low, entry.high)
        assert tuple(row.get("enum", ())) == entry.choices
        assert type(values[entry.name]).__name__ == entry.kind
        assert f"| `{entry.name}` |" in documented
    for spoilt in ({"tpyo": 1}, {"threads": 0}, {"method": "magic"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"/**": {"ros__parameters": {**given, **spoilt}}}, schema)


def test_cores_are_read() -> None:
    core = min(os.sched_getaffinity(0))
    assert cores_of(f" {core} ") == (core,)
    assert cores_of("") == ()


def test_the_parameter_file_says_what_is_declared() -> None:
    written = yaml.safe_load((ROOT / "config" / "recalibration_node.param.yaml").read_text())["/**"]["ros__parameters"]
    for name, declared in settings_of(JobParameters).items():
        if declared.parameter is None:
            assert name not in written
            continue
        own = default_of(JobParameters, name) if declared.parameter_value is None else declared.parameter_value
        assert written[declared.parameter or name] == own, name


def test_the_action_says_what_is_declared() -> None:
    """Every field of the goal is a job's parameter, of the same type and unit, or the bags, or a half of the budgets."""
    goal = (ROOT / "action" / "Recalibrate.action").read_text().split("---")[0]
    declared = re.findall(r"^([\w\[\]]+)\s+(\w+)\s*#\s*(.*)$", goal, re.MULTILINE)
    fields = {name: (kind, comment) for kind, name, comment in declared}
    kinds = {"float32": float, "string": str, "uint64": int, "bool": bool}
    told = {declared.goal: name for name, declared in settings_of(JobParameters).items() if declared.goal}
    assert set(fields) == {"bags", "budget_components", "budget_sparsities", *told}
    for field, name in told.items():
        kind, comment = fields[field]
        assert kinds[kind] is types_of(JobParameters)[name], field
        assert ("[s]" in comment) == name.endswith("_s"), field
        setting = settings_of(JobParameters)[name]
        if setting.inside:
            assert f"({setting.low:g}, {setting.high:g})" in comment, field


def test_goals_are_read_as_they_were_meant() -> None:
    goal = Recalibrate.Goal(
        sparsity=0.3, method="", allocation="owl", time_budget=2.5, seed=7, promote=True,
        budget_components=["vision_tower"], budget_sparsities=[0.1],
    )  # fmt: skip
    own = JobParameters(score="wanda", allocation="uniform", gate_frames=9)
    told = dataclasses.replace(own, **read_goal(goal))
    expected = dataclasses.replace(
        own, sparsity=0.3, allocation="owl", time_limit_s=2.5, seed=7, budgets={"vision": 0.1}
    )
    assert told == expected, "a goal's 0.3 is a number of 32 bits, an empty text says nothing"
