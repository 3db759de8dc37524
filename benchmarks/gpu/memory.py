"""A model that is larger than the GPU, and a second one beside a driving one when memory is short: words, and driving goes on."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from pathlib import Path

import torch
from rows import step_arguments

from owled_ros.driving import asking
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import bundled_model, load_engine
from owled_ros.models.memory import available_bytes
from owled_ros.onboard.loading import ModelChoice, load_and_warm, load_default

LEFT = 200 * 10**6  # bytes left free: driving may take some, a second engine and its reserve (512 MB) may not


def hogged(device: str) -> list[torch.Tensor]:
    """Take the device's memory but for a little."""
    torch.cuda.empty_cache()
    taken = []
    while (free := torch.cuda.mem_get_info(torch.device(device))[0]) > 2 * LEFT:
        taken.append(torch.empty(free - LEFT, dtype=torch.uint8, device=device))
    return taken


def filled(device: str) -> list[torch.Tensor]:
    """Take all of the device's memory."""
    taken = []
    for size in (2**28, 2**24, 2**20):
        try:
            while True:
                taken.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            continue
    return taken


def refusal(device: str, model: Path, reserve_mb: float | None) -> str:
    """Load a model where it has no room, as the node does; returns the words."""
    choice = ModelChoice(str(model), device, "float32", 1, "torch")
    try:
        load_and_warm(choice, load_default, None, reserve_mb).close()
    except OwledError as error:
        return str(error)
    return ""


def huge(folder: Path, size: int) -> Path:
    """Make a model of so many bytes of weights, of which the disk holds none: a hole in a file."""
    model = folder / "huge"
    shutil.copytree(bundled_model(), model)
    for file in (*model.glob("*.owled"), *model.glob("*.safetensors")):
        file.unlink()
    count = size // 2
    header = json.dumps({"w": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
    with open(model / "model.safetensors", "wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + 2 * count)
    return model


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    engine = load_engine(None, device=step.device, dtype="float32", runtime="torch")
    frame = asking.made_up_frame(engine.profile)
    before = engine.act(engine.see(frame))
    step.rows.add("bundled model drives", "tokens", len(before.generation.ids), note=str(engine.facts["decoding"]))

    def held(what: str, words: str) -> None:
        """Say whether there were words, and whether what drives goes on as before."""
        same = engine.act(engine.see(frame)).generation.ids == before.generation.ids
        step.rows.add(what, "", float(bool(words) and same), bar=1, at_least=True, note=words)

    on_gpu = step.device.startswith("cuda")
    room = torch.cuda.get_device_properties(step.device).total_memory if on_gpu else available_bytes()
    with tempfile.TemporaryDirectory() as folder:
        model = huge(Path(folder), room)  # stored in 16 bits, asked for in 32: twice what there is
        held("a model larger than the device: refused in words, driving goes on", refusal(step.device, model, None))
        held("the same beside the driving one", refusal(step.device, model, 512.0))
    if not on_gpu:
        step.rows.add("a device that is full", "", note="needs a GPU")
        return
    taken = hogged(step.device)
    held("a second engine when memory is short: refused in words", refusal(step.device, bundled_model(), 512.0))
    del taken
    torch.cuda.empty_cache()
    second = load_engine(None, device=step.device, dtype="float32", runtime="torch")
    held("two engines on one GPU", str(second.act(second.see(frame)).generation.ids == before.generation.ids or ""))
    engine.close()
    taken = filled(step.device)
    words = refusal(step.device, bundled_model(), None)
    del taken
    torch.cuda.empty_cache()
    same = second.act(second.see(frame)).generation.ids == before.generation.ids
    step.rows.add(
        "a device that is full: refused in words, and again usable", "", float(bool(words) and same), bar=1, at_least=True,
        note=words,
    )  # fmt: skip


if __name__ == "__main__":
    main()
