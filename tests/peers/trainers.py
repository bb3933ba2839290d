#!/usr/bin/env python3
"""Training steps of Latent Slot Diffusion as PyTorch's users write them: the peers of `step_speed.py`, which starts one process of this
file for each. Networks are those of `networks.py`.

| peer | autoencoder | numbers on CUDA | memory format | AdamW | else |
|---|---|---|---|---|---|
| a | encodes the images in every step | fp16 autocast and GradScaler | contiguous | as by default | reads the loss in every step |
| b | stored moments | bf16 autocast, TF32 where not bf16 | channels last | fused | pinned memory, cuDNN's benchmark |
| c | as b | as b | as b | as b | `torch.compile(mode="max-autotune")` |
| e | stored moments | fp32, no TF32 | contiguous | fused | eager |

a does what the official script does (images as f32 from pageable memory, gradients filled with zeros, no TF32 but cuDNN's), with the three
networks as one module. On the CPU fp16 is nobody's choice: a and e compute in fp32 there, b and c in the numbers that `--precision`
says. All use scaled dot product attention, as diffusers does by default.

A step begins with a batch in the host's memory and ends with changed weights: copy to the device, posterior sample (a: encoding), noise,
all networks forward and backward, clipping, AdamW. With `--noise-ahead` timesteps and noise are drawn before the clock starts.
"""

import argparse
import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import diffusers
import networks
import torch


@dataclass
class Recipe:
    stored: bool = True
    half: torch.dtype = torch.bfloat16
    best: bool = True
    compiled: bool = False


RECIPES = {
    "a": Recipe(stored=False, half=torch.float16, best=False),
    "b": Recipe(),
    "c": Recipe(compiled=True),
    "e": Recipe(half=None, best=False),
}


def half_on(recipe, letter, device, precision):
    """What autocast turns products to, if to anything."""
    if device == "cuda":
        return recipe.half
    return torch.bfloat16 if letter in "bc" and precision == "bf16" else None


class Trainer:
    """A model, its optimizer, and one batch in the host's memory."""

    def __init__(self, letter, options):
        config, sizes = networks.read_config(options.config, options.set)
        self.recipe, self.device, self.batch = RECIPES[letter], options.device, options.batch
        self.half = half_on(self.recipe, letter, options.device, options.precision)
        self.set_switches(letter)
        self.model = networks.LatentSlotDiffusion(config, sizes).to(self.device, memory_format=self.format)
        slots = self.model.slot_attention
        self.slots = (self.batch, slots.count, slots.size)
        self.latents = (self.batch, sizes.latent_channels, sizes.latent_side, sizes.latent_side)
        fused = self.recipe.best or letter == "e"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01, fused=fused or None)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.half == torch.float16)
        self.network = torch.compile(self.model, mode="max-autotune") if self.recipe.compiled else self.model
        self.velocity = config.get("diffusion", {}).get("prediction") == "v"
        self.alpha_bar = (1 - torch.linspace(0.00085, 0.012, 1000)).cumprod(0).to(self.device)
        self.autoencoder = None
        if not self.recipe.stored:
            autoencoder = networks.autoencoder(config, sizes).requires_grad_(False)
            self.autoencoder = autoencoder.to(self.device, self.half or torch.float32)
        self.data = self.host_batch(sizes)

    def set_switches(self, letter):
        self.format = torch.channels_last if self.recipe.best else torch.contiguous_format
        if self.recipe.best:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        if letter == "e":
            torch.backends.cudnn.allow_tf32 = False

    def host_batch(self, sizes):
        """What the data loader hands over."""
        if not self.recipe.stored:
            return [torch.rand(self.batch, 3, sizes.resolution, sizes.resolution) * 2 - 1]
        images = torch.randint(256, (self.batch, sizes.resolution, sizes.resolution, 3), dtype=torch.uint8)
        moments = torch.randn(self.batch, 2 * sizes.latent_channels, sizes.latent_side, sizes.latent_side).half()
        pinned = self.recipe.best and self.device == "cuda"
        return [tensor.pin_memory() if pinned else tensor for tensor in (images, moments)]

    def draw(self):
        """Noise of the posterior, of the latents and of the slots, and timesteps."""
        normal = [torch.randn(shape, device=self.device) for shape in (self.latents, self.latents, self.slots)]
        return *normal, torch.randint(1000, (self.batch,), device=self.device)

    def pixels_and_latents(self, posterior_noise):
        data = [tensor.to(self.device, non_blocking=True) for tensor in self.data]
        if self.autoencoder:
            with torch.no_grad():
                posterior = self.autoencoder.encode(data[0].to(self.autoencoder.dtype)).latent_dist
            return data[0], (posterior.mean + posterior.std * posterior_noise).float() * self.autoencoder.config.scaling_factor
        images, moments = data
        mean, log_variance = moments.float().chunk(2, 1)
        # Such a view is what channels last means.
        pixels = images.permute(0, 3, 1, 2).contiguous(memory_format=self.format).float() / 127.5 - 1
        return pixels, mean + (0.5 * log_variance).exp() * posterior_noise

    def step(self, drawn):
        """One step. Returns the loss."""
        posterior_noise, noise, slot_noise, timesteps = drawn or self.draw()
        pixels, latents = self.pixels_and_latents(posterior_noise)
        kept = self.alpha_bar[timesteps].view(-1, 1, 1, 1)
        signal, rest = kept.sqrt(), (1 - kept).sqrt()
        noisy = (signal * latents + rest * noise).contiguous(memory_format=self.format)
        self.optimizer.zero_grad(set_to_none=self.recipe.stored)
        with torch.autocast(self.device, self.half) if self.half else nullcontext():
            prediction, _, _ = self.network(pixels, slot_noise, noisy, timesteps)
        target = signal * noise - rest * latents if self.velocity else noise
        loss = torch.nn.functional.mse_loss(prediction.float(), target)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.recipe.stored:
            loss.item()
        return loss

    def steps(self, count, noise_ahead):
        """Takes steps, and waits for the device at their end. Returns the seconds."""
        ahead = [self.draw() if noise_ahead else None for _ in range(count)]
        self.wait()
        start = time.perf_counter()
        for drawn in ahead:
            loss = self.step(drawn)
        loss.item()
        self.wait()
        return time.perf_counter() - start

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def matrix_rate():
    """FLOP/s of a product of two bf16 matrices of 8192 x 8192, normal numbers: what a GPU's tensor cores give in practice."""
    side, repeats = 8192, 20
    left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        left @ right
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    torch.cuda.synchronize()
    return 2 * side**3 * repeats / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=[*RECIPES, "matrix-rate", "flops"])
    parser.add_argument("config")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--noise-ahead", action="store_true")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    diffusers.logging.set_verbosity_error()
    if options.peer == "flops":
        print(networks.flops_per_image(options.config, options.set))
    elif options.peer == "matrix-rate":
        print(matrix_rate())
    else:
        # Compilers talk on standard output, too; what is left of it shall hold answers alone.
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        trainer = Trainer(options.peer, options)
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(trainer.steps(int(line), options.noise_ahead), file=answers, flush=True)


if __name__ == "__main__":
    main()
