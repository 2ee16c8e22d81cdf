"""What a linear head says of clips: logit margin and accuracy, per clip on the device and per class on the host.

The margin of a clip is the logit of its true class minus the highest of the others: positive where the head is
right. Of a multi-label set it is the logit of the class itself, which the sigmoid turns into its probability; a class
is judged by average precision.
"""

from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdissect.probe.judge import Judge
from jaxdissect.probe.linear import Head, class_average_precision, logits


@flax.struct.dataclass
class Verdicts:
    """What a judge says of clips; a pytree, with further axes in front where there are many interventions.

    Attributes:
      margin: mean over the probes, NaN for a clip without a class; float32 (clip) or, multi-label, (clip, class).
      correct: number of the probes whose highest logit is of a class of the clip, NaN where a logit is not finite;
        float32 (clip). None if multi-label.
      scores: of every probe, if multi-label; float32 (clip, probe, class). Else None.
    """

    margin: Any
    correct: Any = None
    scores: Any = None


@dataclass(frozen=True, eq=False)
class ClassOutcome:
    """Verdicts averaged over the clips of every class; NaN for a class without a clip.

    Attributes:
      accuracy: share of the clips that are judged right (recall), multi-label: average precision.
      margin: mean of the class's clips.
    """

    accuracy: Float[np.ndarray, "*intervention class"]
    margin: Float[np.ndarray, "*intervention class"]


def judge_clips(
    head: Head, embeddings: Float[Array, "clip feature"], members: Bool[Array, "clip class"], multi_label: bool
) -> Verdicts:
    """Verdicts on some clips; jit- and vmap-safe, and differentiable in `embeddings`.

    Args:
      head: stacked along a first axis `probe`.
      embeddings: of the clips.
      members: classes of the clips.
      multi_label: see `Verdicts`.
    """
    scores = jax.vmap(logits, in_axes=(0, None))(head, embeddings)  # (probe, clip, class)
    if multi_label:
        return Verdicts(scores.mean(axis=0), scores=scores.swapaxes(0, 1))
    true = jnp.where(members[None], scores, -jnp.inf).max(axis=-1)
    other = jnp.where(members[None], -jnp.inf, scores).max(axis=-1)
    labelled = members.any(axis=1)
    margin = jnp.where(labelled, (true - other).mean(axis=0), jnp.nan)
    hit = jnp.take_along_axis(members[None], scores.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    said = jnp.isfinite(scores).all(axis=(0, 2))  # an edit may blow the encoder up: nothing is right or wrong then
    return Verdicts(margin, jnp.where(said, hit.astype(jnp.float32).sum(axis=0), jnp.nan))


def per_class(verdicts: Verdicts, judge: Judge, usable: Bool[np.ndarray, " clip"]) -> ClassOutcome:
    """Average verdicts with one axis of interventions in front over the usable clips of every class.

    Args:
      verdicts: on the host.
      judge: whose they are.
      usable: clips that count.
    """
    chosen = judge.members & usable[:, None]

    def mean(values: Float[np.ndarray, "intervention clip *class"]) -> Float[np.ndarray, "intervention class"]:
        found = np.full((len(values), chosen.shape[1]), np.nan)
        for index in np.flatnonzero(chosen.any(axis=0)):
            of_class = values[:, chosen[:, index]]
            found[:, index] = (of_class if values.ndim == 2 else of_class[..., index]).mean(axis=1, dtype=np.float64)
        return found

    if verdicts.scores is None:
        return ClassOutcome(mean(verdicts.correct) / len(judge.head.bias), mean(verdicts.margin))
    accuracy = np.array(
        [np.asarray(_precision(scores, judge.members, usable), np.float64).mean(axis=0) for scores in verdicts.scores]
    )
    blown = ~np.isfinite(verdicts.scores[:, usable]).all(axis=(1, 2))  # then the ranks mean nothing
    return ClassOutcome(np.where(blown, np.nan, accuracy), mean(verdicts.margin))


_precision = jax.jit(jax.vmap(class_average_precision, in_axes=(1, None, None)))  # over the probes
