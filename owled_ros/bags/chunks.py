"""Messages of an indexed mcap file as views into its chunks: an image is copied once, from the disk. Needs rosbags.

rosbags finds the chunks; its own iteration copies every message three times more, which is most of the cost of raw images.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO

from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader, decompress

RECORD_HEAD = struct.Struct("<BQ")  # opcode, length of the content
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
CHUNK_HEAD = struct.Struct("<QQQI")  # first and last log time, uncompressed size, crc
MESSAGE = 0x05
MAX_OVERLAP = 250_000_000  # [ns] by which neighbouring chunks may overlap: less than readers hold back anyway


def is_orderly(reader: object) -> bool:
    """Tell whether a storage is an indexed mcap file whose chunks hardly overlap in time."""
    if not isinstance(reader, McapReader) or not reader.chunks:
        return False
    end = 0
    for chunk in _in_order(reader):
        if chunk.message_start_time < end - MAX_OVERLAP:
            return False
        end = max(end, chunk.message_end_time)
    return True


def chunk_messages(
    stream: BinaryIO, reader: McapReader, connections: Collection[Connection]
) -> Iterator[tuple[Connection, int, memoryview]]:
    """Yield (connection, log time [ns], CDR bytes) chunk after chunk, by log time inside each.

    Raises ReaderError, struct.error and the like for damaged chunks.
    """
    wanted = {connection.id: connection for connection in connections}
    for chunk in _in_order(reader):
        if not any(chunk.channel_count.get(channel) for channel in wanted):
            continue
        stream.seek(chunk.chunk_start_offset + RECORD_HEAD.size)
        content = stream.read(chunk.chunk_length - RECORD_HEAD.size)
        records = _records_of(content)
        yield from sorted(_messages_of(records, wanted), key=lambda message: message[1])


def _in_order(reader: McapReader) -> list[ChunkInfo]:
    return sorted(reader.chunks, key=lambda chunk: (chunk.message_start_time, chunk.chunk_start_offset))


def _records_of(content: bytes) -> memoryview:
    _, _, size, crc = CHUNK_HEAD.unpack_from(content)
    (name_size,) = struct.unpack_from("<I", content, CHUNK_HEAD.size)
    start = CHUNK_HEAD.size + 4
    compression = content[start : start + name_size].decode()
    packed = memoryview(content)[start + name_size + 8 :]
    return memoryview(decompress(packed, compression, size, crc))  # type: ignore[arg-type]


def _messages_of(records: memoryview, wanted: dict[int, Connection]) -> Iterator[tuple[Connection, int, memoryview]]:
    position = 0
    while position < len(records):
        opcode, size = RECORD_HEAD.unpack_from(records, position)
        position += RECORD_HEAD.size
        if position + size > len(records):
            raise ReaderError("A record reaches over the end of its chunk.")
        if opcode == MESSAGE:
            channel, _, stamp, _ = MESSAGE_HEAD.unpack_from(records, position)
            connection = wanted.get(channel)
            if connection is not None:
                yield connection, stamp, records[position + MESSAGE_HEAD.size : position + size]
        position += size
