"""The slow services of driving_node: exchange the model, ask it a question; and following its deployment. Needs rclpy.

They wait for other threads without holding up the executor: the callbacks are coroutines in a reentrant group, and images
are taken while they wait. Whatever goes wrong in one is its answer.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from owled_ros.devices import give_back_memory
from owled_ros.driving.engine import Engine
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import Generation, ModelIdentity
from owled_ros.errors import OwledError
from owled_ros.nodes import topics
from owled_ros.nodes.conversions import stamp_to_time
from owled_ros.nodes.diagnostics import Level
from owled_ros.nodes.driven_model import DrivenModel
from owled_ros.nodes.managed import REQUESTS
from owled_ros.nodes.parameters import DrivingSettings
from owled_ros.onboard.choice import DrivingChoice, Source, requested_model
from owled_ros.onboard.ladder import needs_of
from owled_ros.onboard.loading import Loader, ModelChoice, load_and_warm
from owled_ros.onboard.quarantine import TrialLimits
from owled_ros.onboard.switching import SwitchAnswer, Switching, SwitchState
from owled_ros.onboard.worker import Question, Worker
from owled_ros.srv import AskQuestion, LoadModel, SwitchModel

Trial = Callable[[ModelChoice, TrialLimits], None]
MAX_PATH = 4096  # characters
SHOWN = 200  # characters of a request in a log
RETRY_S = 30.0  # before a version that could not be loaded is tried again
FIRST_IMAGES_S = 0.5  # until a camera that is newly listened to has sent something
MAX_FILLING_S = 10.0  # of the image history of another model
MAX_TIMEOUT_S = 600.0  # of a question


class ModelServices:
    """Offers the services of one configured node until `close`."""

    def __init__(
        self,
        node: Node,
        worker: Worker,
        load: Loader,
        settings: Callable[[], DrivingSettings],
        driven: DrivenModel,
        choice: DrivingChoice,
        report: Callable[[Level, str], None],
        listen: Callable[..., None],
        trial: Trial | None = None,
    ) -> None:
        """Take the node and what it is made of; `listen` hears the needs of every model whose cameras are to be heard.

        `trial` tries a directory before it is loaded beside the driver, and raises OwledError.
        """
        self._node, self._worker, self._load, self._settings, self._report = node, worker, load, settings, report
        self._driven, self._choice, self._path, self._source = driven, choice, choice.path, choice.source
        self._listen, self._try = listen, trial
        self._follows = (
            choice.deployment is not None
        )  # what a request named drives until a request names the deployment's
        self._listens_for: tuple[InputNeeds, ...] = (needs_of(worker.ladder.engine),)
        self._tried: tuple[str, float] = ("", 0.0)  # what the deployment named and could not be loaded, when
        self.switching = Switching(self._load_beside, worker.exchange, self._switched)
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(
                LoadModel, topics.LOAD_MODEL.name, self._on_load_model, qos_profile=REQUESTS, callback_group=group
            ),
            node.create_service(
                SwitchModel, topics.SWITCH_MODEL.name, self._on_switch_model, qos_profile=REQUESTS, callback_group=group
            ),
            node.create_service(AskQuestion, topics.ASK.name, self._on_ask, qos_profile=REQUESTS, callback_group=group),
        ]

    def close(self) -> None:
        """Answer everybody who waits, and withdraw the services."""
        self.switching.close()
        for service in self._services:
            self._node.destroy_service(service)

    def follow(self) -> None:
        """Look at the deployment, once a second: what it says drives, also when whoever changed it has died since."""
        self.switching.tidy(2.0 * self._settings().load_timeout_s)  # the trial, then the loading
        if not self.switching.open and len(self._listens_for) > 1:  # what was prepared is gone
            self._hear(needs_of(self._worker.ladder.engine))
        deployment = self._choice.deployment
        if deployment is None or not self._follows or self.switching.loading:
            return
        try:
            wanted = str(deployment.driving())
        except OwledError as error:
            self._report(Level.ERROR, f"the deployment is damaged, what was loaded drives on: {error}")
            return
        if wanted == self._path or (wanted == self._tried[0] and time.monotonic() - self._tried[1] < RETRY_S):
            return
        self._node.get_logger().info(f"the deployment says {wanted}: switching")
        identity = self.switching.prepared(wanted) or f"deployment-{uuid.uuid4().hex[:8]}"
        self.switching.prepare(identity, wanted, functools.partial(self._followed, identity, wanted))

    def _followed(self, identity: str, wanted: str, answer: SwitchAnswer) -> None:
        if answer.success:
            self.switching.commit(identity, lambda _: None)
            return
        self._tried = (wanted, time.monotonic())
        words = f"the deployment says {wanted}, which cannot be loaded; the earlier model drives: {answer.message}"
        self._node.get_logger().error(words)
        self._report(Level.ERROR, words)

    async def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        async def both() -> SwitchAnswer:
            identity = f"load_model-{uuid.uuid4().hex[:8]}"
            path = self._requested(request.path)
            prepared = await self._heard(lambda done: self.switching.prepare(identity, path, done))
            if not prepared.success:
                return prepared
            return await self._heard(lambda done: self.switching.commit(identity, done))

        answer = await self._answered(both, "load_model")
        identity = self._identity()
        response.success, response.model_id, response.artifact_id = (
            answer.success,
            identity.model_id,
            identity.artifact_id,
        )
        response.message = f"{identity.model_id} drives now" if answer.success else answer.message
        return response

    async def _on_switch_model(
        self, request: SwitchModel.Request, response: SwitchModel.Response
    ) -> SwitchModel.Response:
        async def step() -> SwitchAnswer:
            name = request.request_id[:SHOWN]
            if request.step == SwitchModel.Request.STEP_PREPARE:
                path = self._requested(request.path)
                return await self._heard(lambda done: self.switching.prepare(name, path, done))
            if request.step == SwitchModel.Request.STEP_COMMIT:
                return await self._heard(lambda done: self.switching.commit(name, done))
            if request.step == SwitchModel.Request.STEP_ABORT:
                return self.switching.abort(name)
            if request.step == SwitchModel.Request.STEP_ASK:
                return self.switching.ask(name)
            return SwitchAnswer(
                False, f"step {request.step} is not known; expected STEP_PREPARE to STEP_ASK", SwitchState.UNKNOWN
            )

        answer = await self._answered(step, "switch_model")
        identity = self._identity()
        response.success, response.message, response.state = answer.success, answer.message, int(answer.state)
        response.model_id, response.artifact_id = identity.model_id, identity.artifact_id
        response.artifact_path = self._driven.said.artifact_path
        return response

    def _requested(self, path: str) -> str:
        if len(path) > MAX_PATH:
            raise OwledError(f"the path of the request has {len(path)} characters; give the path of a directory")
        return requested_model(path, self._choice, self._settings().model_root)

    async def _answered(self, work: Callable[[], Awaitable[SwitchAnswer]], what: str) -> SwitchAnswer:
        """Turn whatever happens into an answer, and say it."""
        try:
            answer = await work()
        except Exception as error:  # a request can hold anything; the node lives and says what was wrong
            words = str(error) if isinstance(error, OwledError) else f"{type(error).__name__}: {error}"
            answer = SwitchAnswer(False, words, SwitchState.UNKNOWN)
        if not answer.success:
            self._node.get_logger().error(f"{what}: {answer.message!r}"[:1000])
            self._report(Level.WARN, f"{what} failed, the earlier model drives: {answer.message}"[:1000])
        return answer

    async def _heard(self, ask: Callable[[Callable[[SwitchAnswer], None]], None]) -> SwitchAnswer:
        future: Future = Future(executor=self._node.executor)
        ask(future.set_result)
        return await _wakeful(future)

    def _load_beside(self, path: str) -> Engine:
        settings = self._settings()
        choice = ModelChoice(path, settings.device, settings.dtype, settings.threads, settings.runtime)
        if self._try is not None and not self._is_known(path):
            self._report(Level.WARN, f"trying {path[:SHOWN]!r} in a process of its own")
            self._try(choice, TrialLimits(settings.load_timeout_s, reserve_mb=settings.memory_reserve_mb))
        self._report(Level.WARN, f"loading {path[:SHOWN]!r} beside the running model")
        engine = load_and_warm(choice, self._load, self._worker.ladder.frame, settings.memory_reserve_mb)
        before, needs = needs_of(self._worker.ladder.engine), self._worker.expect(engine)
        if needs != before:  # it needs other inputs: they get the time to come
            self._soon(before, needs)
            time.sleep(min(needs.image_past_s + FIRST_IMAGES_S, MAX_FILLING_S))
        self._report(Level.OK, "another model is ready")
        return engine

    def _is_known(self, path: str) -> bool:
        """Tell whether a directory needs no trial: the bundled model, and what the deployment names (made, hashed and judged)."""
        deployment = self._choice.deployment
        return not path or (deployment is not None and _names(deployment.driving, path))

    def _soon(self, *needs: InputNeeds) -> None:
        """Let the executor's thread listen: subscriptions are made where they are served."""
        if self._node.executor is not None:
            self._node.executor.create_task(self._hear, *needs)

    def _hear(self, *needs: InputNeeds) -> None:
        if needs != self._listens_for:
            self._listens_for = needs
            self._listen(*needs)

    def _switched(self, request_id: str, path: str) -> None:
        """Say what drives now; called by the inference thread."""
        engine = self._worker.ladder.engine
        if engine is None:
            return
        deployment = self._choice.deployment
        self._follows = named = deployment is not None and _names(deployment.driving, path)
        if not path:
            self._source = Source.BUNDLED
        else:
            self._source = Source.DEPLOYMENT if named else Source.REQUEST
        self._path = path
        self._soon(needs_of(engine))
        why = f"asked for by name, request {request_id}" if not path else f"request {request_id}"
        self._driven.drives(engine, path, self._source, why, self._choice)
        self._node.get_logger().info(f"{engine.identity.model_id} drives now ({why})")
        self._report(Level.OK, "exchanged")
        give_back_memory()  # the old engine's

    async def _on_ask(self, request: AskQuestion.Request, response: AskQuestion.Response) -> AskQuestion.Response:
        if not request.question.strip() or not request.timeout > 0.0:
            response.message = "expected a question and a timeout > 0 s"
            return response
        future: Future = Future(executor=self._node.executor)

        def done(answer: Generation | None, why: str, stamp: int, identity: ModelIdentity) -> None:
            future.set_result((answer, why, stamp, identity))

        try:
            self._worker.ask(Question(request.question, time.monotonic() + min(request.timeout, MAX_TIMEOUT_S), done))
        except OwledError as error:
            response.message = str(error)
            return response
        answer, why, stamp, identity = await _wakeful(future)
        response.success, response.message = answer is not None, why
        response.stamp, response.model_id = stamp_to_time(stamp), identity.model_id
        if answer is not None:
            response.answer, response.complete = answer.text, answer.complete
        return response

    def _identity(self) -> ModelIdentity:
        engine = self._worker.ladder.engine
        return ModelIdentity("") if engine is None else engine.identity


def _names(driving: Callable[[], Any], path: str) -> bool:
    try:
        return str(driving()) == path
    except OwledError:
        return False


async def _wakeful(future: Future) -> Any:
    """Await a result that another thread sets; having a callback is what makes it wake the executor."""
    future.add_done_callback(lambda _: None)
    return await future
