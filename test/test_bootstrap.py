"""What ./owled does before it runs: which Python, what is missing, once only, one at a time. No network, no ROS."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "bootstrap"))

import command  # noqa: E402
import environment  # noqa: E402
import installs  # noqa: E402
import lock  # noqa: E402
import machine  # noqa: E402
import parallel  # noqa: E402
import ros_wheels  # noqa: E402
import stamps  # noqa: E402
import steps  # noqa: E402
from layout import Layout  # noqa: E402
from problem import SetupProblem  # noqa: E402

import build  # noqa: E402

PYTHON_311 = machine.Interpreter("python3", (3, 11), True, True, True, "/usr/bin/python3.11", "/usr/include/python3.11")


def fake_python(folder: Path, name: str, version: tuple[int, int], venv: bool = True, headers: bool = True) -> str:
    """Make a program that answers the probe like a Python of this version."""
    path = folder / name
    answer = f"{version[0]}\\n{version[1]}\\n1\\n{int(venv)}\\n{int(headers)}\\n{path}\\n/include\\n"
    path.write_text(f"#!/bin/sh\nprintf '{answer}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def tree(tmp_path: Path) -> Layout:
    """Return a small source tree with a lock of two packages."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "lock.txt").write_text("a==1\nb==2\n")
    (tmp_path / "msg").mkdir()
    (tmp_path / "msg" / "A.msg").write_text("bool a\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "transport.env").write_text("# words\nMALLOC_ARENA_MAX=1\n")
    return Layout(tmp_path)


def test_first_fitting_python_is_chosen(tmp_path: Path) -> None:
    old = fake_python(tmp_path, "python3", (3, 9))
    bare = fake_python(tmp_path, "python3.13", (3, 13), headers=False)
    good = fake_python(tmp_path, "python3.12", (3, 12))
    assert machine.choose_python([old, str(tmp_path / "absent"), bare, good]).command == good


def test_unfit_pythons_are_listed_with_what_they_lack(tmp_path: Path) -> None:
    old = fake_python(tmp_path, "python3", (3, 9))
    bare = fake_python(tmp_path, "python3.12", (3, 12), venv=False, headers=False)
    with pytest.raises(SetupProblem) as problem:
        machine.choose_python([old, bare])
    words = str(problem.value)
    assert "Python 3.9, expected Python 3.11 to 3.13" in words
    assert "python3.12-venv" in words
    assert "python3.12-dev" in words


def test_no_python_at_all_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "owled").write_text((TOP / "owled").read_text())
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "dirname").symlink_to("/usr/bin/dirname")
    answer = subprocess.run(
        ["/bin/sh", str(tmp_path / "owled")], capture_output=True, text=True, env={"PATH": str(tools)}
    )
    assert answer.returncode == 1
    assert "no Python was found" in answer.stderr


def test_sourced_ros_without_rclpy_is_explained(tmp_path: Path) -> None:
    assert machine.sourced_ros({"PATH": "/usr/bin"}) is None
    program = tmp_path / "python3"
    program.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'rclpy'\" >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(SetupProblem, match=r"jazzy is sourced.*No module named 'rclpy'"):
        machine.sourced_ros({"PATH": f"{tmp_path}:/bin", "ROS_DISTRO": "jazzy"})


def test_a_ros_that_is_too_old_is_refused_before_any_work(tmp_path: Path) -> None:
    """Humble's Python 3.10 failed at the end of a pruning run, when the manifest was dated."""
    program = tmp_path / "python3"
    program.write_text("#!/bin/sh\necho 3 10\n")
    program.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/bin", "ROS_DISTRO": "humble"}
    with pytest.raises(SetupProblem, match=r"humble is sourced, with Python 3\.10; expected ROS 2 Jazzy"):
        machine.sourced_ros(environ)
    program.write_text("#!/bin/sh\necho 3 12\n")
    assert machine.sourced_ros({**environ, "ROS_DISTRO": "kilted"}) == "kilted"


def test_a_middleware_that_no_wheel_has_is_not_dropped_in_silence(
    tree: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execvpe", lambda *words: became.append(words[2]))
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    command._become(tree, None, ["demo"])
    assert became[0]["RMW_IMPLEMENTATION"] == "rmw_fastrtps_cpp"
    assert "rmw_cyclonedds_cpp is not among the wheels" in capsys.readouterr().err
    command._become(tree, "jazzy", ["demo"])
    assert became[1]["RMW_IMPLEMENTATION"] == "rmw_cyclonedds_cpp"


def test_missing_compiler_and_full_disk_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupProblem, match=r"(?s)C\+\+ compiler and make.*build-essential"):
        machine.check_tools()
    monkeypatch.setattr(machine, "FREE_DISK_GB", 1e9)
    with pytest.raises(SetupProblem, match="are free on the disk"):
        machine.check_disk(tmp_path)


