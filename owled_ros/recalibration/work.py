"""The work of one recalibration, as it runs in the child process: bags in, a judged artifact in the work directory out.

Needs torch (imported when the bags have been read), and the memory for three models: checked before anything is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owled_ros.bags.frames import ReadOptions, fingerprint
from owled_ros.bags.summary import bag_digest
from owled_ros.devices import resolve_device
from owled_ros.driving.profile import read_profile
from owled_ros.errors import OwledError
from owled_ros.evaluation.offline import truth_from
from owled_ros.models.driving_model import load_engine, resolve_model
from owled_ros.models.manifest import add_section
from owled_ros.models.weights import weight_files
from owled_ros.pruning.prune import PruneConfig, PruneProgress, prune
from owled_ros.recalibration.courtesy import available_memory_bytes
from owled_ros.recalibration.gate import HeldOut, judge_candidate
from owled_ros.recalibration.gate_rules import read_rules
from owled_ros.recalibration.material import Material, choose_material, read_chosen
from owled_ros.recalibration.request import JobRequest

if TYPE_CHECKING:
    from owled_ros.pruning.calibration import AnsweredFrame

CANDIDATE = "candidate"  # directory below the work directory
MEMORY_FACTOR = (
    3.0  # of the dense model in float32: dense, running and candidate in the gate, or statistics while pruning
)
# stages of prune -> stages of Recalibrate.action
PRUNE_STAGES = {
    "load": "calibrating",
    "plan": "calibrating",
    "prune": "pruning",
    "ends": "pruning",
    "recover": "pruning",
    "measure": "pruning",
    "write": "writing",
}
logger = logging.getLogger(__name__)
Tell = Callable[[str, int, int, str], None]  # stage, done, total, detail


def recalibrate(request: JobRequest, tell: Tell) -> tuple[Path, dict[str, Any]]:
    """Do the whole work; returns the artifact's directory and the verdict, which also stands in its manifest.

    Raises OwledError; the caller removes the work directory.
    """
    request.check()
    told = replace(request.parameters, device=resolve_device(request.parameters.device))
    request = replace(request, parameters=told)
    rules = read_rules(told.rules)
    model = resolve_model(request.model)
    _check_memory(model)
    options = ReadOptions(
        image_topic=told.image_topic,
        ego_topic=told.ego_topic,
        ego_from=told.ego_from,
        needs=read_profile(model).needs,
    )
    material = choose_material(
        request.bags, options, told.calibration_frames, told.gate_frames, told.gate_share, told.seed,
        told.cut_single_drive, lambda done: tell("reading", done, len(request.bags), "bags read"),
    )  # fmt: skip
    batches, provenance = _calibration(request, material, options, model, tell)
    config = PruneConfig(
        model=model, output=request.work / CANDIDATE, sparsity=told.sparsity, score=told.score,
        allocation=told.allocation, budgets=told.budgets, recovery_steps=told.recovery_steps,
        seed=told.seed, device=told.device, threads=told.threads, state=request.work / "state",
    )  # fmt: skip
    candidate = prune(config, batches, provenance, progress=lambda progress: _tell_prune(progress, tell))
    del batches
    if told.pack:
        _pack(candidate, told.device)
    running = request.running or model
    facts = {
        "gate_file": told.rules.name,
        "shared_drive": material.shared_drive,
        "calibration_drives": material.drives(material.calibration),
        "gate_drives": material.drives(material.gate),
    }
    frames = sum(map(len, material.gate))
    verdict = judge_candidate(
        {"candidate": candidate, "running": running, "dense": model}, _held_out(material, options), rules, facts,
        told.device, told.threads, lambda done: tell("gating", done, frames, "held-out frames"),
        request.drives, material.held_out_s, told.gate_share,
    )  # fmt: skip
    add_section(candidate, "gate", verdict)
    return candidate, verdict


def _calibration(
    request: JobRequest, material: Material, options: ReadOptions, model: Path, tell: Tell
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Let the dense model answer both questions about every chosen frame, and turn it into batches of its own format."""
    from owled_ros.driving.form_watch import FormWatch
    from owled_ros.models.processor import load_processor
    from owled_ros.pruning.asked_frames import own_answers
    from owled_ros.pruning.calibration import frame_set

    engine = load_engine(model, device=request.parameters.device, threads=request.parameters.threads)
    total = sum(map(len, material.calibration))
    frames: list[AnsweredFrame] = []
    marks: list[str] = []
    watch = FormWatch(str(model), watching=not request.parameters.go_on)
    for number, (_, sample) in enumerate(read_chosen(material, material.calibration, options)):
        frames.extend(own_answers(engine, sample.frame, watch))
        marks.append(fingerprint(sample.frame))
        tell("calibrating", number + 1, total, "frames answered by the dense model")
    engine.close()
    if not frames:
        raise OwledError("no calibration frame could be read; the images chosen from the bags are damaged")
    names = ", ".join(material.names)
    found = frame_set(names, frames, load_processor(model))
    entries = found.entries()
    entries[0] |= {
        "bags": [
            {"name": name, "sha256": bag_digest(bag.path)}
            for name, bag in zip(material.names, material.bags, strict=True)
        ],
        "frame_fingerprints": sorted(marks),
        "drive_digests": material.drives(material.calibration),
    }
    return found.batches, entries


def _held_out(material: Material, options: ReadOptions) -> Iterator[HeldOut]:
    truths = [truth_from(bag.tracks) for bag in material.bags]
    for number, sample in read_chosen(material, material.gate, options):
        yield HeldOut(material.names[number], sample, truths[number](sample))


def _tell_prune(progress: PruneProgress, tell: Tell) -> None:
    tell(
        PRUNE_STAGES.get(progress.stage, "pruning"),
        progress.done,
        progress.total,
        f"{progress.stage} {progress.detail}".strip(),
    )


def _pack(candidate: Path, device: str) -> None:
    """Add the packed weights that the sparse runtime drives on; without them torch drives."""
    from owled_ros.pruning.packing import pack_artifact

    if device != "cpu":
        return
    try:
        pack_artifact(candidate)
    except OwledError as error:
        logger.warning("not packed for the sparse runtime, torch will run it: %s", error)


def _check_memory(model: Path) -> None:
    """Raise OwledError when the machine has not the memory for the job: it would take it from the driving node."""
    stored = sum(file.stat().st_size for file in weight_files(model))
    needed = int(2 * stored * MEMORY_FACTOR)  # stored in 16 bits, loaded in 32
    free = available_memory_bytes()
    if free is not None and free < needed:
        raise OwledError(
            f"recalibration needs about {needed / 1e9:.1f} GB of memory beside what runs, {free / 1e9:.1f} GB are available; "
            "stop something, or recalibrate on another machine with `owled recalibrate`"
        )
