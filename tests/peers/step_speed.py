#!/usr/bin/env python3
"""A whole training step of ours beside the same networks from diffusers' blocks in PyTorch eager: `tests/peers/step_speed.py`.

Needs `make peers` and `cargo build --release --example step_speed`. Both sides take a batch of images and posterior moments to updated
weights: posterior sample, noise, all networks forward and backward, clipping, AdamW (fused, on PyTorch's side). Single steps of the two
alternate, so that both see the same machine. Both run with the allocator settings that `orchestrator launch` gives its workers;
`--plain-peer` leaves them off for PyTorch, as its users find it.

On a busy machine wall time says little: the CPU time of the whole process is printed beside it.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/step_speed"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_TOP_PAD_": str(1 << 26)}


def peer(path, batch, threads):
    """The peer's side: one step for every line on standard input."""
    import time

    import networks
    import torch

    torch.set_num_threads(threads)
    config, sizes = networks.read_config(path)
    model = networks.LatentSlotDiffusion(config, sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    images = torch.randint(256, (batch, sizes.resolution, sizes.resolution, 3), dtype=torch.uint8)
    moments = torch.randn(batch, 2 * sizes.latent_channels, sizes.latent_side, sizes.latent_side).half()
    alpha_bar = (1 - torch.linspace(0.00085, 0.012, 1000)).cumprod(0)
    slots = model.slot_attention
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        mean, log_variance = moments.float().chunk(2, 1)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (batch,))
        kept = alpha_bar[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        pixels = images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        optimizer.zero_grad()
        prediction, _, _ = model(pixels, torch.randn(batch, slots.count, slots.size), noisy, timesteps)
        loss = torch.nn.functional.mse_loss(prediction, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
        print(time.perf_counter() - start, flush=True)


class Side:
    """A process that takes one step for every line it is sent."""

    def __init__(self, name, command, allocator):
        self.name, self.wall, self.cpu = name, [], []
        environment = os.environ | (ALLOCATOR if allocator else {})
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        if self.process.stdout.readline().strip() != "ready":
            sys.exit(f"{name} did not start: {' '.join(map(str, command))}")

    def cpu_seconds(self):
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def step(self, counts):
        before = self.cpu_seconds()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        wall = float(self.process.stdout.readline())
        if counts:
            self.wall.append(wall)
            self.cpu.append(self.cpu_seconds() - before)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(options, batch, threads):
    """Prints one row: milliseconds per step of both, and how many of our steps fit into one of the peer's."""
    arguments = [str(options.config), str(batch), str(threads)]
    ours = Side("ours", [BINARY, *arguments], allocator=True)
    theirs = Side("PyTorch", [sys.executable, __file__, "--peer", *arguments], allocator=not options.plain_peer)
    for step in range(options.warm_up + options.steps):
        for side in (ours, theirs):
            side.step(counts=step >= options.warm_up)
    row = f"{batch:5}  {threads:7}"
    for clock in ("wall", "cpu"):
        mine, other = (1000 * statistics.median(getattr(side, clock)) for side in (ours, theirs))
        row += f"  {mine:11.0f}  {other:11.0f}  {other / mine:5.2f}"
    print(row, flush=True)
    ours.close()
    theirs.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=ROOT / "configs/quickstart.toml", help="experiment whose step is timed")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32], help="images per step")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10, help="steps that count, per side")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before those")
    parser.add_argument("--plain-peer", action="store_true", help="PyTorch with the allocator's defaults")
    parser.add_argument("--peer", nargs=3, metavar=("CONFIG", "BATCH", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer[0], *map(int, options.peer[1:]))
        return 0
    print("                 wall time per step, ms               CPU time per step, ms")
    print("batch  threads         ours      PyTorch  ratio         ours      PyTorch  ratio")
    for batch in options.batch:
        for threads in options.threads:
            compare(options, batch, threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
