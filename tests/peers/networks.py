"""The networks of Latent Slot Diffusion from diffusers' blocks in PyTorch, sized by one of our configuration files.

The peer of `worker/src/model`: same architecture, same tensor names, written as one would write it in Python. Nothing here is used
at run time.
"""

import tomllib
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Sizes:
    resolution: int
    latent_side: int
    latent_channels: int


def read_config(path, overrides=()):
    """The experiment in a file, refined by `key=value` as by `--set`, and the sizes that it implies."""
    with open(path, "rb") as file:
        config = tomllib.load(file)
    for override in overrides:
        merge(config, tomllib.loads(override))
    autoencoder = config["autoencoder"]
    side = config["data"]["resolution"] >> (len(autoencoder["block_channels"]) - 1)
    return config, Sizes(config["data"]["resolution"], side, autoencoder.get("latent_channels", 4))


def merge(table, refined):
    for key, value in refined.items():
        if isinstance(value, dict):
            merge(table.setdefault(key, {}), value)
        else:
            table[key] = value


class CartesianPosition(nn.Module):
    """Adds a projection of (row, column, 1 - row, 1 - column) to tokens [B, side * side, C]."""

    def __init__(self, side, channels):
        super().__init__()
        centre = (torch.arange(side) + 0.5) / side
        row, column = torch.meshgrid(centre, centre, indexing="ij")
        self.register_buffer("pe", torch.stack([row, column, 1 - row, 1 - column])[None])
        self.projection = nn.Conv2d(4, channels, 1)

    def forward(self, tokens):
        return tokens + self.projection(self.pe).flatten(2).transpose(1, 2)


class WavePosition(nn.Module):
    """Adds sines and cosines of column and row, times one learned factor."""

    def __init__(self, side, channels):
        super().__init__()
        quarter = channels // 4
        frequencies = 1 / 10_000 ** (torch.arange(quarter).double() / quarter)
        self.register_buffer("pos_embed", waves(frequencies, torch.arange(side).double()))
        self.gamma = nn.Parameter(torch.tensor(1.0))

    def forward(self, tokens):
        return tokens + self.gamma * self.pos_embed.flatten(2).transpose(1, 2)


