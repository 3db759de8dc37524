"""recalibration_node: the action Recalibrate, the artifact store as services, the gate's verdict as a topic. Needs rclpy.

The work is done by a child process (recalibration.job), so that nothing that goes wrong there, or in the model, reaches this
node; the executor's thread only stores and answers. One job at a time: a second goal is told so and aborted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy

from owled_ros.action import Recalibrate
from owled_ros.deployment.deployment import Deployment, create_deployment, holds_deployment, open_deployment
from owled_ros.deployment.store import Driver, Store, Version
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import resolve_model
from owled_ros.msg import ArtifactInfo, DrivingModel, Float64Stamped, GateVerdict
from owled_ros.nodes import parameters
from owled_ros.nodes.background import in_thread
from owled_ros.nodes.diagnostics import Level
from owled_ros.nodes.driver_client import DriverClient
from owled_ros.nodes.managed import REQUESTS, SUCCESS, ManagedNode, transition
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.quality import LATCHED
from owled_ros.nodes.recalibration_settings import ENTRIES, read_recalibration_settings
from owled_ros.nodes.spinning import spin_node
from owled_ros.recalibration.gate_rules import read_rules
from owled_ros.recalibration.job import JobCancelledError, JobProgress, JobResult, run_job
from owled_ros.srv import ListArtifacts, PromoteArtifact, RollbackArtifact, SwitchModel

PARAMETER_FILE = "recalibration_node.param.yaml"
LATENCY_DEPTH = 10
JOIN_S = 1.0
LATENCY_QUALITY = QoSProfile(depth=LATENCY_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
Feedback = Recalibrate.Feedback
STAGES = {
    "reading": Feedback.STAGE_READING,
    "calibrating": Feedback.STAGE_CALIBRATING,
    "pruning": Feedback.STAGE_PRUNING,
    "writing": Feedback.STAGE_WRITING,
    "gating": Feedback.STAGE_GATING,
    "promoting": Feedback.STAGE_PROMOTING,
}


class RecalibrationNode(ManagedNode):
    """The node; `stop` tells that the process was asked to end."""

    part = "job"

    def __init__(self, stop: StopRequest) -> None:
        super().__init__("recalibration_node", stop)
        self._ending = threading.Event()  # the jobs that began since the last activation are to end
        self._job = threading.Lock()  # held from a goal to its result
        self._idle = threading.Event()  # no job's thread is running
        self._idle.set()
        self._made: list[Callable[[], object]] = []  # how to unmake what activate made
        parameters.declare(self, ENTRIES)
        parameters.warn_of_unknown(self)
        self.settings = read_recalibration_settings(self)
        self.pacer = self.settings.pacer()
        self.deployment = Deployment(Path(), Path())
        self._said: DrivingModel | None = None  # what the driving node says that it drives
        self.diagnostics.report("job", Level.WARN, "the node is not configured")
        self._timer = self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check what every job needs: the model, the rules, the store."""
        self.settings.job.check()
        self.deployment = self._deployment()
        read_rules(self.settings.job.rules)
        self.store.prepare()
        current = self.store.current()
        self.get_logger().info(
            f"deployment {self.store.root}, current: {current.name if current else 'none, its base model is to drive'}"
        )
        self.diagnostics.report("job", Level.OK, "none yet")
        return SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Offer the action, the services and the verdict; listen to the driver."""
        self._ending = threading.Event()  # a job of an earlier activation keeps its own, and ends
        group = ReentrantCallbackGroup()
        self._verdicts = self.create_publisher(GateVerdict, "~/output/verdict", LATCHED)
        self._made.append(functools.partial(self.destroy_publisher, self._verdicts))
        heard = self.create_subscription(
            Float64Stamped, "~/driving/processing_time_ms", self._on_latency, LATENCY_QUALITY
        )
        self._made.append(functools.partial(self.destroy_subscription, heard))
        told = self.create_subscription(DrivingModel, "~/driving/model", self._on_model, LATCHED)
        self._made.append(functools.partial(self.destroy_subscription, told))
        self._switch = self.create_client(SwitchModel, "~/driving/switch_model", callback_group=group)
        self._made.append(functools.partial(self.destroy_client, self._switch))
        for kind, name, answer in (
            (ListArtifacts, "list_artifacts", self._on_list),
            (PromoteArtifact, "promote_artifact", self._on_promote),
            (RollbackArtifact, "rollback_artifact", self._on_rollback),
        ):
            service = self.create_service(kind, f"~/{name}", answer, qos_profile=REQUESTS, callback_group=group)
            self._made.append(functools.partial(self.destroy_service, service))
        self._action = ActionServer(
            self, Recalibrate, "~/recalibrate", self._execute, callback_group=group,
            goal_callback=lambda goal: GoalResponse.ACCEPT, cancel_callback=lambda goal: CancelResponse.ACCEPT,
            goal_service_qos_profile=REQUESTS, result_service_qos_profile=REQUESTS, cancel_service_qos_profile=REQUESTS,
        )  # fmt: skip
        self._made.append(self._action.destroy)
        return super().on_activate(state)

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the job and withdraw everything."""
        self._silence()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Nothing is held."""
        return SUCCESS

    def start(self) -> int | None:
        """Configure and activate where autostart is set; returns an exit code only when the process is to end."""
        return self.start_by_itself(self.settings.autostart, self.settings.exit_on_failure)

    def close(self) -> None:
        """End the job, kill its process, and wait a moment for both."""
        self._silence()

    # The action

    async def _execute(self, goal: Any) -> Recalibrate.Result:
        if not self._job.acquire(blocking=False):
            words = "another recalibration is running on this node; wait for its end or cancel it"
            self.get_logger().warning(f"a goal was refused: {words}")
            goal.abort()
            return Recalibrate.Result(message=words)
        try:
            result = await in_thread(self, functools.partial(self._recalibrate, goal), "recalibration")
        except JobCancelledError as error:
            self.diagnostics.report("job", Level.OK, str(error))
            goal.canceled() if goal.is_cancel_requested else goal.abort()
            return Recalibrate.Result(message=str(error))
        except Exception as error:  # a bug in here must not take the node, nor stay unheard
            words = words_of(error)
            self.get_logger().error(f"recalibration failed: {words}")
            self.diagnostics.report("job", Level.ERROR, words)
            goal.abort()
            return Recalibrate.Result(message=words)
        self._publish_verdict(result)
        level = Level.OK if result.verdict["passed"] else Level.WARN
        self.diagnostics.report("job", level, result.message, seconds=result.seconds, paused_s=result.paused_s)
        self.get_logger().info(result.message)
        goal.succeed()
        return result_of(result)

    def _recalibrate(self, goal: Any) -> JobResult:
        """Run the job; called in a thread of its own, which also says that the next one may come."""
        settings, ending = self.settings, self._ending
        self._idle.clear()

        def cancelled() -> bool:
            return bool(goal.is_cancel_requested) or ending.is_set()

        try:
            request = settings.request(goal.request, self.deployment.base)
            request = dataclasses.replace(request, running=self._running(), drives=self._drives())
            return run_job(
                request,
                self.store,
                progress=functools.partial(self._tell, goal),
                cancelled=cancelled,
                pacer=self.pacer if settings.pausing else None,
                driver=self._driver(cancelled),
            )
        finally:
            self._idle.set()
            self._job.release()

    def _tell(self, goal: Any, progress: JobProgress) -> None:
        stage = Feedback.STAGE_PAUSED if progress.paused else STAGES.get(progress.stage, Feedback.STAGE_UNKNOWN)
        goal.publish_feedback(Feedback(
            stage=stage, stage_text=f"{progress.stage}: {progress.detail}", block=progress.done, blocks=progress.total,
            progress=float(progress.progress), eta=float(progress.eta_s),
        ))  # fmt: skip
        words = "paused, driving needs the machine" if progress.paused else f"{progress.stage}: {progress.detail}"
        self.diagnostics.report(
            "job", Level.OK, words, progress=progress.progress, eta_s=progress.eta_s, stops=self.pacer.stops
        )

    def _publish_verdict(self, result: JobResult) -> None:
        verdict = result.verdict
        running = verdict["models"].get("running", {}).get("model", {})
        message = GateVerdict(
            passed=verdict["passed"],
            promoted=result.promoted,
            candidate_id=result.version.artifact_id,
            running_id=running.get("artifact_id") or running.get("model_id", ""),
            frames=verdict["frames"],
            failed_rules=verdict["failed_rules"],
            verdict_json=json.dumps(verdict),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._verdicts.publish(message)

    # The store

    async def _on_list(
        self, request: ListArtifacts.Request, response: ListArtifacts.Response
    ) -> ListArtifacts.Response:
        try:
            response.artifacts = [info_of(version) for version in await in_thread(self, self.store.versions, "list")]
            response.success = True
        except Exception as error:  # whatever lies in the store, the node lives and says it
            response.message = words_of(error)
        return response

    async def _on_promote(
        self, request: PromoteArtifact.Request, response: PromoteArtifact.Response
    ) -> PromoteArtifact.Response:
        def work() -> str:
            return self.deployment.promote(request.artifact_id, request.force, self._driver(self._ending.is_set))

        try:
            response.previous_id = await in_thread(self, work, "promote")
            response.success, response.message = True, f"{request.artifact_id} is current now"
        except Exception as error:
            response.message = words_of(error)
        self.get_logger().info(f"promote {request.artifact_id[:80]!r}: {response.message}")
        return response

    async def _on_rollback(
        self, request: RollbackArtifact.Request, response: RollbackArtifact.Response
    ) -> RollbackArtifact.Response:
        def work() -> str:
            return self.store.rollback(self._driver(self._ending.is_set))

        try:
            response.artifact_id = await in_thread(self, work, "rollback")
            response.success, response.message = True, f"{response.artifact_id or 'the base model'} is current again"
        except Exception as error:
            response.message = words_of(error)
        self.get_logger().info(f"rollback: {response.message}")
        return response

    def _deployment(self) -> Deployment:
        """Open what was configured; an older store without deployment.json takes model_path as its base."""
        settings = self.settings
        if settings.deployment:
            return open_deployment(settings.deployment, settings.model_path)
        if not settings.store:
            raise OwledError("neither deployment nor store is given; give the directory of the deployment")
        if settings.model_path:
            return create_deployment(Path(settings.store), resolve_model(settings.model_path))
        if holds_deployment(settings.store):
            return open_deployment(settings.store)
        raise OwledError(
            f"neither deployment nor model_path is given, and {settings.store} is no deployment yet: make one with "
            "`owled deploy DIRECTORY --model BASE` and give it to this node and to the driving node as deployment"
        )

    def _driver(self, cancelled: Callable[[], bool]) -> Driver | None:
        """Return the driving node that has to agree to a switch; None where none is there and none is required."""
        if not self._switch.wait_for_service(timeout_sec=0.5):
            words = f"no driving node offers {self._switch.srv_name}"
            if self.settings.driving_node_required:
                raise OwledError(f"{words}; start it, or set driving_node_required to false")
            self.get_logger().warning(
                f"{words}: the version will drive from the next start of a node of {self.store.root}"
            )
            return None
        return DriverClient(
            self._switch,
            lambda: self._said,
            self.deployment.base,
            self.store.root,
            self.settings.job.load_timeout_s,
            cancelled,
        )

    def _running(self) -> Path | None:
        """Return the directory that drives, as the driving node says it; None: nobody says, the store's word counts."""
        said = self._said
        if said is None or not said.loaded:
            return None
        return resolve_model(said.artifact_path).resolve()

    def _drives(self) -> str:
        """Return the hash of what drives, as the driving node says it; the gate compares with nothing else."""
        said = self._said
        return "" if said is None or not said.loaded else said.artifact_id or said.model_id

    @property
    def store(self) -> Store:
        """The versions of the deployment."""
        return self.deployment.store

    def _on_model(self, message: DrivingModel) -> None:
        self._said = message

    # The driver's latency, and how things are

    def _on_latency(self, message: Float64Stamped) -> None:
        self.pacer.sample(message.data)

    def _report(self) -> None:
        budget = self.pacer.budget()
        words = "not known yet: no job may be paused" if budget is None else f"driving may take {budget:.0f} ms"
        self.diagnostics.report("courtesy", Level.OK, words, stops=self.pacer.stops, stopped_s=self.pacer.stopped_s)
        with contextlib.suppress(RuntimeError):  # the context ends
            self.diagnostics.publish()

    def _silence(self) -> None:
        self._ending.set()
        self._idle.wait(JOIN_S)  # the job's process is killed within a poll
        for unmake in reversed(self._made):
            unmake()
        self._made.clear()


