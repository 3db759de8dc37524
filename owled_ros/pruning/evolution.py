"""Genetic programming over metric trees (Pruner-Zero, arXiv 2406.02924, algorithm 1). Needs metric; knows nothing of models or time.

The course of a search follows from its seed and from what the trees are worth, and from nothing else: every generation draws from
a generator of its own, whole, before its first tree is tried. So a search that is begun again and told what is known already goes on
to the very same end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from owled_ros.errors import OwledError
from owled_ros.pruning.metric import LEAVES, OPERATIONS, Tree, parse_metric
from owled_ros.pruning.metric_rules import simplify

KNOWN = {  # metrics that people found, among the first trees
    "magnitude": parse_metric("abs(W)"),
    "wanda": parse_metric("mul(abs(W), X)"),
    "pruner-zero": parse_metric("mul(sqr(W), mms(G))"),
}
SMALLEST_POPULATION = 4
FIRST_DEPTHS = (2, 3, 4)
MOST_NODES = 20  # of a tree in the search
CONTESTANTS = 3  # of a tournament
CROSSED = 0.5  # share of children with two parents; the others are mutated
TRIES = 200  # to find a new tree, before a generation ends with fewer


@dataclass(frozen=True)
class SearchSettings:
    """`evaluations`: how many trees are tried in all, each counted once."""

    evaluations: int
    population: int = 16
    seed: int = 0

    def check(self) -> None:
        """Raise OwledError on a value that cannot work."""
        if self.population < SMALLEST_POPULATION:
            raise OwledError(f"a population of {self.population} is too small: give {SMALLEST_POPULATION} or more")
        if self.evaluations < self.population:
            raise OwledError(
                f"{self.evaluations} evaluations are less than a first generation of {self.population}: give more minutes, "
                "more --evaluations, fewer or shorter samples, or a smaller --population"
            )


@dataclass(frozen=True)
class Tried:
    """One tree that was tried: `loss` is infinite for a tree that ranks nothing."""

    tree: Tree
    loss: float
    generation: int
    place: int  # how many were tried, with this one

    @property
    def rank(self) -> tuple[float, int, str]:
        """Lowest is best: by loss, then the shorter tree, then by its text."""
        return (self.loss, self.tree.size, str(self.tree))


def evolve(loss_of: Callable[[Tree], float], settings: SearchSettings) -> Iterator[Tried]:
    """Yield every tree that is tried, as soon as its loss is known; ends after `settings.evaluations` of them."""
    settings.check()
    tried: dict[Tree, Tried] = {}
    population: list[Tried] = []
    generation = 0
    while len(tried) < settings.evaluations:
        chance = random.Random(f"{settings.seed}/{generation}")
        left = min(settings.population, settings.evaluations - len(tried))
        fresh = _drawn(chance, population, tried, left)
        if not fresh:
            return
        for tree in fresh:
            loss = loss_of(tree)
            tried[tree] = Tried(tree, loss if math.isfinite(loss) else math.inf, generation, len(tried) + 1)
            yield tried[tree]
        population = sorted([*population, *(tried[tree] for tree in fresh)], key=lambda one: one.rank)
        population = population[: settings.population]
        generation += 1


def _drawn(chance: random.Random, population: list[Tried], tried: Mapping[Tree, Tried], count: int) -> list[Tree]:
    """Draw new trees: at first the known ones and random ones, then children; each simplified, none that was tried before."""
    fresh = [] if population else [simplify(tree) for tree in KNOWN.values()][:count]
    for number in range(count * TRIES):
        if len(fresh) == count:
            break
        if population:
            child = _child(chance, population)
        else:
            child = random_tree(chance, FIRST_DEPTHS[number % len(FIRST_DEPTHS)], full=bool(number % 2))
        child = simplify(child)
        if child.size <= MOST_NODES and child not in tried and child not in fresh:
            fresh.append(child)
    return fresh


def _child(chance: random.Random, population: list[Tried]) -> Tree:
    first = _winner(chance, population)
    if chance.random() < CROSSED:
        given = chance.choice(list(_winner(chance, population).nodes()))
    elif chance.random() < 0.5:
        return _renamed(chance, first)
    else:
        given = random_tree(chance, 2, full=False)
    return _replaced(first, chance.randrange(first.size), given)


def _winner(chance: random.Random, population: list[Tried]) -> Tree:
    """Return the best of a few: the population is sorted."""
    return population[min(chance.randrange(len(population)) for _ in range(CONTESTANTS))].tree


def random_tree(chance: random.Random, depth: int, full: bool) -> Tree:
    """Draw a tree of at most `depth` operations on each other; a full one has leaves only there."""
    if depth == 0 or (not full and chance.random() < 0.4):
        return Tree(chance.choice(LEAVES))
    name = chance.choice(list(OPERATIONS))
    return Tree(name, tuple(random_tree(chance, depth - 1, full) for _ in range(OPERATIONS[name])))


def _renamed(chance: random.Random, tree: Tree) -> Tree:
    """Change one node into another of its kind."""
    place = chance.randrange(tree.size)
    node = list(tree.nodes())[place]
    kind = [name for name in OPERATIONS if OPERATIONS[name] == len(node.parts)] if node.parts else list(LEAVES)
    return _replaced(tree, place, Tree(chance.choice(kind), node.parts))


def _replaced(tree: Tree, place: int, given: Tree) -> Tree:
    """Put a tree in the place of the node that stands there in `nodes()`."""
    if place == 0:
        return given
    parts, place = [], place - 1
    for part in tree.parts:
        parts.append(_replaced(part, place, given) if 0 <= place < part.size else part)
        place -= part.size
    return Tree(tree.name, tuple(parts))
