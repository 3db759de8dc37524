"""Messages out of their bytes, as their bag defines them. Needs rosbags."""

from __future__ import annotations

from typing import Any

from rosbags.interfaces import Connection, Nodetype
from rosbags.typesys.store import Typestore

from owled_ros.bags.message_types import typestore_for
from owled_ros.errors import OwledError

STAMPS = ("std_msgs/msg/Header", "builtin_interfaces/msg/Time")


class MessageDecoder:
    """Deserialises messages; raises OwledError for bytes that do not fit."""

    def __init__(self) -> None:
        self._stores: dict[tuple[object, ...], Typestore] = {}

    def __call__(self, connection: Connection, data: bytes | memoryview) -> Any:
        """Return the message."""
        store = self._store(connection)
        try:
            return store.deserialize_cdr(data, connection.msgtype)
        except Exception as error:  # generated code meets foreign bytes and raises whatever it likes
            raise OwledError(f"a message of {connection.topic} is not a {connection.msgtype} ({error})") from error

    def has_stamp(self, connection: Connection) -> bool:
        """Tell whether messages begin with a header or a time; True for unknown types, as most do."""
        try:
            kind, detail = self._store(connection).fielddefs[connection.msgtype][1][0][1]
        except (OwledError, KeyError, IndexError):
            return True
        return kind == Nodetype.NAME and str(detail) in STAMPS

    def _store(self, connection: Connection) -> Typestore:
        key = (connection.msgtype, connection.msgdef)
        store = self._stores.get(key)
        if store is None:
            store = self._stores[key] = typestore_for(connection)
        return store
