"""The bundled model's tokens, examples and training: round trips, masks, restarts."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.driving.answer import (
    Action,
    Light,
    Manoeuvre,
    ObjectKind,
    Scene,
    SceneObject,
    format_action,
    format_scene,
)
from owled_ros.driving.frame import EgoState
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.mini_answer import answer_images
from owled_ros.scenes.mini_data import IGNORE, TRAINING_SEEDS, collate, make_example, scene_example
from owled_ros.scenes.mini_model import GRID, IMAGE_SIDE, IMAGE_TOKENS, build_model, build_profile
from owled_ros.scenes.mini_train import MiniTraining, TrainConfig, batches, renderers, schedule, train
from owled_ros.scenes.sample import sample_snapshot

CAMERA = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
OBJECTS = st.builds(SceneObject, st.sampled_from([ObjectKind.LEAD, ObjectKind.PARKED]), st.integers(0, 99).map(float))
ACTIONS = st.builds(Action, st.floats(-6, 2), st.floats(-0.3, 0.3), st.sampled_from([m for m in Manoeuvre if m]))


def encode(text):
    return tokens.build_tokenizer()(text, add_special_tokens=False).input_ids


@given(ACTIONS, st.lists(OBJECTS, max_size=9).map(tuple), st.floats(0, 40), st.floats(-1, 1))
def test_everything_that_is_said_is_in_the_vocabulary(action, cars, speed, yaw_rate):
    scene = Scene(cars, (), Light.YELLOW, 12.0)
    for text in (
        format_action(action),
        format_scene(scene),
        build_profile().ego_sentence(EgoState(0, speed, yaw_rate)),
    ):
        ids = encode(text)
        assert tokens.UNK not in ids
        assert tokens.build_tokenizer().decode(ids) == text


def test_an_action_is_six_tokens():
    assert len(encode("follow, acceleration -1.2 m/s2, steering +0.03 rad")) == 6


def test_soft_labels_are_distributions_around_the_label():
    table, vocabulary = tokens.soft_labels(), tokens.vocabulary()
    assert np.allclose(table.sum(1), 1, atol=1e-6)
    assert (table.argmax(1) == np.arange(len(table))).all()
    near, far = table[vocabulary["+0.4"], vocabulary["+0.6"]], table[vocabulary["+0.4"], vocabulary["+2.0"]]
    # Gaussian of 0.25 m/s2 at one step of 0.2: exp(-0.32) of the peak
    assert near / table[vocabulary["+0.4"], vocabulary["+0.4"]] == pytest.approx(np.exp(-0.32), rel=1e-4)
    assert far == 0


def test_a_batch_hides_the_action_from_the_scene_question():
    examples = [make_example(seed, CAMERA) for seed in (3, 4, 5)]
    batch = collate(examples)
    prefix = 1 + IMAGE_TOKENS + 5
    scene_start = batch.ids[0].tolist().index(tokens.vocabulary()[tokens.SCENE_QUESTION])
    assert batch.positions[prefix] == batch.positions[scene_start] == prefix
    assert not batch.mask[scene_start:, prefix:scene_start].any()
    assert batch.mask[scene_start:, :prefix].all()
    answered = batch.labels[0][batch.labels[0] != IGNORE].tolist()
    assert answered == examples[0].action + examples[0].scene


def test_patch_labels_lie_where_the_objects_are():
    snapshot = next(s for s in (sample_snapshot(seed, CAMERA) for seed in range(50)) if s.scene.light is Light.RED)
    example = scene_example(snapshot)
    light = len(snapshot.scene.cars) + len(snapshot.scene.pedestrians) + 1
    rows, columns = np.nonzero(snapshot.ids == light)
    patches = {(row // 16, column // 16) for row, column in zip(rows, columns, strict=True)}
    labelled = {tuple(place) for place in np.argwhere(example.patch_class == len(ObjectKind) + 1).tolist()}
    assert labelled
    assert labelled <= patches
    assert example.patch_class.shape == (GRID, GRID)


def test_training_and_evaluation_seeds_never_meet():
    from owled_ros.errors import OwledError
    from owled_ros.evaluation.rendered import evaluation_scenes

    with pytest.raises(OwledError, match="seeds below"):
        evaluation_scenes(10, TRAINING_SEEDS - 5)


def test_schedule_warms_up_stays_and_falls():
    config = TrainConfig(samples=32_000, batch_size=32, decay_share=0.25)  # 1000 steps, decay over the last 250
    assert schedule(0, config) == pytest.approx(1 / 200)
    assert schedule(500, config) == 1.0
    assert schedule(875, config) == pytest.approx(0.5)
    assert schedule(999, config) == pytest.approx(0.02)


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    import owled_ros.scenes.mini_model as mini_model

    for part in ("VISION_LAYERS", "TEXT_LAYERS"):  # what is saved and restored does not depend on the depth
        monkeypatch.setattr(mini_model, part, 1)
    whole = TrainConfig(samples=6, batch_size=2, loaders=0, decay_share=1.0)
    straight = dict(train(whole, tmp_path / "straight").named_parameters())

    class StopError(Exception):
        pass

    import owled_ros.scenes.mini_train as module

    original, saved = module.batches, []

    def stop_after_two(config, first):
        for count, batch in enumerate(original(config, first)):
            if count == 2:
                raise StopError
            yield batch

    module.batches = stop_after_two
    try:
        with pytest.raises(StopError):
            train(
                replace(whole, checkpoint_every_s=0.0),
                tmp_path / "cut",
            )
    finally:
        module.batches = original
    saved = json.loads((tmp_path / "cut" / "checkpoint" / "state.json").read_text())
    assert saved["step"] == 2
    resumed = dict(train(whole, tmp_path / "cut").named_parameters())
    assert all(torch.allclose(straight[name], resumed[name], atol=1e-6) for name in straight)


def test_batched_answers_equal_the_engine(tmp_path):
    from owled_ros.driving.engine import predict
    from owled_ros.driving.frame import Frame
    from owled_ros.models.driving_model import load_engine
    from owled_ros.scenes.mini_model import save_model

    model = build_model(7).eval()
    save_model(model, tmp_path / "m", build_profile(), "", torch.float32)
    engine = load_engine(tmp_path / "m", dtype="float32", runtime="torch")
    scenes = [sample_snapshot(seed, CAMERA) for seed in (1, 2)]
    batched = answer_images(model, [scene.image for scene in scenes], [scene.ego for scene in scenes])
    for scene, (action, description) in zip(scenes, batched, strict=True):
        prediction = predict(engine, Frame(scene.image, 0, scene.ego))
        assert prediction.action.generation.text == action.text
        assert prediction.scene.generation.text == description.text


def test_the_patch_head_is_not_part_of_the_model():
    module = MiniTraining(0)
    assert not any("patch_head" in name for name, _ in module.model.named_parameters())


def test_any_number_of_rendering_processes_gives_the_same_batches():
    found = []
    for loaders in (0, 1, 3):
        stream = batches(TrainConfig(batch_size=2, loaders=loaders), 6)  # from the fourth batch on
        found.append([next(stream) for _ in range(4)])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert all(
                torch.equal(
                    getattr(one, name),
                    value,
                )
                or name == "patch_distance"
                for name, value in vars(two).items()
            )
            torch.testing.assert_close(one.patch_distance, two.patch_distance, equal_nan=True, rtol=0, atol=0)
    alone = collate([make_example(TRAINING_SEEDS + 6 + index, CAMERA) for index in range(2)])
    assert torch.equal(found[0][0].images, alone.images)


def test_a_gpu_is_fed_by_every_core(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    assert renderers("cuda:0") == 16
    assert renderers("cpu") == 1


def test_rendering_processes_start_although_this_one_has_used_the_threads_of_opencv() -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 3)  # on all of them
        apart = next(batches(TrainConfig(batch_size=1, loaders=1, device="cpu"), 0))
        here = next(batches(TrainConfig(batch_size=1, loaders=0, device="cpu"), 0))
    finally:
        cv2.setNumThreads(threads)
    assert torch.equal(apart.ids, here.ids)
