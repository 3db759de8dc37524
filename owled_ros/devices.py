"""The device that computes: chosen, checked before anything loads, and asked for its memory. Needs torch, imported late.

"auto" is the first CUDA device where there is one, else the CPU. What a GPU's memory cannot hold is said in words with what was
asked and what was free.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from owled_ros.errors import OwledError

if TYPE_CHECKING:
    import torch

AUTO = "auto"
EXPECTED = "expected auto, cpu, cuda or cuda:NUMBER"
ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")
GB = 1e9
DRIVING_PRIORITY = -1  # of a CUDA stream: before the others of this process, 0 is theirs


def resolve_device(wanted: str) -> str:
    """Name the device to compute on, CUDA devices with their number.

    Raises:
        OwledError: torch does not know the device, or this machine does not have it.
    """
    if wanted == "cpu":
        return wanted
    import torch

    if wanted == AUTO:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        if device.type == "cuda":
            device = torch.device("cuda", device.index or 0)
            _check_cuda(wanted, device.index)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        reason = str(err).splitlines()[0]
        raise OwledError(f"device {wanted!r} cannot be used ({reason}); {EXPECTED}") from err
    return str(device)


def free_device_bytes(device: str) -> int | None:
    """Return what a CUDA device can still give to this process [bytes]; None for other devices."""
    if not device.startswith("cuda"):
        return None
    import torch

    place = torch.device(device)
    free = torch.cuda.mem_get_info(place)[0]  # of the whole device
    return int(free + torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that memory ran out (torch raises RuntimeError on the CPU)."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def out_of_memory_words(error: BaseException, device: str) -> str:
    """Say of a failed allocation what was asked for and what was free."""
    asked = ASKED.search(str(error))
    words = f"{asked[1]} were asked for" if asked else str(error).partition("\n")[0] or type(error).__name__
    free = free_device_bytes(device)
    return words if free is None else f"{words}, {free / GB:.2f} GB were free on {device}"


@contextlib.contextmanager
def memory_in_words(what: str, device: str, cure: str) -> Iterator[None]:
    """Turn a failed allocation into one sentence: what did not fit, what was asked and free, what to do."""
    try:
        yield
    except Exception as err:
        if not is_out_of_memory(err) or isinstance(err, OwledError):
            raise
        raise OwledError(f"out of memory: {what} ({out_of_memory_words(err, device)}): {cure}") from err


def give_back_memory() -> None:
    """Give what a freed model or a load left behind back, so that others can have it: on the GPU, and with glibc in the memory.

    Our malloc settings (config/transport.env) keep freed memory for the next image: after a switch that is a whole model. The
    latter takes 2 to 14 ms.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def on_device(device: str) -> contextlib.AbstractContextManager[object]:
    """Return the context in which work for a CUDA device runs in this thread (streams, kernels of other libraries)."""
    if not device.startswith("cuda"):
        return contextlib.nullcontext()
    import torch

    return torch.cuda.device(torch.device(device))


@contextlib.contextmanager
def driving_stream(device: str) -> Iterator[None]:
    """Run work on a CUDA device before all other work of this process: a model that is loaded beside the one that drives.

    One stream for each device, so that memory that was used on it is used again. Other devices: nothing changes.
    """
    if not device.startswith("cuda"):
        yield
        return
    import torch

    with torch.cuda.device(torch.device(device)), torch.cuda.stream(_driving_stream(device, DRIVING_PRIORITY)):
        yield


@functools.cache
def _driving_stream(device: str, priority: int) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(torch.device(device), priority=priority)


def _check_cuda(wanted: str, number: int) -> None:
    import torch

    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device here"
        raise OwledError(f"device {wanted!r}: {why}; give cpu, or auto to take a GPU where there is one")
    count = torch.cuda.device_count()
    if number >= count:
        names = ", ".join(f"cuda:{place} ({torch.cuda.get_device_name(place)})" for place in range(count))
        raise OwledError(f"device {wanted!r} is not there; this machine has {names}")
