"""`owled calibrate`: what is good, worked by hand; what is fitted; and that a model directory is whole before and after."""

import itertools
import math
import shutil

import numpy as np
import pytest
import torch
import typer
from recorded_drives import make_bag
from stored_artifacts import make_artifact
from typer.testing import CliRunner

from owled_ros.commands import calibrate as command
from owled_ros.driving import asking
from owled_ros.driving.answer import Action
from owled_ros.driving.confidence import Calibration
from owled_ros.driving.familiarity import read_familiarity
from owled_ros.driving.prediction import ActionAnswer, Generation, Reason
from owled_ros.driving.presets import preset
from owled_ros.driving.profile import PROFILE_NAME, default_profile, profile_text, read_profile
from owled_ros.driving.trajectory import Trajectory
from owled_ros.errors import OwledError
from owled_ros.evaluation.record import Truth
from owled_ros.files import write_atomic
from owled_ros.models import chat
from owled_ros.models.manifest import artifact_id, file_entry, read_manifest, verify, write_manifest
from owled_ros.recalibration import calibrating
from owled_ros.recalibration.calibrating import FitRequest, FitResult, fit_confidence, write_confidence
from owled_ros.recalibration.confidence_fit import Judged, fit, is_good, judge
from owled_ros.scenes.mini_model import build_model, build_profile, save_model

FITTED = Calibration(slope=0.5, offset=1.0, floor=0.4, calibrated=True, source="5 answers")
RESULT = FitResult(FITTED, None, {"answers": 5}, ["a note"])


def answer(action=None, places=()):
    rows = [(0.5 * step, x, y, 0.0, 8.0, 0.0, 0.0) for step, (x, y) in enumerate(places)]
    trajectory = Trajectory(np.array(rows)) if rows else None
    valid = action is not None or trajectory is not None
    return ActionAnswer(
        Generation("", True, 0.5, 1, 0.0), action, Reason.VALID if valid else Reason.UNPARSED, trajectory=trajectory
    )


@pytest.mark.parametrize(
    ("acceleration", "steering", "truth", "good"),
    [
        (0.9, 0.02, Truth(acceleration=0.0, steering=0.0), True),
        (1.1, 0.02, Truth(acceleration=0.0, steering=0.0), False),
        (0.9, 0.04, Truth(acceleration=0.0, steering=0.0), False),
        (0.9, 0.04, Truth(acceleration=0.0), True),  # standing: the tires may point anywhere
        (0.9, 0.04, Truth(), None),
    ],
)
def test_an_action_is_good_within_1_mps2_and_003_rad(acceleration, steering, truth, good):
    assert is_good(answer(Action(acceleration, steering)), truth, "line", Calibration(), 2.8) is good


def test_a_path_is_good_within_its_mean_distance():
    # 4 m further every half second; the truth lies 0, 0.5, 1, 1.5 m beside it in the first 2 s: 0.75 m on average, later 9 m
    places = [(4.0 * step, 0.0) for step in range(7)]
    path = tuple((0.5 * step, 4.0 * step, 0.5 * (step - 1), 0.0, 8.0) for step in range(1, 5))
    truth = Truth(path=(*path, (2.5, 20.0, 9.0, 0.0, 8.0)))
    for tolerance, good in ((0.76, True), (0.74, False)):
        calibration = Calibration(displacement_tolerance=tolerance)
        assert is_good(answer(places=places), truth, "points", calibration, 2.8) is good
    assert is_good(answer(places=places), Truth(), "points", Calibration(), 2.8) is None
    assert is_good(answer(), truth, "points", Calibration(), 2.8) is False


def answers(count, good, raw=0.9, valid=True):
    return [Judged(raw, valid, good)] * count


def test_what_says_too_little_is_refused():
    enough = answers(15, True) + answers(15, False, 0.2)
    for fitted, held in ((answers(19, True), enough), (enough, answers(19, True) + answers(50, False, valid=False))):
        with pytest.raises(OwledError, match="at least 20"):
            fit(fitted, held, Calibration(), 0.5)
    with pytest.raises(OwledError, match="should not drive"):
        fit(answers(30, False), enough, Calibration(), 0.5)


def test_the_confidence_is_judged_on_held_out_answers():
    fitted = answers(30, True, 0.9) + answers(30, False, 0.3)
    calibration = fit(fitted, fitted, Calibration(), 0.5)
    assert calibration.calibrated
    assert calibration.apply(0.9) > 0.9
    assert calibration.apply(0.3) < 0.1
    held = [Judged(0.9, True, True), Judged(0.9, True, True, 0.1), Judged(0.3, True, False), Judged(0.0, False, False)]
    numbers = judge(calibration, fitted, held)
    high, low = calibration.apply(0.9), calibration.apply(0.3)
    # the second image is not familiar: its confidence is a tenth
    assert numbers["brier"] == pytest.approx(((1 - high) ** 2 + (1 - 0.1 * high) ** 2 + low**2) / 3, abs=1e-4)
    assert numbers["brier_constant"] == pytest.approx(0.25)
    assert (numbers["kept_share"], numbers["good_share_kept"]) == (pytest.approx(1 / 3, abs=1e-4), 1.0)
    assert (numbers["held_out_answers"], numbers["held_out_frames"]) == (3, 4)


@pytest.fixture
def artifact(tmp_path):
    path = make_artifact(tmp_path / "artifact")
    write_atomic(path / PROFILE_NAME, profile_text(build_profile()))
    manifest = read_manifest(path)
    files = {**manifest.files, PROFILE_NAME: file_entry(path / PROFILE_NAME)}
    write_manifest(path, manifest.model_copy(update={"files": files}))
    return path


