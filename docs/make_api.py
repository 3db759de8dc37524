"""Write the API page from the docstrings: what can be imported, with signatures and first sentences. Needs the standard library.

    ./owled python docs/make_api.py              # docs/api.md
    ./owled python docs/make_api.py build/api.md # elsewhere

Nothing is imported: the sources are read. A module, function or class whose name begins with an underscore is private.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "owled_ros"
ROOMS = {  # in the order of the page; the command line and the demonstration are no API
    "driving": "Frames, ego states, prompts, answers, predictions",
    "bags": "Reading and writing rosbag2",
    "models": "Loading a model or an artifact, and asking it",
    "onboard": "The runtime of driving, without ROS",
    "pruning": "Scores, allocations, artifacts",
    "sparse": "Packed weights and the sparse decoder",
    "llm_driver": "LLM-Driver: questions, hosts, training",
    "evaluation": "Metrics, results, reports",
    "tuning": "Learning from recorded drives",
    "deployment": "What drives: deployments and their versions",
    "recalibration": "Gate and job",
    "scenes": "The rendered world and the bundled model",
    "images": "Decoding live image messages",
    "doctor": "What is found, missing or mismatched",
    "nodes": "The ROS 2 nodes",
}
HEADER = """\
# API

Written by `docs/make_api.py` from the docstrings; do not edit. **Until 1.0 only commands, topics, messages, parameters and file formats
are promises**; what is here may move between minor versions, and CHANGELOG.md says so.
"""


def main() -> None:
    """Write the page to the path that is the first word, else to docs/api.md."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TOP / "docs" / "api.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page())


def page() -> str:
    """Return the whole page."""
    parts = [HEADER]
    for room, title in ROOMS.items():
        parts.append(f"\n## {room}: {title.lower()[:1]}{title[1:]}\n")
        for path in sorted((PACKAGE / room).rglob("*.py")):
            if not path.stem.startswith("_"):
                parts += module_lines(path)
    return "\n".join(parts) + "\n"


def module_lines(path: Path) -> Iterator[str]:
    """Yield the lines of one module: its sentence, and an entry for each public definition."""
    tree = ast.parse(path.read_text())
    entries = [line for node in tree.body for line in entry_lines(node)]
    if entries:
        dotted = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield f"\n### `owled_ros.{dotted}`\n\n{sentence(tree)}\n"
        yield from entries


def entry_lines(node: ast.stmt, indent: str = "") -> Iterator[str]:
    """Yield a list entry for a public function or class; a class brings its public methods and fields."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
        plain = any(ast.unparse(item).endswith("property") for item in node.decorator_list)
        call = "" if plain else f"({arguments(node)})"
        yield f"{indent}- `{node.name}{call}{returned(node)}`: {sentence(node)}"
    elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        bases = ", ".join(map(ast.unparse, node.bases))
        yield f"{indent}- **`{node.name}{f'({bases})' if bases else ''}`**: {sentence(node)}"
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
        names = [f"{ast.unparse(item.target)}: {ast.unparse(item.annotation)}" for item in fields]
        public = [name for name in names if not name.startswith("_")]
        if public:
            yield f"{indent}    - fields `{', '.join(public)}`"
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                yield from entry_lines(item, indent + "    ")


def arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the arguments as written, without self."""
    text = ast.unparse(node.args)
    return text.removeprefix("self").removeprefix("cls").removeprefix(", ")


def returned(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the annotation of the result."""
    return f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""


def sentence(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


if __name__ == "__main__":
    main()
