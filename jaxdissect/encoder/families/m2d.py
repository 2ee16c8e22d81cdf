"""M2D as an `Encoder`: log-mel front end, normalisation, ViT, and its published way of embedding clips."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdissect.audio.log_mel import LogMel, log_mel, m2d_front_end, mel_filters
from jaxdissect.encoder.families.linen import LinenEncoder, with_random_weights
from jaxdissect.encoder.families.vit import (
    Tokens,
    ViT,
    ViTConfig,
    chunk_frames,
    clip_embedding,
    frame_embeddings,
)
from jaxdissect.encoder.protocol import TokenLayout, Variables
from jaxdissect.errors import require
from jaxdissect.types import Record

NORM_STATS = (-7.1, 4.2)  # mean and standard deviation for checkpoints that do not bring their own


@dataclasses.dataclass(frozen=True, eq=False)
class M2D(LinenEncoder):
    """An M2D encoder: an `Encoder`, and a `LayeredEncoder`.

    Source: Niizumi et al., "Masked Modeling Duo: Towards a Universal Audio Pre-training Framework" (arXiv:2404.06095).

    Its `config` is a `ViTConfig`. The constants of its front end are `mel_filters` and `norm_stats`, the mean and
    standard deviation of the log-mel.

    Attributes:
      log_mel: sizes of the front end.

    Raises:
      InputError: the front end and the ViT differ in their number of mel bands, or there is no such kind.
    """

    log_mel: LogMel = dataclasses.field(kw_only=True)

    network = ViT

    def __post_init__(self) -> None:
        require(
            self.config.bands == self.log_mel.bands,
            f"The front end's bands must be the ViT's, got {self.log_mel.bands} and {self.config.bands}.",
        )
        super().__post_init__()

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the PCM that the encoder takes, Hz."""
        return self.log_mel.sample_rate

    @property
    def features(self) -> int:
        """Number of features of a clip embedding."""
        return self.config.grid[0] * self.config.width

    def example(self) -> Float[Array, "1 frame band"]:
        """A spectrogram of one patch in time, zeros."""
        return jnp.zeros((1, self.config.patch_frames, self.config.bands))

    def constants(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Mel filters, and the mean and standard deviation of checkpoints that do not bring their own."""
        return {"mel_filters": mel_filters(self.log_mel), "norm_stats": np.asarray(NORM_STATS, np.float32)}

    def constant_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of `constants`."""
        return {"mel_filters": (self.log_mel.n_fft // 2 + 1, self.log_mel.bands), "norm_stats": (2,)}

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
    source = {"file": f"none: random weights, seed {seed}"}
    return with_random_weights(M2D(name, config, {}, source=source, log_mel=front_end), seed)
