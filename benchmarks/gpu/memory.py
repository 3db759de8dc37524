"""A model that is larger than the GPU, and a second one beside a driving one when memory is short: words, and driving goes on."""

from __future__ import annotations

import torch
from rows import step_arguments

from owled_ros.driving import asking
from owled_ros.errors import OwledError
from owled_ros.models.driving_model import bundled_model, load_engine
from owled_ros.onboard.loading import ModelChoice, load_and_warm, load_default

LEFT = 24 * 10**6  # bytes left free; the bundled model takes 32 MB in float32


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


def refusal(device: str) -> str:
    """Load where there is no room; returns the words."""
    choice = ModelChoice(str(bundled_model()), device, "float32", 1, "torch")
    try:
        load_and_warm(choice, load_default, None, 512.0).close()
    except OwledError as error:
        return str(error)
    return ""


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    engine = load_engine(None, device=step.device, dtype="float32", runtime="torch")
    frame = asking.made_up_frame(engine.profile)
    before = engine.act(engine.see(frame))
    step.rows.add("bundled model drives", "tokens", len(before.generation.ids), note=str(engine.facts["decoding"]))
    if not step.device.startswith("cuda"):
        step.rows.add("a model larger than the GPU", "", note="needs a GPU")
        return
    taken = hogged(step.device)
    words = refusal(step.device)
    after = engine.act(engine.see(frame))
    same = after.generation.ids == before.generation.ids
    step.rows.add(
        "refused beside a driving model, which drives on",
        "",
        float(bool(words) and same),
        bar=1,
        at_least=True,
        note=words,
    )
    del taken
    engine.close()
    taken = filled(step.device)
    words = ""
    try:
        load_engine(None, device=step.device, dtype="float32", runtime="torch").close()
    except OwledError as error:
        words = str(error)
    del taken
    step.rows.add(
        "a model larger than the GPU is refused in words", "", float(bool(words)), bar=1, at_least=True, note=words
    )


if __name__ == "__main__":
    main()
