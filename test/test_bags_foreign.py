"""Bags of other makes: read where their messages are those of ROS 2, refused by name with a way out where they are not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_bags import JPEG, Mcap, camera, drive, header, make, raw_camera, time_of, twist, write, write_mcap
from recorded_drives import IMAGE_PERIOD, START, make_bag

from owled_ros.bags.foreign import plain_type, what_encoding_is
from owled_ros.bags.frames import ReadOptions, ReadStatistics, read_frames, read_samples
from owled_ros.bags.storage import find_bag
from owled_ros.bags.summary import summarise_bag
from owled_ros.bags.topics import choose_topics
from owled_ros.errors import OwledError

SECOND = 10**9


class EveryFourth:
    """What `owled evaluate --every 4` asks for."""

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index % 4 == 0


@pytest.mark.parametrize("profile", ["", "foxglove", "ros2"])
@pytest.mark.parametrize("short", [True, False])
def test_what_is_plain_cdr_is_read_whatever_the_profile_and_the_form_of_the_types(tmp_path, profile, short):
    bag = write_mcap(tmp_path / "bag.mcap", (camera(), drive()), profile, short)
    statistics = ReadStatistics()
    frames = [sample.frame for sample in read_samples(bag, statistics=statistics)]
    assert [frame.ego.speed for frame in frames] == [8.0] * 40
    assert statistics.notes == []
    assert len(summarise_bag(bag).frames.stamps) == 40


@pytest.mark.parametrize(
    "name",
    [
        "sensor_msgs/Image",
        "sensor_msgs/msg/Image",
        "sensor_msgs::msg::dds_::Image_",
        "sensor_msgs.msg.Image",
        "sensor_msgs::msg::Image",
    ],
)
def test_type_names_are_brought_to_one_form(name):
    assert plain_type(name) == "sensor_msgs/msg/Image"


@given(st.text(max_size=40))
def test_any_name_of_a_type_is_borne(name):
    assert plain_type(plain_type(name)) == plain_type(name)


def test_sqlite_bags_with_short_types_are_read(tmp_path):
    bag = make_bag(tmp_path / "bag", storage="sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
        database.execute("UPDATE message_definitions SET topic_type = replace(topic_type, '/msg/', '/')")
    assert len(list(read_frames(bag))) == 10


@pytest.mark.parametrize(
    ("encoding", "form", "words"),
    [
        ("ros1", "ros1msg", r"/cam is ROS 1 messages; convert the original \.bag with `rosbags-convert`"),
        ("protobuf", "protobuf", "/cam is protobuf, not ROS 2 messages"),
        ("json", "jsonschema", "/cam is JSON, not ROS 2 messages"),
        ("sbe", "", "/cam is of the encoding 'sbe'; expected cdr"),
    ],
)
def test_messages_that_are_no_cdr_are_named(tmp_path, encoding, form, words):
    file = Mcap(tmp_path / "bag.mcap", "ros1" if encoding == "ros1" else "")
    cam = file.channel("/cam", "sensor_msgs/CompressedImage", form, "x", encoding)
    odom = file.channel("/odom", "nav_msgs/Odometry", form, "x", encoding)
    for number in range(10):
        file.message(cam, START + number * IMAGE_PERIOD, b"{}")
        file.message(odom, START + number * IMAGE_PERIOD, b"{}")
    bag = file.close()
    for read in (lambda: list(read_frames(bag)), lambda: summarise_bag(bag)):
        with pytest.raises(OwledError, match=words) as error:
            read()
        assert "damaged" not in str(error.value)
    with pytest.raises(OwledError, match=r"of bag .* is "):
        list(read_frames(bag, ReadOptions(image_topic="/cam", ego_topic="/odom")))


def test_channels_of_other_encodings_beside_ros_2_do_no_harm(tmp_path):
    bag = tmp_path / "bag.mcap"
    write_mcap(bag, (camera(), drive()), "ros2", short=False)
    file = Mcap(tmp_path / "mixed.mcap", "ros2")
    file._records[1:] = []
    log = file.channel("/log", "foxglove.Log", "protobuf", "x", "protobuf")
    file.message(log, START, b"\x08\x01")
    extra = b"".join(file._records[1:])
    data = bag.read_bytes()
    head = 8 + 9 + int.from_bytes(data[9:17], "little")
    # the numbers of the new channel would clash: the foreign one gets 99
    extra = extra.replace(b"\x01\x00\x01\x00\x04\x00\x00\x00/log", b"\x63\x00\x63\x00\x04\x00\x00\x00/log")
    extra = extra.replace(b"\x01\x00\x0c\x00\x00\x00foxglove", b"\x63\x00\x0c\x00\x00\x00foxglove")
    (tmp_path / "mixed.mcap").write_bytes(data[:head] + extra.split(b"\x05\x18")[0] + data[head:])
    statistics = ReadStatistics()
    assert len(list(read_samples(tmp_path / "mixed.mcap", statistics=statistics))) == 40
    assert statistics.notes == []


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("drive.bag", b"#ROSBAG V2.0\n", r"a ROS 1 bag; convert it: rosbags-convert --src drive.bag --dst drive"),
        (
            "drive.mcap",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a git-lfs pointer.*git lfs pull --include drive.mcap",
        ),
        ("drive.db3", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        ("drive.mcap", b"/annex/objects/SHA256E-s1--0.mcap\n", "a git-annex pointer"),
        ("drive.mcap", b"<!DOCTYPE html><html>", "a web page"),
        ("drive.mcap", b"#ROSBAG V2.0\n", "a ROS 1 bag"),
        ("drive.zip", b"PK\x03\x04", "a zip archive; unpack it"),
        ("drive.tar.gz", b"\x1f\x8b\x08", "packed with gzip"),
        ("drive.mcap", b"", "empty; record or copy it again"),
        ("drive.mcap.zstd", b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
    ],
)
def test_files_that_are_something_else_are_named_alone_and_in_a_directory(tmp_path, name, head, words):
    folder = tmp_path / "drive"
    folder.mkdir()
    (folder / name).write_bytes(head)
    for path in (folder / name, folder):
        with pytest.raises(OwledError, match=words):
            list(read_frames(path))


def test_a_pointer_among_real_files_is_noted(tmp_path):
    bag = make_bag(tmp_path / "bag")
    (bag / "metadata.yaml").unlink()
    (bag / "bag_1.mcap").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    statistics = ReadStatistics()
    assert len(list(read_samples(bag, statistics=statistics))) == 10
    assert "bag_1.mcap is a git-lfs pointer" in statistics.notes[0]


def test_cdr_has_no_complaint():
    assert [what_encoding_is(name) for name in ("cdr", "CDR", "")] == ["", "", ""]


def test_two_types_on_one_topic_name_are_told_apart(tmp_path):
    kind = "geometry_msgs/msg/TwistStamped"
    other = ("/odom", kind, lambda stamp, _: make(kind, header=header(stamp), twist=twist(1.0)))
    image = ("/cam/compressed", "std_msgs/msg/Header", lambda stamp, _: header(stamp))
    bag = write(tmp_path / "bag", other, image, camera(), drive())
    assert [frame.ego.speed for frame in read_frames(bag)] == [8.0] * 40
    assert [frame.ego.speed for frame in read_frames(bag, ReadOptions(ego_topic="/odom"))] == [8.0] * 40
    (track,) = summarise_bag(bag).tracks
    assert set(track.speed) == {8.0}


@pytest.mark.parametrize(
    "depth",
    [
        raw_camera("/camera/aligned_depth/image_raw", "16UC1", 1, 2),
        raw_camera("/camera/other/image_raw", "32FC1", 1, 4),
        camera("/camera/depth/image_raw/compressedDepth", "16UC1; compressedDepth png"),
        camera("/camera/image_raw/compressedDepth", "32FC1; compressedDepth"),
        camera("/camera/depth/image_raw/compressed", "16UC1; png compressed"),
        raw_camera("/camera/depth/image_rect_raw", "16UC1", 1, 2),
        raw_camera("/camera/semantic_segmentation/image", "bgra8", 4),
        raw_camera("/camera/disparity", "mono8", 1),
    ],
)
def test_depth_images_are_no_second_camera_and_no_first_one(tmp_path, depth):
    bag = write(tmp_path / "bag", camera("/camera/color/compressed"), depth, drive())
    assert choose_topics(find_bag(bag)).image == "/camera/color/compressed"
    if "segmentation" in depth[0] or "disparity" in depth[0]:
        return  # alone, nobody could tell
    bag = write(tmp_path / "alone", depth, drive())
    with pytest.raises(OwledError, match="holds depth images but no colour camera"):
        list(read_frames(bag))


def test_the_colour_image_of_a_depth_camera_is_a_camera(tmp_path):
    bag = write(tmp_path / "bag", raw_camera("/depth_camera/color/image_raw", "rgb8", 3), drive())
    assert len(list(read_frames(bag))) == 40


def test_compressed_images_of_foxglove_are_images(tmp_path):
    kind = "foxglove_msgs/msg/CompressedImage"
    row = (
        "/cam",
        kind,
        lambda stamp, _: make(kind, timestamp=time_of(stamp), frame_id="eye", format="jpeg", data=JPEG),
    )
    frames = list(read_frames(write(tmp_path / "bag", row, drive())))
    assert [frame.frame_id for frame in frames] == ["eye"] * 40


def test_headers_seconds_behind_the_recording_lose_no_frame_and_are_said(tmp_path):
    bag = write(tmp_path / "bag", camera(behind=3 * SECOND), drive())
    statistics = ReadStatistics()
    frames = [sample.frame for sample in read_samples(bag, statistics=statistics)]
    assert [frame.stamp for frame in frames] == [START + n * IMAGE_PERIOD for n in range(40)]
    assert "clocks 3.0 s apart; using the time of recording" in statistics.notes[0]
    assert "/cam/compressed +3.0 s" in statistics.notes[0]


def test_frames_that_are_skipped_are_said(tmp_path):
    bag = write(tmp_path / "bag", camera(behind=SECOND * 8 // 10), drive())
    statistics = ReadStatistics()
    frames = list(read_samples(bag, statistics=statistics))
    # the first images are 0.8 s older than the ego motion, which is bridged by 0.5 s
    assert (len(frames), statistics.without_ego) == (37, 3)
    assert statistics.notes == ["of 40 images 3 without ego motion on /odom within 0.5 s"]


def test_an_index_without_a_single_frame_says_why(tmp_path):
    kind = "geometry_msgs/msg/TwistStamped"
    nothing = ("/twist", kind, lambda stamp, _: make(kind, header=header(stamp), twist=twist(float("nan"))))
    summary = summarise_bag(write(tmp_path / "bag", camera(), nothing))
    assert summary.notes == [
        "none of 40 images on /cam/compressed gives a frame: no ego motion on /twist near them, or not everything else that the "
        "model asks for"
    ]


@pytest.mark.parametrize("only", [None, EveryFourth()])
def test_the_reason_survives_a_choice_of_images(tmp_path, only):
    bag = write(tmp_path / "bag", camera(form="jpeg", data=np.zeros(200, np.uint8)), drive())
    with pytest.raises(OwledError, match=r"that cannot be decoded \(.*jpeg"):
        list(read_samples(bag, only=only))


def test_images_that_cannot_be_decoded_among_others_are_said(tmp_path):
    def row(stamp, number):
        data = np.zeros(200, np.uint8) if number % 2 else JPEG
        return make("sensor_msgs/msg/CompressedImage", header=header(stamp), format="jpeg", data=data)

    bag = write(tmp_path / "bag", ("/cam", "sensor_msgs/msg/CompressedImage", row), drive())
    statistics = ReadStatistics()
    assert len(list(read_samples(bag, statistics=statistics))) == 20
    assert statistics.notes[0].startswith("of 40 images 20 that cannot be decoded (")
    assert len(list(read_samples(bag, only={1, 3}))) == 0  # two damaged ones of a choice are an accident


def test_a_missing_kind_names_what_the_bag_holds(tmp_path):
    bag = write(tmp_path / "bag", ("/scan", "std_msgs/msg/Header", lambda stamp, _: header(stamp)), drive())
    with pytest.raises(OwledError, match=r"holds no camera image; expected .*CompressedVideo.* in .*/scan"):
        list(read_frames(Path(bag)))
