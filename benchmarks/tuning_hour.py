"""A SmolVLM-shaped model with random weights, tuned by the command on two bags of the rendered world and judged on a third.

    ./owled python benchmarks/tuning_hour.py --home tuning_hour [--minutes 60] [--threads 2]

The bags are drives of the expert: camera images, odometry, true scenes. Every stage that is done is not done again, and a killed
tuning goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from owled_ros.bags.write import BagWriter
from owled_ros.driving.answer import Action
from owled_ros.driving.ego import EgoState
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import DrivingProfile
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.player import look
from owled_ros.scenes.world import DriveEnd, World

START = 1_700_000_000_000_000_000  # [ns]
BAGS = {"first": range(100, 112), "second": range(200, 212), "third": range(300, 306)}  # worlds
STEP_S, IMAGE_EVERY = 0.02, 10
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<fake_token_around_image>",
           "<end_of_utterance>", "<global-img>", "<row_1_col_1>")  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIDE = 192  # [px] of what the model sees


def record(path: Path, worlds: range) -> None:
    """Let the expert drive routes, a minute apart: odometry at 50 Hz, an image with its truth at 5 Hz."""
    camera, aside = Camera().resized(320, 180), path.with_name(path.name + ".aside")
    shutil.rmtree(aside, ignore_errors=True)
    begin = START + worlds[0] * 10**12
    with BagWriter(aside) as bag:
        for seed in worlds:
            world, number, action = World(seed), 0, Action(0.0, 0.0)
            while world.outcome is DriveEnd.RUNNING:
                stamp = begin + round(world.time * 1e9)
                bag.odometry(stamp, EgoState(stamp, world.ego.speed, world.ego.yaw_rate))
                if number % IMAGE_EVERY == 0:
                    moment = look(world, camera)
                    action = moment.expert
                    bag.image(stamp, moment.image, encoding="jpeg")
                    bag.expert_action(stamp, action)
                    bag.scene_truth(stamp, moment.scene)
                world.step(action.acceleration, action.steering_tire_angle, STEP_S)
                number += 1
            begin += round(world.time * 1e9) + 60 * 10**9
    aside.rename(path)


def make_model(directory: Path, profile: DrivingProfile) -> int:
    """Write a small SmolVLM with random weights, whose tokenizer has seen the questions; returns how many weights."""
    import transformers as hf

    said = [call.user for call in (*profile.calls, profile.scene) if call] + [profile.ego or ""]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        said * 4, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    ids = {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIDE,
              "patch_size": 16}  # fmt: skip
    text: dict[str, Any] = {
        "model_type": "llama", "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 3, "vocab_size": len(fast), "max_position_embeddings": 2048, "tie_word_embeddings": True,
        "bos_token_id": ids["<s>"], "eos_token_id": ids["<end_of_utterance>"], "pad_token_id": ids["<pad>"],
    }  # fmt: skip
    torch.manual_seed(0)
    model = hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=2, image_token_id=ids["<image>"])
    )
    model.generation_config.eos_token_id = ids["<end_of_utterance>"]
    model.generation_config.pad_token_id = ids["<pad>"]
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    hf.SmolVLMImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    ).save_pretrained(directory)
    processor = {"processor_class": "SmolVLMProcessor", "image_seq_len": (SIDE // 16 // 2) ** 2}
    (directory / "processor_config.json").write_text(json.dumps(processor))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return sum(parameter.numel() for parameter in model.parameters())


def owled(*words: object) -> None:
    """Run a command as a user would."""
    print("owled", *words, flush=True)
    subprocess.run([sys.executable, "-m", "owled_ros", *map(str, words)], check=True)


def main() -> None:
    """Do what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path("tuning_hour"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--profile", default="coarse_controls", help="a preset; points must be computed from the speed")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    home: Path = given.home
    home.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    for name, worlds in BAGS.items():
        if not (home / name).exists():
            print(f"recording {name}", flush=True)
            record(home / name, worlds)
    if not (home / "model" / "chat_template.jinja").exists():
        print(f"{make_model(home / 'model', preset(given.profile))} random weights", flush=True)
    if not (home / "driver").exists():
        owled(
            "tune", home / "model", home / "first", home / "second", "--held-out", home / "third", "--profile", given.profile,
            "--minutes", given.minutes, "--frames", given.frames, "--threads", given.threads, "--device", "cpu", "--out", home / "driver",
        )  # fmt: skip
    owled("evaluate", home / "third", "-m", home / "driver", "--every", 5, "--out", home / "judged", "--alone")


if __name__ == "__main__":
    main()
