"""Calibration sets: driving text, general text and driving frames in a stated mix, as model-ready batches.

Needs torch; tokenizers and processors come from the caller. Everything is seeded; the same inputs give the same batches.
Letters: B sequences, T tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from owled_ros.driving.conversation import Conversation
from owled_ros.errors import OwledError
from owled_ros.files import sha256_file
from owled_ros.models.chat import images_of
from owled_ros.models.prompt import Prompter
from owled_ros.pruning.config import Batch

BATCH_TOKENS = 2048  # tokens of one text batch
PYTHON_DOCS = "python-docs"  # general text that every Python brings along: the topics of its own help system
MAX_SHARED_LENGTH = 16  # frame sequences of one length that make a batch


@dataclass(frozen=True)
class Provenance:
    """Where a part of the calibration came from; `sha256` is that of the source file, or of the frames' content."""

    kind: str  # "frames", "driving_text" or "general_text"
    name: str
    sha256: str
    samples: int
    tokens: int
    traces: Mapping[str, Any] = field(default_factory=dict)  # further entries: what the sources are found again by

    def entry(self) -> dict[str, Any]:
        """Return the manifest entry."""
        known = asdict(self)
        return {**known, **known.pop("traces")}


@dataclass(frozen=True)
class CalibrationSet:
    """Batches and where they came from."""

    batches: list[Batch]
    provenance: list[Provenance]

    def entries(self) -> list[dict[str, Any]]:
        """Return the manifest entries; each also tells its share of all samples."""
        total = sum(part.samples for part in self.provenance) or 1
        return [{**part.entry(), "share": round(part.samples / total, 4)} for part in self.provenance]


def merge(parts: Iterable[CalibrationSet]) -> CalibrationSet:
    """Join calibration sets in order."""
    known = list(parts)
    return CalibrationSet(
        [batch for part in known for batch in part.batches], [entry for part in known for entry in part.provenance]
    )


def text_set(
    kind: str, name: str, sha256: str, texts: Sequence[str], tokenizer: Any, samples: int, tokens: int, seed: int
) -> CalibrationSet:
    """Cut `samples` windows of `tokens` tokens out of texts.

    Each window starts at a drawn place of a drawn text; texts shorter than a window are joined with the ones after them.

    Raises:
        OwledError: when the texts hold fewer tokens than one window.
    """
    if samples == 0:
        return CalibrationSet([], [])
    generator = np.random.default_rng(seed)
    encoded = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    if sum(map(len, encoded)) < tokens:
        raise OwledError(f"{name} holds {sum(map(len, encoded))} tokens, at least {tokens} are needed: give more text")
    rows: list[list[int]] = []
    queue: list[int] = []
    while len(rows) < samples:
        window: list[int] = []
        while len(window) < tokens:
            if not queue:
                queue = list(generator.permutation(len(encoded)))
            ids = encoded[queue.pop()]
            spare = max(len(ids) - tokens, 0)
            begin = int(generator.integers(spare + 1)) if not window else 0
            window.extend(ids[begin : begin + tokens - len(window)])
        rows.append(window)
    return CalibrationSet(batched(torch.tensor(rows)), [Provenance(kind, name, sha256, samples, samples * tokens)])


