"""Metrics as trees, their search, and pruning by them: values worked by hand, the same tree again whatever happens in between."""

from __future__ import annotations

import json
import math
import random
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_batches, tiny_model

from owled_ros.errors import OwledError
from owled_ros.models.components import find_structure
from owled_ros.models.load import load_model
from owled_ros.models.manifest import read_manifest
from owled_ros.pruning import scores
from owled_ros.pruning.config import PruneConfig
from owled_ros.pruning.evolution import KNOWN, MOST_NODES, SearchSettings, Tried, evolve, random_tree
from owled_ros.pruning.metric import BINARY, LEAVES, UNARY, Tree, fault_of, parse_metric, read_metric, score_of
from owled_ros.pruning.metric_rules import simplify
from owled_ros.pruning.metric_search import PrunedLoss, evaluations_in, search, write_metric
from owled_ros.pruning.prune import prune

WEIGHT = torch.tensor([[-2.0, 1.0], [3.0, -4.0]])
SQUARES = torch.tensor([9.0, 1.0])
GRADIENT = torch.tensor([[1.0, -3.0], [2.0, 5.0]])


def _trees(binary: tuple[str, ...] = tuple(BINARY)) -> st.SearchStrategy[Tree]:
    leaves = st.sampled_from([Tree(name) for name in LEAVES])
    return st.recursive(
        leaves,
        lambda parts: st.one_of(
            st.builds(lambda name, part: Tree(name, (part,)), st.sampled_from([*UNARY]), parts),
            st.builds(lambda name, one, two: Tree(name, (one, two)), st.sampled_from(binary), parts, parts),
        ),
        max_leaves=8,
    )


@settings(deadline=None)
@given(tree=_trees())
def test_a_tree_is_read_as_it_was_written(tree: Tree) -> None:
    if tree.size <= 64:
        assert parse_metric(str(tree)) == tree
        assert parse_metric(str(tree).replace("(", " ( ").replace(",", "\n,")) == tree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mul(abs(W), X)", [[6.0, 1.0], [9.0, 4.0]]),
        ("sub(W, G)", [[-3.0, -2.0], [1.0, -9.0]]),
        ("neg(sqr(W))", [[-4.0, -1.0], [-9.0, -16.0]]),
        ("mms(G)", [[0.0, 0.5], [0.25, 1.0]]),  # 1, 3, 2, 5 scaled
        ("sqrt(sqr(W))", [[2.0, 1.0], [3.0, 4.0]]),
        ("div(W, X)", [[-2 / 3, 1.0], [1.0, -4.0]]),
        ("zsn(X)", [[1.0, -1.0], [1.0, -1.0]]),  # 3 and 1: mean 2, spread 1
        ("add(X, X)", [[6.0, 2.0], [6.0, 2.0]]),
    ],
)
def test_scores_by_hand(text: str, expected: list[list[float]]) -> None:
    torch.testing.assert_close(
        score_of(parse_metric(text), WEIGHT, SQUARES, GRADIENT), torch.tensor(expected), rtol=1e-5, atol=1e-5
    )


def test_the_known_metrics_are_those_of_their_papers() -> None:
    papers = {
        "magnitude": scores.magnitude(WEIGHT),
        "wanda": scores.wanda(WEIGHT, SQUARES),
        "pruner-zero": scores.pruner_zero(WEIGHT, GRADIENT),
    }
    for name, tree in KNOWN.items():
        torch.testing.assert_close(score_of(tree, WEIGHT, SQUARES, GRADIENT), papers[name])
        assert simplify(tree).size <= tree.size


