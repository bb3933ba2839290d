#!/usr/bin/env python3
"""Figures of segmentations, ours beside the official evaluation: their speed, or with `--random` their values on random partitions.

Needs `make peers` and `cargo build --release --example evaluating`. Both sides start from masks and what slots attend to, in memory, and
end with the figures of all images, on one thread each, in turns. The ratio is that of processor time, which other work on the machine
changes little. The peer follows the official evaluation step by step, in batches of 50: attention enlarged by PyTorch, the slot of every
pixel, FG-ARI by scikit-learn for each image, one-hot masks, cosine distances, SciPy's assignment, and for each object its IoU with its
slot and with all slots. Ours also finds ARI with background, which the peer does not.

`--random N` compares each figure of N random partitions, object by object, with scikit-learn's and SciPy's in double precision: 1e-12.
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

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/evaluating"
# Images per batch: of the official script, and of the evaluate job.
THEIR_BATCH, OUR_BATCH = 50, 20


def scenes(options):
    """Masks u8 [N, S, S] of 3 to 6 discs, and attention f32 [N, K, h, h] that follows them as a trained model's does: mostly."""
    count, side, grid, slots = options.images, options.side, options.grid, options.slots
    draws = torch.Generator().manual_seed(options.seed)
    axis = (torch.arange(side) + 0.5) / side
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    for label in range(1, 7):
        x, y, radius = torch.rand(3, count, 1, 1, generator=draws)
        inside = (axis[None, None] - x) ** 2 + (axis[None, :, None] - y) ** 2 < (0.06 + 0.12 * radius) ** 2
        here = torch.rand(count, 1, 1, generator=draws) < (1 if label <= 3 else 0.5)
        masks[inside & here] = label
    shares = F.one_hot(masks.long(), 7).permute(0, 3, 1, 2).float()
    shares = F.adaptive_avg_pool2d(shares, grid)[:, :slots]
    shares = F.pad(shares, (0, 0, 0, 0, 0, slots - shares.shape[1]))
    noise = F.interpolate(torch.randn(count, slots, 6, 6, generator=draws), size=grid, mode="bicubic")
    return masks, (6 * shares + 2 * noise).softmax(1)


def theirs(masks, attention):
    """The official steps. Seconds by the clock and of the processor, and the means of the figures."""
    start, busy = time.perf_counter(), time.process_time()
    ari, matched, best, matched_means, best_means = [], [], [], [], []
    for first in range(0, len(masks), THEIR_BATCH):
        truth, weights = masks[first : first + THEIR_BATCH].float(), attention[first : first + THEIR_BATCH]
        weights = F.interpolate(weights, size=truth.shape[-1], mode="bilinear")
        found = weights.argmax(1)
        found_masks = F.one_hot(found, weights.shape[1]).float().permute(0, 3, 1, 2)
        flat_truth, flat_found = truth.flatten(1), found.flatten(1)
        for image in range(len(truth)):
            objects = flat_truth[image] >= 1
            ari.append(adjusted_rand_score(flat_truth[image][objects], flat_found[image][objects]))
        true_masks = F.one_hot(truth.long(), 7).float().permute(0, 3, 1, 2)
        a, b = true_masks.flatten(2), found_masks.flatten(2)
        norms = (a * a).sum(2).sqrt()[:, :, None] @ (b * b).sum(2).sqrt()[:, None]
        there = a.any(2)
        there[:, 0] = False
        cost = torch.where(there[:, :, None], 1 - a @ b.transpose(1, 2) / (norms + 1e-6), 1e4)
        for image, costs in enumerate(cost.numpy()):
            of_image, best_of_image = [], []
            for label, slot in zip(*linear_sum_assignment(costs)):
                if not there[image, label]:
                    continue
                truth_map, found_map = truth[image] == label, found[image] == slot
                of_image.append((truth_map & found_map).sum() / (truth_map | found_map).sum())
                all_maps = found_masks[image].bool()
                best_of_image.append(((truth_map & all_maps).sum((1, 2)) / (truth_map | all_maps).sum((1, 2))).max())
            matched += of_image
            best += best_of_image
            if of_image:
                matched_means.append(torch.stack(of_image).mean())
                best_means.append(torch.stack(best_of_image).mean())
    means = [torch.stack(values).mean().item() for values in (matched, best, matched_means, best_means)]
    names = ["fg_ari", "miou", "mbo", "miou_over_images", "mbo_over_images"]
    return time.perf_counter() - start, time.process_time() - busy, dict(zip(names, [float(np.mean(ari)), *means]))


