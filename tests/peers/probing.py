#!/usr/bin/env python3
"""Our probes beside the official protocol in PyTorch, from the same slots, labels and initial weights: `tests/peers/probing.py`.

Needs `make peers` and `cargo build --release --example probing`. Each label's network is a PyTorch module of its own, as in the official
evaluation; the sum of their losses, divided by the number of objects, goes into one AdamW. After `--steps` steps over all objects weights
and answers may differ by 1e-5.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/probing"
CATEGORIES = {"colour": 8, "shape": 3}
FIGURES = {"position": 2, "rotation": 1}


def network(name, size, weights):
    """The module of one label with our initial weights."""
    if name in CATEGORIES:
        layers = [torch.nn.Linear(size, CATEGORIES[name])]
    else:
        layers = [torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, FIGURES[name])]
    module = torch.nn.Sequential(*layers)
    module.load_state_dict({key: weights[f"before/{name}.{key}"] for key in module.state_dict()})
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of slots and labels")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--size", type=int, default=32, help="channels of a slot")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    slots = torch.randn(options.objects, options.size)
    labels = {name: slots[:, :classes].argmax(1) for name, classes in CATEGORIES.items()}
    raw = {name: slots[:, :width].sin() * 30 + 7 for name, width in FIGURES.items()}
    for name, rows in raw.items():
        least, largest = rows.amin(0), rows.amax(0)
        labels[name] = (rows - least) / (largest - least) * 2 - 1
    inputs = {"slots": slots} | {f"category/{name}": labels[name].float()[:, None] for name in CATEGORIES}
    inputs |= {f"figures/{name}": rows for name, rows in raw.items()}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file(inputs, folder / "inputs.safetensors")
        subprocess.run([BINARY, folder, str(options.steps)], check=True)
        ours = load_file(folder / "outputs.safetensors")

    modules = {name: network(name, options.size, ours) for name in labels}
    optimizer = torch.optim.AdamW([weight for module in modules.values() for weight in module.parameters()])
    for _ in range(options.steps):
        optimizer.zero_grad()
        losses = [(F.cross_entropy if name in CATEGORIES else F.mse_loss)(module(slots), labels[name]) for name, module in modules.items()]
        (sum(losses) / options.objects).backward()
        optimizer.step()

    failed = False
    for name, module in modules.items():
        weights = max((ours[f"after/{name}.{key}"] - value).abs().max().item() for key, value in module.state_dict().items())
        answers = (ours[f"said/{name}"] - module(slots)).abs().max().item()
        good = max(weights, answers) <= 1e-5
        failed |= not good
        print(f"{name:12} weights differ by {weights:.1e}, answers by {answers:.1e}{'' if good else '  <-- FAILED'}")
    print("FAILED" if failed else "ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