def test_division_and_logarithm_of_zero_have_a_value() -> None:
    weight = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    for text in ("div(X, W)", "log(W)", "div(W, sub(W, W))", "zsn(sub(W, W))", "mms(sub(W, W))"):
        assert bool(score_of(parse_metric(text), weight, SQUARES).isfinite().all()), text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("exp(exp(sqr(sqr(W))))", "NaN or infinite"),
        ("sub(exp(exp(sqr(sqr(W)))), exp(exp(sqr(sqr(W)))))", "NaN or infinite"),
        ("sub(W, W)", "the same"),
        ("mul(abs(W), X)", None),
        ("X", None),
    ],
)
def test_what_ranks_nothing_is_found(text: str, fault: str | None) -> None:
    found = fault_of(score_of(parse_metric(text), WEIGHT, SQUARES))
    assert (found is None) == (fault is None)
    assert fault is None or fault in str(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected W or X"),
        ("Y", "not Y"),
        ("abs", r"expected \(, not the end"),
        ("abs(W", r"expected \), not the end"),
        ("abs(W))", r"expected the end, not \)"),
        ("mul(W)", r"expected ,, not \)"),
        ("abs(W, X)", r"expected \), not ,"),
        ("W X", "expected the end, not X"),
        ("__import__('os')", "not _"),
        ("abs(" * 5000, "more than 64"),
        ("add(W, " * 40 + "W" + ")" * 40, "81 nodes"),
    ],
)
def test_what_is_no_metric_is_said(text: str, message: str) -> None:
    with pytest.raises(OwledError, match=message):
        parse_metric(text)


@pytest.mark.parametrize(
    ("text", "shorter"),
    [
        ("sqrt(sqr(W))", "abs(W)"),
        ("mul(X, sqr(sqrt(W)))", "mul(X, abs(W))"),
        ("add(X, exp(log(W)))", "add(X, abs(W))"),
        ("add(X, log(exp(W)))", "add(W, X)"),
        ("neg(neg(W))", "W"),
        ("abs(mul(X, G))", "mul(G, X)"),
        ("add(sub(W, X), X)", "W"),
        ("add(X, sub(W, X))", "W"),
        ("sub(add(W, X), X)", "W"),
        ("sub(add(X, W), X)", "W"),
        ("div(mul(W, X), X)", "W"),
        ("mul(X, div(W, X))", "W"),
        ("sub(W, neg(G))", "add(G, W)"),
        ("add(neg(W), G)", "sub(G, W)"),
        ("mul(W, W)", "abs(W)"),  # a square alone ranks as the size does
        ("mms(tanh(exp(W)))", "W"),  # what rises keeps the order
        ("mul(mms(zsn(W)), X)", "mul(X, mms(W))"),
        ("mul(X, G)", "mul(G, X)"),
        ("neg(W)", "neg(W)"),
        ("mul(neg(W), X)", "mul(X, neg(W))"),
    ],
)
def test_opposing_operations_cancel(text: str, shorter: str) -> None:
    assert str(simplify(parse_metric(text))) == str(simplify(parse_metric(shorter)))
    assert simplify(parse_metric(text)).size <= parse_metric(shorter).size


@settings(deadline=None, max_examples=60, derandomize=True)
@given(tree=_trees(binary=("add", "sub")), seed=st.integers(0, 9))
def test_a_shorter_tree_ranks_alike(tree: Tree, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    squares = torch.rand(4, generator=generator, dtype=torch.float64) + 0.1

    def values(of: Tree) -> torch.Tensor:
        return score_of(of, weight, squares, gradient)

    short = simplify(tree)
    assert simplify(short) == short
    assert short.size <= tree.size
    before, after = values(tree), values(short)
    if not bool(before.isfinite().all()):
        return
    apart = before[:, :, None] - before[:, None, :]
    clear = apart > 1e-3 * before.abs().amax()  # beyond rounding and the small number in log
    assert bool(((after[:, :, None] - after[:, None, :])[clear] > 0).all())


def _worth(tree: Tree) -> float:
    """Some loss that looks like chance; a tenth of the trees rank nothing."""
    drawn = zlib.crc32(str(tree).encode())
    return math.nan if drawn % 10 == 0 else drawn / 2**32


def _course(evaluations: int, seed: int = 0, population: int = 6) -> list[Tried]:
    return list(evolve(_worth, SearchSettings(evaluations, population, seed)))


def test_a_search_tries_new_trees_and_follows_from_its_seed() -> None:
    first = _course(60)
    assert len({one.tree for one in first}) == 60
    assert all(one.tree == simplify(one.tree) and one.tree.size <= MOST_NODES for one in first)
    assert [one.tree for one in first[:3]] == [simplify(tree) for tree in KNOWN.values()]
    assert first == _course(60)
    assert first != _course(60, seed=1)
    assert first[:41] == _course(41)  # a longer search begins as the shorter one
    assert any(math.isinf(one.loss) for one in first)


def test_a_search_finds_the_tree_that_is_worth_most() -> None:
    wanted = {"G", "W", "sqrt", "div"}

    def loss(tree: Tree) -> float:
        return len(wanted ^ {node.name for node in tree.nodes()}) + tree.size / 100

    best = min(evolve(loss, SearchSettings(600, 20, 3)), key=lambda one: one.rank)
    assert best.loss < 1, best.tree


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000), depth=st.integers(0, 5), full=st.booleans())
def test_random_trees_are_no_deeper_than_asked(seed: int, depth: int, full: bool) -> None:
    def deepest(tree: Tree) -> int:
        return 1 + max(map(deepest, tree.parts)) if tree.parts else 0

    tree = random_tree(random.Random(seed), depth, full)
    assert deepest(tree) == depth if full else deepest(tree) <= depth


