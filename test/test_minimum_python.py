"""The oldest Python that is promised is held by looking at the sources, and by every Python that this machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from owled_ros.doctor.libraries import PYTHON_RANGE

TOP = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = PYTHON_RANGE
BOOTSTRAP_OLDEST = (3, 8)  # ./owled looks for a fitting Python with whatever `python3` is
PACKAGE = ("owled_ros", "launch", "scripts", "setup.py")
GUARDED = ("compression", "compression.zstd")  # tried first, with a way round: 3.14 has them
VERMIN = (sys.executable, "-c", "import vermin; vermin.main()", "--violations", "--no-tips", "--processes=1")
NUMPY_2_ONLY = {  # names that NumPy 1.26, which Ubuntu 24.04 has, does not know
    "acos", "acosh", "asin", "asinh", "astype", "atan", "atan2", "atanh", "bitwise_count", "bitwise_invert", "bitwise_left_shift",
    "bitwise_right_shift", "concat", "cumulative_prod", "cumulative_sum", "isdtype", "long", "matrix_transpose", "matvec",
    "permute_dims", "pow", "strings", "trapezoid", "ulong", "unique_all", "unique_counts", "unique_inverse", "unique_values",
    "unstack", "vecdot", "vecmat",
}  # fmt: skip
COMPILE = (
    "import pathlib, sys; "
    "[compile(path.read_text(), str(path), 'exec') for top in sys.argv[1:] for path in "
    "([pathlib.Path(top)] if pathlib.Path(top).is_file() else pathlib.Path(top).rglob('*.py'))]; "
    "print(*sys.version_info[:2])"
)


def pythons() -> list[tuple[tuple[int, int], str]]:
    """Return (version, command) of the Pythons on PATH that run, and those that pyenv keeps."""
    kept = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin/python3"))
    names = [f"python3.{minor}" for minor in range(8, 15)]
    found: dict[tuple[int, int], str] = {}
    for command in [sys.executable, *filter(None, map(shutil.which, names)), *map(str, kept)]:
        probe = "import sys; print(*sys.version_info[:2])"
        answer = subprocess.run([command, "-I", "-S", "-c", probe], capture_output=True, text=True)
        if answer.returncode == 0:
            major, minor = map(int, answer.stdout.split())
            found.setdefault((major, minor), command)
    return sorted(found.items())


def dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


@pytest.mark.parametrize(("oldest", "sources"), [(OLDEST, PACKAGE), (BOOTSTRAP_OLDEST, ("bootstrap",))])
def test_no_newer_syntax_or_library_is_used(oldest: tuple[int, int], sources: tuple[str, ...]) -> None:
    """datetime.UTC is of 3.11: on an older Python it failed after all the work was done."""
    command = [*VERMIN, f"-t={dotted(oldest)}-"]
    command += [word for name in GUARDED for word in ("--exclude", name)]
    answer = subprocess.run([*command, *sources], capture_output=True, text=True, cwd=TOP)
    assert answer.returncode == 0, answer.stdout


def test_no_name_of_numpy_2_is_used() -> None:
    for folder in ("owled_ros", "test"):
        for path in (TOP / folder).rglob("*.py"):
            names = set(re.findall(r"\b(?:np|numpy)\.(\w+)", path.read_text()))
            assert not names & NUMPY_2_ONLY, f"{path.name}: {names & NUMPY_2_ONLY}"


def test_the_check_finds_what_is_too_new(tmp_path: Path) -> None:
    source = tmp_path / "new.py"
    source.write_text("import itertools\nprint(list(itertools.batched('abc', 2)))\n")  # 3.12
    answer = subprocess.run([*VERMIN, f"-t={dotted(OLDEST)}-", str(source)], capture_output=True, text=True)
    assert answer.returncode != 0
    assert "itertools.batched" in answer.stdout


@pytest.mark.parametrize(
    ("version", "command"), pythons(), ids=lambda value: dotted(value) if isinstance(value, tuple) else ""
)
def test_every_python_here_understands_the_sources(version: tuple[int, int], command: str) -> None:
    sources = [*(["bootstrap"] if version >= BOOTSTRAP_OLDEST else []), *(PACKAGE if version >= OLDEST else [])]
    if not sources:
        pytest.skip("older than anything promised")
    words = [command, "-I", "-S", "-W", "error::SyntaxWarning", "-c", COMPILE, *sources]
    answer = subprocess.run(words, capture_output=True, text=True, cwd=TOP)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [str(part) for part in version]


def test_the_oldest_python_is_said_the_same_everywhere() -> None:
    project = (TOP / "pyproject.toml").read_text()
    assert f'target-version = "py{OLDEST[0]}{OLDEST[1]}"' in project
    assert f'python_version = "{dotted(OLDEST)}"' in project
    setup = (TOP / "setup.py").read_text()
    assert f'python_requires=">={dotted(OLDEST)}"' in setup
    named = set(re.findall(r"Python :: (3\.\d+)", setup))
    assert named == {f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)}
    assert f"Python3_VERSION VERSION_LESS {dotted(OLDEST)}" in (TOP / "CMakeLists.txt").read_text()
    sys.path.insert(0, str(TOP / "bootstrap"))
    import machine

    assert machine.WHEEL_PYTHONS == PYTHON_RANGE
