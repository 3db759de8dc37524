"""What a file or a topic is that is no rosbag2 of CDR messages, and how to turn it into one. Needs nothing."""

from __future__ import annotations

from pathlib import Path

HEAD_BYTES = 512
CDR = "cdr"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"#ROSBAG V", "a ROS 1 bag; convert it: rosbags-convert --src {name} --dst {stem} (pip install rosbags)"),
    (b"version https://git-lfs", "a git-lfs pointer, not the bag itself; fetch it: git lfs pull --include {name}"),
    (b"<!DOCTYPE", "a web page that was saved in place of the bag; download it again"),
    (b"<!doctype", "a web page that was saved in place of the bag; download it again"),
    (b"<html", "a web page that was saved in place of the bag; download it again"),
    (b"PK\x03\x04", "a zip archive; unpack it: unzip {name}"),
    (b"\x1f\x8b", "packed with gzip; unpack it: gzip -dk {name} (tar xf {name} when it is a .tar.gz)"),
    (ZSTD_MAGIC, "packed with zstd under a name that does not say so; unpack it: zstd -d {name}"),
    (b"\x04\x22\x4d\x18", "packed with lz4; unpack it: lz4 -d {name}"),
    (b"BZh", "packed with bzip2; unpack it: bunzip2 -k {name}"),
    (b"\xfd7zXZ", "packed with xz; unpack it: unxz -k {name}"),
)
ENCODINGS = {
    "ros1": "ROS 1 messages; convert the original .bag with `rosbags-convert` (pip install rosbags) instead of `mcap convert`",
    "protobuf": "protobuf, not ROS 2 messages; publish them as ROS 2 messages (sensor_msgs, nav_msgs) and record those with `ros2 bag record`",
    "json": "JSON, not ROS 2 messages; publish it as ROS 2 messages (sensor_msgs, nav_msgs) and record those with `ros2 bag record`",
    "flatbuffer": "flatbuffers, not ROS 2 messages; publish them as ROS 2 messages and record those with `ros2 bag record`",
    "cbor": "CBOR, not ROS 2 messages; publish it as ROS 2 messages and record those with `ros2 bag record`",
    "msgpack": "MessagePack, not ROS 2 messages; publish it as ROS 2 messages and record those with `ros2 bag record`",
}


def what_file_is(path: Path, may_be_packed: bool = False) -> str:
    """Say what a file is in place of a storage file, and what to do; empty when it may be one, or zstd where that `may_be`."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        return f"not readable ({error})"
    if not head:
        return "empty; record or copy it again"
    if may_be_packed and head.startswith(ZSTD_MAGIC):
        return ""
    for signature, words in SIGNATURES:
        if head.startswith(signature):
            return words.format(name=path.name, stem=path.stem)
    if head.lstrip(b"./").startswith((b"git/annex/objects", b"annex/objects")) or b"/annex/objects/" in head[:64]:
        return f"a git-annex pointer, not the bag itself; fetch it: git annex get {path.name}"
    return ""


def what_encoding_is(encoding: str) -> str:
    """Say what the messages of a topic are, and what to do; empty for CDR, as ROS 2 writes it."""
    plain = encoding.strip().lower()
    if plain in ("", CDR):
        return ""
    return ENCODINGS.get(plain, f"of the encoding {encoding!r}; expected cdr, as ROS 2 records them")


def plain_type(name: str) -> str:
    """Bring a message type to its ROS 2 name: pkg/Name, pkg.msg.Name and pkg::msg::dds_::Name_ are pkg/msg/Name."""
    parts = [part for part in name.replace("::", "/").split("/") if part not in ("", "dds_")]
    if len(parts) == 1 and name.count(".") == 2:
        parts = name.split(".")
    if len(parts) == 2:
        parts = [parts[0], "msg", parts[1]]
    if len(parts) != 3:
        return name
    return "/".join([*parts[:2], parts[2].removesuffix("_")])
