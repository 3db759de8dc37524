"""The inference thread: newest image first, action before description, questions and model changes between images. Needs no ROS."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from owled_ros.devices import driving_stream
from owled_ros.driving.engine import Engine
from owled_ros.driving.needs import InputNeeds
from owled_ros.driving.prediction import Generation, ModelIdentity, Reason, SceneAnswer
from owled_ros.driving_mark import DrivingMark, file_of
from owled_ros.errors import OwledError
from owled_ros.onboard.ladder import Arrival, Ladder, Limits, Outcome, is_out_of_memory, needs_of
from owled_ros.onboard.slot import NewestSlot

IDLE_S = 0.05
MAX_QUESTIONS = 8  # that wait at the same time
MAX_QUESTION_CHARACTERS = 2_000
logger = logging.getLogger(__name__)


@dataclass
class Question:
    """A question about the newest image; `done` is called once, with the answer or with the reason why there is none."""

    text: str
    deadline: float  # [s] monotonic
    done: Callable[[Generation | None, str, int, ModelIdentity], None]  # answer, why not, stamp [ns], model
    asked: float = field(default_factory=time.monotonic)


@dataclass
class Counters:
    """What the thread has done since it started."""

    answered: int = 0  # images that the model answered
    published: int = 0  # valid actions
    withheld: int = 0  # images without a valid action
    errors: int = 0  # failed inferences
    described: int = 0
    yielded: int = 0  # descriptions given up for a newer image


class Worker:
    """Owns the engine: after `start` only this thread calls it."""

    def __init__(
        self,
        ladder: Ladder,
        limits: Callable[[], Limits],
        description: Callable[[], tuple[float, float]],
        on_outcome: Callable[[Outcome], None],
        on_scene: Callable[[Outcome, SceneAnswer], None],
        looks_sound: Callable[[Any], bool] = lambda message: True,
    ) -> None:
        """Take the ladder, its limits, (rate [Hz], patience [s]) of descriptions, and who hears the results.

        `looks_sound` tells quickly whether an image message may be worth decoding: one that is not never takes the place of
        one that waits, or whoever sends rubbish beside the camera would silence it.
        """
        self.slot: NewestSlot[Arrival] = NewestSlot()
        self.counters = Counters()
        self.ladder = ladder
        self._limits, self._description = limits, description
        self._on_outcome, self._on_scene, self._looks_sound = on_outcome, on_scene, looks_sound
        self._questions: deque[Question] = deque()
        self._asking = threading.Lock()  # the executor's thread appends while the inference thread takes away
        self._next_engine: tuple[Engine, Callable[[bool], None]] | None = None
        self._ended = False  # the thread has done its last work
        self._handing = threading.Lock()  # an engine is handed over, or the thread ends
        self._last: Outcome | None = None  # of the image that the engine has seen last
        self._described: Outcome | None = None
        self._described_at = -1e9
        self._due_since: float | None = None
        self._mark = DrivingMark(None)  # tells jobs on the same GPU that a frame is in work
        self._marked = "cpu"  # the device that the mark is of
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Ask the thread to end and free the engine; False when it is still inside the model after `timeout` [s]."""
        self._stopping.set()
        self.slot.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def take(self, arrival: Arrival) -> None:
        """Take an image; one of the main camera begins a frame."""
        self.ladder.views.add(arrival)
        if not arrival.camera:
            self.slot.put(arrival, lambda waiting: self._goes_before(arrival, waiting))

    def _goes_before(self, arrival: Arrival, waiting: Arrival) -> bool:
        """Tell whether an image takes the place of one that waits: a newer one, unless it is sure to be refused."""
        if not self._may_be_used(arrival):
            return not self._may_be_used(waiting)
        return arrival.stamp >= waiting.stamp or not self._may_be_used(waiting)

    def _may_be_used(self, arrival: Arrival) -> bool:
        in_time = self.ladder.is_in_time(arrival.stamp, self._limits().max_frame_age_s)
        return in_time and self._looks_sound(arrival.message)

    def forget(self) -> None:
        """Forget every input that was taken."""
        self.slot.clear()
        self.ladder.forget()

    def ask(self, question: Question) -> None:
        """Queue a question; raises OwledError for one that is too long, or too many."""
        if len(question.text) > MAX_QUESTION_CHARACTERS:
            raise OwledError(
                f"the question has {len(question.text)} characters; at most {MAX_QUESTION_CHARACTERS} are taken"
            )
        with self._asking:
            if len(self._questions) >= MAX_QUESTIONS:
                raise OwledError(f"{MAX_QUESTIONS} questions wait already; ask again when they are answered")
            self._questions.append(question)
        self.slot.wake()

    def expect(self, engine: Engine) -> InputNeeds:
        """Begin to keep what another engine needs beside what this one does; returns it."""
        needs = needs_of(engine)
        self.ladder.views.follow(needs_of(self.ladder.engine), needs)
        return needs

    def exchange(self, engine: Engine, done: Callable[[bool], None]) -> None:
        """Switch to another engine between two images; the old one is closed, then `done` hears True.

        Where the thread has ended, or ends before, the engine is closed and `done` hears False.
        """
        with self._handing:
            ended = self._ended
            if not ended:
                self._next_engine = (engine, done)
        if ended:
            engine.close()
            done(False)
        self.slot.wake()

    def _run(self) -> None:
        while not self._stopping.is_set():
            arrival = self.slot.take(IDLE_S if self._busy() else 0.5)
            try:
                self._switch()
                with driving_stream(self._device):
                    if arrival is not None and not self._stopping.is_set():
                        self._act(arrival)
                    self._after()
            except Exception:  # a fault of ours: say it and continue with the next image
                logger.exception("the inference thread failed on an image")
        self.ladder.views.close()
        self._mark.close()
        with self._handing:
            self._ended = True
            left, self._next_engine = self._next_engine, None
        if left is not None:
            left[0].close()
            left[1](False)
        for question in self._waiting():
            question.done(None, "the node stops", 0, ModelIdentity(""))
        if self.ladder.engine is not None:
            self.ladder.engine.close()
            self.ladder.engine = None

    def _busy(self) -> bool:
        return bool(self._questions) or self._due_since is not None

    @property
    def _device(self) -> str:
        """Where the engine computes."""
        return str(getattr(self.ladder.engine, "facts", {}).get("device", "cpu"))

    def _switch(self) -> None:
        with self._handing:
            handed, self._next_engine = self._next_engine, None
        if handed is None:
            return
        engine, done = handed
        old, self.ladder.engine = self.ladder.engine, engine
        self.ladder.prefix = self._last = None
        self.ladder.last_error = ""
        if old is not None:
            old.close()
        done(True)

    def _act(self, arrival: Arrival) -> None:
        self._follow_device()
        with self._mark:  # from before the image is decoded: what others have on the GPU can end meanwhile
            outcome = self.ladder.climb(arrival, self._limits())
        self.counters.errors += outcome.reason in (Reason.INFERENCE_ERROR, Reason.OUT_OF_MEMORY)
        self.counters.answered += outcome.answer is not None
        self.counters.published += outcome.valid
        self.counters.withheld += not outcome.valid
        self._last = outcome if self.ladder.prefix is not None else None
        self._on_outcome(outcome)

    def _follow_device(self) -> None:
        """See that the mark is that of the GPU that drives now."""
        device = self._device
        if device != self._marked:
            self._mark.close()
            self._mark, self._marked = DrivingMark(file_of(device)), device

    def _after(self) -> None:
        """Use the time until the next image."""
        self._give_up_questions()
        if self._last is None or self.ladder.prefix is None or self.ladder.engine is None:
            return
        waiting = self._waiting()
        if waiting:
            self._answer(waiting[0], self._last)
        rate, patience = self._description()
        now = time.monotonic()
        if (
            rate > 0.0
            and describes(self.ladder.engine)
            and now - self._described_at >= 1.0 / rate
            and self._last is not self._described
        ):
            self._due_since = self._due_since or now
            if not self.slot.waiting or now - self._due_since > patience:
                self._describe(self._last, patience)

    def _describe(self, outcome: Outcome, patience: float) -> None:
        engine = self.ladder.engine
        assert engine is not None
        overdue = time.monotonic() - (self._due_since or 0.0) > patience

        def cancelled() -> bool:
            asked = bool(self._questions) or self._next_engine is not None or self._stopping.is_set()
            return asked or (self.slot.waiting and not overdue)

        try:
            scene = engine.describe(self.ladder.prefix, cancelled)
        except Exception as error:  # as in the ladder: the node lives and keeps the words
            self._broken(error)
            self._described_at, self._due_since = time.monotonic(), None
            return
        if scene is None:
            self.counters.yielded += 1
            return
        self.counters.described += 1
        self._described_at, self._due_since = time.monotonic(), None
        self._described = outcome
        self._on_scene(outcome, scene)

    def _answer(self, question: Question, outcome: Outcome) -> None:
        engine = self.ladder.engine
        assert engine is not None
        overdue = time.monotonic() - question.asked > self._description()[1]
        if self.slot.waiting and not overdue:
            return

        def cancelled() -> bool:
            ended = time.monotonic() > question.deadline or self._next_engine is not None or self._stopping.is_set()
            return ended or (self.slot.waiting and not overdue)

        try:
            generation = engine.ask(self.ladder.prefix, question.text, cancelled)
        except Exception as error:  # as in the ladder
            self._broken(error)
            self._done_with(question)
            question.done(None, f"the model failed: {type(error).__name__}: {error}", outcome.stamp, engine.identity)
            return
        if generation is not None:
            self._done_with(question)
            question.done(generation, "", outcome.stamp, engine.identity)

    def _give_up_questions(self) -> None:
        for question in [item for item in self._waiting() if time.monotonic() > item.deadline]:
            self._done_with(question)
            seen = self.ladder.frame is not None
            why = "driving left no time for an answer; allow more time" if seen else "no image has been seen yet"
            question.done(None, f"no answer within the time limit: {why}", 0, ModelIdentity(""))

    def _waiting(self) -> list[Question]:
        with self._asking:
            return list(self._questions)

    def _done_with(self, question: Question) -> None:
        with self._asking:
            self._questions.remove(question)

    def _broken(self, error: Exception) -> None:
        self.ladder.prefix = self._last = None
        self.counters.errors += 1
        kind = "out of memory, " if is_out_of_memory(error) else ""
        self.ladder.last_error = f"{kind}{type(error).__name__}: {error}"


def describes(engine: Engine) -> bool:
    """Tell whether a model is asked about the scene at all: its profile may have no question about it."""
    return getattr(getattr(engine, "profile", None), "scene", True) is not None