class FourierPosition(nn.Module):
    """Adds sines and cosines of column and row, of a quarter of a period to two periods over the grid. No option of the reference."""

    def __init__(self, side, channels):
        super().__init__()
        periods = torch.logspace(-2, 1, channels // 4, base=2, dtype=torch.float64)
        self.register_buffer("pe", waves(2 * torch.pi * periods, (torch.arange(side).double() + 0.5) / side))

    def forward(self, tokens):
        return tokens + self.pe.flatten(2).transpose(1, 2)


def waves(frequencies, places):
    """Sines, then cosines, of the column, then of the row: [1, 4 * frequencies, side, side]."""
    angles = torch.outer(frequencies, places)
    both = torch.cat([angles.sin(), angles.cos()])
    columns, rows = both[:, None, :].expand(-1, len(places), -1), both[:, :, None].expand(-1, -1, len(places))
    return torch.cat([columns, rows])[None].float()


class LearnedPosition(nn.Module):
    """Adds one learned vector per position."""

    def __init__(self, side, channels):
        super().__init__()
        self.pe = nn.Parameter(torch.randn(1, side * side, channels) * 0.02)

    def forward(self, tokens):
        return tokens + self.pe


POSITIONS = {"cartesian": CartesianPosition, "sincos": WavePosition, "fourier": FourierPosition, "learned": LearnedPosition}


class Sinusoids(nn.Module):
    """diffusers' sinusoids of the timestep in f64; its own are f32, whatever the kind of the weights."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.frequencies = 10_000 ** (-torch.arange(half).double() / half)

    def forward(self, timesteps):
        angles = timesteps.double()[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], 1)


class PositionProcessor(AttnProcessor2_0):
    """diffusers' attention, with the position added to its input."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        return super().__call__(attn, attn.pos_emb(hidden_states), *args, **kwargs)


def add_positions(unet, side, choice):
    levels = len(unet.config.block_out_channels)
    places = [(block, side >> min(i, levels - 1)) for i, block in enumerate(unet.down_blocks)]
    places += [(unet.mid_block, side >> (levels - 1))]
    places += [(block, side >> (levels - 1 - i)) for i, block in enumerate(unet.up_blocks)]
    for block, here in places:
        for transformer in getattr(block, "attentions", []):
            for inner in transformer.transformer_blocks:
                for attention in (inner.attn1, inner.attn2):
                    position = POSITIONS[choice](here, attention.to_q.in_features)
                    # The reference wraps the embeddings of maps, and only those, in a sequence.
                    attention.pos_emb = position if choice == "learned" else nn.Sequential(nn.Identity(), position)
                    attention.set_processor(PositionProcessor())


class Backbone(UNet2DModel):
    """A strided convolution, then a UNet whose time is always 0."""

    def forward(self, images):
        return super().forward(self.downscale_cnn(images), 0).sample


def backbone(config, sizes):
    shape = config["model"]["backbone"]
    channels = shape["block_channels"]
    network = Backbone(
        sample_size=sizes.resolution // shape["stride"],
        in_channels=channels[0],
        out_channels=shape["out_channels"],
        block_out_channels=channels,
        layers_per_block=shape["layers_per_block"],
        down_block_types=["DownBlock2D"] * len(channels),
        up_block_types=["UpBlock2D"] * len(channels),
        norm_num_groups=shape["norm_groups"],
        attention_head_dim=shape["mid_attention_head_dim"] or None,
        add_attention=shape["mid_attention_head_dim"] > 0,
    )
    network.downscale_cnn = nn.Conv2d(3, channels[0], shape["stride"], shape["stride"])
    return network


def unet(config, sizes):
    shape = config["model"]["unet"]
    present = shape["attention"]
    network = UNet2DConditionModel(
        sample_size=sizes.latent_side,
        in_channels=sizes.latent_channels,
        out_channels=sizes.latent_channels,
        block_out_channels=shape["block_channels"],
        layers_per_block=shape["layers_per_block"],
        down_block_types=["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in present],
        up_block_types=["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(present)],
        norm_num_groups=shape["norm_groups"],
        attention_head_dim=shape["heads"],
        cross_attention_dim=config["model"]["slot_attention"]["out_size"],
    )
    choice = shape.get("position_embedding", "cartesian")
    if choice != "none":
        add_positions(network, sizes.latent_side, choice)
    return network


class SlotAttention(nn.Module):
    """Slot Attention with a token MLP before it and a projection of the slots after it."""

    def __init__(self, config, side):
        super().__init__()
        shape = config["model"]["slot_attention"]
        size, inputs = shape["slot_size"], config["model"]["backbone"]["out_channels"]
        self.count, self.size = shape["slots"], size
        self.iterations, self.heads = shape.get("iterations", 3), shape.get("heads", 1)
        self.learned, self.bi_level = shape.get("initialisation") == "learned", shape.get("bi_level", False)
        self.slot_mu = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, shape["slots"] if self.learned else 1, size)))
        if not self.learned:
            self.slot_log_sigma = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 1, size)))
        choice = shape.get("position_embedding", "cartesian")
        self.pos = nn.Identity() if choice == "none" else POSITIONS[choice](side, inputs)
        self.in_layer_norm = nn.LayerNorm(inputs)
        self.in_mlp = nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, inputs))
        self.norm_inputs = nn.LayerNorm(inputs)
        self.norm_slots = nn.LayerNorm(size)
        self.norm_mlp = nn.LayerNorm(size)
        self.project_q = nn.Linear(size, size, bias=False)
        self.project_k = nn.Linear(inputs, size, bias=False)
        self.project_v = nn.Linear(inputs, size, bias=False)
        self.gru = nn.GRUCell(size, size)
        hidden = shape["mlp_hidden"]
        self.mlp = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size))
        self.out_layer_norm = nn.LayerNorm(size)
        self.out_linear = nn.Linear(size, shape["out_size"])

    def forward(self, features, noise):
        tokens = self.pos(features.flatten(2).transpose(1, 2))
        tokens = self.norm_inputs(self.in_mlp(self.in_layer_norm(tokens)))
        keys, values = self.split(self.project_k(tokens)) * self.size**-0.5, self.split(self.project_v(tokens))
        slots = self.slot_mu.expand_as(noise) if self.learned else self.slot_mu + self.slot_log_sigma.exp() * noise
        for round in range(self.iterations):
            if self.bi_level and round == self.iterations - 1:
                slots = slots.detach() + self.slot_mu - self.slot_mu.detach()
            logits = keys @ self.split(self.project_q(self.norm_slots(slots))).transpose(2, 3)
            # The softmax runs over heads and slots together.
            attention = logits.transpose(1, 2).flatten(2).softmax(-1).unflatten(2, (self.heads, -1)).transpose(1, 2)
            weights = attention + 1e-6
            updates = (weights / weights.sum(2, keepdim=True)).transpose(2, 3) @ values
            updates = updates.transpose(1, 2).flatten(2)
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.norm_mlp(slots))
        conditioning = self.out_linear(self.out_layer_norm(slots))
        return slots, attention.sum(1).transpose(1, 2).unflatten(2, features.shape[2:]), conditioning

    def split(self, x):
        """[B, N, D] -> [B, heads, N, D / heads]"""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


def autoencoder(config, sizes):
    shape = config["autoencoder"]
    levels = len(shape["block_channels"])
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=shape["block_channels"],
        layers_per_block=shape.get("layers_per_block", 2),
        latent_channels=sizes.latent_channels,
        norm_num_groups=shape.get("norm_groups", 32),
        sample_size=sizes.resolution,
        mid_block_add_attention=shape.get("mid_attention", True),
    )


class LatentSlotDiffusion(nn.Module):
    """The three trained networks."""

    def __init__(self, config, sizes):
        super().__init__()
        self.backbone = backbone(config, sizes)
        self.slot_attention = SlotAttention(config, sizes.resolution // config["model"]["backbone"]["stride"])
        self.unet = unet(config, sizes)

    def forward(self, images, slot_noise, noisy, timesteps):
        slots, attention, conditioning = self.slot_attention(self.backbone(images), slot_noise)
        return self.unet(noisy, timesteps, conditioning).sample, slots, attention

    def double(self):
        self.backbone.time_proj = Sinusoids(self.backbone.config.block_out_channels[0])
        self.unet.time_proj = Sinusoids(self.unet.config.block_out_channels[0])
        return super().double()


def flops_per_image(path, overrides=()):
    """Floating point operations (a multiplication and an addition are two) of products and convolutions in one image's forward and backward
    pass through the trained networks. Nothing is computed."""
    config, sizes = read_config(path, overrides)
    with torch.device("meta"):
        model = LatentSlotDiffusion(config, sizes)
        images = torch.empty(1, 3, sizes.resolution, sizes.resolution)
        slot_noise = torch.empty(1, model.slot_attention.count, model.slot_attention.size)
        noisy = torch.empty(1, sizes.latent_channels, sizes.latent_side, sizes.latent_side)
        with FlopCounterMode(display=False) as counter:
            model(images, slot_noise, noisy, torch.zeros(1))[0].sum().backward()
    return counter.get_total_flops()
