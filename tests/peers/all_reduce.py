#!/usr/bin/env python3
"""Sums over two workers through the trainer's communication thread, beside MPI alone, for messages of several sizes.

Needs two cores, `mpicc`, and `cargo build --release --examples`. Both sides run in turns; each figure is the median over all rounds, as
the rate at which a worker's own bytes become the sum: within the communication thread, and from asking for the sum to the answer, which
adds the way to another thread and back. The ratio is that of the sums themselves.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
OURS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/all_reduce"
ENVIRONMENT = os.environ | {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMP_NUM_THREADS": "1",
    # As the launcher sets them: large blocks stay with the process.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mib", type=float, nargs="+", default=[1, 4, 25, 100])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=20, help="sums per round")
    parser.add_argument("--at-least", type=float, default=0, help="fail where our rate is less than this share of MPI's")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        theirs = pathlib.Path(folder) / "all_reduce"
        subprocess.run(["mpicc", "-O2", "-o", theirs, pathlib.Path(__file__).with_suffix(".c")], check=True)
        print("message, MiB    ours, GB/s   asked to answered   MPI, GB/s   ratio")
        low = False
        for mib in options.mib:
            seconds = {OURS: [], theirs: [], "asked": []}
            dropped = options.repeats // 4
            for _ in range(options.rounds):
                for binary in (OURS, theirs):
                    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(options.ranks)]
                    command += [str(binary), str(mib), str(options.repeats)]
                    output = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout
                    found = json.loads(output)
                    if binary == OURS:
                        asked, found = found
                        seconds["asked"] += asked[dropped:]
                    # The first sums of a process allocate what the later ones use.
                    seconds[binary] += found[dropped:]
            rate = {binary: mib * 2**20 / statistics.median(found) / 1e9 for binary, found in seconds.items()}
            ratio = rate[OURS] / rate[theirs]
            low |= ratio < options.at_least
            print(f"{mib:12g} {rate[OURS]:13.2f} {rate['asked']:19.2f} {rate[theirs]:11.2f} {ratio:7.2f}", flush=True)
    return low


if __name__ == "__main__":
    raise SystemExit(main())
