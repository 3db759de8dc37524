"""A text model on the released driving scenes, scored like LLM-Driver, beside a constant and a copying answer.

Needs torch and transformers for a model, nothing for the baselines. The model gets the objects, the road and the own motion
and goes on with the counts, the traffic light and the action. Metrics: arXiv 2310.01957, section V; arXiv 2411.07711.

constant   medians and the most frequent light of the scored scenes themselves: no constant does better
copy       the light and pedals of the scene before, objects counted in the text, the wheel's position as steering
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owled_ros.devices import resolve_device
from owled_ros.errors import OwledError
from owled_ros.evaluation.metrics import mean_of
from owled_ros.files import sha256_file
from owled_ros.llm_driver.released import (
    Pedals,
    Perception,
    Scenario,
    parse_action,
    parse_perception,
    scenarios_file,
)
from owled_ros.models.manifest import is_artifact, read_manifest
from owled_ros.progress import track

MAX_TOKENS = 96
EXAMPLES = 2  # scenes shown in the prompt, from before those that are scored
GAP = 10  # scenes left out between examples and scored ones: neighbours are nearly equal
LIGHTS = ("none", "red", "red+yellow", "yellow", "green")


@dataclass(frozen=True)
class QaAnswer:
    """What was said about one scene."""

    perception: Perception | None
    action: Pedals | None
    loss: float | None = None  # mean negative log likelihood per token of the released answer


Example = tuple[str, str]  # description, released answer
TextModel = Callable[[Sequence[Example], str, str], tuple[str, float | None]]
# (examples, description, released answer) -> (answer, loss)


def evaluate_text_model(model: TextModel, scenarios: Sequence[Scenario], first: int = 0) -> list[QaAnswer]:
    """Ask about every scene from `first` on; the examples of the prompt are the ones at the beginning."""
    if first < EXAMPLES + GAP or first >= len(scenarios):
        raise OwledError(f"the first scored scene is {first}; expected {EXAMPLES + GAP} to {len(scenarios) - 1}")
    examples = [(scene.description, scene.reference) for scene in scenarios[:EXAMPLES]]
    answers = []
    for scene in track(scenarios[first:], "asking about scenes"):
        text, loss = model(examples, scene.description, scene.reference)
        said = text.split("\n\n\n")[0]
        answers.append(QaAnswer(parse_perception(said), parse_action(said), loss))
    return answers


def constant_answers(scenarios: Sequence[Scenario]) -> list[QaAnswer]:
    """Answer the same always: what would have been best."""
    lights = Counter(scene.perception.light for scene in scenarios)
    light = min(lights, key=lambda name: (-lights[name], LIGHTS.index(name)))
    distances = [scene.perception.light_distance for scene in scenarios if scene.perception.light_distance is not None]
    perception = Perception(
        round(float(np.median([scene.perception.cars for scene in scenarios]))),
        round(float(np.median([scene.perception.pedestrians for scene in scenarios]))),
        light,
        float(np.median(distances)) if distances else None,
    )
    action = Pedals(
        float(np.median([scene.action.longitudinal for scene in scenarios])),
        float(np.median([scene.action.steering for scene in scenarios])),
    )
    return [QaAnswer(perception, action)] * len(scenarios)


def copy_answers(scenarios: Sequence[Scenario], before: Scenario | None) -> list[QaAnswer]:
    """Copy what the text gives away, and the rest from the scene before; the first one without a past is not answered."""
    answers, last = [], before
    for scene in scenarios:
        if last is None:
            answers.append(QaAnswer(None, None))
        else:
            counted = Perception(
                scene.description.count(" car;"), scene.description.count("A pedestrian;"),
                last.perception.light, last.perception.light_distance,
            )  # fmt: skip
            answers.append(QaAnswer(counted, Pedals(last.action.longitudinal, scene.wheel)))
        last = scene
    return answers


def score(answers: Sequence[QaAnswer], scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """Compute the paper's metrics; an answer that cannot be read counts in `perception_parsed` and `action_parsed` only."""
    pairs = list(zip(answers, scenarios, strict=True))
    seen = [(said.perception, scene.perception) for said, scene in pairs if said.perception is not None]
    acted = [(said.action, scene.action) for said, scene in pairs if said.action is not None]
    losses = [said.loss for said in answers if said.loss is not None]
    return {
        "scenes": len(pairs),
        "perception_parsed": len(seen) / len(pairs) if pairs else None,
        "action_parsed": len(acted) / len(pairs) if pairs else None,
        "E_car": _mean([abs(said.cars - true.cars) for said, true in seen]),
        "E_ped": _mean([abs(said.pedestrians - true.pedestrians) for said, true in seen]),
        "Acc_TL": _mean([said.light == true.light for said, true in seen]),
        "D_TL_m": _mean(
            [
                abs(said.light_distance - true.light_distance)
                for said, true in seen
                if said.light_distance is not None and true.light_distance is not None
            ]
        ),
        "E_lon": _mean([abs(said.longitudinal - true.longitudinal) for said, true in acted]),
        "E_lat": _mean([abs(said.steering - true.steering) for said, true in acted]),
        "L_token": (loss := _mean(losses)),
        "perplexity": None if loss is None else math.exp(loss),
        "traffic_light_recall": {
            light: _mean([said.light == light for said, true in seen if true.light == light]) for light in LIGHTS
        },
    }


