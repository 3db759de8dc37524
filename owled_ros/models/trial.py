"""Try a model before it drives: can it be asked at all, and does an answer from the cache equal one read whole? Needs numpy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from owled_ros.driving.conversation import IMAGE, Conversation
from owled_ros.driving.vectors import FIRST_VEHICLE, ROWS, WIDTH
from owled_ros.errors import OwledError
from owled_ros.models.chat import Chat, images_of
from owled_ros.models.prompt import Prompt

IMAGE_SHAPE = (192, 256, 3)
TOKENS = 2  # decoded
WORD = "Well. "
OWN_GENERATE = ("janus",)  # overrides `generate`, but for text only to ask whether text is wanted
NEARNESS = {"float32": 1e-3}  # largest difference of logits, in spans of the logits
COARSE_NEARNESS = 5e-2  # at lower precision
Noise = Callable[[np.random.Generator], np.ndarray]
logger = logging.getLogger(__name__)


def image_noise(random: np.random.Generator) -> np.ndarray:
    """Make an image of noise."""
    return random.integers(0, 255, IMAGE_SHAPE, np.uint8)


def scene_noise(random: np.random.Generator) -> np.ndarray:
    """Make a packed vector scene (81, 33) of noise in which every row is taken."""
    rows = random.normal(0.0, 1.0, (ROWS, WIDTH)).astype(np.float32)
    rows[FIRST_VEHICLE:, 0] = 1.0
    return rows


def refuse_family(model: Any) -> None:
    """Raise OwledError for families whose answers do not come from one decoder that reads images and text in one prompt."""
    from transformers import GenerationMixin

    family, reason = model.config.model_type, ""
    if model.config.is_encoder_decoder:
        reason = "it has an encoder of its own for what it reads"
    elif not isinstance(model, GenerationMixin):
        reason = "it does not generate text"
    elif type(model).generate is not GenerationMixin.generate and family not in OWN_GENERATE:
        reason = "it generates in a way of its own"
    if reason:
        raise OwledError(f"{family} models cannot be driven: {reason}; choose one that continues a prompt with images")


def try_out(chat: Chat, first: Conversation, family: str, dtype: str, noise: Noise = image_noise) -> None:
    """Ask what is asked first, and the same with a word before it, about noise; sets `chat.reuses`.

    Raises:
        OwledError: The family cannot be driven, or this checkpoint's template or processor cannot hold the prompt.
    """
    random = np.random.default_rng(0)
    images, others = (images_of([noise(random) for _ in range(first.images)]) for _ in range(2))
    one, other = _prompts(chat, first, images, family)
    try:
        seen = logits = np.asarray(chat.read(one, TOKENS))
        for _ in range(TOKENS):
            logits = np.asarray(chat.runner.extend(int(np.argmax(logits))))
        if images and np.array_equal(seen, np.asarray(chat.read(chat.prompt(first, others), 0))):
            raise OwledError("what it answers does not depend on what it is shown; its template or processor drops it")
        whole = np.asarray(chat.read(other, 0))
    except OwledError as err:
        raise OwledError(f"{family} models cannot be driven: {err}") from err
    except Exception as err:  # a family may fail in any way; its words are what the user needs
        raise OwledError(f"{family} models cannot be driven here ({type(err).__name__}: {err})") from err
    chat.forget()
    chat.reuses = _reads_alike(chat, one, other, whole, NEARNESS.get(dtype, COARSE_NEARNESS))
    if not chat.reuses:
        logger.info("%s models read the whole prompt again for every question", family)


def _prompts(chat: Chat, first: Conversation, images: Any, family: str) -> tuple[Any, Any]:
    """Make the prompt, and the one with a word before it; what the template or the processor refuses is said in its own words."""
    try:
        return chat.prompt(first, images), chat.prompt(_varied(first), images)
    except OwledError:
        raise
    except Exception as err:  # a processor may fail in any way
        raise OwledError(f"{family} models cannot be driven here ({type(err).__name__}: {err})") from err


def _varied(conversation: Conversation) -> Conversation:
    """Say something more behind the last image, or where there is none first of all."""
    places = [(t, p) for t, turn in enumerate(conversation.turns) for p, part in enumerate(turn.parts) if part is IMAGE]
    turn, place = places[-1] if places else (len(conversation.turns) - 1, -1)
    turns = list(conversation.turns)
    parts = turns[turn].parts
    turns[turn] = replace(turns[turn], parts=(*parts[: place + 1], WORD, *parts[place + 1 :]))
    return replace(conversation, turns=tuple(turns))


def _reads_alike(chat: Chat, first: Prompt, second: Prompt, whole: np.ndarray, nearness: float) -> bool:
    try:
        chat.read(first, 0)
        found = np.asarray(chat.read(second, 0))
    except Exception as err:  # whatever its cache cannot do, reading everything again can
        logger.info("its cache cannot be continued (%s: %s)", type(err).__name__, err)
        return False
    finally:
        chat.forget()
    return float(np.abs(found - whole).max()) <= nearness * max(float(np.ptp(whole)), 1e-6)
