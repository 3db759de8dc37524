"""The job of beside.py: prunes blocks of a 7B over and over; told its manners on standard input, says what it has done on standard output."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from prune import MEASURED, make, told
from rows import Rows, Step

from owled_ros.driving_mark import DrivingWatch
from owled_ros.giving_way import Manners, under
from owled_ros.models.components import find_structure
from owled_ros.pruning.procedure import prune_blocks


class Done:
    """A fence of a CPU: what was launched is done."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


def listen(manners: Manners, ready: threading.Event) -> None:
    """Follow what is told; ends the process with its parent."""
    ready.wait()
    for line in sys.stdin:
        for name, value in json.loads(line).items():
            setattr(manners, name, value)
        os.write(ANSWERS, f"{manners.operations}\n".encode())
    os._exit(0)


ANSWERS = os.dup(1)
os.dup2(2, 1)  # whatever libraries print is no answer


def main() -> None:
    """Work until it is killed."""
    mark, device, size = sys.argv[1:]
    step = Step(Rows(Path(os.devnull), "beside"), device, size == "tiny", ())
    model, batches = make(step, MEASURED)
    structure = find_structure(model)
    zeros = {matrix.name: matrix.size * 6 // 10 for block in structure.blocks for matrix in block.matrices}
    on_cpu = {} if device.startswith("cuda") else {"fence": Done}
    manners = Manners(DrivingWatch(Path(mark)).driving, device.partition(":")[0], pauses=False, bounded=False, **on_cpu)
    ready = threading.Event()
    threading.Thread(target=listen, args=(manners, ready), daemon=True).start()
    with under(manners):
        while True:
            prune_blocks(
                model, structure, batches, zeros, told(step, "sparsegpt", allocation="uniform"), None,
                lambda done, total, name: ready.set(),
            )  # fmt: skip


if __name__ == "__main__":
    main()