def test_wheels_are_repaired_once(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.12" / "site-packages"
    tinyxml = site / "ros_fastrtps.libs" / "libtinyxml2-ab.so.6.0.0"
    tinyxml.parent.mkdir(parents=True)
    tinyxml.touch()
    export = tmp_path / "share" / "std_msgs" / "cmake" / "export.cmake"
    export.parent.mkdir(parents=True)
    builder = "/opt/python/cp312-cp312"
    export.write_text(
        f'"{builder}/include/python3.12;{builder}/lib/python3.12/site-packages/numpy/_core/include;/usr/lib64/libtinyxml2.so"'
    )
    assert ros_wheels.repair_ros_wheels(tmp_path, site, Path("/usr/include/python3.12")) == 1
    assert export.read_text() == f'"/usr/include/python3.12;{site}/numpy/_core/include;{tinyxml}"'
    assert ros_wheels.repair_ros_wheels(tmp_path, site, Path("/usr/include/python3.12")) == 0


def test_stamp_follows_every_change_of_what_is_built(tree: Layout) -> None:
    keys = {build.build_key(tree)}
    (tree.top / "msg" / "A.msg").write_text("bool b\n")
    keys.add(build.build_key(tree))
    (tree.top / "msg" / "A.msg").rename(tree.top / "msg" / "B.msg")
    keys.add(build.build_key(tree))
    (tree.top / "csrc").mkdir()
    (tree.top / "csrc" / "CMakeLists.txt").touch()
    keys.add(build.build_key(tree, "humble"))
    assert len(keys) == 4
    (tree.top / "README.md").write_text("not built\n")
    assert build.build_key(tree, "humble") in keys


def test_unreadable_stamp_means_not_ready(tmp_path: Path) -> None:
    path = tmp_path / "stamp.json"
    assert not stamps.is_ready(path, "key")
    path.write_text('{"state": "rea')
    assert not stamps.is_ready(path, "key")
    stamps.write_stamp(path, stamps.READY, "key")
    assert stamps.is_ready(path, "key")
    assert not stamps.is_ready(path, "other")


def test_failed_install_is_taken_up_again_and_a_whole_one_is_not(tree: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    broken = [True]

    def run(title: str, words: list[str], *_: object) -> None:
        ran.append(title)
        if broken[0] and title.startswith("installing"):
            raise SetupProblem("no network")

    monkeypatch.setattr(installs, "run_step", run)
    monkeypatch.setattr(
        installs, "_make_environment", lambda *_: tree.venv_python.parent.mkdir(parents=True, exist_ok=True)
    )
    monkeypatch.setattr(installs, "_ask", lambda *_: str(tree.venv / "lib"))
    tree.venv_python.parent.mkdir(parents=True)
    tree.venv_python.touch()
    with pytest.raises(SetupProblem):
        installs.install_packages(tree, PYTHON_311, None, "key", {})
    assert stamps.read_stamp(tree.packages_stamp)["state"] == stamps.INSTALLING
    half = tree.venv / "lib" / "python3.11" / "site-packages" / "a-1.dist-info"
    half.mkdir(parents=True)  # what a killed pip leaves: metadata without a RECORD
    broken[0] = False
    installs.install_packages(tree, PYTHON_311, None, "key", {})
    assert not half.exists()
    assert stamps.is_ready(tree.packages_stamp, "key")
    count = len(ran)
    installs.install_packages(tree, PYTHON_311, None, "key", {})
    assert len(ran) == count


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("Failed to establish: [Errno -3] Temporary failure in name resolution", "Check the network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "found no fitting torch==2.13.0"),
        ("ERROR: something new", "remove .venv first"),
    ],
)
def test_pip_failures_say_what_to_do(output: str, words: str) -> None:
    assert words in installs.explain_pip(output)


def test_failed_step_shows_the_end_of_its_output(tmp_path: Path) -> None:
    script = "import sys; print('first'); print('the cause'); sys.exit(3)"
    with pytest.raises(SetupProblem, match=r"(?s)exit code 3.*the cause.*try this") as problem:
        steps.run_step(
            "a step", [sys.executable, "-c", script], tmp_path / "log", os.environ, str, lambda _: "try this"
        )
    assert str(tmp_path / "log") in str(problem.value)
    assert "first\nthe cause\n" in (tmp_path / "log").read_text()


def test_second_process_waits_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "setup.lock"
    waiter = f"import sys; sys.path.insert(0, {str(TOP / 'bootstrap')!r}); import command; command._wait_for(open({str(path)!r}, 'w')); print('mine')"
    with open(path, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [sys.executable, "-c", waiter], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
        assert second.poll() is None
        fcntl.flock(held, fcntl.LOCK_UN)
    assert second.communicate(timeout=30)[0] == "mine\n"


def test_interrupt_leaves_no_child_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_watch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(KeyboardInterrupt):
        steps.run_step("a step", [sys.executable, "-c", child], tmp_path / "log", os.environ, str, str)
    assert started[0].poll() is not None


def test_environment_puts_sources_before_built_messages(tree: Layout) -> None:
    messages = tree.install / "lib" / "python3.11" / "site-packages"
    messages.mkdir(parents=True)
    env = environment.run_environment(tree, None, {"PATH": "/bin", "PYTHONPATH": "/foreign", "MALLOC_ARENA_MAX": "7"})
    assert env["PYTHONPATH"].split(":") == [str(tree.top), str(messages)]
    assert env["PATH"].startswith(str(tree.venv / "bin") + ":")
    assert env["AMENT_PREFIX_PATH"].split(":") == [str(tree.install), str(tree.venv)]
    assert env["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")
    assert env["MALLOC_ARENA_MAX"] == "7"  # the user's own word stands
    assert env[environment.REEXEC_GUARD] == "1"


def test_environment_beside_a_sourced_ros_keeps_its_paths(tree: Layout) -> None:
    environ = {
        "PATH": "/bin",
        "PYTHONPATH": "/opt/ros/lib",
        "AMENT_PREFIX_PATH": "/opt/ros",
        "LD_LIBRARY_PATH": "/opt/ros/lib",
    }
    env = environment.run_environment(tree, "jazzy", environ)
    assert env["PYTHONPATH"].endswith(":/opt/ros/lib")
    assert env["AMENT_PREFIX_PATH"] == f"{tree.install}:/opt/ros"
    assert env["LD_LIBRARY_PATH"] == f"{tree.install / 'lib'}:/opt/ros/lib"
    assert environment.REEXEC_GUARD not in env


def test_lock_pins_leave_local_versions_open() -> None:
    report = [
        {"metadata": {"name": "torch", "version": "2.13.0+cpu"}},
        {"metadata": {"name": "Jinja2", "version": "3.1.6"}},
    ]
    assert lock.pins(report) == ["Jinja2==3.1.6", "torch==2.13.0"]


def test_lock_covers_every_requirement() -> None:
    folder = TOP / "requirements"
    locked = {line.split("==")[0].lower().replace("_", "-") for line in (folder / "lock.txt").read_text().splitlines()}
    for name in lock.LISTS:
        for line in (folder / name).read_text().splitlines():
            if line and not line.startswith("#"):
                wanted = line.split("[")[0].split("=")[0].split("<")[0].split(">")[0].lower().replace("_", "-")
                assert wanted in locked, f"{wanted} of {name} is not in lock.txt; run bootstrap/lock.py"


def test_words_after_owled_reach_the_right_program(tree: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execvpe", lambda _, words, env: became.append(words))
    monkeypatch.chdir(tree.top)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # one core
    for words in (["test", "-k", "x"], ["test"], ["python", "a.py"], ["demo", "--seconds", "5"], []):
        command._become(tree, None, words)
    python = str(tree.venv_python)
    assert became == [
        [python, "-m", "pytest", "-k", "x"],
        [python, "-m", "pytest"],
        [python, "a.py"],
        [python, "-m", "owled_ros", "demo", "--seconds", "5"],
        [python, "-m", "owled_ros"],
    ]


@pytest.mark.parametrize(
    ("words", "cores", "expected"),
    [
        ([], 2, ["-n", "2", "--dist", "worksteal"]),
        (["-q", "-m", "not slow", "-p", "no:cacheprovider"], 64, ["-n", "4", "--dist", "worksteal"]),
        ([], 1, []),
        (["test/test_files.py::test_x"], 2, []),  # sooner done than torch is imported twice
        (["-n3"], 2, []),
        (["-n", "0"], 2, []),
        (["-p", "no:xdist"], 2, []),
        (["--pdb"], 2, []),
        (["--dist=load"], 2, []),
    ],
)
def test_tests_run_on_all_cores_unless_told_otherwise(
    words: list[str], cores: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.chdir(TOP)
    assert parallel.parallel_options(words) == expected
