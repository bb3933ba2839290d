#!/usr/bin/env python3
"""All that can only be known on a GPU, in one go of a few minutes: `python3 tests/gpu/run.py --to tests/gpu/results`.

Needs what `tests/gpu/pack.sh` has packed, and a `python3` with PyTorch 2.11.0+cu130; no network, no Rust, no MPI. Each check prints one
line, PASS, FAIL or SKIP and why, and has a time limit of its own, so that one that hangs does not take the time of the others. With
`--device cpu` everything that needs no GPU runs in a small form, to try the script itself.

Exit code: 0 if nothing failed, 1 if something did, 77 without a GPU.
"""

import argparse
import datetime
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import checks
from lab import ROOT, Failure, Lab, Skipped
from speed import PEERS, Speed


def plan(speed):
    """Name -> check, seconds that it may take, and the checks without whose result it has nothing to say."""
    return {
        "status": (checks.status, 30, []),
        "gradients": (checks.gradients, 60, []),
        "adamw": (checks.adamw, 30, []),
        "graph": (checks.graph, 60, []),
        "data": (checks.data, 90, []),
        "launch": (checks.launch, 60, ["data"]),
        "bf16": (checks.bf16, 60, ["launch"]),
        "graph-run": (checks.graph_run, 60, ["launch", "graph"]),
        "resume": (checks.resume, 60, ["launch"]),
        "two-ranks": (checks.two_ranks, 60, ["launch"]),
        "lost-rank": (checks.lost_rank, 75, ["launch"]),
        "graph-ranks": (checks.graph_ranks, 60, ["two-ranks", "graph-run"]),
        "profile": (checks.profile, 60, ["data"]),
        # Before c, which may spend all the time that is left.
        "speed-graph": (speed.of("b", graph=True), 75, ["graph"]),
    } | {f"speed-{peer}": (speed.of(peer), 240 if peer == "c" else 75, []) for peer in PEERS}


class Table:
    """What was found so far."""

    def __init__(self):
        self.rows, self.started = {}, time.monotonic()

    def add(self, name, verdict, seconds, said):
        self.rows[name] = (verdict, seconds, " ".join(said.split()))
        print(f"{verdict}  {name:11} {seconds:6.1f} s  {self.rows[name][2]}", flush=True)

    def missing(self, needs):
        return [name for name in needs if self.rows.get(name, ("",))[0] != "PASS"]

    def failed(self):
        return [name for name, (verdict, _, _) in self.rows.items() if verdict == "FAIL"]


def make(lab, check, limit, end):
    """Verdict and what is to be said."""
    lab.deadline = min(time.monotonic() + limit, end)
    try:
        return "PASS", check(lab)
    except Failure as failure:
        return "FAIL", str(failure)
    except Skipped as skipped:
        return "SKIP", str(skipped)
    # A bug of a check must not cost the other checks.
    except Exception as error:
        return "FAIL", f"{type(error).__name__}: {error}"


def machine(device):
    """What the figures hold for: name -> value."""
    import torch

    facts = {"date": datetime.date.today().isoformat(), "device": processor()}
    if device == "cuda":
        facts["device"] = torch.cuda.get_device_name()
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            facts["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split()[0]
        except (OSError, IndexError, subprocess.TimeoutExpired):
            facts["driver"] = "not told by nvidia-smi"
        facts |= {"cuDNN": torch.backends.cudnn.version(), "NCCL": ".".join(map(str, torch.cuda.nccl.version()))}
    return facts | {"PyTorch": torch.__version__, "CPU cores": os.cpu_count(), "kernel": platform.release()}


def processor():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.machine()


def page(facts, table, speed):
    """All of it as markdown."""
    lines = [f"# {facts['device']}, {facts['date']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", *speed.table(), "", "| check | | seconds | |", "|---|---|---|---|"]
    lines += [f"| {name} | {verdict} | {seconds:.1f} | {said} |" for name, (verdict, seconds, said) in table.rows.items()]
    return "\n".join(lines) + "\n"


def without_device(device):
    """Why there is nothing to do."""
    if device == "cpu":
        return None
    try:
        import torch
    except ImportError as error:
        return f"{sys.executable} has no PyTorch: {error}"
    return None if torch.cuda.is_available() else "PyTorch sees no CUDA device"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--pack", type=pathlib.Path, help="what pack.sh has packed [default: this copy of it, or target/gpu-pack]")
    parser.add_argument("--to", type=pathlib.Path, help="folder for the results as markdown, and for a trace")
    parser.add_argument("--only", nargs="+", default=[], help="checks to make, with those that they need")
    parser.add_argument("--seconds", type=float, default=540, help="limit of everything together")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the limit of each check, for a busy machine")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if reason := without_device(options.device):
        print(f"SKIP  everything: {reason}")
        return 77
    pack = options.pack or (ROOT if (ROOT / "release").is_dir() else ROOT / "target/gpu-pack")
    if not (pack / "release/orchestrator").exists():
        sys.exit(f"{pack} holds no binaries: tests/gpu/pack.sh makes them")
    if options.to:
        options.to.mkdir(parents=True, exist_ok=True)
        options.to = options.to.resolve()
    table, speed = Table(), Speed()
    todo = plan(speed)
    wanted = set(options.only or todo)
    for name in reversed(todo):
        wanted |= set(todo[name][2]) if name in wanted else set()
    with tempfile.TemporaryDirectory(prefix="lsd-gpu-") as folder:
        lab = Lab(folder, pack.resolve(), options)
        for name, (check, limit, needs) in todo.items():
            if name not in wanted:
                continue
            began = time.monotonic()
            if missing := table.missing(needs):
                verdict, said = "SKIP", f"needs {', '.join(missing)}"
            elif began - table.started > options.seconds:
                verdict, said = "SKIP", f"{options.seconds:.0f} s are over"
            else:
                verdict, said = make(lab, check, limit * options.patience, table.started + options.seconds)
            table.add(name, verdict, time.monotonic() - began, said)
    facts = machine(options.device)
    written = page(facts, table, speed)
    print("\n" + written)
    if options.to:
        name = "-".join([facts["date"], *facts["device"].replace("/", " ").split()]) + ".md"
        (options.to / name).write_text(written)
    return bool(table.failed())


if __name__ == "__main__":
    sys.exit(main())
