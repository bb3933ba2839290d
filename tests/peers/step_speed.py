#!/usr/bin/env python3
"""Whole training steps of ours beside PyTorch's, with the same networks from diffusers' blocks: `tests/peers/step_speed.py --peers e b`.

Needs `make peers` and `cargo build --release --example step_speed`. Both sides take a batch in the host's memory to changed weights: copy to
the device, posterior sample, noise, all networks forward and backward, clipping, AdamW. What the peers are says `trainers.py`: a as the
official script trains, b what a careful user writes, c that under torch.compile, e eager in fp32. Ours computes in `--precision`.

Measured is ours beside one peer at a time, both alive, in turns: single steps on the CPU, on CUDA blocks of steps at whose borders alone
anybody waits for the device. The figure of each side is the median over its turns after the warm-up. A peer's first block is told apart:
it holds compilation and the choice of algorithms. All draw their noise within the step, or with `--noise-ahead` all before the clock
starts, as our loader does in training. With `--graph` ours launches its steps as CUDA graphs (`train.cuda_graph`).

Memory is the largest resident size of each process; on CUDA what the device has less after its warm-up, context and cache included. On
CUDA the rate of useful operations is given as a share of that of an 8192^3 bf16 product in PyTorch on the same device.

On a shared machine wall time says little: the CPU time of the whole process is printed beside it, and the load. Both sides run with the
allocator settings that `orchestrator launch` gives its workers; `--plain-peer` leaves them off for PyTorch, as its users find it.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

from allocator import ALLOCATOR

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/step_speed"
TRAINERS = pathlib.Path(__file__).with_name("trainers.py")


def device_memory():
    """Bytes of the device that are taken."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


class Ended(Exception):
    """A side that did not go on."""


class Side:
    """A process that takes as many steps as each line that it is sent says."""

    def __init__(self, name, command, options, allocator):
        self.name, self.cuda, self.wall, self.cpu = name, options.device == "cuda", [], []
        self.before = device_memory() if self.cuda else 0
        environment = os.environ | {"RUST_BACKTRACE": "0"} | (ALLOCATOR if allocator else {})
        command = [*map(str, command), *shared_arguments(options)]
        self.words = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.words, text=True, env=environment)
        try:
            self.warm_up(options)
        except BaseException:
            self.process.kill()
            raise

    def warm_up(self, options):
        self.answer("ready")
        self.first = self.steps(1)
        for _ in range(options.warm_up):
            self.steps(options.block)
        self.memory = device_memory() - self.before if self.cuda else 0

    def answer(self, expected=None):
        line = self.process.stdout.readline().strip()
        if not line or expected not in (None, line):
            self.process.kill()
            raise Ended(f"{self.name} ended with exit code {self.process.wait()}: {self.last_words()}")
        return line

    def last_words(self):
        self.words.seek(0)
        lines = [line.strip() for line in self.words]
        memory = [line for line in lines if "out of memory" in line]
        named = [line for line in lines if re.match(r"[\w.]*Error: ", line)]
        return (memory or named or ["it named no error"])[-1][:300]

    def cpu_seconds(self):
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def steps(self, count):
        try:
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # Its last words are more use than this.
        return float(self.answer())

    def turn(self, block):
        before = self.cpu_seconds()
        self.wall.append(self.steps(block) / block)
        self.cpu.append((self.cpu_seconds() - before) / block)

    def figures(self):
        memory = self.memory if self.cuda else self.resident()
        wall, cpu = statistics.median(self.wall), statistics.median(self.cpu)
        return {"wall": wall, "cpu": cpu, "memory": memory, "first": self.first - wall, "turns": self.wall}

    def close(self):
        self.process.kill()
        self.process.wait()


def shared_arguments(options):
    arguments = [options.config, "--device", options.device, "--precision", options.precision]
    arguments += ["--batch", options.batch_now, "--threads", options.threads_now]
    arguments += ["--noise-ahead"] if options.noise_ahead else []
    arguments += [word for setting in options.set for word in ("--set", setting)]
    return [str(argument) for argument in arguments]


