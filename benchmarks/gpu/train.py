"""Does `train-mini` feed the GPU: images a second against the GPU's own rate and what the cores can render."""

from __future__ import annotations

import os
import time

from rows import settled, step_arguments

from owled_ros.scenes.camera import Camera
from owled_ros.scenes.mini_data import TRAINING_SEEDS, collate, make_example
from owled_ros.scenes.mini_model import IMAGE_SIDE
from owled_ros.scenes.mini_train import TrainConfig, batches, begin, learn, renderers

SHARE = 0.85  # of the smaller rate


def main() -> None:
    """Write the rows."""
    step = step_arguments()
    size, steps, warm = (2, 1, 1) if step.tiny else (32, 120, 24)
    camera = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
    make_example(TRAINING_SEEDS, camera)
    start = time.perf_counter()
    examples = [make_example(TRAINING_SEEDS + index, camera) for index in range(size)]
    one_core = size / (time.perf_counter() - start)
    cores = renderers(step.device)
    config = TrainConfig(batch_size=size, device=step.device, loaders=cores)
    module, optimizer, parameters = begin(config)

    batch = collate(examples)
    for _ in range(warm):
        learn(module, optimizer, parameters, batch, step.device)
    settled(step.device)
    start = time.perf_counter()
    for _ in range(steps):
        learn(module, optimizer, parameters, batch, step.device)
    settled(step.device)
    alone = steps * size / (time.perf_counter() - start)
    step.rows.add("training on one batch again and again", "images/s", alone)
    step.rows.add("rendering on one core", "images/s", one_core, note=f"{len(os.sched_getaffinity(0))} cores here")

    stream = batches(config, 0)
    for _ in range(warm):
        learn(module, optimizer, parameters, next(stream), step.device)
    settled(step.device)
    start = time.perf_counter()
    for _ in range(steps):
        learn(module, optimizer, parameters, next(stream), step.device)
    settled(step.device)
    rate = steps * size / (time.perf_counter() - start)
    smaller = min(alone, cores * one_core)
    step.rows.add(
        f"train-mini, {cores} rendering processes", "images/s", rate, bar=None if step.tiny else SHARE * smaller, at_least=True,
        limit=smaller, note="limit: the smaller of the two above, times the cores",
    )  # fmt: skip


if __name__ == "__main__":
    main()
