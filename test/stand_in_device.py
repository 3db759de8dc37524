"""A device that is none: "standin:0" computes on the CPU, and refuses what a GPU would refuse. Needs torch's Python backend.

Its tensors say that they are on another device; an operation that mixes them with tensors of the CPU raises, as on CUDA (a
scalar of the CPU may take part, and an index may come from it). So a forgotten `.to(device)` is red on a CPU, in every thread,
forwards and backwards. `counting` tells what crossed between host and device, and `without_crossing` refuses it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

STAND_IN = "standin:0"
AS_A_GPU_DOES = {  # what a GPU computes and the CPU does not
    torch.ops.aten.histc.default: lambda values, *told, **how: torch.histc(values.float(), *told, **how).to(values.dtype)
}  # fmt: skip
MAY_CROSS = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default}
INDEXED_FROM_THE_CPU = {
    torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default
}  # fmt: skip
FACTORIES = (  # the others fill what `empty` gave
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye", "eye.m", "randperm"
)  # fmt: skip
READS_A_VALUE = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}
SHAPED_BY_VALUES = {torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default}


class MixedDevicesError(RuntimeError):
    """An operation took tensors of the stand-in device and of the CPU."""


class _Crossings:
    """What went between host and device, and whether it may."""

    seen: list[str] | None = None
    refused = False

    def note(self, name: str) -> None:
        if self.seen is not None:
            self.seen.append(name)
        if self.refused:
            raise RuntimeError(f"{name} goes between host and device, where nothing may")


_crossings = _Crossings()


class OnDevice(torch.Tensor):
    """A tensor of the stand-in device around one of the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=STAND_IN, requires_grad=False,
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner!r})"

    def __deepcopy__(self, memo: Any) -> OnDevice:
        return OnDevice(self.inner.clone())

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        _crossings.note("tolist")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch.inference_mode(False):  # a view of a usual tensor is one, whatever the mode
            return _compute(func, args, kwargs or {})


@functools.cache
def stand_in_device() -> str:
    """Make the device known to torch, once in a process; returns its name."""
    backend_registration._setup_privateuseone_for_python_backend("standin", backend_module=_Backend())
    library = torch.library.Library("aten", "IMPL")
    for name in FACTORIES:
        library.impl(name, functools.partial(_make, getattr(torch, name.partition(".")[0])), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    library.impl("_local_scalar_dense", lambda tensor: tensor.inner.item(), "PrivateUse1")
    _KEPT.append(library)
    return STAND_IN


_KEPT: list[Any] = []  # a library ends with its object


@contextlib.contextmanager
def counting() -> Iterator[list[str]]:
    """Give the operations that crossed between host and device while entered."""
    _crossings.seen = []
    try:
        yield _crossings.seen
    finally:
        _crossings.seen = None


@contextlib.contextmanager
def without_crossing() -> Iterator[None]:
    """Refuse everything that crosses between host and device, as a captured graph does."""
    _crossings.refused = True
    try:
        yield
    finally:
        _crossings.refused = False


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    tensors = [item for item in flat if isinstance(item, torch.Tensor)]
    ours = [item for item in tensors if isinstance(item, OnDevice)]
    target = kwargs.get("device")
    there = ours if target is None else torch.device(target).type == "standin"
    _check_crossing(func, tensors, ours, target)
    if ours and func not in MAY_CROSS:
        _check_mixing(func, args, tensors)
    inner_args, inner_kwargs = tree_unflatten([_inside(item) for item in flat], spec)
    result = AS_A_GPU_DOES.get(func, func)(*inner_args, **inner_kwargs)
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if not there or result is None:
        return result
    wrapped = tree_map(lambda item: OnDevice(item) if isinstance(item, torch.Tensor) else item, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _inside(item: Any) -> Any:
    if isinstance(item, OnDevice):
        return item.inner
    return torch.device("cpu") if isinstance(item, torch.device) else item


def _check_mixing(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    if func in INDEXED_FROM_THE_CPU:
        tensors = [item for item in (args[0], *args[2:3]) if isinstance(item, torch.Tensor)]
    strangers = [item for item in tensors if not isinstance(item, OnDevice) and item.ndim]
    if strangers:
        raise MixedDevicesError(f"{func} takes tensors of {STAND_IN} and one of the cpu, {tuple(strangers[0].shape)}")


def _check_crossing(func: Any, tensors: list[torch.Tensor], ours: list[OnDevice], target: Any) -> None:
    if not ours and target is None:
        return
    moved = func is torch.ops.aten._to_copy.default and target is not None and bool(ours) == _is_cpu(target)
    copied = func in MAY_CROSS and len({isinstance(item, OnDevice) for item in tensors}) > 1
    if moved or copied or (ours and func in READS_A_VALUE | SHAPED_BY_VALUES):
        _crossings.note(str(func))


def _is_cpu(target: Any) -> bool:
    return torch.device(target).type == "cpu"


def _make(factory: Callable[..., torch.Tensor], *args: Any, memory_format: Any = None, **how: Any) -> OnDevice:
    how = {name: value for name, value in how.items() if name not in ("device", "layout", "pin_memory")}
    if memory_format is not None:
        how["memory_format"] = memory_format
    return OnDevice(factory(*args, **how))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _crossings.note("aten::_copy_from")
    _inside(target).copy_(_inside(source))
    return target


class _Backend(backend_registration._DummyBackendModule):  # type: ignore[misc]
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(name)