def batched(ids: torch.Tensor, batch_tokens: int = BATCH_TOKENS) -> list[Batch]:
    """Split token rows (N, T) into batches of about `batch_tokens` tokens."""
    per_batch = max(batch_tokens // ids.shape[1], 1)
    return [{"input_ids": part} for part in ids.split(per_batch)]


def read_driving_text(path: Path, tokenizer: Any, indices: range | None = None) -> list[str]:
    """Read driving dialogues from a jsonl file and render them with the tokenizer's chat template.

    A line holds `text`, or `messages` (role and content), or `description_and_action` with `qa` (question and answer).

    Args:
        indices: lines to take; None takes all.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other ends of lines
        records = {
            index + 1: json.loads(lines[index])
            for index in (range(len(lines)) if indices is None else indices)
            if index < len(lines) and lines[index].strip()
        }
    except (OSError, ValueError) as err:
        raise OwledError(f"{path} cannot be read as driving text, one JSON object per line ({err})") from err
    texts = [_render(record, tokenizer, f"{path}, line {number},") for number, record in records.items()]
    if not texts:
        raise OwledError(f"{path} has no record among the lines asked for")
    return texts


def read_general_text(source: str) -> tuple[list[str], str]:
    """Read general text from a file, or with "python-docs" from Python's own help; returns paragraphs and their hash."""
    if source == PYTHON_DOCS:
        try:
            topics = importlib.import_module("pydoc_data.topics").topics
        except ImportError as err:
            raise OwledError("this Python has no pydoc_data: give a text file as general text") from err
        texts = [topics[name] for name in sorted(topics)]
        return texts, hashlib.sha256("\0".join(texts).encode()).hexdigest()
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8").split("\n\n"), sha256_file(path)
    except (OSError, UnicodeDecodeError) as err:
        raise OwledError(f"{path} cannot be read as general text ({err})") from err


@dataclass(frozen=True, eq=False)
class AnsweredFrame:
    """What a model is asked about a frame (driving.asking), and an answer, for example the dense model's own."""

    images: tuple[np.ndarray, ...]  # (H, W, 3) uint8, prepared, in prompt order
    conversation: Conversation
    answer: str


def frame_set(name: str, frames: Iterable[AnsweredFrame], processor: Any) -> CalibrationSet:
    """Turn answered frames into batches through the model's processor and chat template; only answers are scored.

    Sequences of the same length share a batch, so nothing is padded.

    Raises:
        OwledError: when there is no frame.
    """
    digest, prompter = hashlib.sha256(), Prompter(processor)
    groups: dict[tuple[Any, ...], list[dict[str, torch.Tensor]]] = {}
    samples = tokens = 0
    for frame in frames:
        for image in frame.images:
            digest.update(np.ascontiguousarray(image).tobytes())
        digest.update(repr(frame.conversation).encode() + frame.answer.encode())
        with template_in_words():
            inputs = encode_answer(frame, prompter)
        shape = tuple((key, tuple(value.shape[1:])) for key, value in sorted(inputs.items()))
        groups.setdefault(shape, []).append(inputs)
        samples, tokens = samples + 1, tokens + inputs["input_ids"].numel()
    if samples == 0:
        raise OwledError(f"{name} gave no frame to calibrate on: check that the bag holds images and odometry")
    batches: list[Batch] = []
    for group in groups.values():
        for start in range(0, len(group), MAX_SHARED_LENGTH):
            part = group[start : start + MAX_SHARED_LENGTH]
            batches.append({key: torch.cat([inputs[key] for inputs in part]) for key in part[0]})
    return CalibrationSet(batches, [Provenance("frames", name, digest.hexdigest(), samples, tokens)])


def encode_answer(frame: AnsweredFrame, prompter: Prompter) -> dict[str, torch.Tensor]:
    """Encode images, question and answer; labels (1, T) mark the answer and its end."""
    prompt, start = prompter.make_answered(frame.conversation, images_of(frame.images), frame.answer)
    labels = prompt.inputs["input_ids"].clone()
    labels[:, :start] = -100
    return {**{key: value for key, value in prompt.inputs.items() if isinstance(value, torch.Tensor)}, "labels": labels}


def _render(record: Any, tokenizer: Any, where: str) -> str:
    if not isinstance(record, Mapping):
        raise OwledError(
            f"{where} is a {type(record).__name__}: expected a JSON object (docs/pruning.md, Driving text)"
        )
    if isinstance(record.get("text"), str):
        return str(record["text"])
    try:
        messages = record.get("messages") or _dialogue(record)
        if not messages:
            raise OwledError(f"{where} has no text, messages, or description_and_action with qa")
        if getattr(tokenizer, "chat_template", None):
            with template_in_words():
                return str(tokenizer.apply_chat_template(messages, tokenize=False))
        return "\n\n".join(str(message["content"]) for message in messages)
    except (KeyError, TypeError, AttributeError) as err:
        raise OwledError(
            f"{where} is no dialogue ({type(err).__name__}: {err}): a message has role and content, a qa question and answer"
        ) from err


@contextlib.contextmanager
def template_in_words() -> Iterator[None]:
    """Turn what a model's chat template or processor raises into one sentence."""
    try:
        yield
    except (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as err:
        raise OwledError(
            f"the model's chat template or processor does not take the samples ({type(err).__name__}: {err})"
        ) from err


def _dialogue(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Make a dialogue of a described scene: the first question carries the description, which may stand alone."""
    messages: list[dict[str, str]] = []
    if "description_and_action" in record and not record.get("qa"):
        messages.append({"role": "user", "content": str(record["description_and_action"]).strip()})
    for pair in record.get("qa") or []:
        question = str(pair["question"])
        if not messages:
            question = f"{str(record['description_and_action']).strip()}\n\n{question}"
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": str(pair["answer"])}]
    return messages
