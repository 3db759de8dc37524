"""Switch the driving model in two steps: prepare beside the running one, commit between two frames. Needs no ROS.

Every request has an id and may be repeated. One request at a time: a new one takes the place of an earlier one that was
prepared but never committed; while one is being loaded, others are refused. Whatever happens, every caller is answered and
no engine is left over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from owled_ros.driving.engine import Engine
from owled_ros.onboard.loading import LoadJob

PREPARED_S = 120.0  # a prepared model that nobody commits is freed after this long
REMEMBERED = 64  # requests whose end is remembered
logger = logging.getLogger(__name__)


class State(IntEnum):
    """Of one request. Values equal SwitchModel.srv."""

    UNKNOWN = 0
    PREPARING = 1
    PREPARED = 2
    DRIVING = 3
    FAILED = 4
    ABORTED = 5


@dataclass(frozen=True)
class Answer:
    """What became of a step."""

    success: bool
    message: str
    state: State


@dataclass
class _Request:
    identity: str
    path: str
    state: State = State.PREPARING
    message: str = "it is being loaded"
    engine: Engine | None = None
    prepared_at: float = 0.0  # [s] monotonic
    committing: bool = False  # the exchange is on its way and cannot be stopped any more
    waiting: list[Callable[[Answer], None]] = field(
        default_factory=list
    )  # who wants to hear when loading or switching ends

    def answer(self, success: bool) -> Answer:
        return Answer(success, self.message, self.state)


Exchange = Callable[[Engine, Callable[[bool], None]], None]
Switched = Callable[[str, str], None]


class Switching:
    """The switch of one configured node; may be called from any thread."""

    def __init__(self, load: Callable[[str], Engine], exchange: Exchange, switched: Switched) -> None:
        """Take what loads a directory, what exchanges the engine (calls back True when it drives, False when it never will),
        and who hears (request id, path) after an exchange.
        """
        self._load, self._exchange, self._switched = load, exchange, switched
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._open: _Request | None = None  # being prepared, or prepared
        self._closed = False
        self._lock = threading.RLock()

    @property
    def loading(self) -> bool:
        """True while a model is being loaded beside the running one."""
        with self._lock:
            return self._open is not None and self._open.state is State.PREPARING

    @property
    def open(self) -> bool:
        """True while a model is being prepared, or is prepared and not committed."""
        with self._lock:
            return self._open is not None

    def prepare(self, identity: str, path: str, done: Callable[[Answer], None]) -> None:
        """Load a directory and try it; `done` hears when that has ended, at once where it had ended before."""
        with self._lock:
            known = self._requests.get(identity)
            refusal = self._refusal(identity, known)
            if refusal:
                answer = Answer(False, refusal, State.UNKNOWN if known is None else known.state)
            elif known is not None and known.state is State.PREPARING:
                known.waiting.append(done)
                return
            elif known is not None and known.state in (State.PREPARED, State.DRIVING):
                answer = known.answer(True)
            else:
                self._begin(identity, path, done)
                return
        done(answer)

    def commit(self, identity: str, done: Callable[[Answer], None]) -> None:
        """Drive with what was prepared; `done` hears when it drives."""
        with self._lock:
            request = self._requests.get(identity)
            if request is None or request.state is not State.PREPARED:
                answer, engine = self._not_prepared(identity, request), None
            else:
                request.waiting.append(done)
                if request.committing:
                    return
                engine, request.engine = request.engine, None
                request.committing, self._open = True, None
        if request is not None and engine is not None:
            self._exchange(engine, lambda drives: self._exchanged(request, drives))
        else:
            done(answer)

    def abort(self, identity: str) -> Answer:
        """Forget what was or is being prepared; a model that drives already is not touched."""
        with self._lock:
            request = self._requests.get(identity)
            if request is None:
                return Answer(True, "nothing is known of this request", State.UNKNOWN)
            if request.state is State.DRIVING:
                return Answer(False, "it drives already; ask for another model instead", request.state)
            if request.committing:
                return Answer(False, "it is being switched to and cannot be stopped any more", request.state)
            waiting = self._drop(request, "it was aborted")
            answer = request.answer(True)
        _tell(waiting, request.answer(False))
        return answer

    def ask(self, identity: str) -> Answer:
        """Tell the state of a request."""
        with self._lock:
            request = self._requests.get(identity)
            return (
                Answer(True, "nothing is known of this request", State.UNKNOWN)
                if request is None
                else request.answer(True)
            )

    def prepared(self, path: str) -> str:
        """Return the id under which a directory is prepared; empty when it is not."""
        with self._lock:
            request = self._open
            return request.identity if request and request.state is State.PREPARED and request.path == path else ""

    def tidy(self) -> None:
        """Free a prepared model that nobody has committed for long."""
        with self._lock:
            request = self._open
            if (
                request is None
                or request.state is not State.PREPARED
                or time.monotonic() - request.prepared_at < PREPARED_S
            ):
                return
            self._drop(request, f"it was not committed within {PREPARED_S:g} s")
        logger.warning("the prepared model %s was not committed and is freed", request.path)

    def close(self) -> None:
        """Answer everybody and free everything; what is still being loaded is freed when it ends."""
        with self._lock:
            self._closed = True
            request = self._open
            waiting = self._drop(request, "the node was cleaned up") if request is not None else []
        if request is not None:
            _tell(waiting, request.answer(False))

    def _refusal(self, identity: str, known: _Request | None) -> str:
        if not identity:
            return "the request has no id; choose one"
        if self._closed:
            return "the node is being cleaned up"
        if known is None and self._open is not None and self._open.state is State.PREPARING:
            return "another model is being loaded; ask again when it is done, or abort it"
        return ""

    def _begin(self, identity: str, path: str, done: Callable[[Answer], None]) -> None:
        if self._open is not None:
            self._drop(self._open, "another request took its place")
        request = self._open = _Request(identity, path, waiting=[done])
        self._requests[identity] = request
        self._requests.move_to_end(identity)
        while len(self._requests) > REMEMBERED:
            self._requests.popitem(last=False)
        LoadJob(lambda: self._load(path), lambda engine, problem: self._loaded(request, engine, problem))

    def _loaded(self, request: _Request, engine: Engine | None, problem: str) -> None:
        with self._lock:
            wanted = request is self._open and request.state is State.PREPARING
            if wanted and engine is not None:
                request.engine, request.state, request.message = engine, State.PREPARED, "it is ready"
                request.prepared_at = time.monotonic()
            elif wanted:
                request.state, request.message, self._open = State.FAILED, problem, None
            waiting, request.waiting = request.waiting, []
            answer = request.answer(request.state is State.PREPARED)
        if not wanted and engine is not None:
            engine.close()
        _tell(waiting, answer)

    def _exchanged(self, request: _Request, drives: bool) -> None:
        with self._lock:
            request.committing = False
            if drives:
                for other in self._requests.values():
                    if other.state is State.DRIVING:
                        other.state, other.message = State.ABORTED, "another model drives since"
                request.state, request.message = State.DRIVING, "it drives"
            else:
                request.state, request.message = State.ABORTED, "the node stopped driving before the switch"
            waiting, request.waiting = request.waiting, []
            answer = request.answer(drives)
        if drives:
            self._switched(request.identity, request.path)
        _tell(waiting, answer)

    def _drop(self, request: _Request, why: str) -> list[Callable[[Answer], None]]:
        engine, request.engine = request.engine, None
        request.state, request.message = State.ABORTED, why
        waiting, request.waiting = request.waiting, []
        if request is self._open:
            self._open = None
        if engine is not None:
            engine.close()
        return waiting

    @staticmethod
    def _not_prepared(identity: str, request: _Request | None) -> Answer:
        if request is None:
            return Answer(False, f"nothing is known of request {identity[:80]!r}; prepare it first", State.UNKNOWN)
        if request.state is State.DRIVING:
            return request.answer(True)
        if request.state is State.PREPARING:
            return Answer(False, "it is still being loaded; commit when prepare has been answered", request.state)
        return request.answer(False)


def _tell(waiting: list[Callable[[Answer], None]], answer: Answer) -> None:
    for hear in waiting:
        hear(answer)
