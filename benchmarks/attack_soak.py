"""Does driving go on while it is attacked? Ten images a second, every ten seconds one random attack of test/hostile/catalogue.py.

    ./owled python benchmarks/attack_soak.py [--minutes 30] [--every 10] [--seed 1] [--out attacks.jsonl] [--only WORD]

A driving_node and a recalibration_node of one deployment are attacked; a second driving_node of the same model drives in peace beside
them and tells what the machine itself does. One line of JSON per attack, as it happens (a model is
loaded while the others go on); with the same --out and --seed a run that was
ended goes on with the next attack. Exit code 1 when a node died, a stamp fell, a number was none, an old model drove, a service had no
answer, the driver was silent for over a second in more than the peaceful one's minutes, or its memory grew. Needs ROS 2 and psutil.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "test" / part) for part in ("", "hostile")]

GAP_S = 1.0
GROWTH = 0.05
PEACEFUL = "/peaceful_node"
READY_S = 600.0
WARM_S = 20.0
SIZE = (640, 360)
SETTINGS = {  # what a busy machine does late is not what is asked here
    "load_timeout_s": 120.0,
    "deadline_s": 2.0,
    "max_frame_age_s": 2.0,
    "description_rate_hz": 0.5,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between the beginnings of two attacks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--nice", type=int, default=0, help="of the nodes and the camera, where others use the machine too"
    )
    parser.add_argument("--only", default="", help="only attacks whose name or kind holds this word")
    parser.add_argument("--compressed", action="store_true", help="the camera sends JPEG")
    parser.add_argument("--out", type=Path, default=Path("attacks.jsonl"))
    chosen = parser.parse_args()
    rows = read_rows(chosen.out, chosen.seed)
    with tempfile.TemporaryDirectory(prefix="attack_soak_") as work:
        run(chosen, rows, Path(work))
    sys.exit(judge(rows))


def read_rows(path: Path, seed: int) -> list[dict[str, Any]]:
    """Read what an earlier run of this seed has written."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [row for row in map(json.loads, lines) if row["seed"] == seed]


def run(chosen: argparse.Namespace, rows: list[dict[str, Any]], work: Path) -> None:
    from catalogue import catalogue
    from driving_rig import free_domain
    from driving_watch import Drive
    from hostile_models import sound
    from node_latency import world_images
    from target import DRIVER, Target

    from owled_ros.demo.processes import Child, node_environment, reaped
    from owled_ros.deployment.deployment import create_deployment

    if os.getsid(0) != os.getpid() and os.getpgrp() != os.getpid():
        os.setsid()
    put_before(os.getpid(), chosen.nice)
    domain = free_domain()
    environment = {**node_environment(domain), "OMP_NUM_THREADS": "1"}
    os.environ.update(environment)
    car = create_deployment(work / "car", sound(work / "base"))
    (work / "bags").mkdir()
    values = {"image_transport": "compressed" if chosen.compressed else "raw", **SETTINGS}
    transport = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    log = chosen.out.with_suffix(".log")

    def child(node: str, *values: str) -> Child:
        path = log.with_name(f"{log.stem}.{len(children)}.log")
        children.append(Child(("-m", "owled_ros.nodes", node), [*values], environment, path))
        put_before(children[-1].process.pid, chosen.nice)
        return children[-1]

    children: list[Child] = []
    with reaped(
        child("driving_node", "-p", f"deployment:={car.root}", *transport),
        child("driving_node", "-p", f"model_path:={car.base}", *transport, "-r", f"__node:={PEACEFUL[1:]}"),
        child("recalibration_node", "-p", f"deployment:={car.root}", "-p", f"bag_roots:={work / 'bags'}",
              "-r", "~/driving/switch_model:=/driving_node/switch_model", "-r", "~/driving/model:=/driving_node/output/model"),
    ):  # fmt: skip
        drive = Drive(domain, [DRIVER, PEACEFUL], world_images(*SIZE), chosen.compressed)
        drive.start()
        targets = [Target(domain, work, chosen.seed, car.root, chosen.compressed) for _ in range(2)]
        for target in targets:
            target.driven = drive.watches[DRIVER].expect
        try:
            if not drive.wait_for_actions(20, READY_S):
                raise SystemExit(f"no actions after {READY_S:g} s: {[part.tail() for part in children]}")
            time.sleep(WARM_S)
            attacks = [item for item in catalogue() if chosen.only in f"{item.kind} {item.name}"]
            attack_for(chosen, rows, drive, targets, attacks, children)
        finally:
            for target in targets:
                target.close()
            drive.close()


