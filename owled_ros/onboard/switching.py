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


class SwitchState(IntEnum):
    """Of one request. Values equal SwitchModel.srv."""

    UNKNOWN = 0
    PREPARING = 1
    PREPARED = 2
    DRIVING = 3
    FAILED = 4
    ABORTED = 5


@dataclass(frozen=True)
class SwitchAnswer:
    """What became of a step."""

    success: bool
    message: str
    state: SwitchState


@dataclass
class _Request:
    identity: str
    path: str
    state: SwitchState = SwitchState.PREPARING
    message: str = "it is being loaded"
    engine: Engine | None = None
    began_at: float = field(default_factory=time.monotonic)  # [s] monotonic
    prepared_at: float = 0.0
    committing: bool = False  # the exchange is on its way and cannot be stopped any more
    waiting: list[Callable[[SwitchAnswer], None]] = field(
        default_factory=list
    )  # who wants to hear when loading or switching ends

    def answer(self, success: bool) -> SwitchAnswer:
        return SwitchAnswer(success, self.message, self.state)


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
            return self._open is not None and self._open.state is SwitchState.PREPARING

    @property
    def open(self) -> bool:
        """True while a model is being prepared, or is prepared and not committed."""
        with self._lock:
            return self._open is not None

    def prepare(self, identity: str, path: str, done: Callable[[SwitchAnswer], None]) -> None:
        """Load a directory and try it; `done` hears when that has ended, at once where it had ended before."""
        with self._lock:
            known = self._requests.get(identity)
            refusal = self._refusal(identity, known)
            if refusal:
                answer = SwitchAnswer(False, refusal, SwitchState.UNKNOWN if known is None else known.state)
            elif known is not None and known.state is SwitchState.PREPARING:
                known.waiting.append(done)
                return
            elif known is not None and known.state in (SwitchState.PREPARED, SwitchState.DRIVING):
                answer = known.answer(True)
            else:
                self._begin(identity, path, done)
                return
        done(answer)

    def commit(self, identity: str, done: Callable[[SwitchAnswer], None]) -> None:
        """Drive with what was prepared; `done` hears when it drives."""
        with self._lock:
            request = self._requests.get(identity)
            if request is None or request.state is not SwitchState.PREPARED:
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

    def abort(self, identity: str) -> SwitchAnswer:
        """Forget what was or is being prepared; a model that drives already is not touched."""
        with self._lock:
            request = self._requests.get(identity)
            if request is None:
                return SwitchAnswer(True, "nothing is known of this request", SwitchState.UNKNOWN)
            if request.state is SwitchState.DRIVING:
                return SwitchAnswer(False, "it drives already; ask for another model instead", request.state)
            if request.committing:
                return SwitchAnswer(False, "it is being switched to and cannot be stopped any more", request.state)
            waiting = self._drop(request, "it was aborted")
            answer = request.answer(True)
        _tell(waiting, request.answer(False))
        return answer

    def ask(self, identity: str) -> SwitchAnswer:
        """Tell the state of a request."""
        with self._lock:
            request = self._requests.get(identity)
            return (
                SwitchAnswer(True, "nothing is known of this request", SwitchState.UNKNOWN)
                if request is None
                else request.answer(True)
            )

    def prepared(self, path: str) -> str:
        """Return the id under which a directory is prepared; empty when it is not."""
        with self._lock:
            request = self._open
            return (
                request.identity if request and request.state is SwitchState.PREPARED and request.path == path else ""
            )

    def tidy(self, load_s: float) -> None:
        """Free a prepared model that nobody has committed for long, and give up one that loads longer than `load_s`."""
        with self._lock:
            request, now = self._open, time.monotonic()
            if request is None:
                return
            prepared = request.state is SwitchState.PREPARED
            limit, since = (PREPARED_S, request.prepared_at) if prepared else (load_s, request.began_at)
            if now - since < limit:
                return
            waiting = self._drop(request, f"it was not {'committed' if prepared else 'ready'} within {limit:g} s")
            answer = request.answer(False)
        logger.warning("%s is given up: %s", request.path, request.message)
        _tell(waiting, answer)

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
        if known is None and self._open is not None and self._open.state is SwitchState.PREPARING:
            return "another model is being loaded; ask again when it is done, or abort it"
        return ""

    def _begin(self, identity: str, path: str, done: Callable[[SwitchAnswer], None]) -> None:
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
            wanted = request is self._open and request.state is SwitchState.PREPARING
            if wanted and engine is not None:
                request.engine, request.state, request.message = engine, SwitchState.PREPARED, "it is ready"
                request.prepared_at = time.monotonic()
            elif wanted:
                request.state, request.message, self._open = SwitchState.FAILED, problem, None
            waiting, request.waiting = request.waiting, []
            answer = request.answer(request.state is SwitchState.PREPARED)
        if not wanted and engine is not None:
            engine.close()
        _tell(waiting, answer)

    def _exchanged(self, request: _Request, drives: bool) -> None:
        with self._lock:
            request.committing = False
            if drives:
                for other in self._requests.values():
                    if other.state is SwitchState.DRIVING:
                        other.state, other.message = SwitchState.ABORTED, "another model drives since"
                request.state, request.message = SwitchState.DRIVING, "it drives"
            else:
                request.state, request.message = SwitchState.ABORTED, "the node stopped driving before the switch"
            waiting, request.waiting = request.waiting, []
            answer = request.answer(drives)
        if drives:
            self._switched(request.identity, request.path)
        _tell(waiting, answer)

    def _drop(self, request: _Request, why: str) -> list[Callable[[SwitchAnswer], None]]:
        engine, request.engine = request.engine, None
        request.state, request.message = SwitchState.ABORTED, why
        waiting, request.waiting = request.waiting, []
        if request is self._open:
            self._open = None
        if engine is not None:
            engine.close()
        return waiting

    @staticmethod
    def _not_prepared(identity: str, request: _Request | None) -> SwitchAnswer:
        if request is None:
            return SwitchAnswer(
                False, f"nothing is known of request {identity[:80]!r}; prepare it first", SwitchState.UNKNOWN
            )
        if request.state is SwitchState.DRIVING:
            return request.answer(True)
        if request.state is SwitchState.PREPARING:
            return SwitchAnswer(False, "it is still being loaded; commit when prepare has been answered", request.state)
        return request.answer(False)


def _tell(waiting: list[Callable[[SwitchAnswer], None]], answer: SwitchAnswer) -> None:
    for hear in waiting:
        hear(answer)
