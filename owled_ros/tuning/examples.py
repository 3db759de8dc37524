"""Questions with right answers, made of the bags once and kept on the disk, so that a run that goes on learns from the same.

Needs bags, models and tuning.targets. A file of raw images (H, W, 3) uint8 is mapped into memory; one line of JSON per question.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.bags.frames import ReadOptions, Sample, fingerprint
from owled_ros.driving import asking
from owled_ros.driving.answers.kind import AnswerKind
from owled_ros.driving.conversation import IMAGE, Conversation, Slot, Turn
from owled_ros.driving.profile_parts import Call
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError
from owled_ros.evaluation.record import Truth
from owled_ros.files import replace_directory, write_json
from owled_ros.models.calls import answer_calls
from owled_ros.models.chat import images_of
from owled_ros.models.engine import VlmEngine
from owled_ros.progress import track
from owled_ros.tuning.material import Material, read_chosen
from owled_ros.tuning.targets import answer_text, plan_of, scene_text

IMAGES, LINES, FACTS = "images.bin", "examples.jsonl", "facts.json"
MOST_WORDLESS = 0.5  # share of the frames that the form of the answer may have no words for


@dataclass(frozen=True, eq=False)
class Example:
    """A question about images, and what should be answered."""

    call: str  # name of the call; "scene" is the profile's question about what is to be seen
    conversation: Conversation
    answer: str
    finished: bool  # False: the answer was cut off, its end is not learned
    images: tuple[tuple[int, int, int], ...]  # (offset, height, width) in the file of images
    mark: str  # fingerprint of the frame


class Examples:
    """All questions of a run, with their images."""

    def __init__(self, directory: Path) -> None:
        try:
            self.facts: dict[str, Any] = json.loads((directory / FACTS).read_text())
            self.items = [_read(json.loads(line)) for line in (directory / LINES).read_text().splitlines()]
            self._pixels = np.memmap(directory / IMAGES, np.uint8, mode="r")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OwledError(f"{directory} cannot be read ({error}); delete it to make the examples anew") from error

    def __len__(self) -> int:
        return len(self.items)

    def images(self, example: Example) -> tuple[np.ndarray, ...]:
        """Return the images of a question, each (H, W, 3) uint8."""
        return tuple(
            np.array(self._pixels[offset : offset + 3 * height * width]).reshape(height, width, 3)
            for offset, height, width in example.images
        )


def make_examples(
    directory: Path,
    key: str,
    engine: VlmEngine,
    kind: AnswerKind,
    material: Material,
    options: ReadOptions,
    vehicle: VehicleParameters,
) -> Examples:
    """Make the examples of a run, or read those that an earlier one of the same `key` made.

    Earlier calls of a profile of several are answered by the model as it is, and learned as they are: what it says before its
    plan stays what it was.

    Raises:
        OwledError: the form of the answer has no words for most of what was driven, or the disk is full.
    """
    if directory.exists():
        found = Examples(directory)
        if found.facts.get("key") == key:
            return found
    total = sum(len(part.indices) for part in material.learned)
    wordless: list[str] = []
    frames = 0
    try:
        with replace_directory(directory) as aside, open(aside / IMAGES, "wb") as pixels:
            lines, marks = [], []
            for _, sample, truth in track(read_chosen(material.learned, options), "examples", total):
                frames += 1
                try:
                    asked = list(_asked(engine, kind, sample, truth, vehicle))
                except AnswerError as error:
                    wordless.append(str(error))
                    continue
                shown = [_store(pixels, image) for image in asking.images(engine.profile, sample.frame)]
                marks.append(fingerprint(sample.frame))
                for call, conversation, answer, finished in asked:
                    images = shown if conversation.images else []
                    lines.append(json.dumps(_line(call, conversation, answer, finished, images, marks[-1])))
            if len(wordless) > MOST_WORDLESS * max(frames, 1) or not lines:
                why = wordless[0] if wordless else "none could be read"
                raise OwledError(
                    f"the form of the answer has no words for {len(wordless)} of {frames} frames ({why}); expected "
                    f"{kind.describe()}: give the profile a form that can say how you drive"
                )
            (aside / LINES).write_text("".join(line + "\n" for line in lines))
            write_json(
                aside / FACTS,
                {"key": key, "frames": len(marks), "wordless": len(wordless), "fingerprints": sorted(set(marks))},
            )
    except OSError as error:
        raise OwledError(f"cannot write {directory} ({error}); free some disk space and run again") from error
    return Examples(directory)


def _asked(
    engine: VlmEngine, kind: AnswerKind, sample: Sample, truth: Truth, vehicle: VehicleParameters
) -> Iterator[tuple[str, Conversation, str, bool]]:
    """Yield (call, conversation, answer, finished) of everything that is asked about a frame."""
    profile, frame, clean = engine.profile, sample.frame, engine.chat.prompter.harmless
    plan = plan_of(truth, frame.ego, vehicle)
    if plan is None:
        raise AnswerError("the motion after the frame is not known")
    right = answer_text(profile, kind, plan, frame.ego, vehicle)
    said: dict[str, str] = {}
    if len(profile.calls) > 1:
        for item in _own(engine, sample):
            call, conversation, answer, finished = item
            said[call.name] = answer
            if answer:
                yield call.name, conversation, answer, finished
    last = profile.calls[-1]
    yield last.name, asking.conversation(profile, last, frame, said, clean), right, True
    described = scene_text(profile, truth)
    of_scene = asking.scene_conversation(profile, frame, clean)
    if described is not None and of_scene is not None:
        yield "scene", of_scene, described, True


def _own(engine: VlmEngine, sample: Sample) -> list[tuple[Call, Conversation, str, bool]]:
    """Let the model answer the calls before the last one."""
    profile = engine.profile
    before = profile.model_copy(update={"calls": profile.calls[:-1], "max_seconds": None})
    images = images_of(asking.images(profile, sample.frame))
    answered = answer_calls(engine.chat, before, sample.frame, images)
    if len(answered) < len(before.calls) or not answered[-1].usable:
        name = answered[-1].call.name if answered else before.calls[0].name
        raise OwledError(
            f"the model does not come to an end of its answer to call {name}, which comes before the plan: raise its max_tokens, "
            'or let an unfinished answer be used ("unfinished": "use")'
        )
    return [(item.call, item.conversation, item.reply.text.strip(), item.reply.complete) for item in answered]


def _store(stream: Any, image: np.ndarray) -> tuple[int, int, int]:
    offset = stream.tell()
    stream.write(np.ascontiguousarray(image).tobytes())
    return offset, image.shape[0], image.shape[1]


def _line(
    call: str,
    conversation: Conversation,
    answer: str,
    finished: bool,
    images: Sequence[tuple[int, int, int]],
    mark: str,
) -> dict[str, Any]:
    turns = [
        [turn.role, [None if isinstance(part, Slot) else part for part in turn.parts]] for turn in conversation.turns
    ]
    return {
        "call": call, "turns": turns, "options": dict(conversation.options), "answer_start": conversation.answer_start,
        "answer": answer, "finished": finished, "images": list(images), "mark": mark,
    }  # fmt: skip


def _read(line: dict[str, Any]) -> Example:
    turns = tuple(Turn(role, tuple(IMAGE if part is None else part for part in parts)) for role, parts in line["turns"])
    conversation = Conversation(turns, line["options"], line["answer_start"])
    images = tuple((int(offset), int(height), int(width)) for offset, height, width in line["images"])
    return Example(line["call"], conversation, line["answer"], bool(line["finished"]), images, line["mark"])
