"""Drives, strata and splits, worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_drives import EGO_PERIOD, START, make_bag

from owled_ros.bags.frames import read_samples
from owled_ros.bags.selection import fair_quotas, read_selected, select_frames, split_by_drive, strata_of
from owled_ros.bags.summary import FrameIndex, bag_digest, summarise_bag
from owled_ros.errors import OwledError


def index_of(speed: list[float], yaw_rate: list[float], light: list[int]) -> FrameIndex:
    count = len(speed)
    numbers = np.arange(count)
    return FrameIndex(
        numbers * 100, numbers, np.zeros(count, int), np.array(speed), np.array(yaw_rate), np.array(light)
    )


def test_summary_counts_drives_and_lights(tmp_path):
    summary = summarise_bag(make_bag(tmp_path / "bag", images=5, drives=3))
    assert [drive.images for drive in summary.drives] == [5, 5, 5]
    assert summary.duration_s == pytest.approx(1.2)  # three times four periods of 0.1 s
    assert set(summary.frames.light) == {2}
    assert summary.frames.speed[:5] == pytest.approx([5.0, 5.1, 5.2, 5.3, 5.4])
    assert len({drive.digest for drive in summary.drives}) == 3
    drives = [sample.drive for sample in read_samples(tmp_path / "bag")]
    assert drives == summary.frames.drive.tolist()


def test_digest_of_a_drive_survives_another_storage(tmp_path):
    one = summarise_bag(make_bag(tmp_path / "one"))
    two = summarise_bag(make_bag(tmp_path / "two", storage="sqlite3", compression="message"))
    assert one.drives[0].digest == two.drives[0].digest
    assert bag_digest(tmp_path / "one") != bag_digest(tmp_path / "two")


def test_rare_situations_are_chosen_before_more_of_the_same():
    # 96 images straight at 20 m/s, two standing at a red light, two in a left turn
    index = index_of([20.0] * 96 + [0.0, 0.0, 6.0, 6.0], [0.0] * 98 + [0.2, 0.2], [1] * 96 + [2, 2, 1, 1])
    chosen = select_frames(index, 10, seed=3)
    assert {96, 97, 98, 99} <= set(chosen.tolist())
    assert len(set(chosen.tolist())) == 10
    assert np.ptp(chosen[:6]) > 60  # the six others are spread over the drive, not the first six


def test_selection_is_deterministic_and_the_seed_matters():
    index = index_of([10.0] * 200, [0.0] * 200, [1] * 200)
    assert select_frames(index, 20, 1).tolist() == select_frames(index, 20, 1).tolist()
    assert select_frames(index, 20, 1).tolist() != select_frames(index, 20, 2).tolist()


def test_images_without_ego_motion_are_not_chosen():
    index = index_of([10.0, np.nan, 10.0], [0.0, 0.0, 0.0], [1, 1, 1])
    assert select_frames(index, 3).tolist() == [0, 2]
    with pytest.raises(OwledError, match="no image with ego motion"):
        select_frames(index, 3, among=np.array([False, True, False]))


def test_strata_separate_speed_turn_and_light():
    index = index_of([0.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.1, 0.1], [1, 1, 1, 2])
    assert len(set(strata_of(index).tolist())) == 4


def test_quotas_fill_up_from_the_large_groups():
    assert fair_quotas([2, 100, 100], 20) == [2, 9, 9]
    assert fair_quotas([1, 1], 10) == [1, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 200))
def test_quotas_add_up_and_fit(sizes, count):
    quotas = fair_quotas(sizes, count)
    assert sum(quotas) == min(count, sum(sizes))
    assert all(quota <= size for quota, size in zip(quotas, sizes, strict=True))


def test_split_keeps_drives_and_their_copies_together(tmp_path):
    bags = [summarise_bag(make_bag(tmp_path / name, images=6, drives=4)) for name in ("one", "copy")]
    split = split_by_drive(bags, gate_share=0.5, seed=0)
    assert not split.shared_drive
    for bag, calibration, gate in zip(bags, split.calibration, split.gate, strict=True):
        assert (calibration ^ gate).all()
        assert set(bag.frames.drive[calibration]).isdisjoint(bag.frames.drive[gate])
        assert gate.sum() == 12
    assert (split.gate[0] == split.gate[1]).all()


def test_a_single_drive_is_refused_or_cut_with_a_guard(tmp_path):
    bags = [summarise_bag(make_bag(tmp_path / "bag", images=100))]
    with pytest.raises(OwledError, match="a drive each"):
        split_by_drive(bags)
    split = split_by_drive(bags, cut_single=True)
    assert split.shared_drive
    # 9.9 s: the gate is 30 % less half of the guard of 0.99 s, the calibration ends half a guard before the cut
    assert (split.calibration[0].sum(), split.gate[0].sum()) == (65, 25)


def test_selected_images_are_read_back(tmp_path):
    path = make_bag(tmp_path / "bag")
    chosen = select_frames(summarise_bag(path).frames, 3)
    assert [sample.index for sample in read_selected(path, chosen)] == chosen.tolist()


def test_ego_track_holds_the_whole_motion(tmp_path):
    (track,) = summarise_bag(make_bag(tmp_path / "bag")).tracks
    assert len(track.stamps) == 50
    assert track.stamps[1] - track.stamps[0] == EGO_PERIOD
    assert track.stamps[0] == START
    assert track.speed[[0, 25]] == pytest.approx([5.0, 5.5])
    assert track.yaw_rate == pytest.approx(np.full(50, 0.1))


def test_bag_without_images_is_refused(tmp_path: Path):
    with pytest.raises(OwledError, match="does not exist"):
        summarise_bag(tmp_path / "none")