def calibrated_on(path: Path, data: Path) -> bool:
    """Tell whether a pruned model was calibrated on the very file that it is to be scored on."""
    if not is_artifact(path):
        return False
    file = scenarios_file(data)
    known = {entry.get("sha256") for entry in read_manifest(path).calibration}
    return file.is_file() and sha256_file(file) in known


def load_text_model(path: Path | str, device: str = "cpu", dtype: str = "float32", threads: int = 1) -> TextModel:
    """Load a causal language model (a Hugging Face directory, GGUF file or artifact) that answers greedily.

    Models with a chat template are asked in a conversation, others continue a text.
    """
    import torch
    from transformers import AutoTokenizer

    from owled_ros.models.load import load_model

    torch.set_num_threads(threads)
    device = resolve_device(device)
    model = load_model(path, device=device, dtype=dtype).eval()
    place = Path(path)
    tokenizer_options = {"gguf_file": place.name} if place.suffix == ".gguf" else {}
    home = place.parent if place.suffix == ".gguf" else place
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(home), local_files_only=True, **tokenizer_options)
    except (OSError, ValueError) as error:
        raise OwledError(f"{path} has no tokenizer that can be read ({error}); expected tokenizer.json") from error

    seen = _Seen(model)

    @torch.inference_mode()
    def ask(examples: Sequence[Example], description: str, reference: str) -> tuple[str, float | None]:
        prompt, special = prompt_of(tokenizer, examples, description)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=special).input_ids.to(device)  # (1, T)
        wanted = tokenizer(reference, return_tensors="pt", add_special_tokens=False).input_ids.to(device)  # (1, R)
        logits, cache = seen.read(torch.cat([ids, wanted], dim=1), wanted.shape[1])  # (R, V)
        loss = torch.nn.functional.cross_entropy(logits, wanted[0]).item()
        if cache is not None:
            # forget the reference; `generate` reads the last token of the prompt again
            keep_tokens(cache, ids.shape[1] - 1)
        said = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False, past_key_values=cache,
            pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        if cache is not None:
            keep_tokens(cache, ids.shape[1])
        return str(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)), float(loss)

    return ask


def prompt_of(tokenizer: Any, examples: Sequence[Example], description: str) -> tuple[str, bool]:
    """Return the text that a model sees before its answer, and whether the tokenizer should add its special tokens."""
    if not getattr(tokenizer, "chat_template", None):
        opening = "".join(f"{given}\n\n{answer}\n\n" for given, answer in examples)
        return f"{opening}{description}\n\n", True
    turns: list[dict[str, str]] = []
    for given, answer in examples:
        turns += [{"role": "user", "content": given}, {"role": "assistant", "content": answer}]
    turns.append({"role": "user", "content": description})
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), False


def new_cache(config: Any) -> Any:
    """Return an empty cache for a language model; None where its layers keep what cannot be cut back."""
    from transformers import DynamicCache

    kinds = getattr(config, "layer_types", None)
    return DynamicCache(config=config) if kinds is None or set(kinds) == {"full_attention"} else None


def keep_tokens(cache: Any, tokens: int) -> None:
    """Forget all but the first tokens."""
    surplus = cache.get_seq_length() - tokens
    if surplus > 0:
        cache.crop(-surplus)


class _Seen:
    """Reads texts one after the other; what a text begins with as the one before (the examples) is not read again."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache = new_cache(model.config)
        self._ids: list[int] = []

    def read(self, ids: Any, last: int) -> tuple[Any, Any]:
        """Return the logits that foretell the `last` tokens of ids (1, T), float32 (last, V), and the cache of all."""
        text = ids[0].tolist()
        if self._cache is None:
            return self._model(ids).logits[0, -last - 1 : -1].float(), None
        limit = min(self._cache.get_seq_length(), len(text) - last - 1, len(self._ids))
        known = next((place for place in range(limit) if text[place] != self._ids[place]), limit)
        keep_tokens(self._cache, known)
        self._ids = text
        logits = self._model(ids[:, known:], past_key_values=self._cache).logits
        return logits[0, -last - 1 : -1].float(), self._cache


def _mean(values: Sequence[float]) -> float | None:
    return mean_of(np.array(values, dtype=np.float64))
