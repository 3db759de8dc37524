"""Run one block on many chunks in step, so that every layer can be pruned on all its inputs before it multiplies.

Needs torch. Each chunk runs the block's own forward in a thread of its own, one thread at a time and in fixed order,
and halts in front of each stop; when all have halted there, the stop is handled once with all inputs. So one forward
pass gives fused, sequential statistics, whatever the shapes of the chunks.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from owled_ros.devices import on_device
from owled_ros.giving_way import in_this_thread

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_LIBC = ctypes.CDLL(None)
StopHandler = Callable[[nn.Module, list[tuple[int, Arguments]]], None]  # the stop; (job, its arguments) in job order


@dataclass
class _Worker:
    thread: threading.Thread
    go: threading.Event
    halted: threading.Event
    stop: nn.Module | None = None  # where it waits
    arguments: Arguments = ((), {})
    finished: bool = False
    abandoned: bool = False
    result: Any = None
    error: BaseException | None = None


class _Abandoned(BaseException):
    """Ends the threads of the other chunks after one has failed."""


def run_in_step(
    jobs: Sequence[Callable[[], Any]],
    stops: Sequence[nn.Module],
    handle: StopHandler,
    same: Mapping[nn.Module, nn.Module] = MappingProxyType({}),
) -> list[Any]:
    """Run the jobs without gradients and return their results; `handle` sees each stop with the inputs of all jobs there.

    A job that reaches a stop which was already handled goes straight on. Errors of a job are raised here.

    Args:
        same: modules in front of which a job halts as if they were the stop they are mapped to.
    """
    workers: list[_Worker] = []
    by_thread: dict[int, _Worker] = {}
    handled: set[nn.Module] = set()

    def halt(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        worker, stop = by_thread.get(threading.get_ident()), same.get(module, module)
        if worker is None or stop in handled:
            return
        worker.stop, worker.arguments = stop, (args, kwargs)
        worker.halted.set()
        worker.go.wait()
        worker.go.clear()
        if worker.abandoned:
            raise _Abandoned

    hooks = [module.register_forward_pre_hook(halt, with_kwargs=True) for module in (*stops, *same)]
    try:
        give_back_freed_memory()
        for job in jobs:
            workers.append(_start(job, by_thread))
        while running := [index for index, worker in enumerate(workers) if not worker.finished]:
            for index in running:
                if workers[index].stop is None or workers[index].stop in handled:
                    _resume(workers[index])
            waiting = [index for index in running if not workers[index].finished]
            if waiting:
                stop = workers[waiting[0]].stop
                here = [index for index in waiting if workers[index].stop is stop]
                assert stop is not None
                if len(handled) == (len(stops) + 1) // 2:  # attention is done, its tensors are free
                    give_back_freed_memory()
                handle(stop, [(index, workers[index].arguments) for index in here])
                handled.add(stop)
        return [worker.result for worker in workers]
    finally:
        for hook in hooks:
            hook.remove()
        _abandon(workers)


def give_back_freed_memory() -> None:
    """Hand freed pages to the system: each chunk's thread frees into a heap of its own, where they would pile up.

    The pages must be faulted in again: at every stop that would nearly double the time, twice a block it costs little.
    """
    trim = getattr(_LIBC, "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _start(job: Callable[[], Any], by_thread: dict[int, _Worker]) -> _Worker:
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    current = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_initialized() else "cpu"
    lower = {kind: torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)}

    def body() -> None:
        by_thread[threading.get_ident()] = worker
        worker.go.wait()
        worker.go.clear()
        try:
            if not worker.abandoned:
                with torch.no_grad(), on_device(current), contextlib.ExitStack() as stack, in_this_thread():
                    for kind, dtype in lower.items():  # autocast and the device are per thread: pass them on
                        stack.enter_context(torch.autocast(kind, dtype, cache_enabled=False))
                    worker.result = job()
        except _Abandoned:
            pass
        except BaseException as error:  # handed to the caller's thread by _resume
            worker.error = error
        finally:
            worker.finished = True
            worker.halted.set()

    worker = _Worker(threading.Thread(target=body, daemon=True), threading.Event(), threading.Event())
    worker.thread.start()
    return worker


def _resume(worker: _Worker) -> None:
    """Let a worker run to its next halt or its end."""
    worker.stop, worker.arguments = None, ((), {})
    worker.halted.clear()
    worker.go.set()
    worker.halted.wait()
    if worker.error is not None:
        raise worker.error


def _abandon(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if not worker.finished:
            worker.abandoned = True
            worker.halted.clear()
            worker.go.set()
        worker.thread.join()