def info_of(version: Version) -> ArtifactInfo:
    """Return what ListArtifacts tells about a version."""
    return ArtifactInfo(
        artifact_id=version.artifact_id, path=str(version.path), created=time_of(version.created), current=version.current,
        gated=version.gated, passed=version.passed, sparsity=version.sparsity, size_bytes=version.bytes,
    )  # fmt: skip


def words_of(error: BaseException) -> str:
    """Say what went wrong: our own words, or the kind of an unexpected error with its own."""
    return str(error) if isinstance(error, OwledError) else f"{type(error).__name__}: {error}"


def time_of(text: str) -> Time:
    """Read an ISO 8601 time; the zero time for anything else."""
    try:
        return Time(sec=int(datetime.datetime.fromisoformat(text).timestamp()))
    except (ValueError, OverflowError, AssertionError):
        return Time()


def result_of(result: JobResult) -> Recalibrate.Result:
    """Return what the action tells at its end."""
    return Recalibrate.Result(
        success=True,
        message=result.message,
        passed=bool(result.verdict["passed"]),
        promoted=result.promoted,
        artifact_path=str(result.version.path),
        artifact_id=result.version.artifact_id,
        verdict_json=json.dumps(result.verdict),
    )


def main() -> int:
    """Run the node; returns the exit code."""
    return spin_node(RecalibrationNode, RecalibrationNode.start, PARAMETER_FILE)
