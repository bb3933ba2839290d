#!/usr/bin/env python3
"""What `orchestrator checkpoints export` wrote, opened by diffusers: `tests/peers/export.py --config CONFIG FOLDER`.

Needs `make peers` and `cargo build --release --example parity`. `UNet2DModel.from_pretrained` and `UNet2DConditionModel.from_pretrained`
open the two folders of their family as they are; what those classes do not know (the first convolution, the positions) and Slot Attention
come from the files by name, all of them. Then outputs and gradients of these networks are compared with ours, as `parity.py` does it.
Fails if a tensor is left over or missing, or if anything differs.
"""

import json
import pathlib
import sys
import tempfile

import networks
import parity
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file
from torch import nn

WEIGHTS = "diffusion_pytorch_model.safetensors"


def left_over(network, state, expected):
    """What `from_pretrained` has not taken, which must all be `expected`; and what it has taken must be what the file says."""
    taken = network.state_dict()
    wrong = [name for name in state if name not in taken and expected not in name]
    wrong += [name for name in taken if name not in state or not torch.equal(taken[name], state[name])]
    if wrong:
        sys.exit(f"{type(network).__name__} has not loaded {wrong}")


def open_backbone(folder):
    network, state = UNet2DModel.from_pretrained(folder), load_file(folder / WEIGHTS)
    left_over(network, state, "downscale_cnn.")
    shape = state["downscale_cnn.weight"].shape
    network.__class__ = networks.Backbone
    network.downscale_cnn = nn.Conv2d(shape[1], shape[0], shape[2], shape[2])
    network.load_state_dict(state)
    return network


def open_unet(folder):
    network, state = UNet2DConditionModel.from_pretrained(folder), load_file(folder / WEIGHTS)
    left_over(network, state, ".pos_emb.")
    choice = json.loads((folder / "config.json").read_text())["pos_type"]
    if choice != "none":
        networks.add_positions(network, network.config.sample_size, choice)
    network.load_state_dict(state)
    return network


def main() -> int:
    parser = parity.arguments(__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="what was exported")
    options = parser.parse_args()
    config, sizes = networks.read_config(options.config, options.set)
    torch.manual_seed(options.seed)
    model = networks.LatentSlotDiffusion(config, sizes)
    model.backbone = open_backbone(options.folder / "unetencoder")
    model.slot_attention.load_state_dict(load_file(options.folder / "multiheadstevesa" / WEIGHTS))
    model.unet = open_unet(options.folder / "unet2dconditionmodelwithpos")
    # from_pretrained leaves networks ready for inference.
    model.train()
    with tempfile.TemporaryDirectory() as folder:
        failures = parity.compare_values(options, config, sizes, model, pathlib.Path(folder))
    print(f"FAILED: {failures} differences" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
