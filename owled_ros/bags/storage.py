"""Opens a rosbag2 bag in whatever form it is stored and streams its messages. Needs rosbags and PyYAML.

A bag is a directory or one storage file: mcap or sqlite3, plain or zstd (chunks, messages, whole files), one file or
many, with or without metadata.yaml. Files are opened one after the other, so a large bag costs no more memory than a
small one. Damage is noted and stepped over where possible (bags.salvage); what nothing can be read from is refused.
"""

from __future__ import annotations

import heapq
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Protocol

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from owled_ros.bags.chunks import chunk_messages, is_orderly
from owled_ros.bags.foreign import CDR, ZSTD_MAGIC, plain_type, what_file_is
from owled_ros.bags.salvage import Message, SalvagedMcap, SalvagedSqlite
from owled_ros.errors import OwledError

try:
    from compression import zstd
except ImportError:  # before Python 3.14
    from backports import zstd

METADATA_NAME = "metadata.yaml"
STORAGE_SUFFIXES = (".mcap", ".db3")
OVERLAP = 1_000_000_000  # [ns]
MAX_TOLD = 3  # foreign files that an error names
ZSTD_SUFFIX = ".zstd"
SCHEMA_ENCODINGS = ("ros1msg", "protobuf", "jsonschema", "flatbuffer", "unknown", "none")  # that rosbags does not know
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TopicSummary:
    """One topic of a bag."""

    name: str
    msgtype: str
    count: int  # messages, as far as the files know
    encoding: str = CDR  # of its messages; only CDR can be read


@dataclass
class Bag:
    """Where the storage files of a bag are, and what was found wrong with them."""

    path: Path
    files: list[Path]
    notes: list[str] = field(default_factory=list)
    spans: dict[Path, tuple[int, int]] = field(default_factory=dict)  # first and last log time [ns] of whole files

    def note(self, text: str) -> None:
        """Remember a fault of the bag, once."""
        if text not in self.notes:
            logger.warning("%s: %s", self.path, text)
            self.notes.append(text)


class Storage(Protocol):
    """One open storage file."""

    connections: list[Connection]

    def messages(self, connections: list[Connection], start: int | None = None) -> Iterator[Message]:
        """Yield messages from log time `start` [ns] on."""


def find_bag(path: Path) -> Bag:
    """List the storage files of a bag in the order of their recording; raises OwledError when there are none."""
    if not path.exists():
        raise OwledError(f"bag {path} does not exist; expected a rosbag2 directory, a .mcap or a .db3 file")
    if path.is_file():
        what = _what_is(path)
        if what or not _is_storage(path):
            raise OwledError(f"{path} is {what or 'not a rosbag2 bag; expected a directory, a .mcap or a .db3 file'}")
        return Bag(path, [path])
    bag = Bag(path, [])
    files = _files_of_metadata(bag) or sorted((item for item in path.iterdir() if _is_storage(item)), key=_natural)
    foreign = {file: what for file in files if (what := _what_is(file))}
    bag.files = [file for file in files if file not in foreign]
    if not bag.files:
        raise OwledError(_why_no_files(path, foreign))
    for file, what in foreign.items():
        bag.note(f"{file.name} is {what}")
    return bag


def list_topics(bag: Bag) -> list[TopicSummary]:
    """Count the messages of every topic over all files of a bag; sorted by name."""
    counts: dict[tuple[str, str, str], int] = {}
    for file in bag.files:
        with open_storage(bag, file) as storage:
            for connection in storage.connections if storage else ():
                encoding = str(getattr(connection.ext, "serialization_format", CDR)).lower() or CDR
                key = (connection.topic, connection.msgtype, encoding)
                counts[key] = counts.get(key, 0) + connection.msgcount
    return [TopicSummary(name, msgtype, count, encoding) for (name, msgtype, encoding), count in sorted(counts.items())]


def stream_messages(bag: Bag, wanted: Callable[[Connection], bool]) -> Iterator[Message]:
    """Yield (connection, log time [ns], CDR bytes) of the wanted topics, by log time.

    Files are read one after the other; those whose times overlap (topics recorded apart) are read side by side.
    """
    for group in _overlapping(bag):
        streams = [_stream_file(bag, file, wanted) for file in group]
        yield from streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda message: message[1])


def _stream_file(bag: Bag, file: Path, wanted: Callable[[Connection], bool]) -> Iterator[Message]:
    with open_storage(bag, file) as storage:
        connections = [connection for connection in storage.connections if wanted(connection)] if storage else []
        if storage and connections:
            yield from _unpacked(_messages_of(bag, file, storage, connections))


def _overlapping(bag: Bag) -> list[list[Path]]:
    """Group neighbouring files that overlap by more than OVERLAP; `bag.spans` is known once the topics were listed."""
    groups: list[list[Path]] = []
    end = None
    for file in bag.files:
        span = bag.spans.get(file)
        if end is not None and span and span[0] < end - OVERLAP:
            groups[-1].append(file)
            end = max(end, span[1])
        else:
            groups.append([file])
            end = span[1] if span else None
    return groups


@contextmanager
def open_storage(bag: Bag, file: Path) -> Iterator[Storage | None]:
    """Open one storage file, a damaged one for salvage; None (and a note) when nothing can be read from it."""
    with _plain_file(bag, file) as plain:
        storage = _open_whole(bag, plain) or _open_damaged(bag, plain) if plain else None
        if storage is not None:
            storage.connections = [item._replace(msgtype=plain_type(item.msgtype)) for item in storage.connections]
        metadata = getattr(storage, "metadata", None)
        if metadata is not None and metadata.message_count:
            bag.spans[file] = (metadata.start_time, metadata.end_time)
        try:
            yield storage
        finally:
            if storage is not None:
                bag.notes.extend(text for text in getattr(storage, "notes", ()) if text not in bag.notes)
                storage.close()  # type: ignore[attr-defined]


