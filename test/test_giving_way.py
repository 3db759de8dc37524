"""Giving way on a GPU, tried on CPU tensors: how much is ahead, when work stands still, and that pieces make the same whole."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_batches, tiny_model

from owled_ros import giving_way as room
from owled_ros.giving_way import AHEAD, LONGEST_WAIT_S, Manners, giving_way, in_this_thread, under
from owled_ros.models.components import find_structure
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.procedure import prune_blocks
from owled_ros.recalibration.parameters import JobParameters


class Ahead:
    """Makes fences and knows the most that ever waited."""

    def __init__(self) -> None:
        self.open = self.most = 0

    def __call__(self) -> Ahead:
        self.open += 1
        self.most = max(self.most, self.open)
        return self

    def synchronize(self) -> None:
        self.open -= 1


def manners(driving: Callable[[], bool] = lambda: False, **more: object) -> Manners:
    """Give manners for the CPU."""
    return Manners(driving, "cpu", **{"fence": Ahead(), **more})  # type: ignore[arg-type]


def test_little_is_ahead_and_views_are_free() -> None:
    made = manners()
    x = torch.ones(4, 4)
    with under(made):
        for _ in range(20):
            x = x.view(2, 8).t().contiguous().view(4, 4) * 0.5
    assert made.operations == 40
    assert made._fence.most == AHEAD  # type: ignore[attr-defined]
    loose = manners(bounded=False)
    with under(loose):
        (x + 1).sum()
    assert (loose.operations, loose._fence.most) == (2, 0)  # type: ignore[attr-defined]
    other = Manners(lambda: True, "cuda")  # nothing of the CPU waits for a GPU
    with under(other):
        (x + 1).sum()
    assert other.operations == 0


def test_nothing_is_launched_while_a_frame_is_in_work() -> None:
    frame = [True]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert made.operations == 1
        if len(slept) == 3:
            frame[0] = False

    made = manners(lambda: frame[0], sleep=sleep)
    frame[0] = False
    with under(made):
        x = torch.ones(2) + 1
        frame[0] = True
        y = x * 2
    assert y.tolist() == [4.0, 4.0]
    assert (len(slept), made.waits, made.operations) == (3, 1, 2)
    rude = manners(lambda: True, pauses=False)
    with under(rude):
        torch.ones(2).exp()
    assert rude.waits == 0


def test_a_mark_that_stays_is_believed_for_a_while_until_it_was_gone() -> None:
    now, frame = [0.0], [True]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    made = manners(lambda: frame[0], sleep=sleep, clock=lambda: now[0])
    with under(made):
        x = torch.ones(2).exp()
        assert now[0] == pytest.approx(LONGEST_WAIT_S, abs=0.01)
        x = x.exp().exp()
        assert now[0] == pytest.approx(LONGEST_WAIT_S, abs=0.01)
        frame[0] = False
        x = x.exp()
        frame[0] = True
        x.exp()
    assert now[0] == pytest.approx(2 * LONGEST_WAIT_S, abs=0.02)


def test_held_work_stands_still_whatever_drives() -> None:
    def sleep(seconds: float) -> None:
        made.held = False

    made = manners(sleep=sleep, pauses=False)
    made.held = True
    with under(made):
        torch.ones(2).exp()
    assert made.waits == 1


def test_a_capture_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_capturing", lambda kind: True)
    made = manners(lambda: True)
    with under(made):
        torch.ones(2).exp()
    assert made.operations == 0


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut what is large for these tests: products of more than 8 rows, factors of more than 8 columns."""
    monkeypatch.setattr(room, "PIECE", {torch.float32: 1.0, torch.float64: 1.0})
    for name in ("ROW_STEP", "FACTOR_STEP", "FACTOR_WHOLE"):
        monkeypatch.setattr(room, name, 8)


@pytest.mark.usefixtures("small_pieces")
def test_products_in_pieces_are_the_product() -> None:
    a, b, c = (torch.randn(size, dtype=torch.float64) for size in ((37, 5), (5, 11), (37, 11)))
    made = manners()
    with under(made):
        found = [a @ b, torch.addmm(c, a, b), torch.addmm(c[0], a, b, beta=0.5), c.clone().addmm_(a, b, alpha=-2.0)]
        transposed = c.t().clone().addmm_(b.t(), a.t())
        assert made.operations == 4 * 5 + 2 + 2  # of 37 rows five pieces, of 11 two, and two copies
    wanted = [a @ b, c + a @ b, 0.5 * c[0] + a @ b, c - 2.0 * a @ b]
    for one, other in zip([*found, transposed], [*wanted, (c + a @ b).t()], strict=True):
        assert torch.allclose(one, other)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("upper", [False, True])
def test_factors_in_pieces_are_the_factor(upper: bool) -> None:
    x = torch.randn(60, 37, dtype=torch.float64)
    whole = x.t() @ x
    with under(manners()):
        factor, failed = torch.linalg.cholesky_ex(whole, upper=upper)
        inverse = torch.cholesky_inverse(factor, upper=upper)
    assert not failed
    assert torch.allclose(factor, torch.linalg.cholesky(whole, upper=upper))
    assert torch.allclose(inverse, torch.linalg.inv(whole))


@pytest.mark.usefixtures("small_pieces")
def test_what_has_no_factor_says_where() -> None:
    broken = torch.eye(37, dtype=torch.float64)
    broken[20, 20] = -1.0
    with under(manners()):
        _, failed = torch.linalg.cholesky_ex(broken)
    assert int(failed) == int(torch.linalg.cholesky_ex(broken).info) == 21


@pytest.mark.usefixtures("small_pieces")
def test_gradients_go_through_pieces() -> None:
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(37, 5, dtype=torch.float64)
    made = manners()
    with under(made):
        (x @ weight.t()).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, x.sum(0).expand(11, 5))
    assert made.operations > 5


@pytest.mark.parametrize("score", ["wanda", "sparsegpt", "admm"])
def test_a_whole_pruning_gives_way_in_all_its_threads_and_ends_the_same(score: str) -> None:
    """Nothing here is large enough to be cut: bit for bit what it is alone."""
    threads: set[int] = set()

    def driving() -> bool:
        threads.add(threading.get_ident())
        return False

    weights = []
    for entered in (contextlib.nullcontext(), under(manners(driving))):
        model = tiny_model("llama")
        matrices = [matrix for block in find_structure(model).blocks for matrix in block.matrices]
        zeros = {matrix.name: matrix.size // 2 for matrix in matrices}
        with entered:
            config = PruneConfig(Path(), Path(), 0.5, score, "uniform")
            prune_blocks(model, find_structure(model), tiny_batches("llama"), zeros, config)
        weights.append(torch.cat([matrix.weight().flatten() for matrix in matrices]))
    assert torch.equal(*weights)
    assert len(threads) > len(tiny_batches("llama"))  # this one, and one for every sample and block


def test_other_devices_and_switched_off_means_change_nothing() -> None:
    for told in (("cpu",), ("cuda:0", False, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, "file_of", lambda device: None)
            with giving_way(*told) as missing:  # type: ignore[arg-type]
                assert missing == ""
                assert room._here is None
                with in_this_thread():
                    pass


def test_a_job_for_a_driving_vehicle_gives_way_on_the_gpu_too() -> None:
    for idle in (True, False):
        told = JobParameters(idle_scheduling=idle).courtesy
        assert (told.idle, told.gpu_pauses, told.gpu_bounded) == (idle,) * 3