def ours(tensors, rounds):
    """What the example prints."""
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, pathlib.Path(folder) / "inputs.safetensors")
        command = [BINARY, folder, str(OUR_BATCH), str(rounds)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare_speed(options) -> bool:
    masks, attention = scenes(options)
    print(f"{options.images} images of {options.side}x{options.side}, {options.slots} slots, attention {options.grid}x{options.grid}")
    seconds = []
    for _ in range(options.rounds):
        # The first round of a process allocates what the later ones use.
        found = ours({"masks": masks, "attention": attention}, 2)
        *peer, expected = theirs(masks, attention)
        seconds.append((found["wall"][1], found["cpu"][1], *peer))
    wall, cpu, peer_wall, peer_cpu = map(statistics.median, zip(*seconds))
    ratio = peer_cpu / cpu
    print(f"processor time: ours {cpu:.3f} s, peer {peer_cpu:.3f} s: {ratio:.1f}x (by the clock {wall:.3f} and {peer_wall:.3f} s)")
    figures = found["figures"]
    difference = max(abs(figures[name] - value) for name, value in expected.items())
    print("  ".join(f"{name} {figures[name]:.4f} ({value:.4f})" for name, value in expected.items()))
    print(f"figures differ by {difference:.1e}; ARI with background {figures['ari']:.4f}")
    return difference < 1e-5 and ratio >= options.at_least


def compare_values(options) -> bool:
    draws, side = np.random.default_rng(options.seed), 24
    shape = (options.random, side, side)
    # From one label, which leaves nothing but background, to nine; any number of slots; from no agreement to a lot.
    counts, slots, agreement = (draws.integers(low, high, options.random) for low, high in [(1, 10), (1, 9), (0, 10)])
    masks = (draws.integers(0, 1 << 30, shape) % counts[:, None, None]).astype(np.uint8)
    predicted = (draws.integers(0, 1 << 30, shape) % slots[:, None, None]).astype(np.uint8)
    agree = draws.random(shape) < agreement[:, None, None] / 10
    predicted = np.where(agree, masks, predicted)
    found = ours({"masks": torch.from_numpy(masks), "predicted": torch.from_numpy(predicted)}, 1)["images"]
    worst = dict.fromkeys(["ari", "fg_ari", "matched", "best"], 0.0)
    for truth, guess, image in zip(masks.reshape(len(masks), -1), predicted.reshape(len(masks), -1), found):
        objects = truth > 0
        labels = np.unique(truth[objects])
        assert (image["fg_ari"] is None) == (len(labels) == 0) and len(image["matched"]) == len(labels)
        expected = {"ari": adjusted_rand_score(truth, guess)}
        if len(labels):
            maps, others = (truth == labels[:, None]).astype(float), (guess == np.unique(guess)[:, None]).astype(float)
            both = maps @ others.T
            iou = both / (maps.sum(1)[:, None] + others.sum(1) - both)
            matched = np.zeros(len(labels))
            rows, columns = linear_sum_assignment(cdist(maps, others, "cosine"))
            matched[rows] = iou[rows, columns]
            expected |= {"fg_ari": adjusted_rand_score(truth[objects], guess[objects]), "matched": matched, "best": iou.max(1)}
        for name, value in expected.items():
            worst[name] = max(worst[name], float(np.abs(np.array(image[name]) - value).max()))
    print(f"{options.random} random partitions: " + ", ".join(f"{name} differs by {value:.1e}" for name, value in worst.items()))
    return max(worst.values()) <= 1e-12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=0, metavar="N", help="compare the values for N random partitions instead of the speed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--grid", type=int, default=32, help="side of the attention maps")
    parser.add_argument("--slots", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-least", type=float, default=0, help="fail where ours is not so many times as fast")
    options = parser.parse_args()
    torch.set_num_threads(1)
    good = compare_values(options) if options.random else compare_speed(options)
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
