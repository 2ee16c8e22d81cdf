"""The peer: M2D's ViT as a careful PyTorch user would run it, and counting its neurons with forward hooks.

It has one product for query, key and value, fused attention, and statistics that the hooks reduce at once. Parameters
are named as in M2D's checkpoints.
"""
# ruff: noqa: D102 - every `forward` is what its class says

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from jaxdissect.encoder.families.vit import ViTConfig

EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention with one product for query, key and value."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        clips, tokens, width = x.shape
        qkv = self.qkv(x).reshape(clips, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(clips, tokens, width))


class MLP(nn.Module):
    """Two linear layers; the output of `act` is the neurons' activation."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """One pre-norm Transformer block."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPSILON)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=EPSILON)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches by a convolution whose stride is its size, flattened lowest band first."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        patch = (config.patch_bands, config.patch_frames)
        self.proj = nn.Conv2d(1, config.width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TorchViT(nn.Module):
    """Normalised log-mel (clip, 1, band, frame) -> the tokens (clip, token, width) of every chunk, in time order."""

    norm_stats: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        bands, frames = config.grid
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + bands * frames, config.width))
        self.blocks: Any = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.register_buffer("norm_stats", torch.tensor([-7.1, 4.2]))

    def forward(self, spectrogram: Tensor) -> list[Tensor]:
        return [self.encode(chunk) for chunk in self.chunks(spectrogram)]

    def chunks(self, spectrogram: Tensor) -> Iterator[Tensor]:
        """Cut into the model's width; the last chunk is zero-padded to a whole number of patches."""
        width, patch = self.config.frames, self.config.patch_frames
        for chunk in spectrogram.split(width, dim=-1):
            yield pad(chunk, (0, -chunk.shape[-1] % patch))[..., :width]

    def encode(self, chunk: Tensor) -> Tensor:
        """One chunk -> its tokens, the class token first."""
        return self.norm(self.blocks(self.embed(chunk)))

    def embed(self, chunk: Tensor) -> Tensor:
        """One chunk -> the blocks' input. A short chunk takes the first time columns of the positional grid."""
        x = self.patch_embed(chunk)
        bands, frames = self.config.grid
        grid = self.pos_embed[:, 1:].unflatten(1, (bands, frames))[:, :, : x.shape[1] // bands].flatten(1, 2)
        first = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([first.expand(len(x), -1, -1), x + grid], dim=1)


class Counts(NamedTuple):
    """Statistics of neurons on each clip, reduced over its tokens; axes (clip, neuron), stacked (clip, layer, neuron).

    Attributes:
      active_tokens: number of tokens at which a neuron is above zero.
      sum: sum of activations.
      sum_squares: sum of squared activations.
      maximum: highest activation.
    """

    active_tokens: Tensor
    sum: Tensor
    sum_squares: Tensor
    maximum: Tensor


def count(activation: Tensor) -> Counts:
    """Reduce (clip, token, neuron) over tokens."""
    # On a CPU, adding clamped signs is faster than adding booleans.
    return Counts(
        active_tokens=activation.sign().clamp_(min=0).sum(dim=1, dtype=torch.float32),
        sum=activation.sum(dim=1, dtype=torch.float32),
        sum_squares=activation.square().sum(dim=1, dtype=torch.float32),
        maximum=activation.amax(dim=1).float(),
    )


def merge(first: Counts, second: Counts) -> Counts:
    """The counts of two chunks of the same clips together."""
    return Counts(
        first.active_tokens + second.active_tokens,
        first.sum + second.sum,
        first.sum_squares + second.sum_squares,
        torch.maximum(first.maximum, second.maximum),
    )


class NeuronCounter:
    """Forward hooks on every `mlp.act`, which reduce over tokens at once; the chunks of a clip are merged."""

    def __init__(self, model: TorchViT) -> None:
        self.model, self.layers = model, dict[int, Counts]()
        for layer, block in enumerate(model.blocks):
            block.mlp.act.register_forward_hook(self._hook(layer))

    def _hook(self, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts = count(output)
            self.layers[layer] = merge(self.layers[layer], counts) if layer in self.layers else counts

        return hook

    def take(self) -> Counts:
        """Counts since the last call, with axes (clip, layer, neuron)."""
        layers = [self.layers[layer] for layer in sorted(self.layers)]
        self.layers.clear()
        return Counts(*(torch.stack(parts, dim=1) for parts in zip(*layers, strict=True)))

    def count(self, spectrogram: Tensor) -> tuple[list[Tensor], Counts]:
        """Run the model: its tokens, and the counts of its neurons."""
        return self.model(spectrogram), self.take()


def random_checkpoint(path: Path, config: ViTConfig, seed: int = 0) -> Path:
    """Write a random checkpoint in M2D's full layout: encoder, predictor and target network, settings, optimizer.

    Kernels are truncated normal with standard deviation 1 / sqrt(fan_in), so that every layer's activations are of
    order one; no bias, scale or position is left at its default.
    """
    model, generator = TorchViT(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and name.endswith("weight"):
                std = value[0].numel() ** -0.5
                nn.init.trunc_normal_(value, std=std, a=-2 * std, b=2 * std, generator=generator)
            else:
                mean = float("norm" in name and name.endswith("weight"))
                value.normal_(mean, 0.5 if name.endswith(("token", "embed")) else 0.1, generator=generator)
    # Parts of a checkpoint that a conversion must recognise and leave out.
    extra = ("mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.weight", "target_norm.bias")
    state = model.state_dict() | {name: torch.randn(config.width, generator=generator) for name in extra}
    args = argparse.Namespace(model="m2d_vit_base", input_size=[config.bands, config.frames], mask_ratio=0.7, seed=seed)
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 3e-4, "params": [0]}]}
    torch.save({"model": state, "optimizer": optimizer, "epoch": 300, "args": args}, path)
    return path


def load_torch_vit(path: Path, config: ViTConfig) -> TorchViT:
    """The encoder of a checkpoint that `random_checkpoint` wrote."""
    model = TorchViT(config).eval().requires_grad_(False)
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, weights_only=True)["model"]
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model
