"""Every kind of metric computed once more from result.jsonl alone, with nothing of the package: json, math, numpy.

The definitions are those of docs/evaluation.md. Whoever doubts a verdict can do the same.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from fake_driver import spec
from recorded_drives import IMAGE_PERIOD, MILLISECOND, START, image

from owled_ros.bags.write import BagWriter
from owled_ros.driving.frame import EgoState
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.scenario import Scenario

WHEEL_BASE, MOST_STEERING, MOST_THROTTLE, MOST_BRAKE = 2.8, 0.6, 2.0, 6.0  # the default vehicle
GOOD = (1.0, 0.03)  # m/s2, rad
IMAGES = 120


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The lines of a result: twelve seconds of going faster and slower through bends, a model that answers wildly."""
    home = tmp_path_factory.mktemp("recomputed")
    with BagWriter(home / "bag") as bag:
        for step in range(IMAGES * 5 + 1):
            stamp = START + step * 20 * MILLISECOND
            seconds = step * 0.02
            bag.odometry(stamp, EgoState(stamp, 8.0 + 3.0 * math.sin(seconds), 0.2 * math.sin(0.7 * seconds)))
            if step % 5 == 0 and step < IMAGES * 5:
                bag.image(START + step // 5 * IMAGE_PERIOD, image(step // 5), encoding="rgb8")
    (result,) = evaluate(
        EvaluationRequest([home / "bag"], [spec("wild")], home / "out", Scenario(), camera_test_frames=0)
    )
    return [json.loads(line) for line in result.path.read_text().splitlines()]


@pytest.fixture(scope="module")
def frames(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["Frame"] for line in lines[2:-1]]


@pytest.fixture(scope="module")
def verdict(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return lines[-1]["Frame"]["Verdict"]


def area(values: np.ndarray, step: float) -> float:
    """Integrate by trapezoids; NumPy 1.26 and 2 have no common name for it."""
    return float((values[1:] + values[:-1]).sum() * step / 2)


def both(frames: list[dict[str, Any]], part: str) -> list[tuple[float, float]]:
    pairs = [(frame["Answer"][part], frame["Truth"][part]) for frame in frames]
    return [(said, true) for said, true in pairs if said is not None and true is not None]


def test_the_result_holds_something_to_recompute(frames: list[dict[str, Any]]) -> None:
    assert len(frames) == IMAGES
    assert {frame["Answer"]["Reason"] for frame in frames} == {"VALID", "UNPARSED"}
    reach = [frame["Truth"]["Path"][-1][0] if frame["Truth"]["Path"] else 0.0 for frame in frames]
    assert sum(seconds >= 3.0 for seconds in reach) == 91  # the last 2.9 s have no three seconds ahead


def test_errors_of_the_action(frames: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    means = verdict["means"]
    acceleration, steering = both(frames, "Acceleration"), both(frames, "Steering")
    assert means["acceleration_mae_mps2"] == pytest.approx(np.mean([abs(a - b) for a, b in acceleration]))
    assert verdict["acceleration_bias_mps2"] == pytest.approx(np.mean([a - b for a, b in acceleration]))
    assert means["steering_mae_rad"] == pytest.approx(np.mean([abs(a - b) for a, b in steering]))
    filled = [
        abs((frame["Answer"]["Acceleration"] or 0.0) - frame["Truth"]["Acceleration"])
        for frame in frames
        if frame["Truth"]["Acceleration"] is not None
    ]
    assert means["acceleration_filled_mae_mps2"] == pytest.approx(np.mean(filled))

    def pedal(value: float) -> float:
        return float(np.clip(value / (MOST_THROTTLE if value > 0 else MOST_BRAKE), -1, 1))

    assert means["E_lon"] == pytest.approx(np.mean([abs(pedal(a) - pedal(b)) for a, b in acceleration]))
    assert means["E_lat"] == pytest.approx(np.mean([abs(a - b) / MOST_STEERING for a, b in steering]))
    rates = verdict["answers"]
    assert rates["parse_share"] == np.mean([frame["Answer"]["Reason"] != "UNPARSED" for frame in frames])
    texts = [frame["Answer"]["Text"] for frame in frames if frame["Answer"]["Reason"] == "VALID"]
    assert rates["unique_share"] == len(set(texts)) / len(texts)


def test_truth_is_the_motion_of_the_bag(frames: list[dict[str, Any]]) -> None:
    # speed 8 + 3 sin t: over the next half second it rises by the slope of the straight line through it
    for number in (0, 13, 77):
        seconds = np.linspace(0, 0.5, 26) + number / 10
        slope = np.polyfit(seconds, 8.0 + 3.0 * np.sin(seconds), 1)[0]
        assert frames[number]["Truth"]["Acceleration"] == pytest.approx(slope, abs=1e-5)
        course = np.linspace(0, 1, 10001) + number / 10
        yaw = np.cumsum(0.2 * np.sin(0.7 * course)) * 1e-4
        speed = 8.0 + 3.0 * np.sin(course)
        x, y = area(speed * np.cos(yaw), 1e-4), area(speed * np.sin(yaw), 1e-4)
        expected = [1.0, x, y, yaw[-1], speed[-1]]
        assert frames[number]["Truth"]["Path"][1] == pytest.approx(expected, abs=2e-3)


def test_paths(frames: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    errors, sideways = [], []
    for frame in frames:
        answer, path = frame["Answer"], frame["Truth"]["Path"]
        if path is None or path[-1][0] < 3.0 or answer["Acceleration"] is None:
            continue
        x = y = yaw = 0.0
        speed = frame["Ego"]["Speed"]
        found = []
        for step in range(1, 3001):  # the bicycle in steps of a millisecond
            faster = max(speed + answer["Acceleration"] * 1e-3, 0.0)
            middle = (speed + faster) / 2
            turned = yaw + middle * math.tan(answer["Steering"]) / WHEEL_BASE * 1e-3
            x += middle * math.cos((yaw + turned) / 2) * 1e-3
            y += middle * math.sin((yaw + turned) / 2) * 1e-3
            speed, yaw = faster, turned
            if step % 500 == 0:
                _, true_x, true_y, heading, _ = path[step // 500 - 1]
                found.append(math.dist((x, y), (true_x, true_y)))
                sideways.append(abs(math.cos(heading) * (y - true_y) - math.sin(heading) * (x - true_x)))
        errors.append(found)
    table = np.array(errors)
    means = verdict["means"]
    assert len(table) == verdict["counted_frames"]["path_ade_3s_m"] > 80
    assert means["path_ade_3s_m"] == pytest.approx(table.mean(), rel=1e-3)
    assert means["path_fde_3s_m"] == pytest.approx(table[:, 5].mean(), rel=1e-3)
    assert means["miss_share"] == pytest.approx((table[:, 5] > 2.0).mean())
    assert means["path_lateral_m"] == pytest.approx(np.mean(sideways), rel=1e-3)


def test_brake_onsets(frames: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    def onsets(part: str) -> list[float]:
        found, before = [], None
        for frame in frames:
            value = frame[part]["Acceleration"]
            if value is None:
                continue
            if before is not None and before >= -1.0 > value:
                found.append(frame["StampNs"] / 1e9)
            before = value
        return found

    true, said = onsets("Truth"), onsets("Answer")
    left, matched = list(said), 0
    for stamp in true:
        near = sorted((abs(other - stamp), other) for other in left if abs(other - stamp) <= 1.0)
        if near:
            left.remove(near[0][1])
            matched += 1
    assert len(true) == 2  # 3 cos t falls below -1 twice in twelve seconds
    found = verdict["brake_onset"]
    assert (found["true_onsets"], found["answered_onsets"], found["matched"]) == (2, len(said), matched)
    assert (found["precision"], found["recall"]) == (matched / len(said), matched / 2)


def test_confidence(frames: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    confidence, good = [], []
    for frame in frames:
        answer, truth = frame["Answer"], frame["Truth"]
        if answer["Acceleration"] is None or truth["Acceleration"] is None:
            continue
        confidence.append(answer["Confidence"])
        right = abs(answer["Acceleration"] - truth["Acceleration"]) <= GOOD[0]
        good.append(right and (truth["Steering"] is None or abs(answer["Steering"] - truth["Steering"]) <= GOOD[1]))
    p, hit = np.array(confidence), np.array(good)
    assert verdict["means"]["good_action_share"] == pytest.approx(hit.mean())
    bins = np.floor(p * 10).astype(int)
    ece = sum((bins == b).mean() * abs(p[bins == b].mean() - hit[bins == b].mean()) for b in np.unique(bins))
    pairs = [(a > b) + 0.5 * (a == b) for a in p[hit] for b in p[~hit]]
    found = verdict["confidence"]
    assert found["frames"] == len(p)
    assert found["ece"] == pytest.approx(ece)
    assert found["auroc"] == pytest.approx(np.mean(pairs))
    assert found["brier"] == pytest.approx(np.mean((p - hit) ** 2))


def test_trivial_answers(frames: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    known = [frame for frame in frames if frame["Truth"]["Acceleration"] is not None]
    true = np.array([frame["Truth"]["Acceleration"] for frame in known])
    held = verdict["baselines"]["hold"]["acceleration_mae_mps2"]
    assert held == pytest.approx(np.abs(true).mean())
    assert verdict["baselines"]["constant"]["acceleration_mae_mps2"] == pytest.approx(
        np.abs(true - np.median(true)).mean(), abs=1e-6
    )
