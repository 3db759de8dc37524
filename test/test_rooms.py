"""The house's walls: imports run one way, and only nodes/ knows rclpy. Read from the sources, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "owled_ros"
GROUND = {
    "errors",
    "files",
    "progress",
    "shipped",
    "version",
    "compute_type",
    "devices",
    "driving_mark",
    "giving_way",
    "python_child",
    "settings",
    "options",
}  # stands under every room
BELOW = {  # room: rooms that it may import from
    "driving": set(),
    "sparse": set(),
    "scenes": {"driving"},
    "models": {"sparse", "driving"},
    "pruning": {"models", "driving", "sparse"},
    "bags": {"driving"},
    "images": {"bags", "driving"},
    "doctor": {"models", "sparse", "images"},
    "deployment": {"models"},
    "llm_driver": {"pruning", "models", "driving", "scenes"},
    "onboard": {"models", "driving", "sparse", "deployment"},
    "evaluation": {"bags", "pruning", "models", "driving", "scenes", "sparse", "llm_driver"},
    "tuning": {"evaluation", "bags", "pruning", "models", "driving"},
    "recalibration": {"deployment", "evaluation", "bags", "pruning", "models", "driving", "scenes", "sparse"},
}
EVERYTHING = {*BELOW, "nodes", "demo", "commands", "cli"}
ABOVE = {  # may import everything below the command line
    "nodes": EVERYTHING - {"commands", "cli", "demo"},
    "demo": EVERYTHING - {"commands", "cli", "nodes"},
    "commands": EVERYTHING - {"cli"},
    "cli": EVERYTHING,
    "__main__": {"cli"},
}
GENERATED = {"msg", "srv", "action"}
ROS = {"rclpy", "rosidl_runtime_py", "launch", "launch_ros", "rosidl_parser"}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """Yield (path, room, syntax tree) of every source file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        yield str(relative), room, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            if node.module == "owled_ros":
                yield from (f"owled_ros.{name.name}" for name in node.names)


def test_only_nodes_imports_ros() -> None:
    for path, room, tree in modules():
        roots = {name.split(".")[0] for name in imported(tree)}
        messages = {
            name for name in imported(tree) if name.startswith("owled_ros.") and name.split(".")[1] in GENERATED
        }
        if room != "nodes":
            assert not roots & ROS, f"{path} imports {roots & ROS}"
            assert not messages, f"{path} imports the generated {messages}"


def test_imports_run_down_only() -> None:
    allowed = {**BELOW, **ABOVE}
    for path, room, tree in modules():
        if room in ("__init__", *GROUND):
            rooms: set[str] = set()
        else:
            assert room in allowed, f"{path}: room '{room}' has no place in the list above"
            rooms = allowed[room]
        for name in imported(tree):
            if not name.startswith("owled_ros."):
                continue
            target = name.split(".")[1]
            assert target in {room, *rooms, *GROUND, *GENERATED}, f"{path} imports {name}, which is above it"


def dotted(path: str) -> str:
    return ".".join(("owled_ros", *Path(path).with_suffix("").parts)).removesuffix(".__init__")


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Take away whatever imports nothing that is left, again and again: what stays is in a circle, or imports one."""
    left = {name: set(others) for name, others in edges.items()}
    while done := {name for name, others in left.items() if not others}:
        left = {name: others - done for name, others in left.items() if name not in done}
    while unneeded := set(left) - {other for others in left.values() for other in others}:
        left = {name: others for name, others in left.items() if name not in unneeded}
    return sorted([name, *sorted(others)] for name, others in left.items())


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"above": {"a"}, "a": {"b"}, "b": {"a", "below"}, "below": set()}) == [["a", "b"], ["b", "a"]]


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checking count too: they hide a circle, they do not open it."""
    trees = {dotted(path): tree for path, _, tree in modules()}
    edges = {
        name: {
            target
            for node in ast.walk(tree)
            for target in module_names(node)
            if target in trees and target != name and not name.startswith(f"{target}.")
        }
        for name, tree in trees.items()
    }
    assert sum(map(len, edges.values())) > 500, "the imports were read"
    assert circles(edges) == []


def module_names(node: ast.AST) -> Iterator[str]:
    """Yield what a statement may import: the module, and what is taken from it, which may be a module too."""
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""
        yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_room_is_named_like_a_drawer() -> None:
    drawers = {"utils.py", "util.py", "common.py", "misc.py", "helpers.py"}
    assert not [path for path in PACKAGE.rglob("*.py") if path.name in drawers]


def test_files_stay_short() -> None:
    sources = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "bootstrap").glob("*.py")]
    long = {path.name: len(path.read_text().splitlines()) for path in sources}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def test_command_line_starts_without_torch() -> None:
    """Modules that register commands import heavy libraries inside functions only."""
    heavy = {"torch", "transformers", "cv2", "matplotlib", "rosbags", "numpy"}
    for path, room, tree in modules():
        if room in ("commands", "cli"):
            top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            outer = imported(ast.Module(top_level, []))
            assert not {name.split(".")[0] for name in outer} & heavy, path
