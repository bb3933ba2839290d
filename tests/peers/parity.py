#!/usr/bin/env python3
"""Our networks beside diffusers': `tests/peers/parity.py --config configs/movi-e.toml`.

Needs `make peers` and `cargo build --release --example parity`. Weights and inputs are random, and ours load the peer's weights by name.
Compared are

* names and shapes of all tensors of every network (`--shapes`: these alone, which needs no memory);
* every output, which may differ by 1e-5 of the largest value in its tensor;
* the gradient of every parameter, by 1e-4;
* with `--kind f64`, how every parameter changes in three steps of the trainer, clipping, warm-up and AdamW included, beside
  `torch.optim.AdamW` and `clip_grad_norm_`.

With `--original` ours reads the autoencoder as a whole release of Stable Diffusion holds it, under names that diffusers' own converter
has to understand as well.

In f64 the limits are 1e-10, 1e-9 and 1e-6: the sharper comparison, which also says what f32 cannot. In f32, once in a few seeds, the input
of a ReLU is so close to zero that rounding decides on which side it falls; then the gradients behind it differ, and the outputs do not.
"""

import argparse
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import networks
import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/parity"
KINDS = {"f32": torch.float32, "f64": torch.float64}
LIMITS = {"f32": {"output": 1e-5, "gradient": 1e-4}, "f64": {"output": 1e-10, "gradient": 1e-9, "change": 1e-6}}


def shapes(config, sizes):
    """Module -> name -> shape, of the peer; nothing is allocated."""
    with torch.device("meta"):
        model, autoencoder = networks.LatentSlotDiffusion(config, sizes), networks.autoencoder(config, sizes)
    modules = dict(model.named_children()) | {"autoencoder": autoencoder}
    return {name: {key: list(value.shape) for key, value in module.state_dict().items()} for name, module in modules.items()}


def compare_shapes(options, config, sizes):
    """Prints how many tensors and parameters agree, and every one that does not. Returns the number of those."""
    command = [BINARY, "shapes", options.config, *options.set]
    ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    theirs = shapes(config, sizes)
    differences = 0
    for module in sorted(set(ours) | set(theirs)):
        mine, other = ours.get(module, {}), theirs.get(module, {})
        for name in sorted(set(mine) | set(other)):
            if mine.get(name) != other.get(name):
                differences += 1
                print(f"{module}.{name}: ours {mine.get(name, 'absent')}, theirs {other.get(name, 'absent')}")
        scalars = sum(math.prod(shape) for name, shape in mine.items() if not name.endswith((".pe", ".pos_embed")))
        print(f"{module:15} {len(mine):4} tensors {scalars:12,} parameters, names and shapes compared")
    return differences


ORIGINAL_NAMES = [
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"down_blocks\.(\d+)", r"down.\1"),
    (r"\.resnets\.", ".block."),
    (r"(up|down)samplers\.0", r"\1sample"),
]


def original(autoencoder):
    """The tensors of a Stable Diffusion whose autoencoder this is; diffusers must find that autoencoder in them."""
    levels, stored = len(autoencoder.config.block_out_channels), {"cond_stage_model.logit_scale": torch.ones(1)}
    for name, tensor in autoencoder.state_dict().items():
        projection = name.endswith("weight") and re.search(r"attentions\.0\.to_", name)
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
        for pattern, replacement in ORIGINAL_NAMES:
            name = re.sub(pattern, replacement, name)
        stored[f"first_stage_model.{name}"] = tensor[..., None, None].contiguous() if projection else tensor.contiguous()
    understood, state = convert_ldm_vae_checkpoint(dict(stored), autoencoder.config), autoencoder.state_dict()
    if set(understood) != set(state) or not all(torch.equal(understood[name], tensor) for name, tensor in state.items()):
        sys.exit("diffusers reads another autoencoder from the original names")
    return stored


