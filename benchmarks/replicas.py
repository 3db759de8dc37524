"""Replicas of five published driving models: tuned to know a bag by heart, driven by it through the real node, beside the truth.

    ./owled python benchmarks/replicas.py [--rows impromptu,senna] [--out replicas.jsonl]

Tiny models of the real configuration and processor classes (test/replicas.py), each in the answer form of its model. A row that is
in the file is not done again. Needs ROS 2.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "test"))

from replicas import ROWS, replica  # noqa: E402
from row_file import append_row, read_rows  # noqa: E402


def main() -> None:
    """Do the rows that are missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--domain", type=int, default=77)
    parser.add_argument("--out", type=Path, default=Path("replicas.jsonl"))
    given = parser.parse_args()
    done = read_rows(given.out)
    for name in given.rows.split(","):
        if name in done:
            continue
        with tempfile.TemporaryDirectory() as home:
            found = replica(name, Path(home), given.domain)
        row = {"key": name, **asdict(found), "said": [*found.said.values()][:3]}
        append_row(given.out, row)
        done[name] = row
    print(
        "| row | steps | learning (s) | frames | published | from the truth in its form (m) | from what was driven (m) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in done.items():
        print(
            f"| {name} | {row['steps']} | {row['learning_s']:.0f} | {row['frames']} | {row['published']} | {row['error_m']:.1e} | {row['truth_m']:.3f} |"
        )


if __name__ == "__main__":
    main()
