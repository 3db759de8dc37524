"""The vocabulary of the tiny host: LLM-Driver's phrases and whole numbers as single tokens, bytes for everything else.

Needs torch and tokenizers. "12.34m" is the tokens 12 . 34 m: a number is one choice, and close numbers start with close embeddings.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from owled_ros.driving import vector_words
from owled_ros.models.llm_driver_processor import VECTOR_TOKEN
from owled_ros.models.vector_encoder import number_waves

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", VECTOR_TOKEN)
PAD, BOS, EOS, VECTORS = range(len(SPECIAL))
LARGEST = 180  # whole numbers up to here are one token
CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}" + VECTOR_TOKEN + "{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '\\n' if message['role'] == 'user' else '<eos>' }}{% endfor %}"
)
PHRASES = (
    "I'm observing ", " cars and ", " pedestrians.", "There is no traffic lights.", "There is a traffic light and it is ",
    "green", "red+yellow", "yellow", "red", ". It is ", "m ahead.", "Here are my actions:\n- Accelerator pedal ",
    "%\n- Brake pedal ", "%\n- Going to steer ", "% to the left.", "% to the right.",
    "A moving car; Angle in degrees: ", "A pedestrian; Angle in degrees: ", "; Distance: ", "m; Direction of travel: ",
    "same direction as me;", "opposite direction from me;", "from left to right;", "from right to left;", " Crossing: ",
    "True;", "False;", "There is no any junction ahead.", "My car is passing an intersection.",
    "The distance to the closest intersection is ", "It is a roundabout.", "My car ", "m from the lane center and ",
    " degrees left off center.", " degrees right off center.", "My current speed is ", " mph", "Steering wheel is ",
    "% left.", "% right.", "The path is currently turning ", " degrees left", " degrees right", "The next turn is ",
    " in ", "The next I need to turn around in ", "I need to go straight for at least ", "The nearest ", "car ",
    "pedestrian ", "is ", "m away, at an angle of ", " degrees.", "There is no ", "to be seen.",
    " pedestrians are crossing the road.", "m.", "\n\n", "m", ".", "-", "%", "\n",
)  # fmt: skip


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Map every token to its id; the order never changes."""
    from tokenizers.pre_tokenizers import ByteLevel

    asked = (vector_words.DESCRIBE, vector_words.DRIVE, vector_words.ACT, *vector_words.QUESTIONS)
    numbers = [str(value) for value in range(LARGEST + 1)] + [f"0{value}" for value in range(10)]
    phrases = [*SPECIAL, *sorted(ByteLevel.alphabet()), *asked, *PHRASES, *numbers]
    return {phrase: index for index, phrase in enumerate(dict.fromkeys(phrases))}


@lru_cache(maxsize=1)
def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the stock fast tokenizer: phrases first, the longest that fits, then bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab, merges=[], fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    single = set(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_tokens(
        [AddedToken(phrase, normalized=False) for phrase in vocab if phrase not in SPECIAL and phrase not in single]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        additional_special_tokens=[VECTOR_TOKEN], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def number_features(width: int) -> np.ndarray:
    """Return (V, width) float32: waves of the value for whole numbers, zero elsewhere; a smooth start of embeddings."""
    vocab = vocabulary()
    table = np.zeros((len(vocab), width), np.float32)
    waves = number_waves(torch.arange(LARGEST + 1, dtype=torch.float64), width)
    table[[vocab[str(value)] for value in range(LARGEST + 1)]] = waves.float().numpy()
    return table
