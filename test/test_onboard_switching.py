"""The switch between two models: every order of steps, repeated requests, and nobody left without an answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from owled_ros.errors import OwledError
from owled_ros.onboard import switching
from owled_ros.onboard.switching import SwitchAnswer, Switching, SwitchState

WAIT_S = 10.0


class FakeEngine:
    def __init__(self, path: str) -> None:
        self.path, self.closed = path, False

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


class Bench:
    """A node's worth of engines: loads at once, unless `hold` is set; exchanges at once, unless `drives` is False."""

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.driving: FakeEngine | None = None
        self.go = threading.Event()
        self.go.set()
        self.alive = True
        self.switched: list[tuple[str, str]] = []
        self.switching = Switching(self._load, self._exchange, lambda name, path: self.switched.append((name, path)))

    def _load(self, path: str) -> Any:
        self.go.wait(WAIT_S)
        if path == "bad":
            raise OwledError("it is damaged")
        engine = FakeEngine(path)
        self.engines.append(engine)
        return engine

    def _exchange(self, engine: Any, done: Callable[[bool], None]) -> None:
        if not self.alive:
            engine.close()
            done(False)
            return
        if self.driving is not None:
            self.driving.close()
        self.driving = engine
        done(True)

    def prepare(self, name: str, path: str = "a") -> SwitchAnswer:
        return wait_for(lambda done: self.switching.prepare(name, path, done))

    def commit(self, name: str) -> SwitchAnswer:
        return wait_for(lambda done: self.switching.commit(name, done))

    def open_engines(self) -> list[str]:
        return [engine.path for engine in self.engines if not engine.closed]


def wait_for(ask: Callable[[Callable[[SwitchAnswer], None]], None]) -> SwitchAnswer:
    heard: list[SwitchAnswer] = []
    event = threading.Event()

    def done(answer: SwitchAnswer) -> None:
        heard.append(answer)
        event.set()

    ask(done)
    assert event.wait(WAIT_S), "nobody answered"
    assert len(heard) == 1
    return heard[0]


def test_prepare_then_commit_and_both_again() -> None:
    bench = Bench()
    assert bench.prepare("1").state is SwitchState.PREPARED
    assert bench.driving is None
    assert bench.prepare("1").success  # asked again: nothing is loaded twice
    assert len(bench.engines) == 1
    assert bench.commit("1") == SwitchAnswer(True, "it drives", SwitchState.DRIVING)
    assert bench.commit("1").success
    assert bench.prepare("1").state is SwitchState.DRIVING
    assert (bench.open_engines(), bench.switched) == (["a"], [("1", "a")])


def test_a_model_that_was_replaced_is_not_said_to_drive() -> None:
    bench = Bench()
    for name in "12":
        bench.prepare(name, name)
        bench.commit(name)
    assert bench.switching.ask("1").state is SwitchState.ABORTED
    assert not bench.commit("1").success
    assert bench.switching.ask("2").state is SwitchState.DRIVING


def test_what_cannot_be_loaded_changes_nothing() -> None:
    bench = Bench()
    bench.prepare("1")
    bench.commit("1")
    assert bench.prepare("2", "bad") == SwitchAnswer(False, "it is damaged", SwitchState.FAILED)
    assert bench.commit("2") == SwitchAnswer(False, "it is damaged", SwitchState.FAILED)
    assert bench.open_engines() == ["a"]
    assert bench.prepare("2", "b").success  # the cause was removed: the same id may try again


def test_an_abort_while_loading_answers_who_waits_and_frees_what_comes() -> None:
    bench = Bench()
    bench.go.clear()
    heard: list[SwitchAnswer] = []
    bench.switching.prepare("1", "a", heard.append)
    assert bench.switching.loading
    assert not bench.prepare("2", "b").success  # one at a time
    assert bench.switching.abort("1").success
    assert heard == [SwitchAnswer(False, "it was aborted", SwitchState.ABORTED)]
    bench.go.set()
    assert bench.prepare("3", "c").success
    assert bench.commit("1").state is SwitchState.ABORTED
    assert "a" not in bench.open_engines() or wait_until(lambda: "a" not in bench.open_engines())


def test_a_newer_request_takes_the_place_of_a_prepared_one() -> None:
    bench = Bench()
    bench.prepare("1", "a")
    bench.prepare("2", "b")
    assert bench.open_engines() == ["b"]
    assert bench.commit("1").state is SwitchState.ABORTED
    assert bench.commit("2").success


def test_a_node_that_is_cleaned_up_answers_everybody_and_keeps_nothing() -> None:
    bench = Bench()
    bench.go.clear()
    heard: list[SwitchAnswer] = []
    bench.switching.prepare("1", "a", heard.append)
    bench.switching.close()
    assert [answer.success for answer in heard] == [False]
    bench.go.set()
    assert wait_until(lambda: len(bench.engines) == 1 and not bench.open_engines())
    assert not bench.prepare("2").success


def test_a_commit_that_meets_a_stopped_worker_says_so() -> None:
    bench = Bench()
    bench.prepare("1")
    bench.alive = False
    assert bench.commit("1").state is SwitchState.ABORTED
    assert bench.open_engines() == []
    assert bench.switched == []


def test_a_prepared_model_that_nobody_commits_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.prepare("1")
    bench.switching.tidy(60.0)
    assert bench.open_engines() == ["a"]
    monkeypatch.setattr(switching, "PREPARED_S", 0.0)
    bench.switching.tidy(60.0)
    assert bench.open_engines() == []
    assert bench.switching.ask("1").state is SwitchState.ABORTED


def test_loading_that_takes_too_long_frees_the_caller_and_what_comes_later() -> None:
    bench = Bench()
    bench.go.clear()
    heard: list[SwitchAnswer] = []
    bench.switching.prepare("1", "a", heard.append)
    bench.switching.tidy(60.0)
    assert heard == []
    bench.switching.tidy(0.0)
    assert [answer.message for answer in heard] == ["it was not ready within 0 s"]
    bench.go.set()
    assert wait_until(lambda: len(bench.engines) == 1 and not bench.open_engines())
    assert bench.prepare("2", "b").success


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["prepare", "commit", "abort", "ask"]),
            st.sampled_from("123"),
            st.sampled_from(["a", "b", "bad"]),
        ),
        max_size=12,
    )
)
def test_whatever_is_asked_one_engine_drives_and_at_most_one_waits(steps: list[tuple[str, str, str]]) -> None:
    bench = Bench()
    for step, name, path in steps:
        answer = {
            "prepare": lambda name=name, path=path: bench.prepare(name, path),
            "commit": lambda name=name: bench.commit(name),
            "abort": lambda name=name: bench.switching.abort(name),
            "ask": lambda name=name: bench.switching.ask(name),
        }[step]()
        assert answer.state in SwitchState
    waiting = len(bench.open_engines()) - (bench.driving is not None)
    assert waiting in (0, 1)
    assert bench.driving is None or not bench.driving.closed
    bench.switching.close()
    assert len(bench.open_engines()) == (bench.driving is not None)


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = threading.Event()
    for _ in range(200):
        if condition():
            return True
        deadline.wait(0.05)
    return False
