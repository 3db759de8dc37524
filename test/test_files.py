"""Files and directories appear whole or not at all."""

import os

import pytest

from owled_ros.errors import OwledError
from owled_ros.files import (
    ASIDE,
    link_tree,
    read_small_file,
    replace_directory,
    sha256_file,
    sweep_asides,
    tree_bytes,
    write_atomic,
    write_json,
)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [child.name for child in path.parent.iterdir()] == ["b.txt"]


def test_not_a_number_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_a_failing_writer_leaves_the_old_directory(tmp_path):
    target = tmp_path / "model"
    with replace_directory(target) as aside:
        (aside / "w").write_text("old")
    with pytest.raises(FileNotFoundError), replace_directory(target) as aside:
        (aside / "w").with_name("missing").joinpath("half").write_text("half")
    assert (target / "w").read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["model"]


def test_what_killed_writers_left_is_swept(tmp_path):
    (tmp_path / f".model{ASIDE}1-ff").mkdir()
    (tmp_path / "model").mkdir()
    assert len(sweep_asides(tmp_path)) == 1
    assert [child.name for child in tmp_path.iterdir()] == ["model"]


def test_hash_and_size(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")
    assert tree_bytes(tmp_path) == 3


def test_a_linked_tree_is_its_own(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "w").write_text("old")
    (source / "link").symlink_to(source / "deep" / "w")
    link_tree(source, target)
    write_atomic(target / "deep" / "w", "new")
    assert (source / "deep" / "w").read_text() == "old"
    assert (target / "link").read_text() == "old"
    assert not (target / "link").is_symlink()


def test_small_files_are_read_whole_or_refused(tmp_path):
    path = tmp_path / "x"
    assert read_small_file(path, 4) is None
    path.write_bytes(b"1234")
    assert read_small_file(path, 4) == b"1234"
    with pytest.raises(OwledError, match="more than 3 bytes"):
        read_small_file(path, 3)
    os.mkfifo(tmp_path / "pipe")  # opening one for reading would wait for a writer
    with pytest.raises(OwledError, match="not a regular file"):
        read_small_file(tmp_path / "pipe", 4)
