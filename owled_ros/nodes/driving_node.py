"""driving_node: cameras, odometry and route in, trajectory, action and scene description out; a managed node. Needs rclpy.

Callbacks only store; the inference thread (onboard.worker) climbs the ladder (onboard.ladder) for the newest image and calls
back here to publish. docs/node.md has the topics, parameters and what is said when something is wrong.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

from nav_msgs.msg import Path
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from owled_ros.driving.frame import NANOSECONDS
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import SceneAnswer
from owled_ros.errors import OwledError
from owled_ros.images.live import OWN, make_decoder, may_hold_image
from owled_ros.msg import (
    Float64Stamped,
    PredictedAction,
    PredictedTrajectory,
    SceneDescription,
)
from owled_ros.nodes import conversions, parameters, topics
from owled_ros.nodes.camera_geometry import SHIPPED, CameraGeometry
from owled_ros.nodes.debug_outputs import DebugOutputs
from owled_ros.nodes.diagnostics import Level
from owled_ros.nodes.driven_model import DrivenModel, parameter_file_given
from owled_ros.nodes.ego_inputs import check_ego_source
from owled_ros.nodes.health import judge_motion, report_inference, report_output
from owled_ros.nodes.heard_inputs import HeardInputs
from owled_ros.nodes.input_watch import judge_input
from owled_ros.nodes.inputs import Inputs
from owled_ros.nodes.managed import ERROR, FAILURE, SUCCESS, ManagedNode, transition
from owled_ros.nodes.model_services import ModelServices, Trial
from owled_ros.nodes.process import StopRequest
from owled_ros.nodes.quality import SENSOR, advertise
from owled_ros.nodes.spinning import spin_node
from owled_ros.onboard.choice import choose_model
from owled_ros.onboard.crowding import Crowding
from owled_ros.onboard.ladder import Arrival, Ladder, Limits, Outcome, is_calibrated, needs_of
from owled_ros.onboard.loading import Loader, LoadJob, ModelChoice, load_and_warm, load_default
from owled_ros.onboard.quarantine import try_in_child
from owled_ros.onboard.throttle import Throttle
from owled_ros.onboard.worker import Worker

PARAMETER_FILE = "driving_node.param.yaml"
LOG_PERIOD_S = 5.0
STOP_S = 0.5


class DrivingNode(ManagedNode):
    """The node; `load` makes the engine, `stop` tells that the process was asked to end."""

    part = "model"

    def __init__(self, load: Loader, stop: StopRequest, trial: Trial | None = None) -> None:
        super().__init__("driving_node", stop)
        self._load, self._try = load, trial
        self._worker: Worker | None = None
        self._active = False
        self._publishing = threading.Lock()  # the inference thread publishes while transitions unmake the publishers
        self._outputs: dict[str, Publisher] = {}
        self._debug = DebugOutputs({})
        self._inputs: Inputs | None = None
        self._geometry: CameraGeometry | None = None
        self._services_offered: ModelServices | None = None
        self._outcome: Outcome | None = None
        self._valid_at: float | None = None
        self._throttle = Throttle(LOG_PERIOD_S)
        self._was_valid = False  # what the last logged outcome said
        self._crowding = Crowding()
        parameters.declare(self, parameters.ENTRIES)
        parameters.warn_of_unknown(self)
        self.settings = parameters.read_settings(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._driven = DrivenModel(self)
        stop.on_stop(functools.partial(_let_finish, self._publishing))  # before ROS shuts down under what is published
        self.diagnostics.report("model", Level.WARN, "not loaded: the node is not configured")
        self._timer = self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # Lifecycle

    @transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model; a failure leaves the node unconfigured, says why, and can be tried again."""
        settings = self.settings
        check_ego_source(settings.ego_source)
        configured = parameter_file_given(PARAMETER_FILE, settings.launch_params_file)
        chosen = choose_model(settings.model_path, settings.deployment or settings.artifact_store, configured)
        path = chosen.path
        if chosen.warning:
            self.get_logger().warning(chosen.warning)
        choice = ModelChoice(path, settings.device, settings.dtype, settings.threads, settings.runtime)
        shown = path or "the bundled model"
        self.get_logger().info(f"loading {shown} on {settings.device}")
        self.diagnostics.report("model", Level.WARN, f"loading {shown}")
        job = LoadJob(lambda: load_and_warm(choice, self._load, None, None))
        self._spin_until(job.finished)
        if self._stop():
            job.forget()
            return FAILURE
        if job.engine is None:
            self.diagnostics.report("model", Level.ERROR, f"cannot load {shown}: {job.problem}", path=path)
            self.get_logger().error(f"cannot load {shown}: {job.problem}")
            return FAILURE
        decode, decoder = make_decoder(settings.image_decoder, settings.max_pixels)
        ladder = Ladder(decode, lambda: self.get_clock().now().nanoseconds, settings.ego_source)
        ladder.views.frame_ids = settings.cameras.frame_ids
        ladder.engine = job.engine
        sound = functools.partial(may_hold_image, max_pixels=settings.max_pixels, any_encoding=decoder != OWN)
        self._worker = Worker(ladder, self._limits, self._description, self._on_outcome, self._on_scene, sound)
        self._worker.start()
        self._services_offered = ModelServices(
            self,
            self._worker,
            self._load,
            lambda: self.settings,
            self._driven,
            chosen,
            self._report_model,
            self._listen,
            self._try,
        )
        self._driven.drives(job.engine, path, chosen.source, chosen.why, chosen)
        self._report_model(Level.OK, "loaded")
        self.get_logger().info(f"loaded {job.engine.identity.model_id}; images: {decoder}")
        return SUCCESS

    @transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish and subscribe."""
        self._outcome = self._valid_at = None
        self._was_valid = False
        self._advertise()
        assert self._worker is not None
        heard = HeardInputs(self, self._worker.ladder, self._throttle, lambda: self._active)
        hearers = heard.hearers(self._on_image)
        self._inputs = Inputs(self, self.settings.cameras, hearers, self.settings.ego_source)
        self._listen(needs_of(self._worker.ladder.engine))
        settings = self.settings
        self._geometry = CameraGeometry(
            self, self._inputs.watches[0].topic, settings.camera_info_topic, settings.view_given
        )
        self._active = True
        for item in self._inputs.watches:
            self.get_logger().info(f"{item.part} <- {item.topic} ({item.type_name})")
        return super().on_activate(state)

    @transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Neither hear nor say anything; the model stays loaded."""
        self._silence()
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model; one that does not come back makes the transition an error, and the node unconfigured anyway."""
        return SUCCESS if self._release(STOP_S * 20) else ERROR

    def start(self) -> int | None:
        """Configure and activate where autostart is set; returns an exit code only when the process is to end."""
        return self.start_by_itself(self.settings.autostart, self.settings.exit_on_failure)

    def close(self) -> None:
        """Stop everything that would outlive the node."""
        self._silence()
        self._release(STOP_S)

    # Inputs: store, nothing else

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        if self._active and self._worker is not None and self._inputs is not None:
            if not camera:
                self._inputs.look()
                if self._geometry is not None:
                    self._geometry.seen(message.header.frame_id)
            arrival = Arrival(message, conversions.stamp_of(message), time.monotonic(), message.header.frame_id, camera)
            self._worker.take(arrival)

    def _on_parameters(self, values: list[Parameter]) -> SetParametersResult:
        try:
            self.settings = parameters.changed(self.settings, values)
        except OwledError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._geometry is not None:
            self._geometry.given(self.settings.view_given)
        return SetParametersResult(successful=True)

    # Outputs: called by the inference thread

    def _on_outcome(self, outcome: Outcome) -> None:
        with self._publishing:
            if self._active and self._worker is not None and not self._stop():
                self._publish(outcome, self._worker)

    def _on_scene(self, outcome: Outcome, answer: SceneAnswer) -> None:
        with self._publishing:
            if self._active and not self._stop():
                self._publish_scene(outcome, answer)

    def _publish(self, outcome: Outcome, worker: Worker) -> None:
        settings = self.settings
        trajectory = conversions.outcome_to_trajectory(outcome, settings.output_frame_id)
        if outcome.valid:
            message = conversions.outcome_to_action(outcome, settings.vehicle, settings.output_frame_id)
            self._outputs[topics.ACTION.name].publish(message)
            if trajectory.valid:
                self._outputs[topics.TRAJECTORY.name].publish(trajectory)
            self._valid_at = time.monotonic()
        else:
            action = conversions.outcome_to_withheld_action(outcome, settings.output_frame_id)
            self._outputs[topics.WITHHELD_ACTION.name].publish(action)
            self._outputs[topics.WITHHELD.name].publish(trajectory)
        if outcome.answer is not None:
            spent = Float64Stamped(stamp=conversions.stamp_to_time(outcome.stamp), data=outcome.latency_ms)
            self._outputs[topics.PROCESSING_TIME.name].publish(spent)
        text = conversions.outcome_to_json(outcome, received=worker.slot.received, dropped=worker.slot.dropped)
        self._outputs[topics.DEBUG_ANSWER.name].publish(String(data=text))
        self._outcome = outcome
        self._log(outcome)
        crowded = self._crowding.look(outcome.frame, needs_of(worker.ladder.engine))
        if crowded and self._throttle.due(crowded):
            self.get_logger().warning(crowded)
        report_inference(self.diagnostics, worker, outcome)
        report_output(self.diagnostics, outcome, self._valid_at, settings.input_timeout_s)
        self._debug.show(outcome, settings, SHIPPED if self._geometry is None else self._geometry.view)

    def _publish_scene(self, outcome: Outcome, answer: SceneAnswer) -> None:
        age = (self.get_clock().now().nanoseconds - outcome.stamp) / NANOSECONDS
        latency_ms = outcome.latency_ms + answer.generation.seconds * 1e3
        message = conversions.scene_to_message(outcome, answer, age, latency_ms)
        self._outputs[topics.SCENE.name].publish(message)
        self._outputs[topics.DEBUG_ANSWER.name].publish(String(data=conversions.scene_to_json(outcome, answer)))
        self._debug.described(answer)

    def _log(self, outcome: Outcome) -> None:
        """Log that actions leave when they begin to, and a reason why not when it is new and while it lasts."""
        if outcome.valid and self._was_valid:
            return
        words = "publishing actions" if outcome.valid else f"no action: {outcome.reason.name}: {outcome.detail}"
        if not self._throttle.due(words):
            return
        self._was_valid = outcome.valid
        if outcome.valid:
            self.get_logger().info(words)
        else:
            self.get_logger().warning(words)

    # Making and unmaking

    def _advertise(self) -> None:
        def publisher(topic: topics.Topic, kind: Any, depth: int = 1, sensor: bool = False) -> None:
            quality = QoSProfile(depth=depth, reliability=SENSOR if sensor else ReliabilityPolicy.RELIABLE)
            self._outputs[topic.name] = advertise(self, kind, topic.name, quality)

        publisher(topics.TRAJECTORY, PredictedTrajectory)
        publisher(topics.ACTION, PredictedAction)
        publisher(topics.SCENE, SceneDescription)
        publisher(topics.WITHHELD, PredictedTrajectory, depth=10)
        publisher(topics.WITHHELD_ACTION, PredictedAction, depth=10)
        publisher(topics.DEBUG_PATH, Path)
        publisher(topics.DEBUG_MARKERS, MarkerArray)
        publisher(topics.DEBUG_IMAGE, Image, sensor=True)
        publisher(topics.DEBUG_COMPRESSED, CompressedImage, sensor=True)
        publisher(topics.DEBUG_ANSWER, String, depth=10)
        publisher(topics.PROCESSING_TIME, Float64Stamped)
        self._debug = DebugOutputs(self._outputs)

    def _listen(self, *wanted: InputNeeds) -> None:
        """Listen to the cameras of these profiles."""
        if self._inputs is not None:
            for part in self._inputs.listen(*wanted):
                self.diagnostics.forget(part)

    def _silence(self) -> None:
        with self._publishing:
            self._active = False
            outputs, self._outputs = self._outputs, {}
        inputs, self._inputs = self._inputs, None
        geometry, self._geometry = self._geometry, None
        if geometry is not None:
            geometry.close()
        for part in () if inputs is None else inputs.close():
            self.diagnostics.forget(part)
        for publisher in outputs.values():
            self.destroy_publisher(publisher)
        self.diagnostics.forget("output")
        if self._worker is not None:
            self._worker.forget()

    def _release(self, timeout: float) -> bool:
        worker, self._worker = self._worker, None
        if self._services_offered is not None:
            self._services_offered.close()
            self._services_offered = None
        if worker is not None:
            self._driven.nothing("the node was cleaned up")
        if worker is None or worker.stop(timeout):
            return True
        self.get_logger().warning(f"the model is still busy after {timeout:g} s")
        return False

    # Saying how it is

    def _report(self) -> None:
        """Look at the inputs and publish every status, once a second."""
        if self._inputs is not None:
            self._inputs.follow_types()
        for item in [] if self._inputs is None else self._inputs.watches:
            level, words = judge_input(self, item, self.settings.input_timeout_s)
            if item.part == "odometry" and level is Level.OK and self._worker is not None:
                level, words = judge_motion(self._worker.ladder.motion)
            if item.part == "objects" and level is Level.OK and self._crowding.words:
                level, words = Level.WARN, self._crowding.words
            self.diagnostics.report(item.part, level, words, topic=item.topic, messages=item.count)
            if level is Level.ERROR and self._throttle.due(words):
                self.get_logger().warning(words)
        self._driven.remind()
        if self._services_offered is not None:
            self._services_offered.follow()
        if self._worker is not None:
            report_inference(self.diagnostics, self._worker, self._outcome)
            if self._active:
                report_output(self.diagnostics, self._outcome, self._valid_at, self.settings.input_timeout_s)
        self.diagnostics.publish()

    def _report_model(self, level: Level, words: str) -> None:
        engine = None if self._worker is None else self._worker.ladder.engine
        if engine is None:
            return
        facts = {str(key): value for key, value in engine.facts.items()}
        identity = {"model_id": engine.identity.model_id, "artifact_id": engine.identity.artifact_id}
        profile = getattr(engine, "profile", None)
        if profile is not None and not is_calibrated(engine):
            source = profile.confidence.source
            words = f"{words}; its confidence is not calibrated" + (f" ({source})" if source else "")
        facts["confidence_calibrated"] = is_calibrated(engine)
        self.diagnostics.report("model", level, words, **identity, **facts)

    def _limits(self) -> Limits:
        settings = self.settings
        return Limits(
            settings.max_frame_age_s,
            settings.max_ego_gap_s,
            settings.deadline_s,
            settings.confidence_floor,
            settings.view_tolerance_s,
            settings.view_wait_s,
            settings.command_timeout_s,
            settings.vehicle,
            bool(self.get_parameter("use_sim_time").value),
        )

    def _description(self) -> tuple[float, float]:
        return self.settings.description_rate_hz, self.settings.description_patience_s


def _let_finish(publishing: threading.Lock) -> None:
    """Return when nothing is being published; what comes later sees the stop request."""
    with publishing:
        pass


def main(load: Loader = load_default) -> int:
    """Run the node; returns the exit code."""
    trial = try_in_child if load is load_default else None  # a stand-in is nothing that a child could load
    return spin_node(lambda stop: DrivingNode(load, stop, trial), DrivingNode.start, PARAMETER_FILE)
