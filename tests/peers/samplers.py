#!/usr/bin/env python3
"""Our samplers and noise schedules beside diffusers' schedulers: same noise, same network, same latents: `tests/peers/samplers.py`.

Needs `make peers` and `cargo build --release --example samplers`. The network is two random matrices with a tanh in between, which both
sides compute alike; ancestral sampling gets the same noise at every step. Timesteps have to be equal; latents may differ by 1e-4 of the
largest of them, weights of the loss likewise, alpha_bar by 1e-6.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/samplers"
SHAPE = (2, 4, 8, 8)
HIDDEN = 64
# The reference's scheduler_config.json.
REFERENCE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, timestep_spacing="leading", steps_offset=1)
REFERENCE |= dict(clip_sample=False, set_alpha_to_one=False)
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}
BETAS = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
SAMPLERS = {"ddim": (DDIMScheduler, [1, 7, 10, 25, 50]), "dpm-solver++": (DPMSolverMultistepScheduler, [1, 2, 10, 14, 15, 25, 100])}


# Largest signal-to-noise ratio that counts in full.
SNR_GAMMA = 5


def cases():
    for prediction in PREDICTIONS:
        for betas in BETAS:
            # Cosine betas leave so little of the latent at the end that finding it from the noise is up to rounding.
            if (prediction, betas) == ("epsilon", "cosine"):
                continue
            yield "ddpm", 1000, prediction, betas
            for sampler, (_, counts) in SAMPLERS.items():
                for steps in counts:
                    yield sampler, steps, prediction, betas


def network(inputs, z_t, t):
    hidden = z_t.flatten(1) @ inputs["inner"] + inputs["time"] * (t / 1000)
    return (hidden.tanh() @ inputs["outer"]).view_as(z_t)


def peer(inputs, sampler, steps, prediction, betas):
    """The peer's timesteps, latents, alpha_bar, and weights of the loss as diffusers' training scripts compute them."""
    config = REFERENCE | dict(prediction_type=PREDICTIONS[prediction], beta_schedule=BETAS[betas])
    # Without set_timesteps a DDPMScheduler visits all of them; with it, and the reference's offset, it would leave the schedule.
    scheduler = DDPMScheduler.from_config(config) if sampler == "ddpm" else SAMPLERS[sampler][0].from_config(config)
    if sampler != "ddpm":
        scheduler.set_timesteps(steps)
    elif betas == "cosine":
        # Its noise begins so gently that in single precision, as diffusers keeps alpha_bar, four digits of it are left: the latents
        # would differ by 3e-4 for that alone.
        scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    z_t = inputs["noise"]
    for t in scheduler.timesteps.tolist():
        fresh = inputs["fresh"][t]
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, fresh=fresh, **__: fresh):
            z_t = scheduler.step(network(inputs, z_t, t), t, z_t).prev_sample
    snr = compute_snr(scheduler, torch.arange(REFERENCE["num_train_timesteps"]))
    weights = snr.clamp(max=SNR_GAMMA) / (snr if prediction == "epsilon" else snr + 1)
    return scheduler.timesteps, z_t, scheduler.alphas_cumprod, weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of noise and network")
    options = parser.parse_args()
    # The tensors are small: on a busy machine threads would wait for each other far longer than they compute.
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    size = SHAPE[1] * SHAPE[2] * SHAPE[3]
    inputs = {
        "noise": torch.randn(SHAPE),
        "fresh": torch.randn(REFERENCE["num_train_timesteps"], *SHAPE),
        "inner": torch.randn(size, HIDDEN) / size**0.5,
        "time": torch.randn(HIDDEN),
        "outer": torch.randn(HIDDEN, size) / HIDDEN**0.5,
    }
    names = ["/".join(map(str, case)) for case in cases()]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file(inputs, folder / "inputs.safetensors")
        subprocess.run([BINARY, folder, str(SNR_GAMMA), *names], check=True)
        ours = load_file(folder / "outputs.safetensors")

    failed = False
    for name, case in zip(names, cases()):
        timesteps, *theirs = peer(inputs, *case)
        same = torch.equal(ours[f"{name}/timesteps"], timesteps)
        latents, alpha_bar, weights = (
            (ours[f"{name}/{key}"] - value).abs().max().item() / (1 if key == "alpha_bar" else value.abs().max().item())
            for key, value in zip(["latents", "alpha_bar", "weights"], theirs)
        )
        good = same and latents <= 1e-4 and weights <= 1e-4 and alpha_bar <= 1e-6
        failed |= not good
        figures = f"latents differ by {latents:.1e}, weights by {weights:.1e}, alpha_bar by {alpha_bar:.1e}"
        print(f"{name:36} {figures}, timesteps are {'the same' if same else 'others'}{'' if good else '  <-- FAILED'}")
    print("FAILED" if failed else "ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
