"""The peer in training: the losses of MSM-MAE, M2D and supervision in PyTorch eager, as a careful user writes them.

`benchmarks.speed.training` times them; tests compare their gradients with this project's.
"""
# ruff: noqa: D102 - every `forward` is what its class says

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, mse_loss, normalize

from benchmarks.speed.torch_vit import EPSILON, Block, TorchViT
from jaxdissect.encoder.families.vit import ViTConfig
from jaxdissect.training.masking import sin_cos_positions


class Batch(NamedTuple):
    """Input of a step.

    Attributes:
      spectrogram: normalised log-mel (clip, 1, band, frame).
      visible: numbers of the patches that the encoder sees (clip, patch).
      masked: numbers of the patches to predict (clip, patch).
      labels: class number of every clip.
    """

    spectrogram: Tensor
    visible: Tensor
    masked: Tensor
    labels: Tensor


class TorchDecoder(nn.Module):
    """Visible tokens -> a prediction for every masked patch (clip, patch, feature)."""

    position: Tensor

    def __init__(self, encoder: ViTConfig, config: ViTConfig, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder.width, config.width)
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.blocks: Any = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.out = nn.Linear(config.width, outputs)
        self.register_buffer("position", torch.from_numpy(sin_cos_positions(config.grid, config.width)[1:]))

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        shown = self.embed(tokens)
        # The class token comes first and has no position.
        shown = torch.cat([shown[:, :1], shown[:, 1:] + self.position[visible]], dim=1)
        x = self.blocks(torch.cat([shown, self.mask_token + self.position[masked]], dim=1))
        return self.out(self.norm(x[:, shown.shape[1] :]))


def pick(items: Tensor, index: Tensor) -> Tensor:
    """Each clip's own choice of (clip, patch, feature)."""
    return items.gather(1, index[..., None].expand(-1, -1, items.shape[-1]))


def encode_patches(vit: TorchViT, embedded: Tensor, index: Tensor) -> Tensor:
    """Class token and chosen patches through the blocks."""
    patches = pick(embedded, index) + vit.pos_embed.detach()[0, 1:][index]
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(patches), -1, -1)
    return vit.norm(vit.blocks(torch.cat([first, patches], dim=1)))


class MSMMAE(nn.Module):
    """Reconstruct the masked patches."""

    def __init__(self, config: ViTConfig, decoder: ViTConfig, standardise: bool) -> None:
        super().__init__()
        self.encoder = TorchViT(config)
        self.decoder = TorchDecoder(config, decoder, config.patch_bands * config.patch_frames)
        self.standardise = standardise

    def forward(self, batch: Batch) -> Tensor:
        config = self.encoder.config
        bands, frames = config.patch_bands, config.patch_frames
        # (clip, band, frame) -> (clip, patch, pixel), all time steps of the lowest band first.
        pixels = batch.spectrogram[:, 0].unfold(1, bands, bands).unfold(2, frames, frames).flatten(3).flatten(1, 2)
        tokens = encode_patches(self.encoder, self.encoder.patch_embed(batch.spectrogram), batch.visible)
        wanted = pick(pixels, batch.masked)
        if self.standardise:
            wanted = layer_norm(wanted, wanted.shape[-1:], eps=1e-6)
        return mse_loss(self.decoder(tokens, batch.visible, batch.masked), wanted)


class M2D(nn.Module):
    """Predict the representation of the masked patches."""

    def __init__(self, config: ViTConfig, decoder: ViTConfig) -> None:
        super().__init__()
        self.encoder = TorchViT(config)
        self.decoder = TorchDecoder(config, decoder, config.width)
        self.target = TorchViT(config).requires_grad_(requires_grad=False)

    def forward(self, batch: Batch) -> Tensor:
        tokens = encode_patches(self.encoder, self.encoder.patch_embed(batch.spectrogram), batch.visible)
        predicted = self.decoder(tokens, batch.visible, batch.masked)
        with torch.no_grad():
            wanted = encode_patches(self.target, self.target.patch_embed(batch.spectrogram), batch.masked)[:, 1:]
            wanted = layer_norm(wanted, wanted.shape[-1:], eps=1e-6)
        return (normalize(predicted, dim=-1) - normalize(wanted, dim=-1)).square().sum(-1).mean()

    @torch.no_grad()
    def move_target(self, keep: float) -> None:
        """Move the target towards the encoder: the exponential moving average of its weights."""
        ours: list[Tensor] = list(self.encoder.parameters())
        average: list[Tensor] = list(self.target.parameters())
        torch._foreach_lerp_(average, ours, 1 - keep)


class Supervised(nn.Module):
    """Cross entropy of a linear layer on the mean over time."""

    def __init__(self, config: ViTConfig, classes: int) -> None:
        super().__init__()
        self.encoder = TorchViT(config)
        self.head = nn.Linear(config.grid[0] * config.width, classes)

    def forward(self, batch: Batch) -> Tensor:
        tokens = self.encoder.encode(batch.spectrogram)[:, 1:]
        grid = tokens.unflatten(1, self.encoder.config.grid)
        return cross_entropy(self.head(grid.mean(dim=2).flatten(1)), batch.labels)


def load_params(module: nn.Module, params: Mapping[str, Any]) -> None:
    """Give a module the parameters of the JAX objective: the same tree, kernels transposed."""
    # The target has no parameters of its own: it starts as a copy of the encoder.
    state = {name: value for name, value in module.state_dict().items() if not name.startswith("target.")}
    for name, value in state.items():
        if name.endswith(("position", "norm_stats")):
            continue  # a constant
        node: Any = params
        # PyTorch wraps the patches' linear layer in a convolution `proj`, Flax does not.
        *path, last = name.replace("blocks.", "blocks_").split(".")
        for part in [part for part in path if part != "proj" or path[-2] != "patch_embed"]:
            node = node[part]
        array = np.array(node[last] if last in node else node["kernel" if node_is_linear(node) else "scale"])
        array = array.T if last == "weight" and array.ndim > 1 else array
        value.copy_(torch.tensor(np.ascontiguousarray(array)).reshape(value.shape))
    if isinstance(module, M2D):
        module.target.load_state_dict(module.encoder.state_dict())


def node_is_linear(node: Mapping[str, Any]) -> bool:
    """Whether a Flax layer is a Dense rather than a LayerNorm."""
    return "kernel" in node
