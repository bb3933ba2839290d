#!/usr/bin/env python3
"""Our networks beside diffusers': same weights and inputs, outputs and gradients compared: `tests/peers/parity.py`.

Needs `make peers` and `cargo build --release --example parity`. Weights and inputs are random; ours load the peer's weights by name, so
equal names and shapes are part of the comparison. Fails if any output differs by more than 1e-5, or any gradient by more than 1e-4, of
the largest value in its tensor. (Once in a few seeds, 0 among them, the input of a ReLU is so close to zero that rounding decides on
which side it falls; then the gradients behind it differ by more, and not the outputs.)
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import networks
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/parity"


def peer(config, sizes, inputs, folder):
    """Writes the peer's weights and returns its outputs and gradients."""
    model = networks.LatentSlotDiffusion(config, sizes)
    autoencoder = networks.autoencoder(config, sizes)
    modules = dict(model.named_children()) | {"autoencoder": autoencoder}
    for name, module in modules.items():
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, folder / f"{name}.safetensors")

    features = model.backbone(inputs["images"])
    slots, attention, conditioning = model.slot_attention(features, inputs["slot_noise"])
    prediction = model.unet(inputs["noisy"], inputs["timesteps"], conditioning).sample
    torch.nn.functional.mse_loss(prediction, inputs["target"]).backward()
    moments = autoencoder.encode(inputs["images"]).latent_dist
    moments = torch.cat([moments.mean, moments.logvar], 1)
    decoded = autoencoder.decode(inputs["latents"]).sample
    (moments.square().mean() + decoded.square().mean()).backward()

    outputs = dict(features=features, slots=slots, attention=attention, conditioning=conditioning, prediction=prediction)
    outputs |= dict(moments=moments, decoded=decoded)
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            outputs[f"gradient/{name}/{key}"] = parameter.grad
    return outputs


def differences(ours, theirs):
    """Largest difference of each tensor, as a share of its largest value; tensors that are zero but for rounding (a key's bias has no
    gradient) count by a thousandth of the largest value in their module."""
    largest = {}
    for name, tensor in theirs.items():
        largest[module(name)] = max(largest.get(module(name), 0.0), tensor.abs().max().item())
    for name in sorted(set(ours) & set(theirs)):
        mine, other = ours[name], theirs[name].detach()
        same = mine.shape == other.shape
        scale = max(other.abs().max().item(), 1e-3 * largest[module(name)])
        yield name, (mine - other).abs().max().item() / scale if same else float("inf")


def module(name):
    return "/".join(name.split("/")[:2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=ROOT / "configs/quickstart.toml", help="experiment whose networks are compared")
    parser.add_argument("--seed", type=int, default=1, help="of weights and inputs")
    options = parser.parse_args()
    config, sizes = networks.read_config(options.config)
    torch.manual_seed(options.seed)
    shape = config["model"]["slot_attention"]
    latents = (2, sizes.latent_channels, sizes.latent_side, sizes.latent_side)
    inputs = {
        "images": torch.rand(2, 3, sizes.resolution, sizes.resolution) * 2 - 1,
        "slot_noise": torch.randn(2, shape["slots"], shape["slot_size"]),
        "noisy": torch.randn(latents),
        "timesteps": torch.tensor([3, 711]),
        "target": torch.randn(latents),
        "latents": torch.randn(latents),
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file(inputs, folder / "inputs.safetensors")
        theirs = peer(config, sizes, inputs, folder)
        subprocess.run([BINARY, options.config, folder], check=True)
        ours = load_file(folder / "outputs.safetensors")

    failures = sorted(set(ours) ^ set(theirs))
    for name in failures:
        print(f"{name} exists on one side only")
    groups = {}
    for name, found in differences(ours, theirs):
        count, largest = groups.get(module(name), (0, 0.0))
        groups[module(name)] = (count + 1, max(largest, found))
        if not found <= (1e-4 if name.startswith("gradient/") else 1e-5):
            failures.append(name)
            print(f"{name} differs by {found:.1e}")
    for group, (count, largest) in groups.items():
        print(f"{group:24}  {count:4} tensors  largest relative difference {largest:.1e}")
    print("FAILED" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
