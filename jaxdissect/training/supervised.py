"""Supervised training: the same encoder, mean over time, one linear layer, labels."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.training.objective import Metrics, Params, initial_encoder


@dataclasses.dataclass(frozen=True, eq=False)
class Supervised:
    """Cross entropy of the labels, for multi-label tasks binary cross entropy, under mixup and masked stripes.

    Attributes:
      encoder: encoder to train.
      classes: number of classes of the label set.
      multi_label: whether a clip may belong to several classes, or to none.
      mixup: parameter of the Beta distribution that the weight of the first clip is drawn from; 0: no mixup.
      stripes: number of masked stripes along each axis (SpecAugment, Park et al., Interspeech 2019).
      longest_stripe: longest stripe as a fraction of its axis.
    """

    encoder: M2D
    classes: int
    multi_label: bool = False
    mixup: float = 0.5
    stripes: int = 2
    longest_stripe: float = 0.2

    ema = None

    def init(self, key: Array, encoder_params: Params | None = None) -> Params:
        """Parameters of `encoder` and of the linear `head` on its clip embedding."""
        config = self.encoder.config
        features = config.grid[0] * config.width
        # Zero: the first prediction is every class alike.
        head = {"kernel": jnp.zeros((features, self.classes)), "bias": jnp.zeros(self.classes)}
        return {"encoder": initial_encoder(self.encoder, key, encoder_params), "head": head}

    def loss(
        self,
        params: Params,
        target: Params,
        pcm: Float[Array, "clip sample"],
        members: Bool[Array, "clip class"],
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean cross entropy over the clips, in nats; for multi-label tasks the mean over clips and classes.

        The metric `accuracy` is the fraction of (mixed, masked) clips whose first choice is a class of theirs.
        """
        mixup_key, stripe_key = jax.random.split(key)
        pcm, labels = mixed(mixup_key, pcm, members, self.mixup)
        with jax.named_scope("front_end"):
            spectrogram = self.encoder.front_end(self.encoder.variables, pcm)
        spectrogram = masked_stripes(stripe_key, spectrogram, self.stripes, self.longest_stripe)
        tokens: PyTree = self.encoder.module.apply({"params": params["encoder"]}, spectrogram)
        embedding = self.encoder.embed(tokens).astype(jnp.float32)
        head = params["head"]
        logits = jnp.matmul(embedding, head["kernel"], precision="highest") + head["bias"][None]
        if self.multi_label:
            loss = optax.sigmoid_binary_cross_entropy(logits, labels)
        else:
            # A clip of several classes counts as a clip of each in equal parts.
            loss = optax.softmax_cross_entropy(logits, labels / labels.sum(axis=1, keepdims=True))
        # Under mixup a clip has the classes of both clips.
        hit = jnp.take_along_axis(labels, logits.argmax(axis=1)[:, None], axis=1) > 0
        return loss.mean(), {"accuracy": hit.astype(jnp.float32).mean()}


def mixed(
    key: Array, pcm: Float[Array, "clip sample"], members: Bool[Array, "clip class"], alpha: float
) -> tuple[Float[Array, "clip sample"], Float[Array, "clip class"]]:
    """Mixup (Zhang et al., ICLR 2018) of every waveform, and its labels, with those of another clip.

    Args:
      key: random key of the weights and the pairs.
      pcm: waveforms.
      members: classes of each clip.
      alpha: parameter of the Beta distribution of the weights; 0: no mixup.
    """
    labels = members.astype(jnp.float32)
    if not alpha:
        return pcm, labels
    weight_key, order_key = jax.random.split(key)
    weight = jax.random.beta(weight_key, alpha, alpha, (len(pcm), 1))
    partner = jax.random.permutation(order_key, len(pcm))
    return weight * pcm + (1 - weight) * pcm[partner], weight * labels + (1 - weight) * labels[partner]


def masked_stripes(
    key: Array, spectrogram: Float[Array, "clip frame band"], stripes: int, longest: float
) -> Float[Array, "clip frame band"]:
    """Set stripes of random place and length to zero, the mean of a normalised spectrogram.

    Args:
      key: random key of the stripes.
      spectrogram: normalised log-mel spectrograms.
      stripes: number of stripes along each axis.
      longest: longest stripe as a fraction of its axis.
    """
    # Frames first, then bands; every clip has stripes of its own.
    for axis, axis_key in zip((1, 2), jax.random.split(key), strict=True):
        size = spectrogram.shape[axis]
        length_key, start_key = jax.random.split(axis_key)
        # Ends are real numbers; a row or column is masked if its number lies in [start, start + length).
        length = jax.random.uniform(length_key, (len(spectrogram), stripes, 1)) * longest * size
        start = jax.random.uniform(start_key, length.shape) * (size - length)
        place = jnp.arange(size, dtype=jnp.float32)[None, None]
        inside = ((place >= start) & (place < start + length)).any(axis=1)
        spectrogram = jnp.where(jnp.expand_dims(inside, 3 - axis), 0.0, spectrogram)
    return spectrogram
