"""A folder with the small experiment of `configs/quickstart.toml`, programs that are ended at a deadline, and what runs leave behind."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]

# The networks, the recipe and the images of the quickstart, but less of them.
FEWER = {
    "scenes.train": 192,
    "scenes.validation": 8,
    "data.rows_per_shard": 64,
    "autoencoder.train.steps": 60,
    "train.log_every": 1,
    "train.picture_every": 0,
    "train.evaluation.every_steps": 0,
    "train.groups.backbone.warmup_steps": 10,
    "train.groups.slot_attention.warmup_steps": 10,
    "train.groups.unet.warmup_steps": 10,
    "cluster.workers_per_node": 1,
}


class Failure(Exception):
    """What a check has found."""


class Skipped(Exception):
    """Why a check cannot be made here."""


class Lab:
    """Where the checks work."""

    def __init__(self, folder, pack, options):
        self.folder, self.options, self.device = pathlib.Path(folder), options, options.device
        self.binaries = pack / "release"
        self.steps = 60 if self.device == "cuda" else 24
        self.settings = FEWER | {"cluster.device": self.device, "train.steps": self.steps}
        self.environment = environment(pack)
        self.deadline = float("inf")

    def left(self):
        return max(self.deadline - time.monotonic(), 0.0)

    def start(self, command, **variables):
        """A program in this folder, in a process group of its own; its words go to files."""
        return Program([str(word) for word in command], self, {name: str(value) for name, value in variables.items()})

    def run(self, command, **variables):
        """The same to its end, which must be a good one. Returns standard output."""
        return self.start(command, **variables).expect_success()

    def example(self, name, *arguments):
        return self.run([self.binaries / "examples" / name, *arguments])

    def peer(self, script, *arguments):
        return [sys.executable, ROOT / "tests/peers" / script, *arguments]

    def launch(self, name, settings=(), job="train", options=(), worker=None):
        """`orchestrator launch` of a run of that name, still running."""
        command = [self.binaries / "orchestrator", "launch", "--job", job, "--config", ROOT / "configs/quickstart.toml", *options]
        for key, value in (self.settings | {"run.name": name} | dict(settings)).items():
            command += ["--set", f"{key}={value}"]
        return self.start(command, **({"LSD_WORKER": worker} if worker else {}))

    def knows(self, setting):
        """Whether the configuration has this key."""
        command = [self.binaries / "orchestrator", "plan", "--config", ROOT / "configs/quickstart.toml", "--set", setting]
        return self.start(command).wait() == 0

    def records(self, name):
        path = self.folder / "runs" / name / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        # The last line may be half written.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def series(self, name, figure):
        """The figure of every step, the last time that the step was taken."""
        return [value for _, value in sorted({record["step"]: record[figure] for record in self.records(name)}.items())]

    def status(self, name):
        path = self.folder / "runs" / name / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def wait_for(self, what, found, program):
        """Until `found` returns something true, which is returned."""
        while not (answer := found()):
            if program.process.poll() is not None:
                raise Failure(f"the launch ended before {what}: {program.last_words()}")
            if not self.left():
                program.kill()
                raise Failure(f"no {what} within the time limit")
            time.sleep(0.02)
        return answer

    def weights(self, name):
        """The exported weights of a run's newest checkpoint: official folder and bytes."""
        to = self.folder / f"exported-{name}"
        self.run([self.binaries / "orchestrator", "checkpoints", "export", f"runs/{name}", "--to", to])
        return {path.parent.name: path.read_bytes() for path in sorted(to.glob("*/*.safetensors"))}


def environment(pack):
    """Libraries of python3's PyTorch, the pack's binaries where the peers look for them, and its Python packages."""
    import torch

    libraries = pathlib.Path(torch.__file__).parent
    paths = [libraries / "lib", *sorted((libraries.parent / "nvidia").glob("*/lib"))]
    old = os.environ.get("LD_LIBRARY_PATH")
    packages = [str(pack / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        # Two ranks share the only GPU; cuBLAS is deterministic only so.
        "LSD_SHARE_GPUS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "LD_LIBRARY_PATH": ":".join([*map(str, paths), *filter(None, [old])]),
        "CARGO_TARGET_DIR": str(pack),
        "PYTHONPATH": ":".join(packages),
        "RUST_BACKTRACE": "0",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


class Program:
    """A process that has to end before the lab's deadline, together with everything that it started."""

    count = 0

    def __init__(self, command, lab, variables):
        Program.count += 1
        self.lab, self.command = lab, command
        self.out, self.err = (lab.folder / f"{Program.count:03}.{kind}" for kind in ("out", "err"))
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(
                command,
                cwd=lab.folder,
                env=lab.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait(self):
        try:
            return self.process.wait(min(self.lab.left(), 3600))
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"not done within the time limit: {pathlib.Path(self.command[0]).name} {self.command[1]}") from None

    def expect_success(self):
        code = self.wait()
        if code:
            raise Failure(f"exit code {code}: {self.last_words()}")
        return self.out.read_text()

    def last_words(self):
        lines = [line.strip() for line in (self.err.read_text() or self.out.read_text()).splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        return (errors or lines or ["it said nothing"])[-1][:300]

    def kill(self):
        """SIGKILL to the process and all of its descendants, also those in sessions of their own."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


def descendants(ancestor):
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(") ", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, generation = [], [ancestor]
    while generation:
        generation = [pid for pid, parent in parents.items() if parent in generation]
        found += generation
    return found
