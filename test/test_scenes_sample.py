"""Snapshots and out-of-distribution images: same seed, same image; labels that fit the grammar; a mix worth learning from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from owled_ros.driving.answer import Light, ObjectKind, format_action, format_scene, parse_action, parse_scene
from owled_ros.scenes.camera import Camera
from owled_ros.scenes.out_of_distribution import KINDS, out_of_distribution_image, spectral_noise
from owled_ros.scenes.sample import Snapshot, sample_snapshot

CAMERA = Camera().resized(192, 192)


@pytest.fixture(scope="module")
def snapshots() -> list[Snapshot]:
    return [sample_snapshot(seed, CAMERA) for seed in range(160)]


def test_a_seed_is_a_moment_at_every_size(snapshots: list[Snapshot]) -> None:
    again = sample_snapshot(7, CAMERA)
    assert (again.image == snapshots[7].image).all()
    assert again.ego == snapshots[7].ego
    large = sample_snapshot(7, Camera().resized(320, 240))
    assert large.image.shape == (240, 320, 3)
    assert large.ids.shape == large.road.shape == (240, 320)
    assert (large.scene, large.action, large.ego) == (again.scene, again.action, again.ego)


def test_labels_pass_through_the_grammar(snapshots: list[Snapshot]) -> None:
    for snapshot in snapshots:
        scene = parse_scene(format_scene(snapshot.scene))
        assert len(scene.cars) == len(snapshot.scene.cars)
        assert scene.light is snapshot.scene.light
        action = parse_action(format_action(snapshot.action))
        assert action is not None
        assert action.acceleration == pytest.approx(snapshot.action.acceleration, abs=0.101)


def test_ids_match_the_scene(snapshots: list[Snapshot]) -> None:
    for snapshot in snapshots:
        count = len(snapshot.scene.cars) + len(snapshot.scene.pedestrians) + (snapshot.scene.light is not Light.NONE)
        assert set(np.unique(snapshot.ids)) - {0} == set(range(1, count + 1))
        for objects in (snapshot.scene.cars, snapshot.scene.pedestrians):
            distances = [item.distance for item in objects]
            assert distances == sorted(distances)


def test_the_mix_has_enough_of_everything(snapshots: list[Snapshot]) -> None:
    lights = Counter(snapshot.scene.light for snapshot in snapshots)
    kinds = Counter(item.kind for snapshot in snapshots for item in (*snapshot.scene.cars, *snapshot.scene.pedestrians))
    total = len(snapshots)
    assert all(lights[light] > 0.06 * total for light in (Light.NONE, Light.RED, Light.YELLOW, Light.GREEN))
    assert min(kinds[kind] for kind in ObjectKind if kind is not ObjectKind.UNKNOWN) > 4
    acceleration = np.array([snapshot.action.acceleration for snapshot in snapshots])
    assert 0.2 < (acceleration < -1).mean() < 0.7
    steering = np.array([snapshot.action.steering_tire_angle for snapshot in snapshots])
    assert steering.std() > 0.04
    assert 0.25 < (steering > 0).mean() < 0.75


def test_the_yaw_rate_does_not_tell_the_steering(snapshots: list[Snapshot]) -> None:
    steering = [snapshot.action.steering_tire_angle for snapshot in snapshots]
    assert abs(np.corrcoef(steering, [snapshot.ego.yaw_rate for snapshot in snapshots])[0, 1]) < 0.35


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_distribution_images_differ(kind: str) -> None:
    first, again, other = (out_of_distribution_image(seed, (64, 48), kind) for seed in (1, 1, 2))
    assert first.shape == (48, 64, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any()


def test_out_of_distribution_images_need_no_kind() -> None:
    assert out_of_distribution_image(3, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_has_the_spectrum_asked_for(exponent: float) -> None:
    noise = spectral_noise(np.random.default_rng(0), (256, 256), exponent)
    power = np.abs(np.fft.fft2(noise)) ** 2
    radius = np.hypot(np.fft.fftfreq(256)[:, None] * 256, np.fft.fftfreq(256)[None, :] * 256)
    low, high = ((radius > 8) & (radius < 12)), ((radius > 76) & (radius < 84))
    slope = np.log(power[low].mean() / power[high].mean()) / np.log(80 / 10)  # power falls as 1/f^(2 exponent)
    assert slope == pytest.approx(2 * exponent, abs=0.25)
