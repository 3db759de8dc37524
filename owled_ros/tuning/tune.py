"""A model and drives in, a model that answers in its profile's form out. Needs torch, models, bags, evaluation; peft for LoRA.

Killed at any moment, the same call goes on from the last state and comes to the same weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from owled_ros.compute_type import fast_dtype
from owled_ros.devices import resolve_device
from owled_ros.driving.answers.kind import AnswerKind
from owled_ros.driving.profile import DrivingProfile, profile_text
from owled_ros.driving.profile_choice import choose_profile
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.errors import OwledError
from owled_ros.files import sweep_asides
from owled_ros.models.driving_model import load_engine, make_engine, resolve_model
from owled_ros.models.engine import VlmEngine
from owled_ros.models.load import ModelSource, load_model, source_of
from owled_ros.models.manifest import is_artifact
from owled_ros.models.processor import load_processor
from owled_ros.models.prompt import Prompter
from owled_ros.models.runners import TorchRunner
from owled_ros.models.tuned import read_record, traces_of_tuning
from owled_ros.models.weights import find_weights
from owled_ros.tuning.checks import check_examples, check_reads_forwards, check_tokens, context_of
from owled_ros.tuning.curves import LINES, cut_back, draw, last_loss
from owled_ros.tuning.examples import Examples, make_examples
from owled_ros.tuning.finish import write_tuned
from owled_ros.tuning.learner import Learner, make_learner, merged, method_of, zeros_of
from owled_ros.tuning.material import Material, choose_material, read_chosen, read_options, traces_of
from owled_ros.tuning.measuring import HeldOut, Measure, judged_seconds
from owled_ros.tuning.pace import Pace
from owled_ros.tuning.settings import TuneRequest
from owled_ros.tuning.state import load_state, only_one
from owled_ros.tuning.training import Loop, run, steps_of

EXAMPLES = "examples"
BY_HEART = 0.05  # [nat] per token of what was learned from
logger = logging.getLogger(__name__)
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Tuned:
    """What came out."""

    model: Path
    curves: Path
    measure: Measure  # of the model as it was loaded back
    steps: int
    notes: tuple[str, ...]
    artifact: bool = False  # it was pruned before


def tune(request: TuneRequest, report: Report = lambda done, total, detail: None) -> Tuned:
    """Tune a model on drives and write it to `request.out`.

    Raises:
        OwledError: whatever makes the run pointless, said before it begins; a loss that is no number; a full disk.
    """
    settings = replace(request.settings, device=resolve_device(request.settings.device))
    settings.check()
    request = replace(request, settings=settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    directory = resolve_model(request.model)
    profile = choose_profile(request.profile, directory)
    stored = sum(tensor.size for tensor in find_weights(directory).tensors.values())
    method = method_of(settings, stored, is_artifact(directory))
    source, before = source_of(directory), traces_of_tuning(directory)
    material = choose_material(request, profile, VehicleParameters(), before)
    key = _key(request, source, profile, material)
    _refuse_other(request.out, key)
    try:
        request.run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OwledError(f"{request.run} cannot be made ({error}); choose another --out") from error
    with only_one(request.run):
        sweep_asides(request.run)
        sweep_asides(request.out.parent, request.out.name)
        return _tuned(request, source, profile, method, material, before, key, report)


def _tuned(
    request: TuneRequest,
    source: ModelSource,
    profile: DrivingProfile,
    method: str,
    material: Material,
    before: Mapping[str, Any],
    key: str,
    report: Report,
) -> Tuned:
    """Begin or go on, to the end."""
    settings, directory, vehicle = request.settings, source.path, VehicleParameters()
    kind = profile.kind(directory)
    model = load_model(directory, settings.device, _dtype(settings.device, method))
    zeros = zeros_of(model) if is_artifact(directory) else {}
    engine = _engine_around(model, directory, profile, settings.device)
    examples = _examples(request, profile, engine, model, kind, material, vehicle, key)
    learner = make_learner(model, settings, method, is_artifact(directory))
    pace = Pace(steps_of(settings, len(examples)), settings.minutes)
    step = _resume(learner, request, key, pace)
    held_out = HeldOut(
        [(sample, truth) for _, sample, truth in read_chosen(material.judged, read_options(request, profile))],
        vehicle,
        judged_seconds(profile),
    )
    prompter = Prompter(load_processor(directory), model.config)
    run(Loop(engine, prompter, learner, examples, held_out, settings, request.run, key, pace, report), step)
    record = _record(request, source, profile, material, examples, pace, learner, key, before)
    engine.close()
    write_tuned(merged(learner), source, request.out, profile, record, zeros)
    return _finished(request, held_out, pace)


def _key(request: TuneRequest, source: ModelSource, profile: DrivingProfile, material: Material) -> str:
    """Name what decides the weights: the model, the profile, the drives, the settings that must stay."""
    content = {
        "model": source.sha256,
        "profile": profile_text(profile),
        "learned": [[part.driven.path.name, part.indices.tolist()] for part in material.learned],
        "drives": material.drives,
        "judging": material.judging_drives,
        "settings": request.settings.binding(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refuse_other(out: Path, key: str) -> None:
    """Replace nothing but what the same run wrote before."""
    if out.exists():
        record = read_record(out) if out.is_dir() else None
        if record is None or record.get("key") != key:
            raise OwledError(f"{out} exists already and is not of this run: choose another --out")
        logger.info("%s is of this run: it is written anew where more steps are asked for", out)


def _dtype(device: str, method: str) -> str:
    """Choose the type of the weights: float32 where they learn themselves; what stands still may be short on a GPU."""
    return fast_dtype(device) if device.startswith("cuda") and method == "lora" else "float32"


def _engine_around(model: Any, directory: Path, profile: DrivingProfile, device: str) -> VlmEngine:
    dtype = next(model.parameters()).dtype
    facts = {"device": device, "runtime": "torch"}
    name = str(dtype).removeprefix("torch.")

    def runner(neighbours: Mapping[int, np.ndarray]) -> tuple[TorchRunner, dict[str, Any]]:
        return TorchRunner(model, device, dtype, neighbours, "growing"), facts  # no graph of weights that learn

    return make_engine(directory, model, profile, runner, name)


def _examples(
    request: TuneRequest,
    profile: DrivingProfile,
    engine: VlmEngine,
    model: Any,
    kind: AnswerKind,
    material: Material,
    vehicle: VehicleParameters,
    key: str,
) -> Examples:
    check_tokens(profile, engine.chat.prompter.tokenizer)
    examples = make_examples(
        request.run / EXAMPLES, key, engine, kind, material, read_options(request, profile), vehicle
    )
    check_examples(engine, kind, examples, vehicle, context_of(_config(engine)))
    check_reads_forwards(engine, model, examples)
    if examples.facts["wordless"]:
        logger.warning("%d frames were left out: the form has no words for them", examples.facts["wordless"])
    logger.info(
        "%d questions about %d frames of %d drives (%s); %d drives judge",
        len(examples), examples.facts["frames"], len(material.drives),
        ", ".join(f"{name} {held:.1f} min" for name, held in material.minutes.items()), len(material.judging_drives),
    )  # fmt: skip
    return examples


def _config(engine: VlmEngine) -> Any:
    return engine.chat.decoding.config


def _resume(learner: Learner, request: TuneRequest, key: str, pace: Pace) -> int:
    """Go on from the state on the disk; returns the step."""
    found = load_state(learner, request.run)
    if found is None:
        cut_back(request.run, -1)
        return 0
    if found["key"] != key:
        raise OwledError(
            f"{request.run} is the run of another model, profile, drives or settings: choose another --out, or delete it to begin anew"
        )
    step = int(found["step"])
    pace.go_on(step, found)
    if step > pace.steps:
        raise OwledError(
            f"{request.run} has taken {step} steps already: ask for at least as many, or choose another --out to begin anew"
        )
    if found["steps"] != pace.steps and not pace.minutes:
        logger.warning("going on to %d steps, the run began with %d", pace.steps, found["steps"])
    cut_back(request.run, step, pace.steps)
    logger.info("going on from step %d", step)
    return step


def _record(
    request: TuneRequest,
    source: ModelSource,
    profile: DrivingProfile,
    material: Material,
    examples: Examples,
    pace: Pace,
    learner: Learner,
    key: str,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "format_version": 1,
        "key": key,
        "base": source.path.name,
        "base_sha256": source.sha256,
        "method": "all" if learner.wrapped is None else "lora",
        "steps": pace.steps,
        "learning_rate": learner.rate,
        "settings": request.settings.binding(),
        "answer": profile.answer.kind,
        "frames": examples.facts["frames"],
        "questions": len(examples),
        "minutes": {name: round(held, 3) for name, held in material.minutes.items()},
        "judging_drives": list(material.judging_drives),
        "masked": bool(learner.zeros),
        "traces": traces_of(material, examples.facts["fingerprints"], before),
    }


def _finished(request: TuneRequest, held_out: HeldOut, pace: Pace) -> Tuned:
    """Load what was written as the node does, ask it, and draw the curves."""
    settings = request.settings
    engine = load_engine(request.out, device=settings.device, threads=max(settings.threads, 1))
    try:
        measure = held_out.measure(engine)
    finally:
        engine.close()
    notes = []
    if measure.in_form == 0.0:
        notes.append(f"no held-out answer is in the form yet: {_more_of(last_loss(request.run))}")
    if measure.collapsed:
        notes.append(f"all held-out answers are the same: {measure.sample[:120]!r}")
    if measure.displacement is not None and measure.hold is not None and measure.displacement >= measure.hold:
        notes.append(
            "keeping on as now would be nearer to what was driven than the model: give more drives, or more steps"
        )
    notes.append("its confidence says nothing yet: `owled calibrate` fits it on drives")
    try:
        drawn = draw(request.run)
    except OSError as error:  # the model is whole
        notes.append(f"the curves could not be drawn ({error}); their numbers are in {request.run / LINES}")
        drawn = request.run / LINES
    return Tuned(request.out, drawn, measure, pace.steps, tuple(notes), is_artifact(request.out))


def _more_of(loss: float | None) -> str:
    """Say what a model needs that has not learned the form."""
    if loss is not None and loss < BY_HEART:
        return (
            f"it knows its frames by heart (loss {loss:.3f}), so more steps do not help: give more --frames or drives"
        )
    return "give more --steps (or --minutes), the same command goes on"
