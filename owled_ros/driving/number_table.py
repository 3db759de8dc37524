"""Rows of numbers in a sensor_msgs/PointCloud2, which every ROS 2 has and every tool shows: one row per thing, columns by name.

Needs numpy. Works on the message's fields, from a topic as from a bag.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from owled_ros.errors import OwledError

KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # sensor_msgs/PointField
MAX_ROWS = 2_000


def is_table(message: Any) -> bool:
    """Tell whether a message is a table at all."""
    return hasattr(message, "point_step")


def column_names(message: Any) -> frozenset[str]:
    """Return the names of the columns."""
    return frozenset(str(field.name) for field in message.fields)


def columns_of(message: Any, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return column name -> its numbers (rows,) float64.

    Raises:
        OwledError: a required column is missing, there are too many rows, or the bytes do not fit.
    """
    missing = [name for name in required if name not in column_names(message)]
    if missing:
        known = ", ".join(sorted(column_names(message))) or "none"
        raise OwledError(f"the table has no column {', '.join(missing)}; its columns are {known}")
    rows, step = int(message.width) * int(message.height), int(message.point_step)
    if rows > MAX_ROWS:
        raise OwledError(f"the table holds {rows} rows; at most {MAX_ROWS} are taken")
    order = ">" if message.is_bigendian else "<"
    fields = {str(field.name): field for field in message.fields if int(field.datatype) in KINDS}
    formats = [np.dtype(order + KINDS[int(field.datatype)]) for field in fields.values()]
    offsets = [int(field.offset) for field in fields.values()]
    data = np.frombuffer(bytes(message.data), np.uint8)
    ends = [offset + kind.itemsize for offset, kind in zip(offsets, formats, strict=True)]
    padded = message.height > 1 and message.row_step != step * message.width
    if padded or step < max(ends, default=1) or len(data) < rows * step or set(required) - set(fields):
        raise OwledError(
            f"the table holds {len(data)} bytes for {rows} rows of {step} bytes, which its columns do not fit"
        )
    kind = np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": step})
    values = data[: rows * step].view(kind)
    return {name: values[name].astype(np.float64) for name in fields}


def layout_of(kind: np.dtype[Any]) -> list[tuple[str, int, int]]:
    """Return name, offset and PointField type of every column of a structured type, little endian."""
    codes = {code: number for number, code in KINDS.items()}
    return [(name, kind.fields[name][1], codes[kind[name].str[1:]]) for name in kind.names or () if kind.fields]
