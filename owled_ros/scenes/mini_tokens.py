"""The bundled model's vocabulary: phrases of the answer grammar and whole numbers as single tokens. Needs tokenizers.

One token per number keeps answers short (an action is 6 tokens) and makes the softmax over a number a distribution over
its value: labels may be spread over neighbouring values and a confidence can be read from it.

There are two vocabularies: today's, and with `paths` the same with commands and places behind it, for a model that answers
trajectories too; whatever is in both has the same id.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from owled_ros.driving.answer import CAR_KINDS, DECLINED, PEDESTRIAN_KINDS, Light, Manoeuvre
from owled_ros.driving.answers.points import PointsKind, PointsSpec, range_values
from owled_ros.driving.navigation import CommandKind
from owled_ros.errors import OwledError
from owled_ros.scenes.expert_path import POINTS, STEP_S

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "<unk>")
PAD, BOS, EOS, IMAGE, UNK = range(len(SPECIAL))
EGO_TEMPLATE = "speed {speed:.1f}, yaw {yaw_rate:+.2f}."
ACTION_QUESTION, SCENE_QUESTION = "action?", "scene?"
PATH_QUESTION = "path?"
COMMAND_WORDS = {
    CommandKind.FOLLOW_LANE: " follow.",
    CommandKind.STRAIGHT: " straight.",
    CommandKind.LEFT: " left.",
    CommandKind.RIGHT: " right.",
}
SPEED_STEP, MAX_SPEED = 0.5, 30.0  # [m/s]
YAW_RATE_STEP, MAX_YAW_RATE = 0.05, 0.5  # [rad/s]
MAX_COUNT = 9
PATH_SPEC = PointsSpec(
    count=POINTS, step_s=STEP_S, manoeuvre=True, form="row", decimals=1,
    words=(((0.0, 10.0, 0.1), (10.0, 50.0, 0.2)), ((-16.0, -4.0, 0.2), (-4.0, 4.0, 0.1), (4.0, 16.0, 0.2))),
)  # fmt: skip
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}{% if message['role'] == 'user' %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% else %}{{ message['content'][0]['text'] }}<eos>{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Ordinal:
    """A group of tokens that are the values of one quantity, in order."""

    name: str
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    spread: float  # width of a soft label, in units of the value
    relative_spread: float = 0.0  # added per unit of the value


def ordinals(paths: bool = False) -> tuple[Ordinal, ...]:
    """List the groups of number tokens: speed, acceleration, angle, distance; and the two coordinates of a place."""
    speeds = tuple(np.arange(0.0, MAX_SPEED + 0.01, SPEED_STEP).round(1).tolist())
    accelerations = tuple((np.arange(-30, 11) / 5).round(1).tolist())
    angles = tuple((np.arange(-50, 51) / 100).round(2).tolist())
    distances = tuple(float(value) for value in range(100))
    return (
        Ordinal("speed", tuple(f"{v:.1f}" for v in speeds), speeds, SPEED_STEP),
        Ordinal("acceleration", tuple(f"{v + 0.0:+.1f}" for v in accelerations), accelerations, 0.25),
        Ordinal("angle", tuple(f"{v + 0.0:+.2f}" for v in angles), angles, 0.008),
        Ordinal("distance", tuple(f"{v:.0f}" for v in distances), distances, 0.5, 0.03),
        *(_coordinates() if paths else ()),
    )


def _coordinates() -> tuple[Ordinal, Ordinal]:
    """Coordinates of a place [m], forward and left: finer where it is near. A place is two tokens, " [4.2" and ", -0.3]"."""
    ahead, across = (tuple(range_values(ranges).tolist()) for ranges in PATH_SPEC.words)
    return (
        Ordinal("ahead", tuple(f" [{v:.1f}" for v in ahead), ahead, 0.15, 0.02),
        Ordinal("across", tuple(f", {v + 0.0:+.1f}]" for v in across), across, 0.1, 0.04),
    )


def _words(kinds: tuple[Manoeuvre | Light, ...] | tuple) -> list[str]:
    return [kind.name.lower().replace("_", " ") for kind in kinds]


@lru_cache(maxsize=2)
def vocabulary(paths: bool = False) -> dict[str, int]:
    """Map every token to its id; the order never changes."""
    phrases = [*SPECIAL, "speed ", ", yaw ", ".", ACTION_QUESTION, SCENE_QUESTION, DECLINED]
    phrases += [f"{n} car{'' if n == 1 else 's'}" for n in range(MAX_COUNT + 1)]
    phrases += [f"{n} pedestrian{'' if n == 1 else 's'}" for n in range(MAX_COUNT + 1)]
    phrases += _words(tuple(value for value in Manoeuvre if value)) + [", acceleration ", " m/s2, steering ", " rad"]
    phrases += [f"{word} " for word in _words(CAR_KINDS + PEDESTRIAN_KINDS)]
    phrases += ["traffic light ", "no traffic light"] + [
        f"{word} " for word in _words((Light.RED, Light.YELLOW, Light.GREEN))
    ]
    phrases += [": ", "; ", " m, ", " m; ", " m"]
    for group in ordinals():
        phrases += group.tokens
    if paths:
        phrases += [PATH_QUESTION, *COMMAND_WORDS.values()]
        for group in _coordinates():
            phrases += group.tokens
    return {phrase: index for index, phrase in enumerate(phrases)}


def knows_paths(size: int) -> bool:
    """Tell which vocabulary a model has by its size; raises OwledError for another one."""
    sizes = [len(vocabulary(paths)) for paths in (False, True)]
    if size not in sizes:
        raise OwledError(f"the model has {size} tokens; expected one of the bundled architecture with {sizes}")
    return size == sizes[1]


def path_text(manoeuvre: Manoeuvre, points: np.ndarray) -> str:
    """Write places (N, 2) [m] behind a manoeuvre, each coordinate as the nearest one that has a token."""
    return f"{manoeuvre.name.lower()} {PointsKind(PATH_SPEC).write(points)}"


@lru_cache(maxsize=2)
def build_tokenizer(paths: bool = False) -> PreTrainedTokenizerFast:
    """Make the stock fast tokenizer of the vocabulary: longest phrase first, decoded by joining."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = vocabulary(paths)
    phrases = sorted((phrase for phrase in vocab if phrase not in SPECIAL), key=len, reverse=True)
    pattern = "|".join(_escape(phrase) for phrase in phrases)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    names = dict(pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, extra_special_tokens={"image_token": "<image>"}
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def soft_labels(paths: bool = False) -> np.ndarray:
    """Return (V, V) float32: row i is the label distribution for token i; number tokens spread over their neighbours.

    Only acceleration, angle, distance and places are ever answered; a Gaussian of the group's spread, truncated at 3 sigma.
    """
    vocab = vocabulary(paths)
    table = np.eye(len(vocab), dtype=np.float32)
    for group in ordinals(paths):
        ids = np.array([vocab[token] for token in group.tokens])
        values = np.array(group.values)
        sigma = (group.spread + group.relative_spread * np.abs(values))[:, None]
        weights = np.exp(-0.5 * ((values[None] - values[:, None]) / sigma) ** 2)
        weights[np.abs(values[None] - values[:, None]) > 3 * sigma] = 0
        table[np.ix_(ids, ids)] = weights / weights.sum(1, keepdims=True)
    return table


def ordinal_features(width: int, paths: bool = False) -> np.ndarray:
    """Return (V, width) float32 Fourier features of the number tokens, zero elsewhere: a smooth start of embeddings."""
    vocab = vocabulary(paths)
    table = np.zeros((len(vocab), width), np.float32)
    for offset, group in enumerate(ordinals(paths)):
        generator = np.random.default_rng(offset)
        frequency = generator.exponential(2.0, width // 2)[None]  # turns over the range
        values = np.array(group.values)
        position = ((values - values.min()) / np.ptp(values))[:, None]
        phase = 2 * np.pi * (frequency * position + generator.random((1, width // 2)))
        table[[vocab[token] for token in group.tokens]] = np.concatenate([np.sin(phase), np.cos(phase)], 1)
    return table


def _escape(phrase: str) -> str:
    return "".join("\\" + c if c in ".+?*()[]{}|^$\\" else c for c in phrase)
