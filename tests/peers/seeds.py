#!/usr/bin/env python3
"""How well the quickstart finds objects, and how much of that is luck: `tests/peers/seeds.py`.

Needs the binaries of `make build`, and the data sets of `make demo`. Trains and evaluates the demo's model once per seed (a quarter of an
hour on two cores for the three of them) and prints, for the held-out scenes, the figures of the trained model, of the same model before
training, and of cells that never look at the image. The runs stay in their folder: launched again, finished ones are not repeated.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/orchestrator"
FIGURES = {"fg_ari": "FG-ARI", "miou": "mIoU", "mbo": "mBO"}
MODELS = {"trained": "trained", "untrained": "untrained", "position_only": "position only"}


def launch(job: str, *arguments: str) -> None:
    subprocess.run([BINARY, "launch", "--job", job, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def report_of(options: argparse.Namespace, seed: int) -> dict:
    """The report of `evaluate` on the run of one seed, which is made first where it is missing."""
    folder = pathlib.Path(options.root) / f"seed-{seed}"
    report = ROOT / folder / "evaluate.json"
    if not report.exists():
        settings = {"run.root": options.root, "run.name": folder.name, "run.seed": seed}
        new = ["--config", options.config, *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]
        launch("train", *(["--resume", str(folder)] if (ROOT / folder / "run.toml").exists() else new))
        launch("evaluate", "--resume", str(folder))
    return json.loads(report.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.toml", help="experiment to train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="run.seed of each training")
    parser.add_argument("--root", default="runs/seeds", help="folder for the runs")
    options = parser.parse_args()

    print(f"{'seed':<8}{'model':<16}" + "".join(f"{title:>8}" for title in FIGURES.values()))
    reports = []
    for seed in options.seeds:
        reports.append(report_of(options, seed))
        for model, title in MODELS.items():
            print(f"{seed:<8}{title:<16}" + "".join(f"{reports[-1][model][key]:8.3f}" for key in FIGURES), flush=True)
    for model, title in MODELS.items():
        medians = [statistics.median(report[model][key] for report in reports) for key in FIGURES]
        print(f"{'median':<8}{title:<16}" + "".join(f"{median:8.3f}" for median in medians))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(map(str, error.cmd))}")
