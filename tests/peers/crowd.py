#!/usr/bin/env python3
"""What the coordinator costs under thousands of workers: `tests/peers/crowd.py --workers 4096 --seconds 60`.

Needs `cargo build --release --package orchestrator --bins --examples`. The real `orchestrator launch` runs with a stand-in for mpirun that
plays all workers and their guards (`orchestrator/examples/crowd.rs`): two connections per rank, a heartbeat each second, steps of half a
second. Measured while the run is running: the orchestrator's share of one core, its largest resident size, and how long `orchestrator
status` takes. Exit code 1 when one of them is above its target.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
# At 4,096 workers: share of one core, MB, ms.
TARGETS = {"cpu": 0.25, "memory": 200, "status": 100}
PATIENCE = 120


class Launch:
    """A launch with a crowd for workers, in a folder of its own."""

    def __init__(self, folder, workers):
        self.folder = pathlib.Path(folder)
        crowd = BINARIES / "examples/crowd"
        shim = self.folder / "bin/mpirun"
        shim.parent.mkdir()
        shim.symlink_to(crowd)
        data = self.folder / "data"
        subprocess.run([crowd, "dataset", data / "train", str(workers)], check=True)
        settings = {
            "run.root": self.folder / "runs",
            "run.name": "crowd",
            "data.latents": data,
            "train.evaluation.every_steps": 0,
            "train.global_batch": workers,
            "autoencoder.train.global_batch": workers,
            "cluster.workers_per_node": workers,
            "cluster.launcher": "mpirun",
        }
        command = [BINARIES / "orchestrator", "launch", "--config", ROOT / "configs/quickstart.toml"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        environment = os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "LSD_WORKER": str(crowd)}
        self.run = self.folder / "runs/crowd"
        self.log = open(self.folder / "launch.log", "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)

    def wait_for(self, state):
        """Seconds until the run is in that state."""
        started = time.monotonic()
        while self.state() != state:
            if self.process.poll() is not None or time.monotonic() - started > PATIENCE:
                sys.exit(f"the run is not {state}:\n{(self.folder / 'launch.log').read_text()}{self.launcher_log()}")
            time.sleep(0.02)
        return time.monotonic() - started

    def state(self):
        try:
            return json.loads((self.run / "status.json").read_text())["state"]
        except FileNotFoundError:
            return None

    def launcher_log(self):
        return "".join(path.read_text() for path in self.run.glob("logs/*/launcher.log"))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6

    def ask_for_status(self):
        """Seconds that it takes to tell where the run stands."""
        started = time.monotonic()
        subprocess.run([BINARIES / "orchestrator", "status", self.run], check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    def stop(self):
        """Seconds from Ctrl-C to the end, after which everybody must have ended in order."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE)
        if code != 130:
            sys.exit(f"exit code {code}:\n{(self.folder / 'launch.log').read_text()}{self.launcher_log()}")
        return time.monotonic() - started


def measure(options, folder):
    launch = Launch(folder, options.workers)
    try:
        start = launch.wait_for("running")
        time.sleep(options.settle)
        begun, before = time.monotonic(), launch.cpu_seconds()
        asked = []
        for call in range(options.calls):
            time.sleep(max(0.0, begun + options.seconds * call / options.calls - time.monotonic()))
            asked.append(launch.ask_for_status())
        time.sleep(max(0.0, begun + options.seconds - time.monotonic()))
        share = (launch.cpu_seconds() - before) / (time.monotonic() - begun)
        figures = {"cpu": share, "memory": launch.megabytes(), "status": 1000 * statistics.median(asked)}
        return figures | {"status_worst": 1000 * max(asked), "start": start, "stop": launch.stop()}
    finally:
        launch.process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=60, help="time over which is measured")
    parser.add_argument("--settle", type=float, default=5, help="seconds between the last greeting and the measurement")
    parser.add_argument("--calls", type=int, default=20, help="calls of `orchestrator status` in that time")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lsd-crowd-") as folder:
        figures = measure(options, folder)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"{options.workers} workers and their guards, {options.seconds:.0f} s")
        print(f"processor          {100 * figures['cpu']:7.1f} % of one core   (at most {100 * TARGETS['cpu']:.0f})")
        print(f"memory             {figures['memory']:7.0f} MB              (at most {TARGETS['memory']})")
        print(f"status, median     {figures['status']:7.1f} ms              (at most {TARGETS['status']})")
        print(f"status, worst      {figures['status_worst']:7.1f} ms")
        print(f"launch to running  {figures['start']:7.2f} s")
        print(f"Ctrl-C to the end  {figures['stop']:7.2f} s")
    missed = [name for name, target in TARGETS.items() if figures[name] > target]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
