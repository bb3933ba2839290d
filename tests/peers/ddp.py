#!/usr/bin/env python3
"""Training as one would write it for torchrun: the networks of `networks.py` under DistributedDataParallel over gloo, a checkpoint with
`torch.save` every few steps, resumed from when the workers are started again.

    torchrun --nproc-per-node 2 tests/peers/ddp.py CONFIG FOLDER EVERY

`FOLDER/events.jsonl` tells when each process started and when each step was done. The peer of `recovery.py`: batch, networks and optimizer
are the experiment's; images and latents are random numbers in memory, so no time goes into reading data.
"""

import json
import os
import pathlib
import socket
import sys
import time

import networks
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


class Events:
    def __init__(self, folder):
        self.file = open(folder / "events.jsonl", "a", buffering=1)

    def add(self, **fields):
        self.file.write(json.dumps({"time": time.time()} | fields) + "\n")


def save(path, model, optimizer, step):
    """All or nothing, as anybody writes it who has lost a checkpoint once."""
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def main():
    config, sizes = networks.read_config(sys.argv[1])
    folder, every = pathlib.Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    events = Events(folder)
    events.add(event="started", rank=rank, host=socket.gethostname(), pid=os.getpid())

    model = networks.LatentSlotDiffusion(config, sizes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    step, checkpoint = 0, folder / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    parallel = DistributedDataParallel(model)

    batch = config["train"]["global_batch"] // world
    alpha_bar = (1 - torch.linspace(0.00085, 0.012, 1000)).cumprod(0)
    images = torch.rand(batch, 3, sizes.resolution, sizes.resolution) * 2 - 1
    latents = torch.randn(batch, sizes.latent_channels, sizes.latent_side, sizes.latent_side)
    slots = model.slot_attention
    while True:
        noise, timesteps = torch.randn_like(latents), torch.randint(1000, (batch,))
        kept = alpha_bar[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        optimizer.zero_grad()
        prediction, _, _ = parallel(images, torch.randn(batch, slots.count, slots.size), noisy, timesteps)
        torch.nn.functional.mse_loss(prediction, noise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if rank == 0:
            events.add(event="step", step=step)
            if step % every == 0:
                save(checkpoint, model, optimizer, step)
                events.add(event="saved", step=step)


if __name__ == "__main__":
    main()
