"""Verdicts of linear probes on clips: logit margins and hits, on the device; and their means over classes, on the host.

The margin of a clip is the logit of its true class minus the highest of the other logits. It is positive where the
probe is right. In a multi-label set, it is the logit of the class itself, which the sigmoid turns into a probability.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdissect.probe.judge import Judge
from jaxdissect.probe.linear import Head, class_average_precision, logits

AnyArray: TypeAlias = Any  # a JAX array on the device, a NumPy array on the host


class Verdicts(NamedTuple):
    """Verdicts of one label set's probes on clips, on the device or on the host.

    A pytree of float32 arrays, with an axis `edit` in front where there are edits.

    Attributes:
      margin: mean margin over the probes, (clip), NaN for a clip without a class; multi-label: (clip, class).
      correct: number of probes whose highest logit belongs to a class of the clip, (clip), as float32; NaN where a
        logit is not finite. None in a multi-label set.
      scores: logits of every probe in a multi-label set, (clip, probe, class); None in others.
    """

    margin: AnyArray
    correct: AnyArray = None
    scores: AnyArray = None


def judge_clips(
    head: Head, embeddings: Float[Array, "clip feature"], members: Bool[Array, "clip class"], multi_label: bool
) -> Verdicts:
    """Verdicts on clips; jit- and vmap-safe, and differentiable in `embeddings`.

    Args:
      head: heads of the probes, stacked along a first axis `probe`.
      embeddings: embeddings of the clips.
      members: classes of the clips.
      multi_label: whether a clip may belong to several classes, or to none.
    """
    scores = jax.vmap(logits, in_axes=(0, None))(head, embeddings)  # (probe, clip, class)
    if multi_label:
        return Verdicts(scores.mean(axis=0), scores=scores.swapaxes(0, 1))  # clips first, as in all verdicts
    # `where`, not a product with the mask: an infinite logit times 0 would be NaN.
    true = jnp.where(members[None], scores, -jnp.inf).max(axis=-1)  # (probe, clip)
    other = jnp.where(members[None], -jnp.inf, scores).max(axis=-1)
    margin = jnp.where(members.any(axis=1), (true - other).mean(axis=0), jnp.nan)
    # members[clip, highest logit], for every probe
    hit = jnp.take_along_axis(members[None], scores.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    finite = jnp.isfinite(scores).all(axis=(0, 2))  # an edit may blow the encoder up: nothing is right or wrong then
    return Verdicts(margin, jnp.where(finite, hit.astype(jnp.float32).sum(axis=0), jnp.nan))


def class_means(
    verdicts: Verdicts, judge: Judge, usable: Bool[np.ndarray, " clip"]
) -> tuple[Float[np.ndarray, "edit class"], Float[np.ndarray, "edit class"]]:
    """Accuracy and mean margin of every class under every edit; NaN for a class without a usable clip.

    Args:
      verdicts: verdicts on the host, with the axis `edit`.
      judge: judge that they come from.
      usable: clips that count.

    Returns:
      accuracy, the fraction of the class's clips that is judged right (recall), or its average precision in a
      multi-label set; margin in logits. Both are means over the probes.
    """
    counted = judge.members & usable[:, None]

    # Class by class, and in float64: float32 margins lose digits when many are added.
    def mean(values: Float[np.ndarray, "edit clip *class"]) -> Float[np.ndarray, "edit class"]:
        means = np.full((len(values), counted.shape[1]), np.nan)
        for index in np.flatnonzero(counted.any(axis=0)):
            of_class = values[:, counted[:, index]]
            means[:, index] = (of_class if values.ndim == 2 else of_class[..., index]).mean(axis=1, dtype=np.float64)
        return means

    margin = mean(verdicts.margin)
    if verdicts.scores is None:
        return mean(verdicts.correct) / len(judge.head.bias), margin
    # Average precision needs the clips of all classes, which it ranks; edit by edit, to bound memory.
    accuracy = np.array(
        [np.asarray(_precision(scores, judge.members, usable), np.float64).mean(axis=0) for scores in verdicts.scores]
    )
    overflowed = ~np.isfinite(verdicts.scores[:, usable]).all(axis=(1, 2))  # ranks of such scores mean nothing
    return np.where(overflowed, np.nan, accuracy), margin


_precision = jax.jit(jax.vmap(class_average_precision, in_axes=(1, None, None)))  # over the probes
