"""M2D as an `Encoder`: log-mel front end, normalisation, ViT, and its published way of embedding clips."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdissect.audio.log_mel import LogMel, log_mel, m2d_front_end, mel_filters
from jaxdissect.encoder.protocol import TokenLayout, Units, Variables
from jaxdissect.encoder.vit import (
    Block,
    Tokens,
    ViT,
    ViTConfig,
    chunk_frames,
    clip_embedding,
    frame_embeddings,
    init_vit,
)
from jaxdissect.errors import require
from jaxdissect.types import Json, Record

UNITS = {
    "mlp": Units("blocks_*/mlp/act", layer_neurons="mlp/act"),
    "heads": Units("blocks_*/attn/heads", vectors=True, layer_neurons="attn/heads"),
    "residual": Units("blocks_*/residual", layer_neurons="residual"),
}
NORM_STATS = (-7.1, 4.2)  # mean and standard deviation for checkpoints that do not bring their own


@dataclasses.dataclass(frozen=True, eq=False)
class M2D:
    """An M2D encoder: an `Encoder`, and a `LayeredEncoder`.

    Source: Niizumi et al., "Masked Modeling Duo: Towards a Universal Audio Pre-training Framework" (arXiv:2404.06095).

    Attributes:
      name: name for people to read.
      config: sizes of the ViT.
      log_mel: sizes of the front end.
      variables: `params` of the ViT; `front_end` with `mel_filters` and `norm_stats` (mean and standard deviation
        of the log-mel); `head` if the checkpoint had a task head: `mean` and `variance` that standardise a clip
        embedding, `kernel` and `bias` of the linear layer after it.
      dtype: type of the computation; float32 means float32 products.
      source: file name, SHA-256 and licence of what the encoder was converted from.
      kind: kind of its neurons: "mlp", the hidden units of the MLPs; "heads", the attention heads' outputs before
        their projection; or "residual", the features of each block's output.

    Raises:
      InputError: the front end and the ViT differ in their number of mel bands, or there is no such kind.
    """

    name: str
    config: ViTConfig
    log_mel: LogMel
    variables: Variables
    dtype: DTypeLike = jnp.float32
    source: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    kind: str = "mlp"

    units = UNITS  # no field: they are the same for every M2D

    def __post_init__(self) -> None:
        require(
            self.config.bands == self.log_mel.bands,
            f"The front end's bands must be the ViT's, got {self.log_mel.bands} and {self.config.bands}.",
        )
        require(self.kind in UNITS, f"units must be one of {', '.join(UNITS)}, got {self.kind!r}.")

    @property
    def neurons(self) -> str:
        """Pattern of the paths of the neurons' values."""
        return UNITS[self.kind].neurons

    @property
    def layer_neurons(self) -> str:
        """Path of the neurons' value inside a block."""
        return UNITS[self.kind].layer_neurons or ""

    @property
    def vectors(self) -> bool:
        """Whether a neuron's value is a vector."""
        return UNITS[self.kind].vectors

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the PCM that the encoder takes, Hz."""
        return self.log_mel.sample_rate

    @property
    def module(self) -> ViT:
        """The ViT, computing in `dtype`."""
        return ViT(self.config, self.dtype)

    @property
    def device_variables(self) -> Variables:
        """`variables`, with the kernels in `dtype`: every step would cast them otherwise."""

        def cast(path: tuple[Any, ...], leaf: Array | np.ndarray) -> Array | np.ndarray:
            return leaf.astype(self.dtype) if path[-1].key == "kernel" else leaf

        return {**self.variables, "params": jax.tree_util.tree_map_with_path(cast, self.variables["params"])}

    @property
    def layer(self) -> Block:
        """One block of the ViT, computing in `dtype`."""
        return Block(self.config, self.dtype)

    def layer_variables(self, variables: Variables) -> Sequence[Variables]:
        """The parameters of each block."""
        return [{"params": variables["params"][f"blocks_{layer}"]} for layer in range(self.config.depth)]

    def outgoing_weights(self, layer_variables: Variables) -> Float[Array | np.ndarray, "neuron width"] | None:
        """Kernel of the second linear layer of a block's MLP; None for other neurons than those of the MLP."""
        return layer_variables["params"]["mlp"]["fc2"]["kernel"] if self.kind == "mlp" else None

    def enter(self, variables: Variables, inputs: Float[Array, "clip frame band"]) -> Tokens:
        """Normalised log-mel spectrogram -> inputs of the first block."""
        tokens: Any = self.module.apply({"params": variables["params"]}, inputs, method=ViT.enter)
        return tokens

    def leave(self, variables: Variables, states: Tokens) -> Tokens:
        """Outputs of the last block -> the ViT's output."""
        tokens: Any = self.module.apply({"params": variables["params"]}, states, method=ViT.leave)
        return tokens

    def front_end(self, variables: Variables, pcm: Float[Array, "clip sample"]) -> Float[Array, "clip frame band"]:
        """PCM -> normalised log-mel spectrogram.

        Args:
          variables: variables of the encoder; `front_end` among them.
          pcm: samples at `sample_rate`, full scale -1 to 1.

        Raises:
          InputError: the clips are shorter than the front end's window needs.
        """
        constants = variables["front_end"]
        mean, std = constants["norm_stats"]
        return (log_mel(pcm, constants["mel_filters"], self.log_mel) - mean) / std

    def embed(self, output: Tokens) -> Float[Array, "clip feature"]:
        """Mean over time of the frame embeddings: (grid bands x width) features, 3840 for ViT-B on 80 bands."""
        return clip_embedding(output, self.config)

    def embed_frames(self, output: Tokens) -> Float[Array, "clip time feature"]:
        """One embedding for every time step of `patch_frames` frames.

        Args:
          output: output of the ViT, one array for each call of its blocks.
        """
        return frame_embeddings(output, self.config)

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """Origin of every token. A patch spans `patch_frames x hop` samples from its first frame's centre."""
        config, hop = self.config, self.log_mel.hop
        full, last = chunk_frames(self.log_mel.frames(samples), config)
        layout = []
        # The calls of the blocks: (chunks, frames of a chunk, first frame); a short last chunk is a call of its own.
        for chunks, frames, first in ((full, config.frames, 0), (int(last > 0), last, full * config.frames)):
            if not chunks:
                continue
            columns = frames // config.patch_frames
            # First frame of every patch: (chunk, column), tiled over the bands, since patches are frequency-major.
            start = first + np.arange(chunks)[:, None] * frames + np.arange(columns) * config.patch_frames
            start = np.concatenate([np.zeros((chunks, 1), int), np.tile(start, config.grid[0])], axis=1) * hop
            is_patch = np.broadcast_to(np.arange(start.shape[1]) > 0, start.shape)  # the class token comes first
            layout.append(TokenLayout(is_patch, start, np.where(is_patch, start + config.patch_frames * hop, 0)))
        return tuple(layout)

    def settings(self) -> Record:
        """Sizes of the ViT and of the front end."""
        return {"vit": dataclasses.asdict(self.config), "front_end": dataclasses.asdict(self.log_mel)}


def untrained_m2d(config: ViTConfig, sample_rate: int = 16000, seed: int = 0, name: str = "untrained") -> M2D:
    """An M2D encoder with seeded random weights: a baseline, and a substitute for a checkpoint.

    Args:
      config: sizes of the ViT.
      sample_rate: sampling rate, 16000 or 32000 Hz.
      seed: seed of the weights.
      name: name for people to read.

    Raises:
      InputError: M2D has no front end for that rate.
    """
    front_end = m2d_front_end(sample_rate, config.bands)
    params = jax.jit(init_vit, static_argnums=0)(config, jax.random.key(seed))
    constants = {"mel_filters": mel_filters(front_end), "norm_stats": np.asarray(NORM_STATS, np.float32)}
    variables = {"params": params, "front_end": constants}
    return M2D(name, config, front_end, variables, source={"file": f"none: random weights, seed {seed}"})
