#!/usr/bin/env python3
"""Our features, FID and KID beside pytorch-fid's and NumPy's, with the same random weights: `tests/peers/fid.py`.

Needs `make peers` and `cargo build --release --example fid`. Features may differ by 1e-4 of the largest, FID and KID of given features by
1e-6 of theirs. FID of fewer images than features is compared with the singular values of the centred features: the peer's root of a
singular matrix keeps few digits. `--speed` compares the images per second of both sides as well.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
import torch
import torchvision
from pytorch_fid import fid_score, inception
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/fid"


def peer():
    """pytorch-fid's network with random weights; their download is left out."""
    with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: None):
        with mock.patch.object(torchvision.models.Inception3, "load_state_dict", lambda *_: None):
            network = inception.InceptionV3()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            # As much variance behind the ReLU as before the convolution.
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.7, 1.3)
            torch.nn.init.normal_(layer.bias, std=0.1)
            torch.nn.init.normal_(layer.running_mean, std=0.1)
            torch.nn.init.uniform_(layer.running_var, 0.7, 1.3)
    return network.eval()


def published_names(network):
    """The weights as in the published file, whose blocks are not grouped, and which has a classifier."""
    names = [["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"], ["Conv2d_3b_1x1", "Conv2d_4a_3x3"]]
    names += [[f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")], ["Mixed_7a", "Mixed_7b", "Mixed_7c"]]
    weights = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for name, tensor in network.state_dict().items():
        _, group, block, rest = name.split(".", 3)
        weights[f"{names[int(group)][int(block)]}.{rest}"] = tensor.contiguous()
    return weights


def features(network, images):
    with torch.inference_mode():
        return network(images.permute(0, 3, 1, 2).float() / 255)[0].flatten(1)


def kernel_distance(a, b):
    """The unbiased estimate over all of both sides."""
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    within = lambda x: (kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1))
    return within(a) + within(b) - 2 * kernel(a, b).mean()


def frechet_distance(a, b):
    """The peer's; with fewer images than features, exactly by singular values."""
    if min(len(a), len(b)) > a.shape[1]:
        moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
        return fid_score.calculate_frechet_distance(*moments[0], *moments[1])
    x, y = a - a.mean(0), b - b.mean(0)
    traces = (x**2).sum() / (len(x) - 1) + (y**2).sum() / (len(y) - 1)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum() / np.sqrt((len(x) - 1) * (len(y) - 1))
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * root


def ours(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], check=True, text=True, stdout=subprocess.PIPE).stdout.split()


def check_features(network, folder, side):
    # Of different colours: any two pictures of even noise look alike.
    images = (torch.rand(3, side, side, 3) * torch.rand(3, 1, 1, 3) * 256).byte()
    save_file({"images": images}, folder / "inputs.safetensors")
    ours("features", folder)
    theirs = features(network, images)
    difference = (load_file(folder / "features.safetensors")["features"] - theirs).abs().max() / theirs.abs().max()
    spread = (theirs[0] - theirs[1]).abs().max() / theirs.abs().max()
    good = difference <= 1e-4 and spread > 1e-2
    print(f"features of {side:3} px  differ by {difference:.1e}, those of two images by {spread:.1e}{'' if good else '  <-- FAILED'}")
    return good


def check_distances(folder, counts, size):
    mixing = np.random.default_rng(5).normal(size=(size, size)) / size**0.5
    a, b = (np.random.default_rng(seed).normal(size=(count, size)) for seed, count in enumerate(counts))
    a, b = np.maximum(a @ mixing + 0.2, 0), np.maximum(b @ mixing * 1.1 + 0.25, 0)
    save_file({"a": torch.from_numpy(a), "b": torch.from_numpy(b)}, folder / "inputs.safetensors")
    fid, kid = map(float, ours("distances", folder, max(counts)))
    theirs = frechet_distance(a, b), kernel_distance(a, b) if counts[0] == counts[1] else None
    fid_differs = abs(fid / theirs[0] - 1)
    kid_differs = abs(kid / theirs[1] - 1) if theirs[1] else 0.0
    good = fid_differs <= 1e-6 and kid_differs <= 1e-6
    what = f"{counts[0]} and {counts[1]} vectors of {size}"
    print(f"{what:32} FID {fid:.6f} differs by {fid_differs:.1e}, KID by {kid_differs:.1e}{'' if good else '  <-- FAILED'}")
    return good


def compare_speed(network, folder, options):
    torch.set_num_threads(options.threads)
    images = torch.randint(0, 256, (options.batch, options.side, options.side, 3), dtype=torch.uint8)
    save_file({"images": images}, folder / "inputs.safetensors")
    seconds = {"ours": [], "pytorch-fid": []}
    for _ in range(options.rounds):
        seconds["ours"] += map(float, ours("speed", folder, options.threads, 3)[1:])
        for turn in range(3):
            start = time.perf_counter()
            features(network, images)
            if turn:
                seconds["pytorch-fid"].append(time.perf_counter() - start)
    rates = {name: options.batch / statistics.median(times) for name, times in seconds.items()}
    print(", ".join(f"{name} {rate:.2f} images/s" for name, rate in rates.items()), end="")
    print(f": {rates['ours'] / rates['pytorch-fid']:.2f}x ({options.batch} images of {options.side} px, {options.threads} threads)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of weights and images")
    parser.add_argument("--speed", action="store_true", help="images per second, too")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--batch", type=int, default=20, help="images at a time")
    parser.add_argument("--side", type=int, default=64, help="of the images whose features are timed")
    parser.add_argument("--threads", type=int, default=2, help="of each side")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    network = peer()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file(published_names(network), folder / "inception.safetensors")
        # Smaller than what the network sees, larger, and as large.
        good = [check_features(network, folder, side) for side in (64, 320, 299)]
        for counts, size in (((400, 400), 48), ((300, 500), 48), ((20, 20), 48), ((5, 40), 48)):
            good.append(check_distances(folder, counts, size))
        if options.speed:
            compare_speed(network, folder, options)
    print("ok" if all(good) else "FAILED")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
