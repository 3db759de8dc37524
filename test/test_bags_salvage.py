"""Damaged bags: what is whole is read, the rest is reported."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_drives import image, make_bag

from owled_ros.bags.frames import ReadStatistics, read_frames, read_samples
from owled_ros.bags.storage import find_bag, list_topics, stream_messages
from owled_ros.errors import OwledError


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """Storage files of 60 images of 64x36 (about 0.5 MB) and one with chunks that are compressed."""
    folder = tmp_path_factory.mktemp("whole")
    plain = make_bag(folder / "plain", images=200)
    packed = make_bag(folder / "packed", images=200, compression="chunk")
    rows = make_bag(folder / "rows", images=60, storage="sqlite3")
    return {
        "plain": (plain / "plain.mcap").read_bytes(),
        "packed": (packed / "packed.mcap").read_bytes(),
        "rows": (rows / "rows.db3").read_bytes(),
    }


def count(path: Path) -> int:
    return sum(1 for _ in stream_messages(find_bag(path), lambda connection: True))


@pytest.mark.parametrize("kind", ["plain", "packed"])
def test_mcap_without_its_end_gives_every_message(tmp_path, whole, kind):
    file = tmp_path / "cut.mcap"
    file.write_bytes(whole[kind])
    everything = count(file)
    file.write_bytes(whole[kind][:-20])
    assert count(file) == everything
    assert sum(topic.count for topic in list_topics(find_bag(file))) == everything


def test_mcap_cut_in_the_middle_of_a_chunk_gives_what_is_before(tmp_path, whole):
    file = tmp_path / "cut.mcap"
    data = whole["plain"]
    file.write_bytes(data[: len(data) // 2])
    statistics = ReadStatistics()
    frames = [sample.frame for sample in read_samples(file, statistics=statistics)]
    assert 70 <= len(frames) <= 130  # about half of 200
    assert all((frame.image == image(number)).all() for number, frame in enumerate(frames))
    assert any("ends in the middle" in note for note in statistics.notes)


def test_a_broken_chunk_is_stepped_over(tmp_path, whole):
    data = bytearray(whole["packed"])
    first = data.index(b"\x28\xb5\x2f\xfd")  # the first zstd frame
    second = data.index(b"\x28\xb5\x2f\xfd", first + 1)
    data[second + 20 : second + 40] = bytes(20)
    file = tmp_path / "broken.mcap"
    file.write_bytes(whole["packed"])
    everything = count(file)
    file.write_bytes(data)
    bag = find_bag(file)
    left = sum(1 for _ in stream_messages(bag, lambda connection: True))
    assert 0 < left < everything
    assert any("damaged" in note for note in bag.notes)


def test_torn_sqlite_gives_the_rows_before_the_tear(tmp_path, whole):
    file = tmp_path / "torn.db3"
    data = whole["rows"]
    file.write_bytes(data[: len(data) * 2 // 3])
    statistics = ReadStatistics()
    frames = [sample.frame for sample in read_samples(file, statistics=statistics)]
    assert 20 <= len(frames) < 60
    assert any("damaged" in note for note in statistics.notes)


def test_absurd_length_of_a_record_does_not_cost_memory(tmp_path, whole):
    file = tmp_path / "absurd.mcap"
    file.write_bytes(whole["plain"][:200_000] + struct.pack("<BQ", 0x06, 1 << 60) + b"0" * 100)
    assert count(file) > 0


def test_metadata_that_cannot_be_read_is_done_without(tmp_path):
    bag = make_bag(tmp_path / "bag")
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  version: 8\n  relative_file")
    assert len(list(read_frames(bag))) == 10


def test_a_file_that_metadata_names_but_nobody_has_is_reported(tmp_path):
    bag = make_bag(tmp_path / "bag")
    text = (bag / "metadata.yaml").read_text().replace("- bag.mcap", "- bag.mcap\n  - bag_1.mcap")
    (bag / "metadata.yaml").write_text(text)
    statistics = ReadStatistics()
    assert len(list(read_samples(bag, statistics=statistics))) == 10
    assert any("bag_1.mcap" in note for note in statistics.notes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["plain", "packed", "rows"]),
    where=st.floats(0, 1),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
def test_whatever_the_damage_there_are_frames_or_a_clear_error(tmp_path, whole, kind, where, value, cut):
    data = bytearray(whole[kind])
    position = int(where * (len(data) - 1))
    data[position] = value
    file = tmp_path / ("x.db3" if kind == "rows" else "x.mcap")
    file.write_bytes(data[:position] if cut else data)
    try:
        frames = sum(1 for _ in read_frames(file))
    except OwledError:
        frames = 0  # any other exception fails the test
    assert frames <= 200