def attack_for(
    chosen: argparse.Namespace,
    rows: list[dict[str, Any]],
    drive: Any,
    targets: list[Any],
    attacks: list[Any],
    children: list[Any],
) -> None:
    """Attack until the minutes are over; every attack is a row. Models are loaded beside the others, one after the other."""
    from target import DRIVER

    kinds = sorted({attack.kind for attack in attacks})
    begun = time.monotonic() - (rows[-1]["at_s"] + chosen.every if rows else 0.0)
    loading: tuple[str, Future[str]] | None = None
    for watch in drive.watches.values():
        watch.mark()
    with ThreadPoolExecutor(1) as beside:
        while (at := time.monotonic() - begun) < chosen.minutes * 60.0:
            chance = random.Random(f"{chosen.seed}-{len(rows)}")
            kind = chance.choice([kind for kind in kinds if kind != "model" or loading is None or len(kinds) == 1])
            attack = chance.choice([item for item in attacks if item.kind == kind])
            faults = len(drive.faults())
            if kind == "model":
                targets[1].random.seed(chance.random())
                loading = (attack.name, beside.submit(run_attack, attack, targets[1]))
                heard = "begun"
                if len(kinds) == 1:
                    loading[1].result()
            else:
                targets[0].random.seed(chance.random())
                heard = run_attack(attack, targets[0])
            spent = time.monotonic() - begun - at
            targets[0].spin(max(chosen.every - spent, 1.0))
            ended = None
            if loading is not None and loading[1].done():
                ended, loading = f"{loading[0]}: {loading[1].result()}"[:300], None
            row = {
                "seed": chosen.seed,
                "at_s": round(at, 1),
                "kind": attack.kind,
                "attack": attack.name,
                "heard": heard[:200],
                "ended": ended,
                "loading": None if loading is None else loading[0],
                "seconds": round(spent, 2),
                "gap_s": round(drive.watches[DRIVER].mark(), 3),
                "peaceful_gap_s": round(drive.watches[PEACEFUL].mark(), 3),
                "camera_late_s": round(drive.slipped_s, 3),
                "load": round(os.getloadavg()[0], 1),
                "memory_mb": [round(private_mb(child.process.pid), 1) for child in children],
                "dead": [number for number, child in enumerate(children) if child.code is not None],
                "faults": drive.faults()[faults:],
                "actions": [watch.actions for watch in drive.watches.values()],
            }
            drive.slipped_s = 0.0
            rows.append(row)
            print(json.dumps(row), flush=True)
            with open(chosen.out, "a") as stream:
                stream.write(json.dumps(row) + "\n")
            if row["dead"]:
                return


def run_attack(attack: Any, target: Any) -> str:
    """Run an attack; returns what was heard, or that nothing was."""
    try:
        return str(attack.run(target))
    except AssertionError as error:
        return f"NO ANSWER: {error}"


def put_before(pid: int, nice: int) -> None:
    """Give a process, and the session that it leads, another place in the queue for the processor."""
    if nice:
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def private_mb(pid: int) -> float:
    """Return the private resident memory of a process [MB]; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon")), 0.0)


def allowed_s(row: dict[str, Any]) -> float:
    """Return how long the driver may be silent [s]: while its odometry contradicts itself, silence is the right answer."""
    return GAP_S + (float(row["seconds"]) if row["kind"] == "ego" else 0.0)


def judge(rows: list[dict[str, Any]]) -> int:
    """Print the whole, and return the exit code."""
    if not rows:
        print("no attack was made")
        return 1
    gaps = [row for row in rows if row["gap_s"] > allowed_s(row)]
    peaceful = [row for row in rows if row["peaceful_gap_s"] > GAP_S]
    alone = [row for row in gaps if row["peaceful_gap_s"] <= GAP_S]
    faults = [fault for row in rows for fault in row["faults"]]
    silent = [row for row in rows if "NO ANSWER" in f"{row['heard']} {row['ended']}"]
    switches = sum("drives now" in f"{row['heard']} {row['ended']}" for row in rows)
    dead = [row for row in rows if row["dead"]]
    settled = rows[len(rows) // 10 :]
    memory = [float(settled[0]["memory_mb"][0]), float(settled[-1]["memory_mb"][0])]
    print(f"{len(rows)} attacks of {len({row['attack'] for row in rows})} kinds in {rows[-1]['at_s'] / 60:.1f} min")
    print(
        f"longest gap {max(row['gap_s'] for row in rows):.2f} s, in peace {max(row['peaceful_gap_s'] for row in rows):.2f} s"
    )
    print(
        f"gaps over {GAP_S:g} s: {len(gaps)}, in peace {len(peaceful)}, of the attacked one alone {len(alone)} "
        "(not counted: as long as odometry contradicts itself)"
    )
    for row in alone:
        print(f"  {row['gap_s']:.2f} s (in peace {row['peaceful_gap_s']:.2f} s, load {row['load']}): {row['attack']}")
    print(f"models loaded and driven {switches}; actions {rows[-1]['actions'][0]}, in peace {rows[-1]['actions'][1]}")
    print(f"faults {len(faults)}: {sorted(set(faults))[:10]}")
    print(f"services without an answer {len(silent)}: {[row['attack'] for row in silent][:10]}")
    print(f"dead nodes: {dead[-1]['dead'] if dead else 'none'}")
    print(
        f"private memory {memory[0]:.1f} -> {memory[1]:.1f} MB ({(memory[1] / max(memory[0], 1.0) - 1) * 100:+.1f} %)"
    )
    return int(bool(alone or faults or silent or dead or memory[1] > memory[0] * (1 + GROWTH)))


if __name__ == "__main__":
    main()
