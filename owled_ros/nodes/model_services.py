"""The slow services of driving_node: exchange the model, ask it a question. Needs rclpy.

Both wait for other threads without holding up the executor: the callbacks are coroutines in a reentrant group, and
images are taken while they wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from owled_ros.driving.prediction import Generation, ModelIdentity
from owled_ros.errors import OwledError
from owled_ros.nodes import topics
from owled_ros.nodes.conversions import stamp_to_time
from owled_ros.nodes.diagnostics import Level
from owled_ros.nodes.parameters import DrivingSettings
from owled_ros.onboard.ladder import needs_of
from owled_ros.onboard.loading import Loader, LoadJob, ModelChoice, load_and_warm
from owled_ros.onboard.model_paths import requested_model
from owled_ros.onboard.worker import Question, Worker
from owled_ros.srv import AskQuestion, LoadModel

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
        report: Callable[[Level, str], None],
        listen: Callable[..., None],
    ) -> None:
        """Take the node and what it is made of; `listen` hears the needs of every model whose cameras are to be heard."""
        self._node, self._worker, self._load, self._settings, self._report = node, worker, load, settings, report
        self._listen = listen
        self._loading: LoadJob | None = None
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(LoadModel, topics.LOAD_MODEL.name, self._on_load_model, callback_group=group),
            node.create_service(AskQuestion, topics.ASK.name, self._on_ask, callback_group=group),
        ]

    def close(self) -> None:
        """Withdraw the services."""
        for service in self._services:
            self._node.destroy_service(service)

    async def _on_load_model(self, request: LoadModel.Request, response: LoadModel.Response) -> LoadModel.Response:
        settings = self._settings()
        try:
            if self._loading is not None and not self._loading.finished.is_set():
                raise OwledError("another model is being loaded; ask again when it is done")
            path = requested_model(request.path, settings.model_path, settings.model_root, settings.artifact_store)
            problem = await self._load_beside(path, settings)
        except OwledError as error:
            problem = str(error)
        except Exception as error:  # a path can bring anything; the caller is answered in words
            problem = f"{type(error).__name__}: {error}"
        identity = self._identity()
        response.success, response.model_id, response.artifact_id = not problem, identity.model_id, identity.artifact_id
        response.message = problem or f"{identity.model_id} drives now"
        if problem:
            self._node.get_logger().error(f"load_model: {problem}")
            self._report(Level.WARN, f"load_model failed, the earlier model drives: {problem}")
        else:
            self._node.get_logger().info(f"load_model: {response.message}")
            self._report(Level.OK, "exchanged")
        return response

    async def _load_beside(self, path: str, settings: DrivingSettings) -> str:
        """Load beside the running model and switch between two images; returns what went wrong."""
        future: Future = Future(executor=self._node.executor)
        choice = ModelChoice(path, settings.device, settings.dtype, settings.threads, settings.runtime)
        frame, reserve_mb = self._worker.ladder.frame, settings.memory_reserve_mb

        def loaded(engine: Any, problem: str) -> None:
            future.set_result((engine, problem))

        self._report(Level.WARN, f"loading {path} beside the running model")
        self._loading = LoadJob(lambda: load_and_warm(choice, self._load, frame, reserve_mb), loaded)
        engine, problem = await _wakeful(future)
        if engine is not None:
            await self._exchange(engine)
        return str(problem)

    async def _exchange(self, engine: Any) -> None:
        """Switch between two images; before that a model that needs other inputs gets the time to hear them."""
        before, needs = needs_of(self._worker.ladder.engine), self._worker.expect(engine)
        if needs != before:
            self._listen(before, needs)
            heard: Future = Future(executor=self._node.executor)
            seconds = min(needs.image_past_s + FIRST_IMAGES_S, MAX_FILLING_S)
            threading.Timer(seconds, heard.set_result, [None]).start()
            await _wakeful(heard)
        switched: Future = Future(executor=self._node.executor)
        self._worker.exchange(engine, lambda: switched.set_result(None))
        await _wakeful(switched)
        if needs != before:
            self._listen(needs)

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


async def _wakeful(future: Future) -> Any:
    """Await a result that another thread sets; having a callback is what makes it wake the executor."""
    future.add_done_callback(lambda _: None)
    return await future