def test_an_artifact_stays_whole_and_keeps_its_name(artifact):
    before = artifact_id(verify(artifact))
    write_confidence(artifact, RESULT)
    manifest = verify(artifact)
    assert artifact_id(manifest) == before
    assert read_profile(artifact).confidence == FITTED
    assert manifest.confidence["fitted"]["answers"] == 5
    write_confidence(artifact, RESULT)  # again, as after more drives
    verify(artifact)
    (artifact / PROFILE_NAME).write_text(profile_text(build_profile()))
    with pytest.raises(OwledError, match="does not match its hash"):
        verify(artifact)


def test_a_failed_writer_leaves_the_artifact_as_it_was(artifact, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibrating, "add_section", full)
    with pytest.raises(OwledError, match="No space left"):
        write_confidence(artifact, RESULT)
    verify(artifact)
    assert not read_profile(artifact).confidence.calibrated
    assert [child.name for child in artifact.parent.iterdir()] == ["artifact"]


def test_a_damaged_artifact_is_not_calibrated(artifact):
    (artifact / "model.safetensors").write_bytes(b"x" * 64)
    with pytest.raises(OwledError, match="does not match its hash"):
        write_confidence(artifact, RESULT)


def test_a_section_cannot_hide_other_files(artifact):
    """Only the files that calibration writes may differ from what was pruned."""
    weights = artifact / "model.safetensors"
    weights.write_bytes(b"y" * 64)
    files = {"model.safetensors": file_entry(weights).model_dump()}
    write_manifest(artifact, read_manifest(artifact).model_copy(update={"confidence": {"files": files}}))
    with pytest.raises(OwledError, match="does not match its hash"):
        verify(artifact)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrate") / "random"
    save_model(build_model(3), path, build_profile(), "random weights\n", torch.float32)
    return path


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return make_bag(tmp_path_factory.mktemp("calibrate_bags") / "bag", images=130, drives=3)


def drives_with(replies, monkeypatch):
    """Let the model say lines in turn: (acceleration, raw score); the bag's truth is 1.0 m/s2 and 0.02 rad."""
    said = itertools.cycle(replies)

    def reply(*_):
        acceleration, raw = next(said)
        text = f"cruise, acceleration {acceleration:+.1f} m/s2, steering +0.02 rad"
        return chat.Reply(text, (5, 6), True, (0.0,), math.log(raw), 0.01)

    monkeypatch.setattr(chat.Chat, "reply", reply)


def run(*words):
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, list(map(str, words)))


def test_a_model_is_calibrated_on_drives(model, bag, tmp_path, monkeypatch):
    place = tmp_path / "model"
    shutil.copytree(model, place)
    drives_with([(1.0, 0.9), (1.2, 0.8), (-4.0, 0.3), (1.0, 0.7), (-3.0, 0.4)], monkeypatch)
    done = run(place, bag, "--frames", 60, "--dry-run")
    assert done.exit_code == 0, done.output
    assert not read_profile(place).confidence.calibrated
    done = run(place, bag, "--frames", 60, "--floor", 0.6)
    assert done.exit_code == 0, done.output
    fitted = read_profile(place).confidence
    assert fitted.calibrated
    assert fitted.floor == 0.6
    assert fitted.apply(0.8) > 0.8 > 0.2 > fitted.apply(0.35)
    assert "held-out drives" in fitted.source
    assert read_familiarity(place) is not None
    assert "60.0%" in done.output  # 3 of 5 answers are good


def test_a_model_that_is_always_wrong_is_not_calibrated(model, bag, monkeypatch):
    drives_with([(-5.0, 0.9)], monkeypatch)
    with pytest.raises(OwledError, match="should not drive"):
        fit_confidence(FitRequest(model, [bag], frames=40, familiar_images=0))


def test_a_model_without_the_form_is_not_asked_on(model, bag, monkeypatch):
    asked = []

    def reply(*_):
        asked.append(1)
        return chat.Reply("a road", (5, 6), True, (0.0,), -0.1, 0.01)

    monkeypatch.setattr(chat.Chat, "reply", reply)
    with pytest.raises(OwledError, match=r"0 of the first 16 answers .* are in its form"):
        fit_confidence(FitRequest(model, [bag], frames=60, familiar_images=0))
    assert len(asked) == 16
    with pytest.raises(OwledError, match=r"0 of .* answers to fit on are usable"):
        fit_confidence(FitRequest(model, [bag], frames=60, familiar_images=0, go_on=True))


def test_images_that_are_too_low_have_no_familiarity(model, bag, monkeypatch):
    """Four halvings leave 2 of 32 rows, none for a third of them."""
    drives_with([(1.0, 0.9), (-4.0, 0.3)], monkeypatch)
    monkeypatch.setattr(asking, "main_image", lambda *_: np.zeros((32, 80, 3), np.uint8))
    result = fit_confidence(FitRequest(model, [bag], frames=40, familiar_images=300))
    assert result.familiarity is None
    assert any("images 32 px high, 33 are needed" in note for note in result.notes)


def test_one_drive_is_refused_or_cut(model, tmp_path, monkeypatch):
    bag = make_bag(tmp_path / "bag", images=200)
    drives_with([(1.0, 0.9), (-4.0, 0.3)], monkeypatch)
    with pytest.raises(OwledError, match="cut-single-drive"):
        fit_confidence(FitRequest(model, [bag], frames=40, familiar_images=0))
    result = fit_confidence(FitRequest(model, [bag], frames=40, familiar_images=0, cut_single=True))
    assert any("one drive only" in note for note in result.notes)
    assert result.familiarity is None


def test_heads_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / PROFILE_NAME).write_text(profile_text(preset("head")))
    with pytest.raises(OwledError, match="no token probabilities"):
        fit_confidence(FitRequest(tmp_path, []))


def test_what_is_not_calibrated_says_so():
    assert not default_profile().confidence.calibrated
