"""The bundled model with trajectories and commands: the expert's path, its tokens, its training examples, taking up weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from owled_ros.commands._calibration import SCENE_SEEDS, scene_frames
from owled_ros.driving.answer import Light, Manoeuvre, ObjectKind
from owled_ros.driving.answers.kind import RawAnswer
from owled_ros.driving.ego import EgoState
from owled_ros.driving.engine import predict
from owled_ros.driving.frame import Frame
from owled_ros.driving.navigation import CommandKind, NavigationCommand
from owled_ros.driving.vehicle import VehicleParameters, VehicleState
from owled_ros.errors import OwledError
from owled_ros.models.processor import load_processor
from owled_ros.models.prompt import Prompter
from owled_ros.pruning.calibration import encode_answer
from owled_ros.scenes import mini_tokens as tokens
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.expert import expert_action
from owled_ros.scenes.expert_path import expert_path
from owled_ros.scenes.mini_data import IGNORE, collate, make_example, prefix_ids
from owled_ros.scenes.mini_export import FOLLOW
from owled_ros.scenes.mini_model import IMAGE_SIDE, IMAGE_TOKENS, build_model, build_profile, save_model, take_up
from owled_ros.scenes.sample import sample_snapshot
from owled_ros.scenes.stage import Seen, SeenObject
from owled_ros.scenes.turning import TURNS, Way
from owled_ros.scenes.world import World

CAMERA = Camera().resized(IMAGE_SIDE, IMAGE_SIDE)
SHARE = Path(__file__).resolve().parent.parent / "owled_ros" / "share"
MINI, MINI_TURNS = SHARE / "mini", SHARE / "mini_turns"


def town(way: Way, before_turn: float, speed: float) -> World:
    """Return an empty world so many metres before its first turn."""
    world = next(world for world in (World(seed, turns=True) for seed in range(40)) if world.stage.road.ways[0] is way)
    stage = world.stage
    for others in (stage.cars, stage.pedestrians, stage.lights, world._waiting):
        others.clear()  # type: ignore[attr-defined]
    stage.ego_s = stage.road.stop_lines[0] + TURNS[way].start - before_turn
    stage.ego = VehicleState(*stage.road.pose_at(stage.ego_s), speed)
    return world


@pytest.mark.parametrize("way", [Way.LEFT, Way.RIGHT])
def test_the_path_is_where_the_expert_drives(way: Way) -> None:
    world = town(way, 3.0, 4.5)
    start = world.stage.ego
    path = expert_path(world.stage, Seen())
    driven = []
    for step in range(30):
        action = expert_action(world.stage, Seen())
        world.step(action.acceleration, action.steering_tire_angle, 0.1)
        if step % 5 == 4:
            dx, dy = world.stage.ego.x - start.x, world.stage.ego.y - start.y
            cos, sin = math.cos(start.heading), math.sin(start.heading)
            driven.append((dx * cos + dy * sin, dy * cos - dx * sin))
    assert path == pytest.approx(np.array(driven), abs=0.05)  # the world takes two steps where the path takes one
    assert path[-1, 1] * way > 4.0


def test_the_path_stops_where_the_expert_would() -> None:
    stage = town(Way.LEFT, 60.0, 8.0).stage
    # bumper 11.9 m before the line that is 14 m before the camera: it stops 0.5 to 1.5 m short
    red = expert_path(stage, Seen(light=Light.RED, light_distance=20.0))
    assert 9.0 < red[-1, 0] < 11.9
    free = expert_path(stage, Seen())
    assert free[-1, 0] > 24.0
    # a car 20 m ahead keeps the ego's speed, or brakes to a stop within 64 / 5 = 12.8 m
    ahead = [
        expert_path(stage, Seen((SeenObject(ObjectKind.LEAD, 20.0, 0.0, braking),)))[-1, 0] for braking in (False, True)
    ]
    assert ahead[1] < ahead[0] <= free[-1, 0]


@given(
    st.lists(st.tuples(st.floats(-1, 60), st.floats(-20, 20)), min_size=6, max_size=6),
    st.sampled_from([manoeuvre for manoeuvre in Manoeuvre if manoeuvre]),
)
def test_every_path_is_said_in_whole_tokens_and_read_back(
    points: list[tuple[float, float]], manoeuvre: Manoeuvre
) -> None:
    text = tokens.path_text(manoeuvre, np.array(points))
    ids = tokens.build_tokenizer(True)(text, add_special_tokens=False).input_ids
    assert (len(ids), tokens.UNK in ids) == (13, False)
    assert tokens.build_tokenizer(True).decode(ids) == text
    plan = build_profile(paths=True).answer.make(Path()).parse(RawAnswer(text), EgoState(0, 5.0), VehicleParameters())
    assert plan is not None
    assert plan.manoeuvre is manoeuvre
    held = np.clip(np.array(points), (0.0, -16.0), (50.0, 16.0))
    assert np.abs(plan.trajectory.values[1:, 1:3] - held).max() <= 0.1001


def test_scenes_that_calibrate_the_model_are_answered_in_its_own_words(caplog: pytest.LogCaptureFixture) -> None:
    frames = list(scene_frames(MINI_TURNS, 12))[::2]
    scenes = [sample_snapshot(SCENE_SEEDS + index, CAMERA, index % 2 == 1, True) for index in range(12)]
    truths = [tokens.path_text(scene.action.manoeuvre, scene.path) for scene in scenes if scene.path is not None]
    assert [frame.answer for frame in frames] == truths
    assert any(scene.command is not None for scene in scenes)
    for frame, scene in zip(frames, scenes, strict=True):
        told = tokens.COMMAND_WORDS[(scene.command or FOLLOW).kind]
        assert str(frame.conversation.turns[0].parts[-1]).endswith(f"{told}path?")
    prompter = Prompter(load_processor(MINI_TURNS))
    assert tokens.UNK not in encode_answer(frames[0], prompter)["input_ids"]
    assert not caplog.records
    for _ in range(2):
        encode_answer(replace(frames[0], answer="stop [[1.23, 0.45]]"), prompter)
    assert [record.message for record in caplog.records] == [
        "the model has no token for a part of the answer 'stop [[1.23, 0.45]]' and reads <unk> there; expected an answer in its own "
        "words: where it has only some numbers, 'words' of the answer in driving.json names them"
    ]


def test_what_both_vocabularies_have_has_the_same_id() -> None:
    small, large = tokens.vocabulary(), tokens.vocabulary(True)
    assert len(small) == 357  # of the bundled model
    assert {word: large[word] for word in small} == small
    assert [tokens.knows_paths(len(words)) for words in (small, large)] == [False, True]
    with pytest.raises(OwledError, match="expected one of the bundled architecture"):
        tokens.knows_paths(300)


def test_no_question_sees_another_ones_answer() -> None:
    seeds = (20_000_003, 20_000_004, 20_000_005, 20_000_006)
    batch = collate([make_example(seed, CAMERA, paths=True) for seed in seeds])
    prefix = 1 + IMAGE_TOKENS + 6
    vocabulary = tokens.vocabulary(True)
    row = batch.ids[0].tolist()
    starts = [row.index(vocabulary[question]) for question in ("action?", "path?", "scene?")]
    assert starts[0] == prefix
    assert [int(batch.positions[start]) for start in starts] == [prefix] * 3
    for start in starts[1:]:
        assert not batch.mask[start:, prefix:start].any()
        assert batch.mask[start:, :prefix].all()
    assert (batch.labels[:, starts] == IGNORE).all()
    assert all(label in (IGNORE, own) for label, own in zip(batch.labels[0].tolist(), row, strict=True))


def test_a_command_is_one_token_and_examples_say_it() -> None:
    ego = EgoState(0, 4.0)
    plain = prefix_ids(ego)
    told = {kind: prefix_ids(ego, NavigationCommand(kind)) for kind in tokens.COMMAND_WORDS}
    assert all(ids[:-1] == plain for ids in told.values())
    assert len({ids[-1] for ids in told.values()}) == 4
    snapshot = next(
        shot
        for shot in (sample_snapshot(seed, CAMERA, True, True) for seed in range(30))
        if shot.command and shot.command.distance
    )
    assert snapshot.path is not None
    assert snapshot.path.shape == (6, 2)


def test_weights_are_taken_up_and_new_tokens_begin_at_their_scale(tmp_path: Path) -> None:
    model = build_model(3, paths=True)
    before = model.get_input_embeddings().weight.detach().clone()
    take_up(model, MINI)
    from safetensors.torch import load_file

    stored = load_file(MINI / "model.safetensors")
    known = next(value for name, value in stored.items() if name.endswith("embed_tokens.weight")).float()
    now = model.get_input_embeddings().weight.detach()
    assert torch.equal(now[:357], known)
    assert float(now[357:].std()) == pytest.approx(float(known.std()), rel=1e-4)
    assert torch.allclose(now[357:] / now[357:].norm(), before[357:] / before[357:].norm())
    save_model(model, tmp_path / "larger", build_profile(paths=True), "")
    with pytest.raises(OwledError, match="another architecture"):
        take_up(build_model(3), tmp_path / "larger")
    with pytest.raises(OwledError, match="cannot be taken up"):
        take_up(model, tmp_path)


def test_batched_paths_equal_the_engine(tmp_path: Path) -> None:
    from owled_ros.models.driving_model import load_engine
    from owled_ros.scenes.mini_answer import answer_images, answer_paths

    model = build_model(7, paths=True).eval()
    save_model(model, tmp_path / "m", build_profile(paths=True), "", torch.float32)
    engine = load_engine(tmp_path / "m", device="cpu")
    shots = [sample_snapshot(seed, CAMERA, True, True) for seed in (1, 2)]
    commands = [NavigationCommand(CommandKind.LEFT), NavigationCommand(CommandKind.FOLLOW_LANE)]
    images, egos = [shot.image for shot in shots], [shot.ego for shot in shots]
    answers = answer_paths(model, images, egos, commands)
    for shot, command, answer in zip(shots, commands, answers, strict=True):
        said = predict(engine, Frame(shot.image, 0, shot.ego, command=command), describe=False).action.generation
        assert (answer.text, answer.complete, answer.tokens) == (said.text, said.complete, said.tokens)
    assert len(answer_images(model, images, egos)) == 2
    engine.close()
    with pytest.raises(OwledError, match="without paths"):
        answer_paths(build_model(7).eval(), images, egos, commands)


def test_trajectories_are_scored_beside_holding_the_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    from owled_ros.driving.prediction import Generation
    from owled_ros.evaluation import rendered_paths

    scenes = rendered_paths.path_scenes(24)
    truths = [tokens.path_text(scene.action.manoeuvre, scene.path) for scene in scenes]  # type: ignore[arg-type]
    truths[0] = "unknown"

    def oracle(_model, _images, _egos, commands, *_rest):  # type: ignore[no-untyped-def]
        follows = all(command is rendered_paths.FOLLOW for command in commands)
        return [Generation("unknown" if follows else text, True, 1.0, 13, 0.0) for text in truths]

    monkeypatch.setattr(rendered_paths, "answer_paths", oracle)
    scores = rendered_paths.evaluate_paths(None, MINI, scenes)
    model = scores["model"]
    assert model.answered == pytest.approx(23 / 24)
    assert max(model.ade, model.fde, model.turning_ade) < 0.1  # steps of 0.1 and 0.2 m
    assert model.turning >= 1
    assert scores["model, told to follow"].answered == 0.0
    assert math.isnan(scores["model, told to follow"].ade)
    assert 0.3 < scores["hold"].ade < scores["hold"].fde
    assert scores["constant velocity"].turning_ade > 1.0
    with pytest.raises(OwledError, match="seeds below"):
        rendered_paths.path_scenes(5, 10_000_000 - 2)