def make_inputs(config, sizes, batch):
    shape = config["model"]["slot_attention"]
    latents = (batch, sizes.latent_channels, sizes.latent_side, sizes.latent_side)
    return {
        "images": torch.rand(batch, 3, sizes.resolution, sizes.resolution) * 2 - 1,
        "slot_noise": torch.randn(batch, shape["slots"], shape["slot_size"]),
        "noisy": torch.randn(latents),
        "timesteps": torch.tensor([3, 711])[:batch],
        "target": torch.randn(latents),
        "latents": torch.randn(latents),
        # Of training: pixels and posterior moments as a data set holds them.
        "pixels": torch.randint(256, (batch, sizes.resolution, sizes.resolution, 3), dtype=torch.uint8),
        "moments": torch.randn(batch, 2 * latents[1], *latents[2:]).half(),
    }


def outputs(model, autoencoder, inputs, kind):
    """The peer's outputs; leaves the gradients of its losses."""
    inputs = {key: value.to(kind) if value.is_floating_point() else value for key, value in inputs.items()}
    features = model.backbone(inputs["images"])
    slots, attention, conditioning = model.slot_attention(features, inputs["slot_noise"])
    prediction = model.unet(inputs["noisy"], inputs["timesteps"], conditioning).sample
    torch.nn.functional.mse_loss(prediction, inputs["target"]).backward()
    moments = autoencoder.encode(inputs["images"]).latent_dist
    moments = torch.cat([moments.mean, moments.logvar], 1)
    decoded = autoencoder.decode(inputs["latents"]).sample
    (moments.square().mean() + decoded.square().mean()).backward()
    found = {"backbone/features": features, "unet/prediction": prediction}
    found |= {"slot_attention/slots": slots, "slot_attention/attention": attention, "slot_attention/conditioning": conditioning}
    found |= {"autoencoder/moments": moments, "autoencoder/decoded": decoded}
    return {f"output/{name}": tensor.detach() for name, tensor in found.items()}


def schedule(config):
    """alpha_bar [T]"""
    diffusion = config.get("diffusion", {})
    start, end = diffusion.get("beta_start", 0.00085), diffusion.get("beta_end", 0.012)
    steps = diffusion.get("timesteps", 1000)
    if diffusion.get("betas", "linear") == "scaled-linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    return (1 - betas).cumprod(0)


def learning_rate(train, group, step):
    peak, warm_up = group["learning_rate"], group.get("warmup_steps", 0)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    if train.get("decay", "constant") == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(train["steps"] - warm_up, 1)))


def train(model, config, inputs, draws):
    """As many steps as there are draws for, in PyTorch's own words. Inputs are made in f32, as a data set and a noise schedule give
    them; the first steps of Adam are so much like signs that any other rounding would be seen in the parameters."""
    recipe, diffusion = config["train"], config.get("diffusion", {})
    groups = [{"params": list(module.parameters()), "group": recipe["groups"][name]} for name, module in model.named_children()]
    settings = recipe.get("optimizer", {})
    betas = settings.get("beta1", 0.9), settings.get("beta2", 0.999)
    decay, epsilon = settings.get("weight_decay", 0.01), settings.get("epsilon", 1e-8)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, weight_decay=decay, foreach=False)
    mean, log_variance = inputs["moments"].float().chunk(2, 1)
    pixels = (inputs["pixels"].permute(0, 3, 1, 2).float() / 127.5 - 1).double()
    alpha_bar = schedule(config)
    signal_rates, noise_rates = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    for step in range(len(draws) // 4):
        drawn = {name: draws[f"{step}/{name}"] for name in ("posterior_noise", "noise", "slot_noise", "timesteps")}
        latents = (mean + (0.5 * log_variance).exp() * drawn["posterior_noise"]) * diffusion.get("latent_scale", 1.0)
        signal, rest = (rates[drawn["timesteps"]].view(-1, 1, 1, 1) for rates in (signal_rates, noise_rates))
        noisy, velocity = signal * latents + rest * drawn["noise"], signal * drawn["noise"] - rest * latents
        prediction, _, _ = model(pixels, drawn["slot_noise"].double(), noisy.double(), drawn["timesteps"])
        optimizer.zero_grad()
        target = velocity if diffusion.get("prediction", "epsilon") == "v" else drawn["noise"]
        torch.nn.functional.mse_loss(prediction, target.double()).backward()
        if recipe.get("clip_norm", 1.0) > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.get("clip_norm", 1.0))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, group["group"], step)
        optimizer.step()


