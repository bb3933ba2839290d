#!/usr/bin/env python3
"""Images per second of two workers with one thread each, beside one worker with two threads: `tests/peers/throughput.py`.

Needs two cores, the binaries of `make build`, and the data sets of `make demo`. Short trainings of the demo's model alternate between
the two layouts, so that both see the same machine; the figure of each is the median over all steps after the warm-up of each training.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/orchestrator"
LAYOUTS = {"2 workers x 1 thread": (2, 1), "1 worker x 2 threads": (1, 2)}


def train(options: argparse.Namespace, root: str, name: str, workers: int, threads: int) -> list[float]:
    """Images per second of each step of one short training, without its warm-up."""
    settings = {
        "run.root": root,
        "run.name": name,
        "train.steps": options.warm_up + options.steps,
        "train.decay": "constant",
        "train.log_every": 1,
        "train.picture_every": 0,
        "train.evaluation.every_steps": 0,
        "checkpoint.every_steps": 10**6,
        "cluster.workers_per_node": workers,
        "cluster.threads_per_worker": threads,
    }
    command = [BINARY, "launch", "--config", options.config]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    lines = (pathlib.Path(root) / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["images_per_second"] for line in lines][options.warm_up :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.toml", help="experiment to train")
    parser.add_argument("--rounds", type=int, default=3, help="trainings per layout")
    parser.add_argument("--steps", type=int, default=30, help="steps that count, per training")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before those")
    options = parser.parse_args()

    rates: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    with tempfile.TemporaryDirectory() as root:
        for turn in range(options.rounds):
            for layout, (workers, threads) in LAYOUTS.items():
                measured = train(options, root, f"{workers}-{threads}-{turn}", workers, threads)
                rates[layout] += measured
                print(f"round {turn + 1}  {layout}  {statistics.median(measured):7.2f} images/s", flush=True)

    medians = {layout: statistics.median(measured) for layout, measured in rates.items()}
    for layout, median in medians.items():
        print(f"median   {layout}  {median:7.2f} images/s")
    two, one = medians.values()
    print(f"two workers train {two / one:.2f}x the images per second of one")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"training failed:\n{error.stderr.decode()}")
