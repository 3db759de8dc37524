"""What is whole in a damaged storage file: mcap without its end or with broken chunks, torn sqlite3. Needs rosbags.

An mcap file is a row of records (mcap.dev/spec): opcode, length, content; messages lie in chunks that can be read one
by one, so everything before the damage is as good as new. Memory: one chunk.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import apsw
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import decompress

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END, FOOTER = 0x03, 0x04, 0x05, 0x06, 0x0F, 0x02
RECORD_HEAD = struct.Struct("<BQ")  # opcode, length of the content
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
CHUNK_HEAD = struct.Struct("<QQQI")  # first and last log time, uncompressed size, crc
MAX_RECORD = 1 << 30  # [bytes], a larger length is damage, not data
FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
Message = tuple[Connection, int, bytes | memoryview]


@dataclass
class SalvagedMcap:
    """Reads an mcap file from its start, without its index, up to the first damage that cannot be stepped over."""

    path: Path
    connections: list[Connection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _schemas: dict[int, tuple[str, MessageDefinition]] = field(default_factory=dict)
    _channels: dict[int, Connection] = field(default_factory=dict)

    def open(self) -> None:
        """Find the topics; raises ReaderError when the file is not an mcap file at all."""
        with open(self.path, "rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise ReaderError(f"{self.path} does not begin like an mcap file.")
            counts: dict[int, int] = {}
            for channel, _, _ in self._scan(stream):
                counts[channel] = counts.get(channel, 0) + 1
        self.connections = [item._replace(msgcount=counts.get(key, 0)) for key, item in self._channels.items()]

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def messages(self, connections: Collection[Connection], start: int | None = None) -> Iterator[Message]:
        """Yield the whole messages in the order of the file, from log time `start` [ns] on."""
        wanted = {connection.id: connection for connection in connections}
        notes, self.notes = self.notes, []  # damage is noted once
        with open(self.path, "rb") as stream:
            stream.seek(len(MAGIC))
            for channel, stamp, data in self._scan(stream):
                if channel in wanted and (start is None or stamp >= start):
                    yield wanted[channel], stamp, data
        self.notes = notes or self.notes

    def _scan(self, stream: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
        while True:
            at = stream.tell()
            head = stream.read(RECORD_HEAD.size)
            if not head or head[0] in (DATA_END, FOOTER):
                return
            opcode, size = RECORD_HEAD.unpack(head) if len(head) == RECORD_HEAD.size else (0, 0)
            content = stream.read(size) if opcode and size < MAX_RECORD else b""
            if not opcode or len(content) != size:
                self.notes.append(f"{self.path.name} ends in the middle of a record at byte {at}")
                if opcode == CHUNK:
                    yield from self._chunk(content, at)
                return
            yield from self._chunk(content, at) if opcode == CHUNK else self._record(opcode, content)

    def _chunk(self, content: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
        try:
            _, _, size, crc = CHUNK_HEAD.unpack_from(content)
            compression, position = _text(content, CHUNK_HEAD.size)
            packed = content[position + 8 :]
            records = packed if not compression and len(packed) < size else decompress(packed, compression, size, crc)
        except Exception as error:  # decoders of foreign, damaged bytes raise whatever they like
            self.notes.append(f"{self.path.name}: chunk at byte {at} is damaged ({error})")
            return
        position = 0
        while position + RECORD_HEAD.size <= len(records):
            opcode, size = RECORD_HEAD.unpack_from(records, position)
            position += RECORD_HEAD.size
            if position + size > len(records):
                return
            yield from self._record(opcode, records[position : position + size])
            position += size

    def _record(self, opcode: int, content: bytes) -> Iterator[tuple[int, int, bytes]]:
        try:
            if opcode == MESSAGE:
                channel, _, stamp, _ = MESSAGE_HEAD.unpack_from(content)
                yield channel, stamp, content[MESSAGE_HEAD.size :]
            elif opcode == SCHEMA:
                name, position = _text(content, 2)
                encoding, position = _text(content, position)
                text, _ = _text(content, position)
                definition = MessageDefinition(FORMATS.get(encoding, MessageDefinitionFormat.NONE), text)
                self._schemas[int.from_bytes(content[:2], "little")] = (name, definition)
            elif opcode == CHANNEL:
                self._add_channel(content)
        except (struct.error, UnicodeDecodeError) as error:
            self.notes.append(f"{self.path.name}: a record is damaged ({error})")

    def _add_channel(self, content: bytes) -> None:
        key, schema = struct.unpack_from("<HH", content)
        topic, position = _text(content, 4)
        encoding, _ = _text(content, position)
        msgtype, definition = self._schemas.get(schema, ("", MessageDefinition(MessageDefinitionFormat.NONE, "")))
        extension = ConnectionExtRosbag2(serialization_format=encoding, offered_qos_profiles=[])
        self._channels.setdefault(key, Connection(key, topic, msgtype, definition, "", 0, extension, self))


@dataclass
class SalvagedSqlite:
    """Reads the rows of a torn sqlite3 file in the order of writing, up to the first page that is missing."""

    path: Path
    connections: list[Connection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Find the topics; raises apsw.Error when not even those can be read."""
        with closing(self._database()) as database:
            definitions: dict[str, MessageDefinition] = {}
            if next(database.execute("SELECT 1 FROM sqlite_master WHERE name='message_definitions'"), None):
                for name, form, text in database.execute(
                    "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
                ):
                    definitions[name] = MessageDefinition(FORMATS.get(form, MessageDefinitionFormat.NONE), text)
            nothing = MessageDefinition(MessageDefinitionFormat.NONE, "")
            topics = list(database.execute("SELECT id, name, type, serialization_format FROM topics"))
        counts: dict[int, int] = {}
        for key, _, _ in self._rows():
            counts[key] = counts.get(key, 0) + 1
        self.connections = [
            Connection(
                key,
                topic,
                msgtype,
                definitions.get(msgtype, nothing),
                "",
                counts.get(key, 0),
                ConnectionExtRosbag2(serialization_format=encoding, offered_qos_profiles=[]),
                self,
            )
            for key, topic, msgtype, encoding in topics
        ]

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

    def messages(self, connections: Collection[Connection], start: int | None = None) -> Iterator[Message]:
        """Yield the whole messages in the order of writing, from log time `start` [ns] on."""
        wanted = {connection.id: connection for connection in connections}
        for key, stamp, data in self._rows():
            if key in wanted and (start is None or stamp >= start):
                yield wanted[key], stamp, data

    def _rows(self) -> Iterator[tuple[int, int, bytes]]:
        count = 0
        with closing(self._database()) as database:
            try:
                for row in database.execute("SELECT topic_id, timestamp, data FROM messages"):
                    count += 1
                    yield row
            except apsw.Error as error:
                self.notes = [f"{self.path.name} is damaged after message {count} ({error})"]

    def _database(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        database = apsw.Connection(f"file:{self.path}?immutable=1", flags=flags)
        database.execute("PRAGMA writable_schema=ON")  # lets sqlite open a file that is shorter than its header says
        return database


def _text(content: bytes, position: int) -> tuple[str, int]:
    """Read a length-prefixed text; returns it and the position behind it."""
    (size,) = struct.unpack_from("<I", content, position)
    end = position + 4 + size
    if end > len(content):
        raise struct.error(f"a text of {size} bytes does not fit into the record")
    return content[position + 4 : end].decode(), end
