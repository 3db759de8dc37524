"""Work on a GPU that gives way to driving: small pieces, few of them ahead, none while a frame is in work. Needs torch.

After Missile (arXiv 2407.13996), for two processes: what orders work inside one CUDA context (stream priorities) does not reach into
another one; two contexts get the GPU in turn, whoever is in a hurry. What does reach is not to have work there. So every operation of the
process that runs under `giving_way` waits while a driver's mark is set, and what was launched before is bounded: at most
AHEAD operations are on their way, and large products and factorisations are cut into pieces. A mark that stays set is believed for
LONGEST_WAIT_S, so neither side can hold up the other for good. What is cut into pieces depends on shapes alone: the same twice.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from owled_ros.driving_mark import DrivingWatch, file_of

AHEAD = 4  # operations on their way
LOOK_EVERY_S = 0.0005
LONGEST_WAIT_S = 2.0
PIECE = {
    torch.float32: 5e10,
    torch.float64: 5e9,
}  # additions and multiplications of a piece: about a millisecond of a large GPU
HALF_PIECE = 4e11  # in 16 bits
ROW_STEP = 128  # rows of a piece are a multiple of it
FACTOR_STEP = 512  # columns of a piece of a factorisation
FACTOR_WHOLE = 2048  # smaller ones are one piece
aten = torch.ops.aten


class Fence(Protocol):
    """Tells when what was launched before it is done."""

    def synchronize(self) -> None:
        """Wait until it is."""


class Manners:
    """How one process gives way; shared by its threads, which take turns. Both means may be switched while work runs."""

    def __init__(
        self,
        driving: Callable[[], bool],
        kind: str = "cuda",
        pauses: bool = True,
        bounded: bool = True,
        fence: Callable[[], Fence] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what tells whether a frame is in work, and the kind of device whose operations are meant."""
        self.driving, self.kind, self.pauses, self.bounded = driving, kind, pauses, bounded
        self.held = False  # stand still, whatever drives: what a measurement of driving alone needs
        self.operations = 0  # done under it
        self.waits = 0
        self._fence, self._sleep, self._clock = fence or _recorded, sleep, clock
        self._ahead: deque[Fence] = deque()
        self._tired = False  # of a mark that stays set

    def before(self) -> None:
        """Wait for the room to launch one more piece, and while a frame is in work."""
        if self.bounded:
            while len(self._ahead) >= AHEAD:
                self._ahead.popleft().synchronize()
        if self.pauses or self.held:
            self._stand_still()

    def after(self) -> None:
        """Note that a piece was launched."""
        self.operations += 1
        if self.bounded:
            self._ahead.append(self._fence())

    def _stand_still(self) -> None:
        if not self.driving() and not self.held:
            self._tired = False
            return
        if self._tired and not self.held:
            return
        self.waits += 1
        begun = self._clock()
        while self.held or (self.pauses and self.driving()):
            if not self.held and self._clock() - begun > LONGEST_WAIT_S:
                self._tired = True
                return
            self._sleep(LOOK_EVERY_S)


class GivingWay(TorchDispatchMode):
    """Lets every operation of one thread on such a device wait for its turn."""

    def __init__(self, manners: Manners) -> None:
        super().__init__()
        self.manners = manners

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, manners = kwargs or {}, self.manners
        if getattr(func, "is_view", False) or not _concerns(args, manners.kind) or _capturing(manners.kind):
            return func(*args, **kwargs)
        in_pieces = PIECES.get(func) if manners.bounded else None
        if in_pieces is not None:
            found = in_pieces(manners, *args, **kwargs)
            if found is not None:
                return found
        manners.before()
        found = func(*args, **kwargs)
        manners.after()
        return found


_here: Manners | None = None  # of this process


@contextlib.contextmanager
def giving_way(device: str, pauses: bool = True, bounded: bool = True) -> Iterator[str]:
    """Run work for a CUDA device so that it gives way to driving there; for another device as it is.

    Yields in words what cannot be done here, or "".
    """
    file = file_of(device)
    if file is None or not (pauses or bounded):
        yield ""
        return
    watch = DrivingWatch(file)
    try:
        with under(Manners(watch.driving, pauses=pauses, bounded=bounded)):
            yield "" if watch.works or not pauses else f"pauses on {device} ({file} cannot be opened)"
    finally:
        watch.close()


@contextlib.contextmanager
def under(manners: Manners) -> Iterator[None]:
    """Work with these manners in this thread, and in threads that enter `in_this_thread`."""
    global _here
    before, _here = _here, manners
    try:
        with GivingWay(manners):
            yield
    finally:
        _here = before