def compare(options, peer):
    """The figures of both sides, or why there are none."""
    row = {"peer": peer, "device": options.device, "precision": options.precision, "batch": options.batch_now}
    row |= {"threads": options.threads_now, "graph": options.graph}
    sides = []
    try:
        sides.append(Side("ours", [BINARY, *(["--graph"] if options.graph else [])], options, allocator=True))
        sides.append(Side(f"peer {peer}", [sys.executable, TRAINERS, peer], options, allocator=not options.plain_peer))
        for _ in range(max(options.steps // options.block, 1)):
            for side in sides:
                side.turn(options.block)
        ours, theirs = (side.figures() for side in sides)
        return row | {"ours": ours, "theirs": theirs, "ratio": theirs["wall"] / ours["wall"], "load": os.getloadavg()[0]}
    except Ended as ended:
        return row | {"error": str(ended)}
    finally:
        for side in sides:
            side.close()


def ask(options, what):
    """A number that `trainers.py` finds out in a process of its own."""
    command = [sys.executable, TRAINERS, what, *shared_arguments(options)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        sys.exit(f"{what}: {(found.stderr.strip().splitlines() or ['it named no error'])[-1]}")
    return float(found.stdout)


HEADER = """\
                            step, ms                   CPU, ms            images/s        memory, MiB   first step      load
peer  batch threads     ours   theirs ratio      ours   theirs ratio     ours  theirs    ours  theirs   of theirs"""


def print_row(row):
    if "error" in row:
        print(f"{row['peer']:4}  {row['batch']:5} {row['threads']:7}  {row['error']}", flush=True)
        return
    ours, theirs = row["ours"], row["theirs"]
    line = f"{row['peer']:4}  {row['batch']:5} {row['threads']:7}"
    for clock in ("wall", "cpu"):
        mine, other = ours[clock], theirs[clock]
        line += f"  {1e3 * mine:7.1f}  {1e3 * other:7.1f}  {other / mine:4.2f} "
    line += f" {row['batch'] / ours['wall']:7.1f} {row['batch'] / theirs['wall']:7.1f}"
    line += f" {ours['memory'] / 2**20:7.0f} {theirs['memory'] / 2**20:7.0f}  {theirs['first']:8.1f} s  {row['load']:8.1f}"
    if "mfu" in ours:
        line += f"   MFU {100 * ours['mfu']:.1f} %, {100 * theirs['mfu']:.1f} %"
    print(line, flush=True)


def add_utilisation(row, flops, rate):
    for side in ("ours", "theirs"):
        row[side]["mfu"] = flops * row["batch"] / row[side]["wall"] / rate


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=ROOT / "configs/quickstart.toml", help="experiment whose step is timed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of it, the value as in TOML")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="in which ours computes")
    parser.add_argument("--peers", nargs="+", choices=("a", "b", "c", "e"), default=["e"])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32], help="images per step")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads of each side")
    parser.add_argument("--steps", type=int, default=10, help="steps that count, per side")
    parser.add_argument("--block", type=int, help="steps per turn (on the CPU 1, on CUDA 10)")
    parser.add_argument("--warm-up", type=int, default=2, help="turns before those")
    parser.add_argument("--graph", action="store_true", help="ours launches its steps as CUDA graphs")
    parser.add_argument("--noise-ahead", action="store_true", help="all draw their noise before the clock starts")
    parser.add_argument("--plain-peer", action="store_true", help="PyTorch with the allocator's defaults")
    parser.add_argument("--json", action="store_true", help="print JSON, a line as soon as a figure is there, in seconds and bytes")
    options = parser.parse_args()
    options.block = options.block or (10 if options.device == "cuda" else 1)
    return options


def main() -> int:
    options = arguments()
    options.batch_now, options.threads_now = options.batch[0], options.threads[0]
    rate = ask(options, "matrix-rate") if options.device == "cuda" else None
    flops = ask(options, "flops") if rate else None
    show = (lambda row: print(json.dumps(row), flush=True)) if options.json else print_row
    if options.json:
        show({"matrix_rate": rate, "flops_per_image": flops})
    else:
        if rate:
            print(f"8192^3 bf16 product: {rate / 1e12:.0f} TFLOP/s; a step has {flops / 1e9:.1f} GFLOP per image")
        print(HEADER, flush=True)
    failed = False
    for options.batch_now in options.batch:
        for options.threads_now in options.threads:
            for peer in options.peers:
                row = compare(options, peer)
                if "error" in row:
                    failed = True
                elif rate:
                    add_utilisation(row, flops, rate)
                show(row)
    return failed


if __name__ == "__main__":
    sys.exit(main())