def test_a_search_killed_at_any_moment_goes_on_to_the_same_end(tmp_path: Path) -> None:
    wanted = SearchSettings(20, 5, 2)
    whole = [(found.tried, found.best.tree) for found in search(_worth, wanted, tmp_path / "whole", "a")]
    written = (tmp_path / "whole").read_bytes()
    for cut in range(0, len(written), 29):
        state = tmp_path / "cut"
        state.write_bytes(written[:cut])
        asked: list[Tree] = []

        def counted(tree: Tree, asked: list[Tree] = asked) -> float:
            asked.append(tree)
            return _worth(tree)

        assert [(found.tried, found.best.tree) for found in search(counted, wanted, state, "a")] == whole
        assert len(asked) == 20 - max(written[:cut].count(b"\n") - 1, 0)
        assert state.read_bytes() == written


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\n", b'{"version": 1, "search": "b"}\n["W", 1.0]\n'])
def test_the_state_of_another_search_or_none_is_begun_afresh(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(content)
    found = [one.best.tree for one in search(_worth, SearchSettings(8, 4, 2), tmp_path / "state", "a")]
    assert found == [one.best.tree for one in search(_worth, SearchSettings(8, 4, 2), tmp_path / "other", "a")]
    assert (tmp_path / "state").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_state_with_a_damaged_line_is_begun_afresh(tmp_path: Path) -> None:
    list(search(_worth, SearchSettings(8, 4, 2), tmp_path / "state", "a"))
    whole = (tmp_path / "state").read_bytes()
    for line in (b'["Y(W)", 1.0]\n', b'["W", "much"]\n', b"[1]\n"):
        (tmp_path / "state").write_bytes(whole + line)
        list(search(_worth, SearchSettings(8, 4, 2), tmp_path / "state", "a"))
        assert (tmp_path / "state").read_bytes() == whole


def test_minutes_become_evaluations_by_the_models_size() -> None:
    # 1e6 weights on 500 tokens: 2000 products each, 2e9 of 2e10 a second, so 600 in a minute.
    assert evaluations_in(1.0, 1_000_000, 500) == 600
    for minutes in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(OwledError, match="no time"):
            evaluations_in(minutes, 10, 10)


@pytest.mark.parametrize(("values", "message"), [((3, 2, 0), "too small"), ((3, 8, 0), "less than a first generation")])
def test_budgets_that_cannot_be_met_are_refused(values: tuple[int, int, int], message: str) -> None:
    with pytest.raises(OwledError, match=message):
        list(evolve(_worth, SearchSettings(*values)))


def test_a_trial_prunes_exactly_measures_and_puts_the_weights_back(tmp_path: Path) -> None:
    model, batches = tiny_model("llama"), tiny_batches("llama")
    structure = find_structure(model)
    matrix = structure.blocks[0].matrices[0]
    matrix.weight().zero_()  # damaged: goes by magnitude, and makes no tree worthless
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss_of = PrunedLoss(model, structure, batches, batches, PruneConfig(Path(), Path(), 0.6, "magnitude", "uniform"))
    for text in ("mul(abs(W), X)", "mul(sqr(W), mms(G))", "neg(abs(W))"):
        assert loss_of(parse_metric(text)) > loss_of.dense - 0.1
    assert loss_of(parse_metric("sub(W, W)")) == math.inf
    assert loss_of(parse_metric("exp(exp(exp(exp(exp(G)))))")) == math.inf
    assert loss_of.trials == 5
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.save_pretrained(tmp_path / "model")
    config = PruneConfig(tmp_path / "model", tmp_path / "out", 0.6, "wanda", "uniform", "oneshot", dtype="float32")
    manifest = read_manifest(prune(config, batches, held_out=batches))
    assert loss_of(KNOWN["wanda"]) == pytest.approx(manifest.quality["pruned"]["loss"], abs=2e-5)


def test_a_found_metric_prunes_as_what_it_is(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    config = PruneConfig(tmp_path / "model", tmp_path / "wanda", 0.5, "wanda", "owl", dtype="float32")
    for score in ("wanda", "pruner-zero"):
        prune(replace(config, score=score, output=tmp_path / score), tiny_batches("llama"))
        same = replace(config, score="metric", metric=str(KNOWN[score]), output=tmp_path / "metric", rows="even")
        manifest = read_manifest(prune(same, tiny_batches("llama")))
        assert (manifest.method.score, manifest.method.settings["metric"]) == ("metric", str(KNOWN[score]))
        assert not manifest.fallbacks
        ours, theirs = (load_model(tmp_path / place).state_dict() for place in ("metric", score))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_matrix_that_a_metric_does_not_rank_goes_by_magnitude(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    config = PruneConfig(tmp_path / "model", tmp_path / "out", 0.5, "metric", "uniform", dtype="float32", pattern="2:4")
    for metric, words in (("sub(W, W)", "the same"), ("exp(exp(exp(exp(exp(X)))))", "NaN or infinite")):
        manifest = read_manifest(prune(replace(config, metric=metric), tiny_batches("llama")))
        assert len(manifest.fallbacks) == 14
        assert all(words in reason for reason in manifest.fallbacks.values())
        assert sum(block.zeros for block in manifest.blocks) == 18432 // 2


def test_a_pruned_model_is_pruned_further_by_a_metric_that_is_negative(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    config = PruneConfig(tmp_path / "model", tmp_path / "half", 0.4, "wanda", "uniform", dtype="float32")
    half = prune(config, tiny_batches("llama"))
    more = replace(config, model=half, output=tmp_path / "more", sparsity=0.6, score="metric", metric="neg(abs(W))")
    manifest = read_manifest(prune(more, tiny_batches("llama")))
    assert sum(block.zeros for block in manifest.blocks) == round(0.6 * 18432)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "metric"}, "go together"),
        ({"metric": "W"}, "go together"),
        ({"score": "metric", "metric": "abs(V)"}, "not V"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(OwledError, match=message):
        replace(PruneConfig(Path("m"), Path("o"), 0.5, "wanda", "uniform"), **changes).check()


def test_files_of_metrics(tmp_path: Path) -> None:
    found = next(search(_worth, SearchSettings(4, 4, 0), tmp_path / "state", "a"))
    write_metric(tmp_path / "mine.json", "mine", found, {"sparsity": 0.5})
    metric = read_metric(str(tmp_path / "mine.json"))
    assert (metric.name, metric.tree) == ("mine", found.best.tree)
    assert json.loads((tmp_path / "mine.json").read_text())["loss"] == found.best.loss
    worthless = replace(found, best=replace(found.best, loss=math.inf))
    with pytest.raises(OwledError, match="no tree"):
        write_metric(tmp_path / "none.json", "none", worthless, {})
    for content, message in (
        ("{", "cannot be read"),
        ("[]", "is no metric"),
        ('{"format": "owled_metric", "metric": 3}', "is no metric"),
        ('{"format": "owled_metric", "format_version": 9, "metric": "W"}', "has format 9"),
        ('{"format": "owled_metric", "format_version": 1, "metric": "abs(Q)"}', "not Q"),
        ("[" * 100_000, "cannot be read"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(OwledError, match=message):
            read_metric(str(tmp_path / "bad.json"))
    with pytest.raises(OwledError, match="there is no metric"):
        read_metric(str(tmp_path / "absent.json"))