def in_this_thread() -> contextlib.AbstractContextManager[object]:
    """Give what a further thread of the work enters: manners are per thread in torch."""
    return contextlib.nullcontext() if _here is None else GivingWay(_here)


def _recorded() -> Fence:
    event = torch.cuda.Event()
    event.record()
    return event


def _capturing(kind: str) -> bool:
    return kind == "cuda" and torch.cuda.is_current_stream_capturing()


def _concerns(args: Any, kind: str) -> bool:
    for value in args:
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(first, torch.Tensor) and first.device.type == kind:
            return True
    return False


# What is cut into pieces. Each gives None where its work is small enough to be one.


def _rows(a: torch.Tensor, b: torch.Tensor) -> Iterator[slice] | None:
    """Cut the rows of a product (M, K) x (K, N)."""
    count, work = a.shape[0], 2.0 * a.shape[1] * b.shape[1]
    rows = max(int(PIECE.get(a.dtype, HALF_PIECE) / max(work, 1.0)) // ROW_STEP * ROW_STEP, ROW_STEP)
    if rows >= count:
        return None
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def _product(manners: Manners, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    parts = _rows(a, b)
    if parts is None:
        return None
    made = a.new_empty(a.shape[0], b.shape[1])
    for part in parts:
        manners.before()
        torch.mm(a[part], b, out=made[part])
        manners.after()
    return made


def _added(manners: Manners, c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **how: Any) -> torch.Tensor | None:
    parts = _rows(a, b)
    if parts is None:
        return None
    made, wide = a.new_empty(a.shape[0], b.shape[1]), c.expand(a.shape[0], b.shape[1])
    for part in parts:
        manners.before()
        torch.addmm(wide[part], a[part], b, out=made[part], **how)
        manners.after()
    return made


def _added_in_place(
    manners: Manners, c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **how: Any
) -> torch.Tensor | None:
    parts = _rows(a, b)
    if parts is None:
        return None
    for part in parts:
        manners.before()
        c[part].addmm_(a[part], b, **how)
        manners.after()
    return c


def _factor(
    manners: Manners, matrix: torch.Tensor, *, upper: bool = False, check_errors: bool = False
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Give the Cholesky factor (K, K) and what failed, column block by column block."""
    if matrix.ndim != 2 or matrix.shape[0] <= FACTOR_WHOLE or check_errors:
        return None
    left = (matrix.mT if upper else matrix).tril()
    failed = torch.zeros((), dtype=torch.int32, device=matrix.device)
    for start in range(0, left.shape[0], FACTOR_STEP):
        stop = min(start + FACTOR_STEP, left.shape[0])
        manners.before()
        corner, wrong = torch.linalg.cholesky_ex(left[start:stop, start:stop])
        failed = torch.where((failed == 0) & (wrong != 0), wrong + start, failed)
        left[start:stop, start:stop] = corner
        manners.after()
        if stop == left.shape[0]:
            break
        manners.before()
        below = torch.linalg.solve_triangular(corner.mT, left[stop:, start:stop], upper=True, left=False)
        left[stop:, start:stop] = below
        manners.after()
        rest = left[stop:, stop:]
        if _added_in_place(manners, rest, below, below.mT, alpha=-1.0) is None:
            manners.before()
            rest.addmm_(below, below.mT, alpha=-1.0)
            manners.after()
    left = left.tril()
    return (left.mT.contiguous() if upper else left), failed


def _inverse(manners: Manners, factor: torch.Tensor, upper: bool = False) -> torch.Tensor | None:
    """Give the inverse (K, K) of what a Cholesky factor is of, column block by column block."""
    size = factor.shape[-1]
    if factor.ndim != 2 or size <= FACTOR_WHOLE:
        return None
    lower = factor.mT if upper else factor
    columns = torch.eye(size, dtype=factor.dtype, device=factor.device)
    for start in range(0, size, FACTOR_STEP):  # of the factor's inverse, zero above the diagonal
        stop = min(start + FACTOR_STEP, size)
        manners.before()
        columns[start:, start:stop] = torch.linalg.solve_triangular(
            lower[start:, start:], columns[start:, start:stop], upper=False
        )
        manners.after()
    found = _product(manners, columns.mT, columns)
    return columns.mT @ columns if found is None else found


PIECES: dict[Any, Callable[..., Any]] = {
    aten.mm.default: _product,
    aten.addmm.default: _added,
    aten.addmm_.default: _added_in_place,
    aten.linalg_cholesky_ex.default: _factor,
    aten.cholesky_inverse.default: _inverse,
}
