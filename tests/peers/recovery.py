#!/usr/bin/env python3
"""How soon a run goes on after a worker was killed, beside torchrun: `tests/peers/recovery.py --rounds 5`.

Needs `make peers` and `make build`. Both sides train the networks of one experiment with the same batch on the same hosts and save every
few steps: `orchestrator launch`, and `torchrun --max-restarts 3` with `tests/peers/ddp.py` (DDP over gloo). Rounds of the two alternate.
In each the last rank gets a SIGKILL some steps after a checkpoint. Much of torchrun's time is Python's: importing torch and diffusers,
once in the agent and once more in the workers. Measured are

* launch: from the command to the end of the first optimizer step,
* noticed: from the kill to the failure in the journal; of torchrun, to its agent's first words about it on standard error,
* recovered: from the kill to the end of the next optimizer step.

torchrun runs as its documentation advises for restarts (a c10d rendezvous), but for one setting: by default restarted workers of torch 2.11
may read from the shared store where the workers before them listened, and then fail or hang.

With `--hosts 4` both run on the four hosts of the test cluster (`tests/cluster/cluster.sh`, needs root) in a Slurm allocation. There a
last pair of runs has the last host's cable pulled: cut is the time until that is noticed.

Exit code 1 when a target is missed: noticed within 0.3 s, recovered in half of torchrun's time, launched no later than torchrun, a cut
noticed within 5 s.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
PATIENCE = 180
# Steps after a checkpoint at which the kill comes, so that both sides have some to lose.
STEPS_TO_LOSE = 5
LOOK_AGAIN = 0.01
CUT_LIMIT = 60
# Every start of the workers gets a store of its own.
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
RUN = pathlib.Path("/run/lsd-cluster")


def lines(path):
    """The whole lines of a JSONL file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class ThisHost:
    """Everything on this machine."""

    name = "this host"

    def __init__(self, options):
        self.workers = options.workers
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lsd-recovery-"))
        self.environment = os.environ | OWN_STORE

    def command(self, words):
        return words

    def orchestrator(self):
        return ["--workers", str(self.workers)]

    def torchrun(self):
        return [ROOT / ".venv/bin/torchrun", "--standalone", "--nproc-per-node", str(self.workers)]

    def kill(self, host, pid):
        os.kill(pid, signal.SIGKILL)

    def tidy(self):
        pass

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """The hosts of the test cluster, in an allocation of its Slurm."""

    def __init__(self, options):
        self.hosts, self.workers = options.hosts, options.workers
        self.name = f"{self.hosts} hosts of Slurm"
        # Hosts have a /tmp of their own.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lsd-recovery-", dir="/var/tmp"))
        self.cluster = self.folder / "cluster"
        self.script = ROOT / "tests/cluster/cluster.sh"
        pipe = subprocess.PIPE
        self.holder = subprocess.Popen([self.script, "hold", self.cluster], stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        if self.holder.stdout.readline() != "up\n":
            sys.exit("the cluster does not come up")
        self.environment = os.environ | OWN_STORE | {"SLURM_CONF": str(self.cluster / "slurm.conf")}

    def command(self, words):
        return ["salloc", "--quiet", "--no-kill", f"--nodes={self.hosts}", *words]

    def orchestrator(self):
        return ["--nodes", str(self.hosts), "--workers", str(self.workers)]

    def torchrun(self):
        srun = ["srun", f"--nodes={self.hosts}", "--ntasks-per-node=1", "--no-kill", "--cpu-bind=none", "--mpi=none"]
        torchrun = [ROOT / ".venv/bin/torchrun", "--nnodes", str(self.hosts), "--nproc-per-node", str(self.workers)]
        return [*srun, *torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", "node1:29400", "--rdzv-id", "recovery"]

    def kill(self, host, pid):
        """By the id that the process has on this machine, which sees into its hosts: no time is lost between clock and signal."""
        first = (RUN / f"{host}.pid").read_text().strip()
        home = os.readlink(f"/proc/{first}/ns/pid")
        for status in pathlib.Path("/proc").glob("[0-9]*/status"):
            try:
                ids = re.search(r"^NSpid:\s+(.*)$", status.read_text(), re.MULTILINE)[1].split()
                if ids[-1] == str(pid) and os.readlink(status.with_name("ns") / "pid") == home:
                    return os.kill(int(ids[0]), signal.SIGKILL)
            except OSError:
                continue  # One that has just ended.
        sys.exit(f"there is no process {pid} on {host}")

    def cut(self, host):
        subprocess.run([self.script, "cut", self.cluster, host], check=True)

    def tidy(self):
        """No job, and every host usable."""
        subprocess.run(["scancel", "--user", "root"], env=self.environment, check=True)
        subprocess.run([self.script, "settle", self.cluster], check=True)
        squeue = ["squeue", "--noheader"]
        while subprocess.run(squeue, env=self.environment, check=True, stdout=subprocess.PIPE).stdout:
            time.sleep(0.1)

    def close(self):
        self.holder.stdin.close()
        self.holder.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Side:
    """A training run: started, watched, disturbed, ended."""

    def __init__(self, place, command):
        self.place = place
        self.said = []
        self.begun = time.time()
        pipe = subprocess.PIPE
        words = place.command([str(word) for word in command])
        self.process = subprocess.Popen(
            words, cwd=place.folder, env=place.environment, stdout=subprocess.DEVNULL, stderr=pipe, text=True, start_new_session=True
        )
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stderr:
            self.said.append((time.time(), line))

    def look(self, find, limit):
        """What `find` finds, as soon as it does; none if that takes too long or everything has ended."""
        started = time.monotonic()
        while (found := find()) is None:
            if self.process.poll() is not None or time.monotonic() - started > limit:
                return None
            time.sleep(LOOK_AGAIN)
        return found

    def wait(self, what, find):
        """What `find` must find."""
        found = self.look(find, PATIENCE)
        if found is None:
            sys.exit(f"{self.name}: {what} did not happen:\n{''.join(line for _, line in self.said[-40:])}")
        return found

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.place.tidy()


class Ours(Side):
    name = "ours"

    def __init__(self, place, options, number):
        settings = {
            "run.name": f"run-{number}",
            "train.steps": 10**6,
            "train.decay": "constant",
            "train.ema_decay": 0.0,
            "train.log_every": 1,
            "train.evaluation.every_steps": 0,
            "checkpoint.every_steps": options.every,
            "cluster.threads_per_worker": 1,
            "cluster.max_restarts": 3,
        }
        self.run = place.folder / f"runs/run-{number}"
        command = [BINARIES / "orchestrator", "launch", "--config", options.config, *place.orchestrator()]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        super().__init__(place, command)

    def entry(self, event, since=0.0):
        """The first entry of that kind in the journal, with its time."""
        for entry in lines(self.run / "journal.jsonl"):
            then = datetime.fromisoformat(entry["time"]).timestamp()
            if entry["event"] == event and then >= since:
                return entry | {"time": then}
        return None

    def first_step(self, since=0.0):
        entry = self.entry("first-step", since)
        return entry and entry["time"]

    def ripe(self):
        saved = self.entry("checkpoint-committed")
        steps = [line["step"] for line in lines(self.run / "metrics.jsonl")[-1:]]
        return True if saved and steps and steps[0] >= saved["step"] + STEPS_TO_LOSE else None

    def victim(self):
        joined = [entry for entry in lines(self.run / "journal.jsonl") if entry["event"] == "worker-joined"]
        last = max(joined, key=lambda entry: (entry["generation"], entry["rank"]))
        return last["host"], last["pid"]

    def noticed(self, since):
        entries = [self.entry(event, since) for event in ("failed", "host-lost")]
        return min((entry["time"] for entry in entries if entry), default=None)


class Torchrun(Side):
    name = "torchrun"

    def __init__(self, place, options, number):
        self.run = place.folder / f"torchrun-{number}"
        self.run.mkdir()
        command = [*place.torchrun(), "--max-restarts", "3", ROOT / "tests/peers/ddp.py", options.config, self.run, options.every]
        super().__init__(place, command)

    def events(self, kind):
        return [event for event in lines(self.run / "events.jsonl") if event["event"] == kind]

    def first_step(self, since=0.0):
        """Of workers started since then: those before may finish a step after the kill."""
        started = next((event["time"] for event in self.events("started") if event["rank"] == 0 and event["time"] >= since), None)
        return started and next((event["time"] for event in self.events("step") if event["time"] >= started), None)

    def ripe(self):
        saved, steps = self.events("saved"), self.events("step")
        return True if saved and steps[-1]["step"] >= saved[0]["step"] + STEPS_TO_LOSE else None

    def victim(self):
        last = max(self.events("started"), key=lambda event: event["rank"])
        return last["host"], last["pid"]

    def noticed(self, since):
        """The first words of an agent. Those of the workers that are left, and of Slurm, do not count."""
        return next((then for then, line in list(self.said) if then >= since and "torch/distributed/elastic" in line), None)


def kill_round(side):
    """Seconds from the command to the first step, and from the kill to its notice and to the next step."""
    launched = side.wait("a first step", side.first_step) - side.begun
    side.wait("a checkpoint and some steps more", side.ripe)
    host, pid = side.victim()
    killed = time.time()
    side.place.kill(host, pid)
    noticed = side.wait("a notice", lambda: side.noticed(killed)) - killed
    recovered = side.wait("a next step", lambda: side.first_step(killed)) - killed
    return {"launch": launched, "noticed": noticed, "recovered": recovered}


def cut_round(side):
    """Seconds from the moment when the last host is cut off to its notice; none if that takes too long."""
    side.wait("a checkpoint and some steps more", side.ripe)
    host, _ = side.victim()
    cut = time.time()
    side.place.cut(host)
    noticed = side.look(lambda: side.noticed(cut), CUT_LIMIT)
    return {"cut": noticed and noticed - cut}


def prepare(place, options):
    """The experiment's data, by one worker of this machine."""
    alone = os.environ | {"SLURM_CONF": "/dev/null"}
    for job in ("scenes", "autoencoder", "encode"):
        command = [BINARIES / "orchestrator", "launch", "--config", options.config, "--workers", "1", "--job", job]
        subprocess.run(command, cwd=place.folder, env=alone, check=True, stdout=subprocess.DEVNULL)


def measure(place, options):
    """Side -> figure -> one value per round."""
    figures = {side: {} for side in (Ours, Torchrun)}
    turns = [kill_round] * options.rounds + [cut_round] * (1 if options.hosts > 1 else 0)
    for number, turn in enumerate(turns):
        for side, values in figures.items():
            run = side(place, options, number)
            try:
                seen = turn(run)
            finally:
                run.stop()
            for figure, value in seen.items():
                values.setdefault(figure, []).append(value)
            shown = "  ".join(f"{figure} {text(value)}" for figure, value in seen.items())
            print(f"round {number + 1}  {side.name:9} {shown}", file=sys.stderr, flush=True)
    return {side.name: values for side, values in figures.items()}


def median(values):
    return None if None in values else statistics.median(values)


def text(seconds):
    return f"{'> ' + str(CUT_LIMIT) if seconds is None else format(seconds, '.2f')} s"


def judge(medians):
    """The targets that were missed."""
    ours, theirs = medians["ours"], medians["torchrun"]
    reached = {
        "noticed within 0.3 s": ours["noticed"] <= 0.3,
        "recovered in half of torchrun's time": ours["recovered"] <= theirs["recovered"] / 2,
        "launched no later than torchrun": ours["launch"] <= theirs["launch"],
    }
    if "cut" in ours:
        reached["cut noticed within 5 s"] = ours["cut"] is not None and ours["cut"] <= 5
    return [target for target, holds in reached.items() if not holds]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=pathlib.Path, default=ROOT / "tests/system/tiny.toml", help="experiment to train")
    parser.add_argument("--rounds", type=int, default=5, help="kills per side")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--hosts", type=int, default=1, choices=range(1, 5), help="hosts; more than one: of the test cluster")
    parser.add_argument("--workers", type=int, help="workers on each host (2 on one host, else 1)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    options = parser.parse_args()
    options.config = options.config.resolve()
    options.workers = options.workers or (2 if options.hosts == 1 else 1)

    place = (ThisHost if options.hosts == 1 else Cluster)(options)
    try:
        prepare(place, options)
        figures = measure(place, options)
    finally:
        place.close()
    medians = {side: {figure: median(values) for figure, values in of_side.items()} for side, of_side in figures.items()}
    missed = judge(medians)
    if options.json:
        report = {"place": place.name, "workers": options.workers, "medians": medians, "rounds": figures, "missed": missed}
        print(json.dumps(report, indent=2))
    else:
        print(f"{place.name}, {options.workers} workers on each; medians of {options.rounds} rounds")
        print("                ours    torchrun")
        for figure, ours in medians["ours"].items():
            print(f"{figure:9} {text(ours):>10}  {text(medians['torchrun'][figure]):>10}")
    for target in missed:
        print(f"missed: {target}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
