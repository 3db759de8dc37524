"""Training examples of the bundled model: images, token sequences and patch labels. Needs numpy, torch and tokenizers.

One sequence asks both questions about one image; the scene question must not see the action, as in the engine where
both continue from the same prefix:

    <bos> image*N ego-sentence | action? A <eos> | scene? S <eos> <pad>*

and with `paths`, for a model that answers trajectories and is told a command, each question seeing the prefix alone:

    <bos> image*N ego-sentence command | action? A <eos> | path? P <eos> | scene? S <eos> <pad>*

Shape letters: B batch, T tokens, G patches per side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch

from owled_ros.driving.answer import DECLINED, Light, ObjectKind, format_action, format_scene
from owled_ros.driving.frame import EgoState
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.mini_model import GRID, IMAGE_SIDE, IMAGE_TOKENS, PATCH, build_profile
from owled_ros.scenes.out_of_distribution import out_of_distribution_image
from owled_ros.scenes.sample import Snapshot, sample_snapshot

TRAINING_SEEDS = 10_000_000  # training uses this seed and above, evaluation stays below a million
PATH_SEEDS = 20_000_000  # and this one and above with trajectories
OUTLIER_SHARE = 0.1
TOWN_SHARE = 0.75  # of the driving scenes with trajectories are where the route may turn
STRAIGHT_SHARE = 0.3  # of the others are told to go straight on
IGNORE = -100
PATCH_NONE, PATCH_LANE = 0, 1
PATCH_CLASSES = 2 + len(ObjectKind) - 1 + 3  # none, lane, six kinds, three lamps
MIN_PIXELS_SMALL, MIN_PIXELS_CAR = 3, 12  # of a patch, to carry the object's label
PROFILE = build_profile()


@dataclass(frozen=True)
class Example:
    """One image with everything that is to be learnt from it."""

    image: np.ndarray  # (H, W, 3) uint8
    prefix: list[int]
    action: list[int]  # answer tokens with the end token
    scene: list[int]
    patch_class: np.ndarray  # (G, G) int64, IGNORE where nothing is known
    patch_distance: np.ndarray  # (G, G) float32 [m], NaN without an object
    path: list[int] = field(default_factory=list)  # answer tokens with the end token; empty: not asked


@dataclass(frozen=True)
class Batch:
    """Tensors of one step."""

    images: torch.Tensor  # (B, H, W, 3) uint8
    ids: torch.Tensor  # (B, T)
    labels: torch.Tensor  # (B, T), IGNORE where nothing is predicted
    mask: torch.Tensor  # (T, T) bool, True = may attend
    positions: torch.Tensor  # (T,)
    patch_class: torch.Tensor  # (B, G * G)
    patch_distance: torch.Tensor  # (B, G * G)

    def pin_memory(self) -> Batch:
        """Move to memory from which a GPU copies while it computes; the loader calls this."""
        return Batch(**{name: value.pin_memory() for name, value in vars(self).items()})


def make_example(seed: int, camera: Camera, paths: bool = False) -> Example:
    """Make the example of a seed: a driving scene, or in a tenth of the cases an image that is none."""
    draw = np.random.default_rng((seed, 77))
    if seed >= TRAINING_SEEDS and draw.random() < OUTLIER_SHARE:
        ego = EgoState(0, float(draw.uniform(0, 15)), float(draw.normal(0, 0.1)))
        image = out_of_distribution_image(seed, (IMAGE_SIDE, IMAGE_SIDE))
        return out_of_distribution_example(image, ego, _any_command(draw) if paths else None)
    if not paths:
        return scene_example(sample_snapshot(seed, camera))
    snapshot = sample_snapshot(seed, camera, bool(draw.random() < TOWN_SHARE), path=True)
    if snapshot.command is None:
        straight = draw.random() < STRAIGHT_SHARE  # on a road without turns both mean the same
        kind = CommandKind.STRAIGHT if straight else CommandKind.FOLLOW_LANE
        snapshot = replace(snapshot, command=NavigationCommand(kind))
    return scene_example(snapshot)


def scene_example(snapshot: Snapshot) -> Example:
    """Turn a labelled snapshot into tokens and patch labels; one with a path needs its command too."""
    classes, distances = _patch_labels(snapshot)
    action, scene = format_action(snapshot.action), format_scene(snapshot.scene)
    if snapshot.path is None:
        return Example(snapshot.image, prefix_ids(snapshot.ego), _answer(action), _answer(scene), classes, distances)
    path = tokens.path_text(snapshot.action.manoeuvre, snapshot.path)
    to_action, to_scene, to_path = (_answer(text, paths=True) for text in (action, scene, path))
    prefix = prefix_ids(snapshot.ego, snapshot.command)
    return Example(snapshot.image, prefix, to_action, to_scene, classes, distances, to_path)


def out_of_distribution_example(image: np.ndarray, ego: EgoState, command: NavigationCommand | None = None) -> Example:
    """Turn an image that is no driving scene into an example that declines."""
    classes = np.full((GRID, GRID), IGNORE, np.int64)
    nothing = np.full((GRID, GRID), np.nan, np.float32)
    declined = _answer(DECLINED)
    path = [] if command is None else declined
    return Example(image, prefix_ids(ego, command), declined, declined, classes, nothing, path)


def collate(examples: list[Example]) -> Batch:
    """Pad the examples to one length; answers to the longest, scenes to a multiple of 8."""
    prefixes = [example.prefix for example in examples]
    questions = [(tokens.ACTION_QUESTION, [example.action for example in examples], 1)]
    if examples[0].path:
        questions.append((tokens.PATH_QUESTION, [example.path for example in examples], 1))
    questions.append((tokens.SCENE_QUESTION, [example.scene for example in examples], 8))
    ids, labels = [list(prefix) for prefix in prefixes], [[IGNORE] * len(prefix) for prefix in prefixes]
    start = len(ids[0])
    parts = [torch.arange(start)]  # positions
    bounds = []
    for question, answers, multiple in questions:
        longest = -(-max(map(len, answers)) // multiple) * multiple
        (ask,) = _encode(question, paths=len(questions) > 2)
        for row, label, answer in zip(ids, labels, answers, strict=True):
            padding = longest - len(answer)
            row += [ask, *answer, *[tokens.PAD] * padding]
            label += [IGNORE, *answer, *[IGNORE] * padding]
        bounds.append((len(ids[0]) - longest - 1, len(ids[0])))
        parts.append(torch.arange(start, start + longest + 1))
    length = len(ids[0])
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    for first, last in bounds:
        mask[last:, first:last] = False  # no later question sees this one
    return Batch(
        images=torch.from_numpy(np.stack([example.image for example in examples])),
        ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        mask=mask,
        positions=torch.cat(parts),
        patch_class=torch.from_numpy(np.stack([example.patch_class.ravel() for example in examples])),
        patch_distance=torch.from_numpy(np.stack([example.patch_distance.ravel() for example in examples])),
    )


class TrainingStream(torch.utils.data.IterableDataset[Batch]):
    """Endless batches from a first sample on; with several loader workers the order of batches stays the same."""

    def __init__(self, first_sample: int, batch_size: int, paths: bool = False) -> None:
        self.first_batch, self.batch_size, self.paths = first_sample // batch_size, batch_size, paths

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        if worker:
            torch.set_num_threads(1)  # every worker has a core of its own
            cv2.setNumThreads(1)
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        camera = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
        batch = self.first_batch + offset
        while True:
            first = (PATH_SEEDS if self.paths else TRAINING_SEEDS) + batch * self.batch_size
            yield collate([make_example(first + index, camera, self.paths) for index in range(self.batch_size)])
            batch += stride


def prefix_ids(ego: EgoState, command: NavigationCommand | None = None) -> list[int]:
    """Return the tokens before every question; with a command for a model that is told one."""
    said = "" if command is None else tokens.COMMAND_WORDS[command.kind]
    return [
        tokens.BOS, *[tokens.IMAGE] * IMAGE_TOKENS, *_encode(PROFILE.ego_sentence(ego) + said, command is not None)
    ]  # fmt: skip


def _any_command(draw: np.random.Generator) -> NavigationCommand:
    return NavigationCommand(list(tokens.COMMAND_WORDS)[int(draw.integers(len(tokens.COMMAND_WORDS)))])


def _answer(text: str, paths: bool = False) -> list[int]:
    return [*_encode(text, paths), tokens.EOS]


def _encode(text: str, paths: bool = False) -> list[int]:
    return tokens.build_tokenizer(paths)(text, add_special_tokens=False).input_ids


def _patch_labels(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """Give every patch the class and distance of the smallest thing in it: lamp, then person, then car, then lane."""
    scene = snapshot.scene
    classes = np.where(_pixels(snapshot.road) > PATCH * PATCH // 3, PATCH_LANE, PATCH_NONE).astype(np.int64)
    distances = np.full((GRID, GRID), np.nan, np.float32)
    objects = [(1 + item.kind, item.distance, MIN_PIXELS_CAR) for item in scene.cars]
    objects += [(1 + item.kind, item.distance, MIN_PIXELS_SMALL) for item in scene.pedestrians]
    if scene.light_distance is not None:
        objects.append((len(ObjectKind) + scene.light - Light.RED + 1, scene.light_distance, MIN_PIXELS_SMALL))
    order = sorted(range(len(objects)), key=lambda index: (objects[index][2] == MIN_PIXELS_SMALL, -objects[index][1]))
    for index in order:  # later ones overwrite: small before large, near before far
        label, distance, least = objects[index]
        here = _pixels(snapshot.ids == index + 1) >= least
        classes[here], distances[here] = label, distance
    return classes, distances


def _pixels(mask: np.ndarray) -> np.ndarray:
    return mask.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
