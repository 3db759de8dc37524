"""Shorter trees that rank alike: opposing operations cancel (Pruner-Zero, arXiv 2406.02924, section 3.3), so that a search does not
try one metric under many names. Needs metric.

A rule changes no value (but for the small number that keeps a division or logarithm of zero finite), and at the root no order.
"""

from __future__ import annotations

from owled_ros.pruning.metric import Tree

NEVER_NEGATIVE = {"X", "G", "abs", "sqr", "sqrt", "exp", "mms"}
OF_SIZE = {"abs", "sqr", "sqrt", "log"}  # do not see the sign of what they are given
RISING = {"exp", "tanh", "mms", "zsn"}  # keep the order
UNDONE = {("sqrt", "sqr"): "abs", ("sqr", "sqrt"): "abs", ("exp", "log"): "abs", ("log", "exp"): "", ("neg", "neg"): ""}
ABSORBED = {
    ("mms", "mms"),
    ("mms", "zsn"),
    ("zsn", "zsn"),
    ("zsn", "mms"),
}  # the outer one undoes whatever the inner one scaled
INVERSE = {"add": "sub", "sub": "add", "mul": "div", "div": "mul"}


def simplify(tree: Tree) -> Tree:
    """Return a tree of the same order, as short as the rules make it; the same for trees that they make equal."""
    tree = _simplified(tree)
    while True:
        if tree.name in RISING:
            tree = tree.parts[0]
        elif tree.name in OF_SIZE - {"abs"}:
            tree = _simplified(Tree("abs", tree.parts))
        else:
            return tree


def _simplified(tree: Tree) -> Tree:
    """Apply the rules from the leaves up, until none fits."""
    tree = Tree(tree.name, tuple(_simplified(part) for part in tree.parts))
    shorter = _unary(tree) if len(tree.parts) == 1 else _binary(tree) if tree.parts else tree
    return tree if shorter == tree else _simplified(shorter)


def _unary(tree: Tree) -> Tree:
    (inner,) = tree.parts
    pair = (tree.name, inner.name)
    if pair in UNDONE:
        return Tree(UNDONE[pair], inner.parts) if UNDONE[pair] else inner.parts[0]
    if pair in ABSORBED:
        return Tree(tree.name, inner.parts)
    if tree.name in OF_SIZE and inner.name in ("abs", "neg"):
        return Tree(tree.name, inner.parts)
    return inner if tree.name == "abs" and _never_negative(inner) else tree


def _binary(tree: Tree) -> Tree:
    first, second = tree.parts
    if tree.name in ("add", "sub") and second.name == "neg":
        return Tree(INVERSE[tree.name], (first, second.parts[0]))
    if tree.name == "add" and first.name == "neg":
        return Tree("sub", (second, first.parts[0]))
    if first.name == INVERSE[tree.name] and second in first.parts[1:]:  # (x - y) + y
        return first.parts[0]
    if tree.name in ("sub", "div") and first.name == INVERSE[tree.name] and first.parts[0] == second:  # (y + x) - y
        return first.parts[1]
    if tree.name in ("add", "mul"):
        if second.name == INVERSE[tree.name] and second.parts[1] == first:  # y + (x - y)
            return second.parts[0]
        if tree.name == "mul" and first == second:
            return Tree("sqr", (first,))
        if str(second) < str(first):
            return Tree(tree.name, (second, first))
    return tree


def _never_negative(tree: Tree) -> bool:
    if tree.name in ("add", "mul", "div"):
        return all(map(_never_negative, tree.parts))
    return tree.name in NEVER_NEGATIVE
