"""Whole prompts: the chat template rendered once, the processor called once on all text and all images. Needs transformers.

The ids are those of the processor's own `apply_chat_template(tokenize=True)`: nothing is tokenized in parts, so there is one
beginning-of-sequence token, and tokens do not change at seams. The image processor works once per set of images, however
many questions are asked about them.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from owled_ros.driving.conversation import IMAGE, Conversation, Slot, Turn
from owled_ros.errors import OwledError

PROBE = "qvmz"  # a text that no template contains; a digit follows
PLACEHOLDERS = ("image_token", "video_token", "audio_token", "boi_token", "eoi_token")
FORMS = (("parts", "parts"), ("parts", "string"), ("string", "string"))  # of turns with images, of others
SYSTEM = "You drive a car."  # said where a template insists on a system turn and the profile has none
MAX_SHAPES = 64  # remembered forms of conversations
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the model reads, whole."""

    ids: list[int]
    inputs: Mapping[str, Any]  # of the model: ids, token kinds, images
    images: Sequence[Any]  # the very objects that it shows; the same ones: the same observation
    images_end: int  # tokens up to and with the last one of an image


class Prompter:
    """Turns conversations into prompts in a model's own template."""

    def __init__(self, processor: Any, config: Any = None) -> None:
        self.tokenizer = processor.tokenizer
        self._processor = copy.copy(processor)
        self._processor.image_processor = _ImagesOnce(processor.image_processor)
        self._template = _template(processor)
        self._image_ids = image_token_ids(processor, config)
        self._forms: dict[Any, tuple[str, str, bool]] = {}
        self._warned = False

    def make(self, conversation: Conversation, images: Sequence[Any]) -> Prompt:
        """Render and tokenize a conversation about PIL images in prompt order.

        Raises:
            OwledError: The template cannot hold the conversation, or the processor the images.
        """
        if conversation.images != len(images):
            raise OwledError(f"the prompt shows {conversation.images} images, {len(images)} were given")
        return self._tokenized(self.render(conversation), images)

    def make_answered(
        self, conversation: Conversation, images: Sequence[Any], answer: str, asked: Prompt | None = None
    ) -> tuple[Prompt, int]:
        """Make a prompt that continues with an answer and its end; also tell how many tokens come before the answer.

        Args:
            asked: the prompt without the answer, where it has been made already.
        """
        asked = asked or self.make(conversation, images)
        whole = self._tokenized(self._told(conversation, answer), images)
        start = next(
            (place for place, (one, other) in enumerate(zip(asked.ids, whole.ids, strict=False)) if one != other),
            min(len(asked.ids), len(whole.ids)),
        )
        self._warn_of_unknown(whole.ids[start:], answer)
        return whole, start

    def _warn_of_unknown(self, ids: Sequence[int], answer: str) -> None:
        """Say once that answers hold words without a token: a model cannot learn to say them."""
        unknown = self.tokenizer.unk_token_id
        if self._warned or unknown is None or unknown == self.tokenizer.eos_token_id or unknown not in ids:
            return
        self._warned = True
        logger.warning(
            "the model has no token for a part of the answer %r and reads %s there; expected an answer in its own words: "
            "where it has only some numbers, 'words' of the answer in driving.json names them",
            answer, self.tokenizer.unk_token,
        )  # fmt: skip

    def _told(self, conversation: Conversation, answer: str) -> str:
        """Write a conversation with its answer, as the template ends a turn."""
        asked = self.render(conversation)
        plain = asked + answer + (self.tokenizer.eos_token or "")
        if self._template is None:
            return plain
        said = Turn("assistant", (conversation.answer_start + answer,))
        with_images, others, system = self._forms[_shape_of(conversation)]
        try:
            whole = self._rendered(
                replace(conversation, turns=(*conversation.turns, said)), with_images, others, system, False
            )
        except Exception:  # a template may raise anything, and may know no answers
            return plain
        return whole if whole.startswith(asked) else plain

    def _tokenized(self, text: str, images: Sequence[Any]) -> Prompt:
        options: dict[str, Any] = {}
        if self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token):
            options["add_special_tokens"] = False
        if images:
            options["images"] = [list(images)]
        try:
            inputs = dict(self._processor(text=text, return_tensors="pt", **options))
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as err:
            raise OwledError(f"the processor refuses the prompt or its images ({type(err).__name__}: {err})") from err
        ids: list[int] = inputs["input_ids"][0].tolist()
        ends = [place for place, index in enumerate(ids, 1) if index in self._image_ids]
        return Prompt(ids, inputs, images, ends[-1] if ends else len(ids) if images else 0)

    def render(self, conversation: Conversation) -> str:
        """Write a conversation in the template, up to where the answer goes on."""
        if self._template is None:
            return self._plain(conversation)
        shape = _shape_of(conversation)
        if shape not in self._forms:
            if len(self._forms) >= MAX_SHAPES:
                self._forms.clear()
            self._forms[shape] = self._find_form(conversation)
        with_images, others, system = self._forms[shape]
        return self._rendered(conversation, with_images, others, system) + conversation.answer_start

    def harmless(self, text: str) -> str:
        """Break up special tokens that a user typed, so that they are read as plain text."""
        named = [getattr(self._processor, name, None) for name in PLACEHOLDERS]
        tokens = {*self.tokenizer.all_special_tokens, *(token for token in named if isinstance(token, str))}
        for token in sorted((token for token in tokens if len(token) > 1), key=len, reverse=True):
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def image_tokens(self, prompt: Prompt) -> int:
        """Count the tokens at which image features are put in."""
        return sum(index in self._image_ids for index in prompt.ids)

    def decode(self, ids: Sequence[int], keep_special: bool) -> str:
        """Write tokens as text."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not keep_special))

    def _find_form(self, conversation: Conversation) -> tuple[str, str, bool]:
        """Find how the template wants content: parts or strings, and whether it insists on a system turn."""
        probes: list[str] = []

        def probe(part: str | Slot) -> str | Slot:
            if part is IMAGE:
                return part
            probes.append(f"{PROBE}{len(probes)}x")
            return probes[-1]

        turns = tuple(replace(turn, parts=tuple(probe(part) for part in turn.parts)) for turn in conversation.turns)
        probing = replace(conversation, turns=turns)
        problem: Exception | str = "it drops or changes what is said"
        blind, remedy = False, "correct the template or the profile"
        has_system = any(turn.role == "system" for turn in conversation.turns)
        for system in (False,) if has_system else (False, True):
            for with_images, others in FORMS:
                try:
                    text = self._rendered(probing, with_images, others, system)
                except Exception as err:  # a template may raise anything; its words are what the user needs
                    problem = err
                    continue
                if all(text.count(word) == 1 for word in probes):
                    if self._shows_images(text, conversation.images):
                        return with_images, others, system
                    blind = True
        if blind:
            problem = "it writes what is said, but no image"
            remedy = f"take the chat_template.jinja of a checkpoint that sees, or let it write {self._image_token()!r} for an image"
        raise OwledError(
            f"the model's chat template cannot hold the prompt ({problem}); expected turns of "
            f"{', '.join(turn.role for turn in conversation.turns)} with {conversation.images} images; {remedy}"
        )

    def _shows_images(self, text: str, count: int) -> bool:
        token = getattr(self._processor, "image_token", None)
        return "{'" not in text and (not isinstance(token, str) or text.count(token) == count)

    def _rendered(
        self, conversation: Conversation, with_images: str, others: str, system: bool, goes_on: bool = True
    ) -> str:
        messages = [{"role": "system", "content": self._content((SYSTEM,), others)}] if system else []
        for turn in conversation.turns:
            form = with_images if IMAGE in turn.parts else others
            messages.append({"role": turn.role, "content": self._content(turn.parts, form)})
        return str(
            self._processor.apply_chat_template(
                messages, chat_template=self._template, add_generation_prompt=goes_on, **conversation.options
            )
        )

    def _content(self, parts: tuple[str | Slot, ...], form: str) -> Any:
        if form == "parts":
            shown = {"type": "image", "image": "image"}  # some templates ask for the type, some for the key
            return [dict(shown) if isinstance(part, Slot) else {"type": "text", "text": part} for part in parts]
        return "".join(self._image_token() if isinstance(part, Slot) else part for part in parts)

    def _plain(self, conversation: Conversation) -> str:
        """Without a template: what is said, images where they stand."""
        said = "\n".join(str(self._content(turn.parts, "string")) for turn in conversation.turns)
        return said + conversation.answer_start

    def _image_token(self) -> str:
        token = getattr(self._processor, "image_token", None)
        return token if isinstance(token, str) else ""


def _shape_of(conversation: Conversation) -> tuple[Any, str]:
    """Tell what the form of a conversation in a template depends on."""
    turns = tuple((turn.role, tuple(part is IMAGE for part in turn.parts)) for turn in conversation.turns)
    return turns, repr(sorted(conversation.options.items()))


def user_turn(images: int, text: str) -> Turn:
    """Show images, then say something."""
    return Turn("user", (*[IMAGE] * images, text))


def as_pil(image: np.ndarray) -> Any:
    """Wrap an image (H, W, 3) uint8 RGB for processors, some of which take nothing else."""
    from PIL import Image

    return Image.fromarray(image)


def image_token_ids(processor: Any, config: Any) -> frozenset[int]:
    """Collect the tokens at which image features are put in."""
    found: set[Any] = set()
    for source in (processor, config):
        for name in ("image_token_id", "image_token_index", "image_token_ids"):
            value = getattr(source, name, None)
            found.update(value if isinstance(value, Iterable) else {value})
    token = getattr(processor, "image_token", None)
    if isinstance(token, str):
        found.add(processor.tokenizer.convert_tokens_to_ids(token))
    return frozenset(int(index) for index in found if isinstance(index, (int, np.integer)))


def _template(processor: Any) -> str | None:
    """Give the chat template of the processor, or of its tokenizer where only that has one."""
    for owner in (processor, processor.tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, Mapping):
            template = template.get("default")
        if template:
            return str(template)
    return None


class _ImagesOnce:
    """An image processor that does not do the same images twice."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._options = inner, ""
        self._images: tuple[Any, ...] = ()
        self._features: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, images: Any, *args: Any, **options: Any) -> Any:
        flat, words = (
            tuple(_flat(images)),
            repr((_shape(images), args, sorted(options.items(), key=lambda item: item[0]))),
        )
        known = len(flat) == len(self._images) and all(a is b for a, b in zip(flat, self._images, strict=True))
        if not known or words != self._options:
            features = self._inner(images, *args, **options)
            self._images, self._options, self._features = flat, words, features
        return copy.copy(self._features)  # processors take entries out


def _flat(images: Any) -> Iterable[Any]:
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _flat(image)
    else:
        yield images


def _shape(images: Any) -> Any:
    return [_shape(image) for image in images] if isinstance(images, (list, tuple)) else 0
