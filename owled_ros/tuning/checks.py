"""What would make a tuning pointless, said before it begins. Needs torch, models and tuning.encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from owled_ros.driving.answers.action_tokens import INDEX, ActionTokensSpec
from owled_ros.driving.answers.cutting import cut
from owled_ros.driving.answers.kind import AnswerKind, RawAnswer
from owled_ros.driving.ego import EgoState
from owled_ros.driving.judging import reads_text
from owled_ros.driving.profile import DrivingProfile
from owled_ros.driving.vehicle import VehicleParameters
from owled_ros.driving.wording import AnswerError
from owled_ros.errors import OwledError
from owled_ros.models.chat import images_of
from owled_ros.models.engine import VlmEngine
from owled_ros.models.prompt import Prompter
from owled_ros.pruning.passes import in_words, to_device
from owled_ros.tuning.encoding import Encoded, encode
from owled_ros.tuning.examples import Example, Examples

NEARNESS = 0.05  # largest difference of logits, in spans of the logits: rounding, not another prompt
PROBED = 4  # questions of every call that are encoded whole


def check_tokens(profile: DrivingProfile, tokenizer: Any) -> None:
    """Raise OwledError unless the tokenizer has the tokens that the profile's answer is made of, with their ids."""
    spec = profile.answer
    if not isinstance(spec, ActionTokensSpec):
        return
    for index in range(spec.entries):
        token = spec.token.replace(INDEX, str(index))
        found = tokenizer(token, add_special_tokens=False).input_ids
        if list(found) != [spec.base_id + index]:
            raise OwledError(
                f"the model's tokenizer has no token {token!r} with the id {spec.base_id + index} (it writes it as {list(found)[:6]}): "
                f"add the {spec.entries} action tokens to tokenizer and embedding first, or correct answer.token and answer.base_id"
            )


def check_examples(
    engine: VlmEngine, kind: AnswerKind, examples: Examples, vehicle: VehicleParameters, longest: int | None
) -> None:
    """Raise OwledError for an answer that does not fit its call's tokens, or that the engine would not read back.

    Args:
        longest: tokens that the model can read in all; None where its config does not say.
    """
    profile, prompter = engine.profile, engine.chat.prompter
    calls = {call.name: call for call in profile.calls} | ({"scene": profile.scene} if profile.scene else {})
    probed: dict[str, int] = {}
    for example in examples.items:
        call = calls[example.call]
        tokens = len(prompter.tokenizer(example.answer, add_special_tokens=False).input_ids) + example.finished
        probe = probed.get(example.call, 0) < PROBED
        if probe:
            probed[example.call] = probed.get(example.call, 0) + 1
            encoded = encode_example(prompter, engine.chat.decoding.stop_ids, examples, example)
            tokens = len(encoded.answer) + example.finished
            _check_length(encoded, example, longest)
            if example.call == profile.calls[-1].name:
                check_read_back(engine, kind, encoded, example.answer, vehicle)
        if tokens > call.max_tokens and example.finished:
            raise OwledError(
                f"an answer may have {call.max_tokens} tokens, but {example.answer[:120]!r} has {tokens} with its end: raise "
                f"max_tokens of call {example.call} in the profile"
            )


def encode_example(prompter: Prompter, stop_ids: frozenset[int], examples: Examples, example: Example) -> Encoded:
    """Encode a question with its answer."""
    images = images_of(examples.images(example))
    return encode(prompter, example.conversation, images, example.answer, stop_ids, example.finished)


def check_read_back(
    engine: VlmEngine, kind: AnswerKind, encoded: Encoded, answer: str, vehicle: VehicleParameters
) -> None:
    """Raise OwledError unless what the tokens say is read as the plan that the text says."""
    profile = engine.profile
    text = engine.chat.prompter.decode(encoded.answer, profile.calls[-1].keep_special).strip()
    ego = EgoState(0, 5.0)
    try:
        said = text if not reads_text(profile.answer) else cut(text, profile.cutting)[0]
        wanted = answer if not reads_text(profile.answer) else cut(answer, profile.cutting)[0]
        found = kind.parse(RawAnswer(said, encoded.answer), ego, vehicle)
        same = not reads_text(profile.answer) or found == kind.parse(RawAnswer(wanted, encoded.answer), ego, vehicle)
    except AnswerError as error:
        raise OwledError(
            f"the model's tokenizer makes {text[:120]!r} of the answer {answer[:120]!r}, which cannot be read ({error}): choose "
            "marks and a form whose characters it has"
        ) from error
    if found is None or not same:
        raise OwledError(
            f"the model's tokenizer makes {text[:120]!r} of the answer {answer[:120]!r}, which means another plan"
        )


@torch.no_grad()
def check_reads_forwards(engine: VlmEngine, model: Any, examples: Examples) -> None:
    """Raise OwledError where a token's logits change with what follows it: such a model would see its answer while it learns it."""
    encoded = encode_example(engine.chat.prompter, engine.chat.decoding.stop_ids, examples, examples.items[0])
    at, longest = encoded.prompt_tokens - 1, encoded.tensors["input_ids"].shape[1]
    first = next(model.parameters())
    whole = to_device(
        {name: value for name, value in encoded.tensors.items() if name != "labels"}, first.device, first.dtype
    )
    asked = {
        name: value[:, : at + 1] if value.ndim >= 2 and value.shape[:2] == (1, longest) else value
        for name, value in whole.items()
    }
    with in_words("a question with its answer"):
        alone, seen = model(**asked).logits[0, -1].float(), model(**whole).logits[0, at - longest].float()
    span = float(alone.max() - alone.min())
    if float((alone - seen).abs().max()) > NEARNESS * max(span, 1e-6):
        raise OwledError(
            f"{model.config.model_type} models read the whole prompt both ways, answer included: they would see what they are to learn "
            "and cannot be tuned here; tune it with its own training code"
        )


def context_of(config: Any) -> int | None:
    """Return how many tokens a model can read, as its config tells."""
    text = config.get_text_config(decoder=True)
    longest = getattr(text, "max_position_embeddings", None)
    return int(longest) if isinstance(longest, int) and longest > 0 else None


def all_the_same(answers: Sequence[str]) -> bool:
    """Tell whether a model says one thing whatever it is shown."""
    return len(answers) > 2 and len(set(answers)) == 1


def _check_length(encoded: Encoded, example: Example, longest: int | None) -> None:
    tokens = encoded.tensors["input_ids"].shape[1]
    if longest is not None and tokens > longest:
        raise OwledError(
            f"question and answer of call {example.call} have {tokens} tokens, the model reads {longest}: show fewer or smaller "
            "images (max_pixels, count), or a shorter history"
        )