class Table:
    """The largest difference per kind of tensor and module, as a share of the largest value in its tensor; tensors that are zero but for
    rounding (a key's bias has no gradient) count by a thousandth of the largest value in their module."""

    def __init__(self, limits):
        self.limits, self.rows, self.failures = limits, {}, 0

    def add(self, theirs, file):
        """Compares tensors `WHAT/MODULE/NAME` with those in our file."""
        largest = {}
        for name, tensor in theirs.items():
            largest[module(name)] = max(largest.get(module(name), 0.0), tensor.abs().max().item())
        with safe_open(file, "pt") as ours:
            for name in sorted(set(ours.keys()) ^ set(theirs)):
                self.failures += 1
                print(f"{name} exists on one side only")
            for name in sorted(set(ours.keys()) & set(theirs)):
                self.compare(name, ours.get_tensor(name), theirs[name], largest[module(name)])

    def compare(self, name, mine, other, largest):
        scale = max(other.abs().max().item(), 1e-3 * largest) or 1.0
        found = (mine - other).abs().max().item() / scale if mine.shape == other.shape else float("inf")
        count, worst = self.rows.get(module(name), (0, 0.0))
        self.rows[module(name)] = (count + 1, max(worst, found))
        if not found <= self.limits[name.split("/")[0]]:
            self.failures += 1
            print(f"{name} differs by {found:.1e}")

    def print(self):
        for group, (count, worst) in self.rows.items():
            limit = self.limits[group.split("/")[0]]
            print(f"{group:24} {count:4} tensors  largest relative difference {worst:.1e} (limit {limit:.0e})")


def module(name):
    return "/".join(name.split("/")[:2])


def compare_values(options, config, sizes, model, folder):
    """Runs both sides on the weights of `model` and the same inputs. Returns the number of differences."""
    kind = KINDS[options.kind]
    autoencoder = networks.autoencoder(config, sizes)
    modules = dict(model.named_children()) | {"autoencoder": autoencoder}
    for name, part in modules.items():
        save_file({key: value.contiguous() for key, value in part.state_dict().items()}, folder / f"{name}.safetensors")
    if options.original:
        save_file(original(autoencoder), folder / "autoencoder.safetensors")
    inputs = make_inputs(config, sizes, options.batch)
    save_file(inputs, folder / "inputs.safetensors")
    subprocess.run([BINARY, "run", options.config, folder, options.kind, *options.set], check=True)

    table = Table(LIMITS[options.kind])
    if options.kind == "f64":
        model, autoencoder = model.double(), autoencoder.double()
    table.add(outputs(model, autoencoder, inputs, kind), folder / "outputs.safetensors")
    named = {f"{name}/{key}": value for name, part in modules.items() for key, value in part.named_parameters()}
    table.add({f"gradient/{name}": parameter.grad for name, parameter in named.items()}, folder / "gradients.safetensors")
    if options.kind == "f64":
        autoencoder.zero_grad()
        train(model, config, inputs, load_file(folder / "draws.safetensors"))
        changes = {}
        for part, network in model.named_children():
            with safe_open(folder / f"{part}.safetensors", "pt") as before:
                for key, value in network.named_parameters():
                    changes[f"change/{part}/{key}"] = value.detach().sub_(before.get_tensor(key))
        table.add(changes, folder / "changes.safetensors")
    table.print()
    return table.failures


def arguments(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", default=ROOT / "configs/quickstart.toml", help="experiment whose networks are compared")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of it, the value as in TOML")
    parser.add_argument("--kind", choices=KINDS, default="f32", help="in which both sides compute")
    parser.add_argument("--seed", type=int, default=1, help="of weights and inputs")
    parser.add_argument("--original", action="store_true", help="the autoencoder's file under its original names")
    parser.add_argument("--batch", type=int, choices=(1, 2), default=2, help="images")
    return parser


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--shapes", action="store_true", help="compare names and shapes alone")
    options = parser.parse_args()
    config, sizes = networks.read_config(options.config, options.set)
    torch.manual_seed(options.seed)
    failures = compare_shapes(options, config, sizes)
    if not options.shapes and not failures:
        with tempfile.TemporaryDirectory() as folder:
            model = networks.LatentSlotDiffusion(config, sizes)
            failures += compare_values(options, config, sizes, model, pathlib.Path(folder))
    print(f"FAILED: {failures} differences" if failures else "ok")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
