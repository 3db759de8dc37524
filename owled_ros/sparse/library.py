"""The native library: finds it, builds it once where a compiler is, and declares its C functions. Needs ctypes only.

Looked for in this order: the file named by OWLED_SPARSE_LIBRARY, beside this module (installed by ament or pip), the
user's cache (built by `owled_ros.sparse.build`).
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from pathlib import Path

from owled_ros.errors import OwledError

logger = logging.getLogger(__name__)
ABI_VERSION = 2
LIBRARY_NAME = "libowled_sparse.so"
ENVIRONMENT = "OWLED_SPARSE_LIBRARY"

OnToken = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p)
_POINTER, _INT, _INT32 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int32
_COUNTS = ctypes.POINTER(_INT32)
FACT_NAMES = (
    *("has_decoder", "hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim", "vocabulary"),
    *("max_positions", "window", "threads", "matrices", "residence"),
)


class Options(ctypes.Structure):
    """owled_options."""

    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("threads", _INT32),
        ("residence", _INT32),
        ("verify", _INT32),
        ("spin_us", _INT32),
        ("cpus", ctypes.POINTER(_INT32)),
    )


class Facts(ctypes.Structure):
    """owled_facts."""

    _fields_ = (
        *((name, _INT32) for name in FACT_NAMES),
        *((name, ctypes.c_uint64) for name in ("file_bytes", "step_bytes", "weights", "nonzeros")),
        ("kernel", ctypes.c_char * 32),
    )


class MatrixFacts(ctypes.Structure):
    """owled_matrix_facts."""

    _fields_ = (
        ("name", ctypes.c_char * 96),
        ("rows", _INT32),
        ("columns", _INT32),
        ("format", _INT32),
        ("nonzeros", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
    )


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "owled_abi_version": (_INT, ()),
    "owled_last_error": (ctypes.c_char_p, ()),
    "owled_kernel_name": (ctypes.c_char_p, (_INT,)),
    "owled_kernel_usable": (_INT, (_INT,)),
    "owled_open": (_INT, (ctypes.c_char_p, ctypes.POINTER(Options), ctypes.POINTER(_POINTER))),
    "owled_open_memory": (_INT, (_POINTER, ctypes.c_size_t, ctypes.POINTER(Options), ctypes.POINTER(_POINTER))),
    "owled_close": (None, (_POINTER,)),
    "owled_model_facts": (_INT, (_POINTER, ctypes.POINTER(Facts))),
    "owled_matrix_facts_at": (_INT, (_POINTER, _INT, ctypes.POINTER(MatrixFacts))),
    "owled_multiply": (_INT, (_POINTER, _INT, _POINTER, _INT, _POINTER)),
    "owled_unpack": (_INT, (_POINTER, _INT, _POINTER)),
    "owled_cache_new": (_INT, (_POINTER, _INT, ctypes.POINTER(_POINTER))),
    "owled_cache_copy": (_INT, (_POINTER, _POINTER, ctypes.POINTER(_POINTER))),
    "owled_cache_free": (None, (_POINTER,)),
    "owled_cache_length": (_INT, (_POINTER,)),
    "owled_cache_truncate": (_INT, (_POINTER, _INT)),
    "owled_cache_bytes": (ctypes.c_size_t, (_POINTER,)),
    "owled_embed": (_INT, (_POINTER, _POINTER, _INT, _POINTER)),
    "owled_prefill_at": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER)),
    "owled_step": (_INT, (_POINTER, _POINTER, _INT32, _POINTER)),
    "owled_read_bandwidth": (ctypes.c_double, (ctypes.c_size_t, _INT, _INT)),
    "owled_generate": (
        _INT,
        (
            *(_POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT, ctypes.c_float, ctypes.c_uint64),
            *(_COUNTS, OnToken, _POINTER, _POINTER, _POINTER, _COUNTS, _COUNTS),
        ),
    ),
}


def find() -> Path | None:
    """Find the library file without building it."""
    from owled_ros.sparse.build import cached_library

    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    candidates = (Path(__file__).with_name(LIBRARY_NAME), cached_library())
    return next((path for path in candidates if path is not None and path.is_file()), None)


@functools.lru_cache(maxsize=1)
def load() -> ctypes.CDLL:
    """Load the library, building it first where it is missing.

    Raises:
        OwledError: There is none and none can be built, or it belongs to another version of this package.
    """
    path = find()
    if path is None:
        from owled_ros.sparse.build import build

        path = build()
    try:
        handle = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(handle, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as err:
        raise OwledError(
            f"{path}: cannot load the sparse kernels: {err}; build them again: python -m owled_ros.sparse.build"
        ) from err
    if handle.owled_abi_version() != ABI_VERSION:
        raise OwledError(f"{path}: kernels of another version; build them again: python -m owled_ros.sparse.build")
    return handle


@functools.lru_cache(maxsize=1)
def reason_missing() -> str:
    """Say why the native kernels cannot be used; empty when they can."""
    try:
        load()
    except OwledError as err:
        logger.warning("sparse kernels not available, using torch: %s", err)
        return str(err)
    return ""


def available() -> bool:
    """Whether the native kernels can be used here."""
    return not reason_missing()


def kernels() -> list[str]:
    """List the kernels that this CPU can run, best first."""
    handle, names = load(), []
    index = 0
    while name := handle.owled_kernel_name(index):
        if handle.owled_kernel_usable(index):
            names.append(name.decode())
        index += 1
    return names


def check(status: int, what: str = "") -> None:
    """Raise what the library reports.

    Raises:
        OwledError: The status is not 0.
    """
    if status:
        message = load().owled_last_error().decode(errors="replace")
        raise OwledError(f"{what}: {message}" if what else message)
