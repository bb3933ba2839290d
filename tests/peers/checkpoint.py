#!/usr/bin/env python3
"""Saving and restoring beside PyTorch's savers: `tests/peers/checkpoint.py`.

Needs `make peers` and `cargo build --release --example checkpoint_speed`. All sides train the same networks with AdamW and save weights
and both moments, about 118 million parameters (1.4 GB) unless `--set` says otherwise, to the same disk: ours through the code that the
`train` job uses; `torch.save`; `torch.distributed.checkpoint` (`async_save`, in a thread and, as `dcp process`, in a process of its own);
and accelerate's `save_state`. Rounds of all sides alternate. Measured are

* stall: what a save costs training. The call itself, and by how much the steps until the save is complete take longer than the median
  step without one,
* save, load: bytes per second with nothing else to do, beside `dd conv=fsync` of as many bytes. Ours includes the digests of every byte
  and syncs files and folders; of the others only `dcp` syncs its files. What is loaded was dropped from the page cache before, where the
  system allows that,
* restored: from the start of a process to the restored state, imports included.

Exit code 1 when a target is missed: the stall a tenth of the best peer's; 0.9 of dd's throughput; restored no later than the best peer.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from allocator import ALLOCATOR

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/checkpoint_speed"
# The published networks at a third of their size, on images for which a step takes about a second of a CPU core.
SMALLER = ["data.resolution=64", "model.unet.block_channels=[96, 192, 384, 384]"]
PEERS = ["torch.save", "dcp", "dcp process", "accelerate"]


class Savers:
    """The peers' side: the same networks, and the savers by name."""

    def __init__(self, config, batch, threads, folder, overrides):
        import networks
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(1)
        config, self.sizes = networks.read_config(config, overrides)
        self.torch, self.batch, self.folder = torch, batch, pathlib.Path(folder)
        self.model = networks.LatentSlotDiffusion(config, self.sizes)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
        self.images = torch.randint(256, (batch, self.sizes.resolution, self.sizes.resolution, 3), dtype=torch.uint8)
        self.moments = torch.randn(batch, 2 * self.sizes.latent_channels, self.sizes.latent_side, self.sizes.latent_side).half()
        self.alpha_bar = (1 - torch.linspace(0.00085, 0.012, 1000)).cumprod(0)
        self.pending, self.count, self.accelerator = None, 0, None

    def step(self):
        """Seconds of one step, as in `step_speed.py`."""
        torch = self.torch
        start = time.perf_counter()
        mean, log_variance = self.moments.float().chunk(2, 1)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (self.batch,))
        kept = self.alpha_bar[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        pixels = self.images.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        slots = self.model.slot_attention
        self.optimizer.zero_grad()
        prediction, _, _ = self.model(pixels, torch.randn(self.batch, slots.count, slots.size), noisy, timesteps)
        loss = torch.nn.functional.mse_loss(prediction, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        loss.item()
        return time.perf_counter() - start

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def place(self, saver):
        return self.folder / saver.replace(" ", "-")

    def save(self, saver):
        """Begins a save; `pending` is what has to be waited for."""
        place = self.place(saver)
        place.mkdir(parents=True, exist_ok=True)
        if saver == "torch.save":
            self.torch.save(self.state(), place / "checkpoint.pt")
        elif saver == "accelerate":
            if self.accelerator is None:
                from accelerate import Accelerator

                self.accelerator = Accelerator(cpu=True)
                self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.accelerator.save_state(str(place))
        else:
            import torch.distributed.checkpoint as dcp
            from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

            kind = AsyncCheckpointerType.PROCESS if saver == "dcp process" else AsyncCheckpointerType.THREAD
            if not self.torch.distributed.is_initialized():
                # As in any distributed training; without one there is no saving by another process.
                self.torch.distributed.init_process_group("gloo", init_method=f"file://{self.folder}/meet", rank=0, world_size=1)
            writer = dcp.FileSystemWriter(place, overwrite=True)
            self.pending = dcp.async_save(self.dcp_state(), storage_writer=writer, async_checkpointer_type=kind)

    def dcp_state(self):
        """Names for the optimizer's state, as its users make them."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def is_busy(self):
        return self.pending is not None and not self.pending.done()

    def wait(self):
        if self.pending is not None:
            self.pending.result()
        self.pending = None

    def round(self, saver, steps):
        plain = [self.step() for _ in range(steps)]
        start = time.perf_counter()
        self.save(saver)
        call = time.perf_counter() - start
        during = []
        while not during or self.is_busy():
            during.append(self.step())
        self.wait()
        return {"plain": plain, "call": call, "during": during}

    def save_alone(self, saver):
        start = time.perf_counter()
        self.save(saver)
        self.wait()
        return {"seconds": time.perf_counter() - start}

    def load(self, saver):
        start = time.perf_counter()
        place = self.place(saver)
        if saver == "torch.save":
            state = self.torch.load(place / "checkpoint.pt")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        elif saver == "accelerate":
            from accelerate import Accelerator

            accelerator = Accelerator(cpu=True)
            self.model, self.optimizer = accelerator.prepare(self.model, self.optimizer)
            accelerator.load_state(str(place))
        else:
            import torch.distributed.checkpoint as dcp
            from torch.distributed.checkpoint.state_dict import set_state_dict

            state = self.dcp_state()
            dcp.load(state, checkpoint_id=place)
            set_state_dict(
                self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
            )
        return {"seconds": time.perf_counter() - start}

    def serve(self):
        for line in sys.stdin:
            command, _, rest = line.strip().partition(" ")
            if command == "round":
                steps, _, saver = rest.partition(" ")
                answer = self.round(saver, int(steps))
            else:
                answer = self.save_alone(rest) if command == "save" else self.load(rest)
            print("answer", json.dumps(answer), flush=True)


class Side:
    """A process that answers each line with one of JSON."""

    def __init__(self, options, folder, ours):
        arguments = [str(options.config), str(options.batch), str(options.threads), str(folder), *options.set]
        command = [BINARY, *arguments] if ours else [sys.executable, __file__, "--peer", *arguments]
        pipe = subprocess.PIPE
        log = open(folder.parent / f"{'ours' if ours else 'peers'}.log", "ab")
        self.began = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=os.environ | ALLOCATOR)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        for answer in self.process.stdout:
            # Some peers print.
            answer = answer.removeprefix("answer ")
            if answer.startswith("{"):
                return json.loads(answer)
        sys.exit(f"{line}: no answer; see the log beside the checkpoints (--keep)")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def drop(folder):
    """Puts a folder's files on the disk and out of the page cache."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def dd(folder, size):
    """Seconds to write and to read as many bytes by dd."""
    path, blocks = folder / "dd", size // (16 << 20)
    times = []
    for arguments in (["if=/dev/zero", f"of={path}", "conv=fsync"], [f"if={path}", "of=/dev/null"]):
        start = time.perf_counter()
        subprocess.run(["dd", *arguments, "bs=16M", f"count={blocks}", "status=none"], check=True)
        times.append((time.perf_counter() - start) * size / (blocks * (16 << 20)))
        drop(folder)
    path.unlink()
    return times


class Measurements:
    def __init__(self):
        self.rows = {}

    def add(self, side, what, value):
        self.rows.setdefault(side, {}).setdefault(what, []).append(value)

    def median(self, side, what):
        values = self.rows.get(side, {}).get(what)
        return statistics.median(values) if values else float("nan")


def stall(found):
    """Extra seconds of a save: of the call, and of the steps until it was complete."""
    typical = statistics.median(found["plain"])
    return typical, found["call"], sum(seconds - typical for seconds in found["during"])


def measure(options, folder, found):
    """All rounds, sides in turns."""
    ours, peers = (Side(options, folder / name, ours=name == "ours") for name in ("ours", "peers"))
    sides = [("ours", ours, "")] + [(saver, peers, f" {saver}") for saver in options.peers]
    for name, side, suffix in sides:
        # First of all everything is touched once: memory, files, kernels.
        side.ask(f"round 2{suffix}")
    for turn in range(options.rounds):
        print(f"round {turn + 1}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        for name, side, suffix in sides:
            step, call, slower = stall(side.ask(f"round {options.steps}{suffix}"))
            for what, value in (("step", step), ("call", call), ("slower", slower), ("stall", call + slower)):
                found.add(name, what, value)
        for name, side, suffix in sides:
            found.add(name, "save", side.ask(f"save{suffix}")["seconds"])
            place = folder / ("ours" if name == "ours" else f"peers/{name.replace(' ', '-')}")
            drop(place)
            answer = side.ask(f"load{suffix}")
            found.add(name, "load", answer["seconds"])
            if name == "ours":
                size = 12 * answer["parameters"]
        write, read = dd(folder, size)
        found.add("dd", "save", write)
        found.add("dd", "load", read)
    for side in (ours, peers):
        side.close()
    for turn in range(options.starts):
        for name, _, suffix in sides:
            drop(folder / ("ours" if name == "ours" else f"peers/{name.replace(' ', '-')}"))
            side = Side(options, folder / ("ours" if name == "ours" else "peers"), ours=name == "ours")
            side.ask(f"load{suffix}")
            found.add(name, "restored", time.perf_counter() - side.began)
            side.close()
    return size


def table(options, found, size):
    print(f"{size / 1e9:.2f} GB, batch {options.batch}, {options.threads} threads, medians of {options.rounds} rounds")
    print("                step ms    call ms  slower ms   stall ms  save GB/s  load GB/s  restored s")
    for name in ["ours", *options.peers, "dd"]:
        milliseconds = (1000 * found.median(name, what) for what in ("step", "call", "slower", "stall"))
        rates = (size / 1e9 / found.median(name, what) for what in ("save", "load"))
        row = "".join(f"{value:11.0f}" for value in milliseconds) + "".join(f"{value:11.2f}" for value in rates)
        print(f"{name:12}{row}{found.median(name, 'restored'):12.2f}".replace("nan", "  -"))


def judge(options, found):
    """What was missed."""
    best = {what: min(found.median(peer, what) for peer in options.peers) for what in ("stall", "restored")}
    ours = {what: found.median("ours", what) for what in ("stall", "save", "load", "restored")}
    targets = [
        ("stall", ours["stall"] <= best["stall"] / 10),
        ("save", found.median("dd", "save") / ours["save"] >= 0.9),
        ("load", found.median("dd", "load") / ours["load"] >= 0.9),
        ("restored", ours["restored"] <= best["restored"]),
    ]
    return [name for name, met in targets if not met]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=ROOT / "configs/movi-e.toml", help="experiment whose networks are trained")
    parser.add_argument("--set", action="append", default=None, metavar="KEY=VALUE", help="refines it")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, per side")
    parser.add_argument("--starts", type=int, default=3, help="restores by a new process, per side")
    parser.add_argument("--steps", type=int, default=6, help="steps without a save, per round")
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--folder", default=None, help="disk to save to [default: the system's for temporary files]")
    parser.add_argument("--keep", action="store_true", help="leave checkpoints and logs there")
    parser.add_argument("--peer", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        config, batch, threads, folder, *overrides = options.peer
        Savers(config, int(batch), int(threads), folder, overrides).serve()
        return 0
    options.set = SMALLER if options.set is None else options.set
    folder = pathlib.Path(tempfile.mkdtemp(prefix="checkpoint-speed-", dir=options.folder))
    found = Measurements()
    try:
        for name in ("ours", "peers"):
            (folder / name).mkdir()
        size = measure(options, folder, found)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    table(options, found, size)
    missed = judge(options, found)
    print(f"missed: {', '.join(missed)}" if missed else "all targets are met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
