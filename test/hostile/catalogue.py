"""Every attack by its name: what a file, a message or a caller may do to running nodes. The tests and the soak draw from here.

An attack does something to a `Target`, waits for the answer where there is one, and returns what it heard. It asserts nothing about
driving: that is for whoever watches (driving_watch). Needs rclpy.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hostile_images
import hostile_models
import hostile_words as words
from hostile_goals import GOALS
from hostile_messages import MESSAGES
from hostile_stores import DAMAGES
from rcl_interfaces.srv import SetParameters
from target import DRIVER, RECALIBRATION, SWITCH_S, Target

from owled_ros.srv import AskQuestion, ListArtifacts, LoadModel, PromoteArtifact, RollbackArtifact, SwitchModel

DAMAGED_S = 3.0  # that a store stays damaged: the driver looks once a second
BURST = 10  # images of one kind
LONG_WAIT_S = 30.0


@dataclass(frozen=True)
class Attack:
    """One attack; `kind` is what it goes to."""

    name: str
    kind: str
    run: Callable[[Target], str]


def catalogue() -> list[Attack]:
    """Make all attacks."""
    return list(_all())


def _all() -> Iterator[Attack]:
    yield from _inputs()
    yield from _requests()
    for name, make in hostile_models.MODELS.items():
        yield Attack(f"model, {name}", "model", functools.partial(_model, make))
    yield Attack("a sound model", "model", functools.partial(_model, lambda place: None))
    for name, damage in DAMAGES.items():
        yield Attack(f"store, {name}", "store", functools.partial(_store, damage))
    for name, run in GOALS:
        yield Attack(f"goal, {name}", "goal", run)


def _inputs() -> Iterator[Attack]:
    for name, fields in hostile_images.raw().items():
        yield Attack(f"raw image {name}", "image", functools.partial(_raw, fields))
    for name, data in hostile_images.encoded().items():
        yield Attack(f"compressed image, {name}", "image", functools.partial(_encoded, data))
    for number, form in enumerate(hostile_images.FORMATS):
        yield Attack(f"compressed image of format {number}", "image", functools.partial(_formatted, form))
    for name, kind, run in MESSAGES:
        yield Attack(name, kind, run)


def _requests() -> Iterator[Attack]:
    for name, text in words.QUESTIONS.items():
        yield Attack(f"question, {name}", "question", functools.partial(_ask, text))
    for number in words.NUMBERS:
        run = functools.partial(_ask, "why?", timeout=_single(number))
        yield Attack(f"question that waits {number:g} s", "question", run)
    yield Attack("fifty questions at once", "question", _fifty_questions)
    for name, path in words.PATHS.items():
        yield Attack(f"load_model, {name}", "service", functools.partial(_load, path))
        yield Attack(f"switch_model, {name}", "service", functools.partial(_prepare, path))
    for name, identity in words.IDENTITIES.items():
        yield Attack(f"switch request, {name}", "service", functools.partial(_steps, identity))
        yield Attack(f"promotion of {name}", "store", functools.partial(_promote, identity))
    yield Attack("a hundred requests at once", "service", _hundred_requests)
    for name, values in PARAMETERS.items():
        yield Attack(f"parameter, {name}", "service", functools.partial(_set, values))
    yield Attack("rollback", "store", _rollback)


PARAMETERS: dict[str, dict[str, Any]] = {
    "a deadline of NaN": {"deadline_s": math.nan},
    "a deadline of nothing": {"deadline_s": 0.0},
    "a floor of 2": {"confidence_floor": 2.0},
    "a floor just below": {"confidence_floor": -1.0000001},
    "a floor of NaN": {"confidence_floor": math.nan},
    "a text for a number": {"deadline_s": "1.0"},
    "a list for a number": {"deadline_s": [1.0, 2.0]},
    "what is fixed": {"model_path": "/etc", "max_pixels": 10**9},
    "what nobody declared": {"a" * 10_000: 1},
    "a frame of a megabyte": {"vehicle.wheel_base_m": math.inf},
    "a time that is not": {"use_sim_time": "yes"},
}


def _raw(shape: dict[str, Any], target: Target) -> str:
    for _ in range(BURST):
        target.send_image(**hostile_images.raw_fields(shape))
        time.sleep(0.05)
    return ""


def _encoded(data: bytes, target: Target) -> str:
    for _ in range(BURST):
        target.send_encoded(data, target.random.choice(("jpeg", "png", "")))
        time.sleep(0.05)
    return ""


def _formatted(form: str, target: Target) -> str:
    target.send_encoded(hostile_images.jpeg()[:-2], form)
    return ""


def _single(number: float) -> float:
    """Bring a number into the range of float32."""
    return math.copysign(min(abs(number), 3e38), number) if math.isfinite(number) else number


def _ask(text: str, target: Target, timeout: float = 3.0) -> str:
    sent = target.send(AskQuestion, f"{DRIVER}/ask", question=text, timeout=timeout)
    if timeout > LONG_WAIT_S:  # as long as it likes: nobody waits for it here
        target.spin(1.0)
        return "not waited for"
    return _words(target.wait(sent, "ask"))


def _fifty_questions(target: Target) -> str:
    asked = [
        target.send(AskQuestion, f"{DRIVER}/ask", question=f"{number}?" * 500, timeout=4.0) for number in range(50)
    ]
    answers = [target.wait(future, "ask") for future in asked]
    return f"{sum(answer.success for answer in answers)} of 50 answered"


def _load(path: str, target: Target) -> str:
    target.driven("")
    answer = target.call(LoadModel, f"{DRIVER}/load_model", SWITCH_S, path=path)
    target.driven(answer.model_id)
    return _words(answer)


def _prepare(path: str, target: Target) -> str:
    request = SwitchModel.Request
    identity = f"attack-{target.random.random()}"
    name = f"{DRIVER}/switch_model"
    answer = target.call(SwitchModel, name, SWITCH_S, step=request.STEP_PREPARE, request_id=identity, path=path)
    target.call(SwitchModel, name, step=request.STEP_ABORT, request_id=identity)
    return _words(answer)


def _steps(identity: str, target: Target) -> str:
    heard = [
        target.call(SwitchModel, f"{DRIVER}/switch_model", SWITCH_S, step=step, request_id=identity, path="/nowhere")
        for step in (0, 2, 3, 4, 255, 1, 2)
    ]
    return _words(heard[-1])


def _hundred_requests(target: Target) -> str:
    name = f"{DRIVER}/switch_model"
    sent = [
        target.send(SwitchModel, name, step=1, request_id=f"many-{number}", path="/nowhere") for number in range(100)
    ]
    sent += [target.send(SwitchModel, name, step=number % 6, request_id=f"many-{number}") for number in range(100)]
    answers = [target.wait(future, "switch_model", SWITCH_S) for future in sent]
    return f"{sum(answer.success for answer in answers)} of 200 done"


def _set(values: dict[str, Any], target: Target) -> str:
    results = []
    for node in (DRIVER, RECALIBRATION) if target.store is not None else (DRIVER,):
        results += target.call(SetParameters, f"{node}/set_parameters", parameters=target.parameters(values)).results
    return "; ".join(result.reason for result in results)[:200]


def _model(make: hostile_models.Maker, target: Target) -> str:
    place = target.work / f"model-{target.random.randrange(10**9)}"
    hostile_models.sound(place, plain=target.random.random() < 0.5)
    try:
        make(place)
        return _load(str(place), target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _promote(identity: str, target: Target) -> str:
    answer = target.call(
        PromoteArtifact, f"{RECALIBRATION}/promote_artifact", SWITCH_S, artifact_id=identity, force=True
    )
    return _words(answer)


def _rollback(target: Target) -> str:
    return _words(target.call(RollbackArtifact, f"{RECALIBRATION}/rollback_artifact", SWITCH_S))


def _store(damage: Callable[..., Any], target: Target) -> str:
    assert target.store is not None
    mend = damage(target.store)
    try:
        answer = target.call(ListArtifacts, f"{RECALIBRATION}/list_artifacts")
        target.call(
            PromoteArtifact, f"{RECALIBRATION}/promote_artifact", SWITCH_S, artifact_id="abcdef123456", force=True
        )
        target.call(RollbackArtifact, f"{RECALIBRATION}/rollback_artifact", SWITCH_S)
        target.spin(DAMAGED_S)
        return _words(answer)
    finally:
        mend()


def _words(answer: Any) -> str:
    return f"{'done' if answer.success else 'refused'}: {answer.message}"[:200]
