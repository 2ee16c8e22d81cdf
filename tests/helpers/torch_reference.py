"""The reference encoder: random weights under M2D's names, run by the ViT of Hugging Face's transformers."""

from typing import NamedTuple

import numpy as np
import torch
import transformers

from jaxdissect.encoder.convert.m2d import Sizes, encoder_from_state
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.encoder.families.vit import ViTConfig

RENAMED = {
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attn.proj": "attention.o_proj",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


class Reference(NamedTuple):
    """What the reference puts out for one chunk: (clip, token, width), and (clip, token, neuron) per layer."""

    tokens: np.ndarray
    neurons: list[np.ndarray]


def random_state(config: ViTConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of M2D's encoder. Nothing keeps a default, and no layer's output is far from order one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float, mean: float = 0.0) -> torch.Tensor:
        return mean + std * torch.randn(shape, generator=generator)

    def linear(key: str, out: int, *into: int) -> dict[str, torch.Tensor]:
        return {f"{key}.weight": normal(out, *into, std=np.prod(into) ** -0.5), f"{key}.bias": normal(out, std=0.3)}

    def norm(key: str) -> dict[str, torch.Tensor]:
        return {f"{key}.weight": normal(width, mean=1.0, std=0.2), f"{key}.bias": normal(width, std=0.2)}

    width, positions = config.width, 1 + config.grid[0] * config.grid[1]
    state = {"cls_token": normal(1, 1, width, std=0.5), "pos_embed": normal(1, positions, width, std=0.5)}
    state |= linear("patch_embed.proj", width, 1, config.patch_bands, config.patch_frames)
    for block in (f"blocks.{layer}" for layer in range(config.depth)):
        state |= norm(f"{block}.norm1") | linear(f"{block}.attn.qkv", 3 * width, width)
        state |= linear(f"{block}.attn.proj", width, width) | norm(f"{block}.norm2")
        state |= linear(f"{block}.mlp.fc1", config.mlp, width) | linear(f"{block}.mlp.fc2", width, config.mlp)
    return state | norm("norm")


def encoder_of(state: dict[str, torch.Tensor], config: ViTConfig) -> M2D:
    """The package's encoder with these weights."""
    sizes = Sizes(config.bands, config.frames, config.patch_bands, config.patch_frames, sample_rate=16000)
    arrays = {key: value.numpy() for key, value in state.items()}
    return encoder_from_state(arrays, "random", sizes, config.heads, source={})


def reference_chunks(state: dict[str, torch.Tensor], config: ViTConfig, spectrogram: np.ndarray) -> list[Reference]:
    """Cut (clip, frame, band) as METHOD says, and run every chunk alone, in time order."""
    chunks = []
    for start in range(0, spectrogram.shape[1], config.frames):
        chunk = spectrogram[:, start : start + config.frames]
        missing = -chunk.shape[1] % config.patch_frames
        padded = np.pad(chunk, ((0, 0), (0, missing), (0, 0)))[:, : config.frames]
        whole = padded.shape[1] - padded.shape[1] % config.patch_frames
        chunks.append(reference_chunk(state, config, padded[:, :whole]))
    return chunks


def reference_chunk(state: dict[str, torch.Tensor], config: ViTConfig, chunk: np.ndarray) -> Reference:
    """Run transformers' ViT on (clip, frame, band), a whole number of patches."""
    model = reference_model(state, config, chunk.shape[1])
    neurons: list[np.ndarray] = []
    for layer in model.layers:
        layer.mlp.activation_fn.register_forward_hook(lambda _module, _inputs, output: neurons.append(output.numpy()))
    with torch.no_grad():
        image = torch.from_numpy(np.ascontiguousarray(chunk.swapaxes(1, 2)))[:, None]
        return Reference(model(image).last_hidden_state.numpy(), neurons)


def reference_model(state: dict[str, torch.Tensor], config: ViTConfig, frames: int) -> transformers.ViTModel:
    """A model that is `frames` wide: its positions are the first time columns of the whole grid."""
    sizes = transformers.ViTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
        image_size=(config.bands, frames),
        patch_size=(config.patch_bands, config.patch_frames),
        num_channels=1,
        qkv_bias=True,
    )
    columns = frames // config.patch_frames
    grid = state["pos_embed"][:, 1:].reshape(1, *config.grid, config.width)[:, :, :columns]
    weights = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": torch.cat([state["pos_embed"][:, :1], grid.flatten(1, 2)], dim=1),
    }
    for kind in ("weight", "bias"):
        weights[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        weights[f"layernorm.{kind}"] = state[f"norm.{kind}"]
        for layer in range(config.depth):
            for ours, theirs in RENAMED.items():
                weights[f"layers.{layer}.{theirs}.{kind}"] = state[f"blocks.{layer}.{ours}.{kind}"]
            for part, value in zip("qkv", state[f"blocks.{layer}.attn.qkv.{kind}"].chunk(3), strict=True):
                weights[f"layers.{layer}.attention.{part}_proj.{kind}"] = value
    model = transformers.ViTModel(sizes, add_pooling_layer=False).eval()
    model.load_state_dict(weights, strict=True)
    return model
