"""Model directories that starve, lie, lead elsewhere or would run code. Each maker changes a sound copy of the bundled model."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broken_models import REFUSED
from hostile_profiles import PROFILES
from hostile_words import JSON

from owled_ros.models.driving_model import bundled_model

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
Maker = Callable[[Path], object]
OF_FILES = (  # of broken_models: those that ask nothing of the weights' names
    "lora beside", "lora alone", "cut off", "empty file", "lfs weights", "lfs config", "html weights", "html config",
    "pickle named safetensors", "noise", "config list", "config not json", "config without type", "missing shard",
    "tensor twice", "index leaves", "index without map", "other name",
)  # fmt: skip
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "generation_config.json",
    "familiarity.json",
    "packed.json",
)


def sound(place: Path, plain: bool = False) -> Path:
    """Copy the bundled model; with `plain` without its packed weights."""
    shutil.copytree(bundled_model(), place)
    if plain:
        for name in ("packed.owled", "packed.json"):
            (place / name).unlink()
    return place


def configured(**changes: Any) -> Maker:
    """Change config.json; a dotted name with two underscores for the dot."""

    def make(place: Path) -> None:
        config = json.loads((place / CONFIG).read_text())
        for name, value in changes.items():
            part, _, key = name.rpartition("__")
            (config[part] if part else config)[key] = value
        (place / CONFIG).write_text(json.dumps(config))

    return make


def written(name: str, data: bytes) -> Maker:
    """Replace a file."""
    return lambda place: (place / name).write_bytes(data)


def missing(name: str) -> Maker:
    """Take a file away."""
    return lambda place: (place / name).unlink()


def instead(name: str, make: Callable[[Path], object]) -> Maker:
    """Put something else in the place of a file."""

    def changed(place: Path) -> None:
        (place / name).unlink(missing_ok=True)
        make(place / name)

    return changed


def _flipped(place: Path) -> None:
    data = bytearray((place / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (place / WEIGHTS).write_bytes(data)


def _nan_weights(place: Path) -> None:
    data = bytearray((place / WEIGHTS).read_bytes())
    start = 8 + struct.unpack("<Q", data[:8])[0]
    data[start:] = b"\xff\x7f" * ((len(data) - start) // 2)
    (place / WEIGHTS).write_bytes(data)


def _header(claim: Callable[[dict[str, Any]], object]) -> Maker:
    """Let the header of the weights claim something else."""

    def make(place: Path) -> None:
        data = (place / WEIGHTS).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        content = json.loads(data[8 : 8 + length])
        claim(next(value for name, value in sorted(content.items()) if name != "__metadata__"))
        text = json.dumps(content).encode()
        (place / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return make


def _many_files(place: Path) -> None:
    for number in range(10_050):
        (place / f"{number}.txt").touch()


def _deep(place: Path) -> None:
    inner = place
    for _ in range(200):
        inner = inner / "d"
    inner.mkdir(parents=True)


def _giant(name: str) -> Maker:
    return lambda place: os.truncate(_touched(place / name), 300 << 20)


def _touched(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.touch()
    return path


def _code(place: Path) -> None:
    (place / "modeling_evil.py").write_text("open('/tmp/owled_code_ran', 'w')")
    configured(auto_map={"AutoModelForImageTextToText": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"})(
        place
    )


def _template(text: str) -> Maker:
    return written("chat_template.jinja", text.encode())


MODELS: dict[str, Maker] = {
    **{f"broken, {name}": REFUSED[name][0] for name in OF_FILES},
    **{f"profile, {name}": written("driving.json", data) for name, data in PROFILES.items()},
    **{f"{file}, {name}": written(file, JSON[name]) for file in FILES for name in ("nothing", "lists in lists", "NaN", "not UTF-8")},
    **{f"{file} is a pipe": instead(file, os.mkfifo) for file in (CONFIG, "driving.json", WEIGHTS, "tokenizer.json")},
    **{f"{file} is a folder": instead(file, Path.mkdir) for file in (CONFIG, "driving.json", WEIGHTS, "packed.json")},
    **{f"{file} is missing": missing(file) for file in (CONFIG, WEIGHTS, "tokenizer.json", "processor_config.json", "packed.json")},
    **{f"config, {name}": written(CONFIG, data) for name, data in JSON.items()},
    "driving.json leads to a device": instead("driving.json", lambda path: path.symlink_to("/dev/zero")),
    "config.json leads to itself": instead(CONFIG, lambda path: path.symlink_to(path)),
    "weights lead to a device": instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
    "weights lead to secrets": instead(WEIGHTS, lambda path: path.symlink_to("/etc/passwd")),
    "ten million layers": configured(text_config__num_hidden_layers=10_000_000),
    "ten million layers to see with": configured(vision_config__num_hidden_layers=10_000_000),
    "a hidden size of 2**40": configured(text_config__hidden_size=2**40),
    "a vocabulary of 2**31": configured(text_config__vocab_size=2**31),
    "positions without end": configured(text_config__max_position_embeddings=2**60),
    "no heads": configured(text_config__num_attention_heads=0),
    "negative heads": configured(text_config__num_attention_heads=-4),
    "heads of NaN": configured(text_config__num_attention_heads=float("nan")),
    "patches of nothing": configured(vision_config__patch_size=0),
    "patches of one pixel": configured(vision_config__patch_size=1, vision_config__image_size=30_000),
    "an activation that is code": configured(text_config__hidden_act="__import__('os').system('true')"),
    "another architecture": configured(model_type="bert", architectures=["BertModel"]),
    "an architecture of nobody": configured(model_type="nobody", architectures=["Nobody"]),
    "weights of another name": configured(transformers_weights="../../../etc/passwd"),
    "its own code": _code,
    "a pickle beside": written("pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'touch /tmp/owled_code_ran'\ntR."),
    "a flipped byte": _flipped,
    "weights of NaN": _nan_weights,
    "a tensor of 2**60": _header(lambda entry: entry.update(shape=[2**60])),
    "a tensor of negative size": _header(lambda entry: entry.update(shape=[-1, 5])),
    "a tensor elsewhere": _header(lambda entry: entry.update(data_offsets=[2**62, 2**63])),
    "a tensor of another type": _header(lambda entry: entry.update(dtype="Q1")),
    "a header of 4 GB": lambda place: (place / WEIGHTS).write_bytes(struct.pack("<Q", 2**32) + bytes(100)),
    "ten thousand files": _many_files,
    "two hundred folders": _deep,
    "a profile of 300 MB": _giant("driving.json"),
    "a template that never ends": _template("{% for a in range(10**5) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}"),
    "a template that multiplies": _template("{{ 'x' * 10**10 }}"),
    "a template that looks around": _template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "a template that does not close": _template("{% for a in"),
    "a packed file of noise": written("packed.owled", os.urandom(4096)),
    "a packed file cut off": lambda place: os.truncate(place / "packed.owled", 1000),
    "a manifest of lists": written("owled.json", JSON["lists in lists"]),
    "a manifest of nothing": written("owled.json", b"{}"),
}  # fmt: skip
HEAVY = (  # starve whoever loads them: only tried in a child
    "ten million layers", "ten million layers to see with", "a hidden size of 2**40", "a vocabulary of 2**31", "patches of one pixel",
    "positions without end", "a template that never ends", "a template that multiplies", "config.json is a pipe",
    "tokenizer.json is a pipe", "model.safetensors is a pipe", "weights lead to a device",
)  # fmt: skip
