"""Tokens in float32 are those of the CPU for every family of tiny models, through the package's own loader and engine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rows import step_arguments
from tiny_vlms import save_family
from tiny_vlms_more import FAMILIES

from owled_ros.driving.conversation import IMAGE, AnswerLimits, Conversation, Turn
from owled_ros.models.chat import images_of
from owled_ros.models.driving_model import load_engine

ASKED = ("What should the car do now?", "What is to be seen?")
TOKENS = 8
FEW = ("llava", "qwen2_5_vl", "gemma3")  # with --tiny


def answers(directory: Path, device: str, decoding: str) -> tuple[list[tuple[int, ...]], str]:
    """Answer two questions about one image."""
    engine = load_engine(directory, device=device, dtype="float32", runtime="torch", decoding=decoding)
    images = images_of([np.random.default_rng(3).integers(0, 255, (60, 90, 3), np.uint8)])
    found = []
    for text in ASKED:
        conversation = Conversation((Turn("user", (IMAGE, text)),))
        reply = engine.chat.reply(engine.chat.prompt(conversation, images), AnswerLimits(TOKENS))
        assert reply is not None
        found.append(reply.ids)
    engine.close()
    return found, str(engine.facts["decoding"])


def main() -> None:
    """Write the row."""
    step = step_arguments()
    names = [name for name in FAMILIES if not step.tiny or name in FEW]
    other, launched = [], []
    done = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            directory = save_family(name, Path(folder) / name)
            want, _ = answers(directory, "cpu", "growing")
            try:
                found, how = answers(directory, step.device, "fixed" if step.tiny else "auto")
            except Exception as error:  # one family must not hide the others
                found, how = [], f"{type(error).__name__}: {error}"
            done += 1
        if found != want:
            other.append(f"{name} ({how})")
        if "growing" in how:
            launched.append(name)
    step.rows.add(
        "families whose tokens equal the CPU's in float32", "", done - len(other), bar=len(names), at_least=True,
        note=f"others: {', '.join(other) or 'none'}; not captured: {', '.join(launched) or 'none'}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
