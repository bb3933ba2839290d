#!/usr/bin/env python3
"""Sampling of ours beside diffusers, from slots to pictures: `tests/peers/sampling.py`.

Needs `make peers` and `cargo build --release --example sampling`. Both sides have the same random weights, begin with the same noise, and
paint 50 images in 50 steps of DPM-Solver++, the autoencoder's decoder included: diffusers by `DPMSolverMultistepScheduler`, its UNet with
the positions of `networks.py`, and its `AutoencoderKL`, all 50 images at a time; ours as the `compose` job does it. Both sides are alive
and sample in turns; the figure of each is the median over its turns after the first. Fails if a pixel differs by more than 1e-4 of the
largest. CPU time is printed beside wall time: on a shared machine it says more. Both run with the allocator settings that
`orchestrator launch` gives its workers.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import networks
import torch
from allocator import ALLOCATOR
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/sampling"
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
TOLERANCE = 1e-4


class Peer:
    """The networks of a folder in PyTorch."""

    def __init__(self, config, sizes, folder, steps):
        self.unet, self.autoencoder = networks.unet(config, sizes).eval(), networks.autoencoder(config, sizes).eval()
        self.unet.load_state_dict(load_file(folder / "unet.safetensors"))
        self.autoencoder.load_state_dict(load_file(folder / "autoencoder.safetensors"))
        self.inputs, self.steps = load_file(folder / "inputs.safetensors"), steps
        diffusion = config.get("diffusion", {})
        self.scheduler = DPMSolverMultistepScheduler(
            num_train_timesteps=1000,
            beta_start=diffusion.get("beta_start", 0.00085),
            beta_end=diffusion.get("beta_end", 0.012),
            timestep_spacing="leading",
            steps_offset=1,
            prediction_type=PREDICTIONS[diffusion.get("prediction", "epsilon")],
        )

    @torch.no_grad()
    def sample(self):
        self.scheduler.set_timesteps(self.steps)
        z_t, conditioning = self.inputs["noise"], self.inputs["conditioning"]
        for t in self.scheduler.timesteps:
            z_t = self.scheduler.step(self.unet(z_t, t, conditioning).sample, t, z_t).prev_sample
        return self.autoencoder.decode(z_t).sample


def serve(options):
    """The peer's process: samples for every line on standard input."""
    torch.set_num_threads(options.threads)
    config, sizes = networks.read_config(options.config, options.set)
    folder = pathlib.Path(options.serve)
    peer = Peer(config, sizes, folder, options.steps)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        images = peer.sample()
        print(time.perf_counter() - start, flush=True)
        save_file({"images": images}, folder / "theirs.safetensors")


class Side:
    """A process that samples once for each line that it is sent."""

    def __init__(self, command):
        pipe = subprocess.PIPE
        command = [str(word) for word in command]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | ALLOCATOR)
        self.wall, self.cpu = [], []
        self.answer()

    def answer(self):
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with exit code {self.process.wait()}")
        return line

    def cpu_seconds(self):
        """Of all threads, also those that have ended."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def turn(self):
        before = self.cpu_seconds()
        print("once", file=self.process.stdin, flush=True)
        self.wall.append(float(self.answer()))
        self.cpu.append(self.cpu_seconds() - before)

    def medians(self):
        return statistics.median(self.wall[1:]), statistics.median(self.cpu[1:])


def prepare(options, folder):
    """Weights and inputs for both sides."""
    config, sizes = networks.read_config(options.config, options.set)
    torch.manual_seed(options.seed)
    save_file(networks.unet(config, sizes).state_dict(), folder / "unet.safetensors")
    save_file(networks.autoencoder(config, sizes).state_dict(), folder / "autoencoder.safetensors")
    slots = config["model"]["slot_attention"]
    noise = torch.randn(options.images, sizes.latent_channels, sizes.latent_side, sizes.latent_side)
    conditioning = torch.randn(options.images, slots["slots"], slots["out_size"])
    save_file({"noise": noise, "conditioning": conditioning}, folder / "inputs.safetensors")


def compare(options, threads, folder):
    settings = [word for setting in options.set for word in ("--set", setting)]
    shared = ["--threads", threads, "--steps", options.steps, *settings]
    ours = Side([BINARY, options.config, folder, *shared])
    theirs = Side([sys.executable, __file__, "--serve", folder, "--config", options.config, *shared])
    for _ in range(options.turns + 1):
        for side in (ours, theirs):
            side.turn()
    for side in (ours, theirs):
        # Its files are written before it ends.
        side.process.stdin.close()
        side.process.wait()
    images = [load_file(folder / f"{name}.safetensors")["images"] for name in ("ours", "theirs")]
    difference = ((images[0] - images[1]).abs().max() / images[1].abs().max()).item()
    (wall, cpu), (other_wall, other_cpu) = ours.medians(), theirs.medians()
    row = {"threads": threads, "images": options.images, "steps": options.steps, "ours": wall, "theirs": other_wall}
    row |= {"ours_cpu": cpu, "theirs_cpu": other_cpu, "difference": difference, "load": os.getloadavg()[0]}
    if options.json:
        print(json.dumps(row), flush=True)
    else:
        figures = f"{wall:8.2f} s {other_wall:8.2f} s  {other_wall / wall:5.2f} {cpu:8.2f} s {other_cpu:8.2f} s  {other_cpu / cpu:5.2f}"
        print(f"{threads:7} {figures}  {difference:9.1e} {row['load']:6.1f}", flush=True)
    return difference <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=ROOT / "configs/quickstart.toml", help="experiment whose networks sample")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of it, the value as in TOML")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads of each side")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50, help="of the sampler")
    parser.add_argument("--turns", type=int, default=5, help="samples that count, per side")
    parser.add_argument("--seed", type=int, default=1, help="of weights, noise and slots")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each number of threads, in seconds")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        options.threads = options.threads[0]
        return serve(options)
    if not options.json:
        print("threads   ours wall, theirs, ratio       ours CPU, theirs, ratio      differ by   load", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        prepare(options, folder)
        for threads in options.threads:
            good &= compare(options, threads, folder)
    print("ok" if good else "FAILED", file=sys.stderr if options.json else sys.stdout)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