def _messages_of(bag: Bag, file: Path, storage: Storage, connections: list[Connection]) -> Iterator[Message]:
    """Read a file; damage inside hands over to salvage, from the last message on."""
    last = None
    try:
        for message in _whole_messages(storage, connections):
            last = message[1]
            yield message
        return
    except Exception as error:  # a reader that meets damaged bytes raises whatever it likes
        bag.note(f"{file.name} is damaged after log time {last} ns ({error})")
    path = getattr(storage, "path", file)
    salvaged = _salvage(path)
    try:
        salvaged.open()
        names = {(connection.topic, connection.msgtype) for connection in connections}
        named = [item._replace(msgtype=plain_type(item.msgtype)) for item in salvaged.connections]
        again = [item for item in named if (item.topic, item.msgtype) in names]
        yield from salvaged.messages(again, None if last is None else last + 1)
    except Exception as error:  # see above
        bag.note(f"{file.name}: the rest cannot be read ({error})")
    bag.notes.extend(text for text in salvaged.notes if text not in bag.notes)


def _whole_messages(storage: Storage, connections: list[Connection]) -> Iterator[Message]:
    if not is_orderly(storage):
        yield from storage.messages(connections)
        return
    with open(storage.path, "rb") as stream:  # type: ignore[attr-defined]
        yield from chunk_messages(stream, storage, connections)  # type: ignore[arg-type]


def _open_whole(bag: Bag, file: Path) -> Storage | None:
    try:
        reader = Reader(file).storage
        reader.open()
    except Exception as error:  # a reader that meets damaged bytes raises whatever it likes
        if not _is_foreign(error):
            bag.note(f"{file.name} is damaged or unfinished ({error}); reading what is whole")
        return None
    return reader  # type: ignore[return-value]


def _is_foreign(error: Exception) -> bool:
    """Tell whether rosbags refuses a whole file because of what else than ROS 2 wrote it, or is in it beside ROS 2."""
    return "Profile is not ros2" in str(error) or (isinstance(error, KeyError) and error.args[0] in SCHEMA_ENCODINGS)


def _open_damaged(bag: Bag, file: Path) -> Storage | None:
    storage = _salvage(file)
    try:
        storage.open()
    except Exception as error:  # see above
        bag.note(f"{file.name}: nothing can be read ({error})")
        return None
    return storage  # type: ignore[return-value]


def _salvage(file: Path) -> SalvagedMcap | SalvagedSqlite:
    return SalvagedMcap(file) if file.suffix == ".mcap" else SalvagedSqlite(file)


def _unpacked(messages: Iterator[Message]) -> Iterator[Message]:
    """Decompress messages that were compressed one by one (CDR never begins like zstd)."""
    for connection, stamp, data in messages:
        yield connection, stamp, zstd.decompress(data) if data[:4] == ZSTD_MAGIC else data


@contextmanager
def _plain_file(bag: Bag, file: Path) -> Iterator[Path | None]:
    """Give a file that was compressed as a whole its plain form for as long as it is read."""
    if file.suffix != ZSTD_SUFFIX:
        yield file if file.exists() else None
        return
    with tempfile.TemporaryDirectory(prefix="owled-bag-") as directory:
        plain = Path(directory) / file.stem
        try:
            with zstd.open(file, "rb") as packed, open(plain, "wb") as target:
                shutil.copyfileobj(packed, target)
        except (zstd.ZstdError, EOFError) as error:
            bag.note(f"{file.name} is not whole ({error}); reading what could be decompressed")
        except OSError as error:
            raise OwledError(f"cannot decompress {file} to {directory} ({error}); free some disk space") from error
        yield plain


def _files_of_metadata(bag: Bag) -> list[Path]:
    """Read the list of files from metadata.yaml; empty when there is none or it does not help."""
    path = bag.path / METADATA_NAME
    if not path.exists():
        return []
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        names = yaml.load(path.read_text(), Loader=loader)["rosbag2_bagfile_information"]["relative_file_paths"]
        files = [bag.path / PurePath(str(name)).name for name in names]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        bag.note(f"{METADATA_NAME} cannot be read ({error!r}); reading the files as they are")
        return []
    for file in files:
        if not file.exists():
            bag.note(f"{file.name} of {METADATA_NAME} is missing")
    return [file for file in files if file.exists() and _is_storage(file)]


def _why_no_files(path: Path, foreign: Mapping[Path, str]) -> str:
    others = {item: what for item in sorted(path.iterdir()) if item.is_file() and (what := what_file_is(item))}
    known = {file: what for file, what in {**others, **foreign}.items() if file.suffix not in (".yaml", ".txt", ".md")}
    words = "; ".join(f"{file.name} is {what}" for file, what in list(known.items())[:MAX_TOLD])
    return f"bag {path} holds no .mcap or .db3 file; {words or 'expected a rosbag2 directory'}"


def _what_is(path: Path) -> str:
    return what_file_is(path, may_be_packed=path.suffix == ZSTD_SUFFIX)


def _is_storage(path: Path) -> bool:
    name = path.name.removesuffix(ZSTD_SUFFIX)
    return path.is_file() and Path(name).suffix in STORAGE_SUFFIXES


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
