"""Linear evaluation: one linear layer on standardised clip embeddings, trained for many seeds and splits at once.

Source: the EVAR protocol as the papers of M2D and AAPE use it: embeddings standardised on the training clips, Adam,
cross entropy (multi-label: binary cross entropy), early stopping on the validation score, best epoch kept.
"""

import dataclasses
import math
from typing import NamedTuple, TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from jaxdissect.errors import require

EPSILON = 1e-5  # added to the variance, as by PyTorch's BatchNorm1d
LARGEST_FEATURE = 1e18  # bound of an embedding's features: float32 holds their squares, and sums of these
NO_SCORE = -1.0  # below every validation score
Params: TypeAlias = dict[str, Array]  # kernel and bias


@dataclasses.dataclass(frozen=True)
class ProbeRule:
    """How a probe is trained.

    Attributes:
      learning_rate: learning rate of Adam; 3e-5 is the papers' for M2D.
      batch_size: largest number of clips in a step.
      epochs: largest number of passes over the training clips.
      patience: number of epochs without a better validation score after which training stops.

    Raises:
      InputError: a number is not positive.
    """

    learning_rate: float = 3e-5
    batch_size: int = 200
    epochs: int = 200
    patience: int = 20

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience"):
            require(getattr(self, name) >= 1, f"A probe's {name} must be positive, got {getattr(self, name)}.")
        finite = 0 < self.learning_rate < math.inf
        require(finite, f"A probe's learning_rate must be a positive number, got {self.learning_rate}.")


@flax.struct.dataclass
class Head:
    """A linear head on a clip embedding: `(x - mean) / sqrt(variance + EPSILON) @ kernel + bias`.

    Attributes:
      mean, variance: moments of the training embeddings; float32 (feature).
      kernel: weights of the standardised features; float32 (feature, class).
      bias: summand of each class; float32 (class).
    """

    mean: PyTree
    variance: PyTree
    kernel: PyTree
    bias: PyTree


@flax.struct.dataclass
class Probe:
    """A trained head and how it came to be; a pytree, with further axes in front where many were trained at once.

    Attributes:
      head: head of the best epoch, a `Head`: (feature), (feature, class), (class).
      best_epoch: number of the epoch, from 0, that the head is from; int32 ().
      epochs: number of epochs that were run; int32 ().
      valid_score: score of the best epoch, accuracy or mean average precision from 0 to 1; float32 ().
    """

    head: PyTree
    best_epoch: PyTree
    epochs: PyTree
    valid_score: PyTree


class _Training(NamedTuple):
    """State between two epochs."""

    params: Params
    optimizer: PyTree
    best: Params
    epoch: Int[Array, ""]
    best_epoch: Int[Array, ""]
    best_score: Float[Array, ""]


def logits(head: Head, embeddings: Float[Array, "clip feature"]) -> Float[Array, "clip class"]:
    """Outputs of a head, one for each class.

    Args:
      head: one head, without axes in front.
      embeddings: embeddings of some clips.
    """
    return _outputs({"kernel": head.kernel, "bias": head.bias}, _scaled(head.mean, head.variance, embeddings))


def train_probe(
    embeddings: Float[Array, "clip feature"],
    members: Bool[Array, "clip class"],
    train: Bool[Array, " clip"],
    valid: Bool[Array, " clip"],
    key: PRNGKeyArray,
    rule: ProbeRule,
    multi_label: bool = False,
) -> Probe:
    """Train one probe; jit- and vmap-safe over `train`, `valid` and `key`.

    Source: the EVAR protocol, as M2D's and AAPE's papers use it (arXiv:2404.06095, arXiv:2602.15307).

    Args:
      embeddings: embeddings of all clips.
      members: classes of all clips.
      train, valid: clips to train on, at least one, and clips that decide when to stop.
      key: random key of the initial weights and the order of the clips.
      rule: how the probe is trained.
      multi_label: whether to use binary cross entropy and mean average precision, not cross entropy and accuracy.

    Returns:
      the head of the epoch with the best validation score: mean and variance (feature,), kernel (feature, class), bias
      (class,); scalars beside.
      Without a validation clip the score is -1, and the head is the initial one.
    """
    embeddings, labels = jnp.asarray(embeddings, jnp.float32), jnp.asarray(members).astype(jnp.float32)
    mean, variance = _moments(embeddings, train)
    # Clips of neither part are set to zero: theirs may be huge, and 0 times infinity is not 0.
    scaled = jnp.where((train | valid)[:, None], _scaled(mean, variance, embeddings), 0)
    # The validation score, which picks the epoch.
    score = average_precision if multi_label else accuracy
    optimizer = optax.adam(rule.learning_rate)
    init_key, order_key = jax.random.split(key)
    features, classes = embeddings.shape[1], labels.shape[1]
    bound = features**-0.5  # PyTorch's Linear
    # One draw for kernel and bias.
    weights = jax.random.uniform(init_key, (features + 1, classes), minval=-bound, maxval=bound)
    params = {"kernel": weights[:-1], "bias": weights[-1]}

    in_training = jnp.append(train, False)  # and the number behind the last clip, which fills up batches

    def loss(params: Params, clips: Int[Array, " clip"], weight: Float[Array, " clip"]) -> Float[Array, ""]:
        outputs, wanted = _outputs(params, scaled[clips]), labels[clips]
        if multi_label:
            losses = optax.sigmoid_binary_cross_entropy(outputs, wanted).mean(axis=1)
        else:
            losses = optax.softmax_cross_entropy(outputs, wanted)
        return (losses * weight).sum() / jnp.maximum(weight.sum(), 1)

    def step(before: tuple[Params, PyTree], clips: Int[Array, " clip"]) -> tuple[tuple[Params, PyTree], None]:
        params, state = before
        weight = in_training[clips].astype(jnp.float32)
        gradient = jax.grad(loss)(params, jnp.minimum(clips, len(train) - 1), weight)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an int
            updates, new_state = optimizer.update(gradient, state, params)
        after = (optax.apply_updates(params, updates), new_state)
        # A batch without a training clip changes nothing: its gradient is zero, but Adam's momentum would move on.
        return jax.tree.map(lambda new, old: jnp.where(weight.any(), new, old), after, before), None

    def epoch(before: _Training) -> _Training:
        order = _batches(train, jax.random.fold_in(order_key, before.epoch), rule.batch_size)
        (params, state), _ = jax.lax.scan(step, (before.params, before.optimizer), order)
        valid_score = score(_outputs(params, scaled), labels > 0, valid)
        better = valid_score > before.best_score
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, before.best)
        best_epoch = jnp.where(better, before.epoch, before.best_epoch)
        best_score = jnp.where(better, valid_score, before.best_score)
        return _Training(params, state, best, before.epoch + 1, best_epoch, best_score)

    def is_unfinished(training: _Training) -> Bool[Array, ""]:
        return (training.epoch < rule.epochs) & (training.epoch - training.best_epoch <= rule.patience)

    # No epoch yet: the first one is better whatever its score is, unless there is no validation clip (NaN).
    start = _Training(params, optimizer.init(params), params, *map(jnp.asarray, (0, 0, jnp.float32(NO_SCORE))))
    end = jax.lax.while_loop(is_unfinished, epoch, start)
    head = Head(mean, variance, end.best["kernel"], end.best["bias"])
    return Probe(head, end.best_epoch, end.epoch, end.best_score)


def _batches(train: Bool[Array, " clip"], key: PRNGKeyArray, batch_size: int) -> Int[Array, "batch clip_of_batch"]:
    """Numbers of all clips in a random order, the training clips in front, in batches of one size."""
    clips = len(train)
    # Draws are below 1. The other clips are there so that shapes do not depend on how many train.
    order = jnp.argsort(jnp.where(train, jax.random.uniform(key, (clips,)), 2.0))
    batch = min(batch_size, clips)
    batches = -(-clips // batch)
    return jnp.pad(order, (0, batches * batch - clips), constant_values=clips).reshape(batches, batch)


def accuracy(
    scores: Float[Array, "clip class"], members: Bool[Array, "clip class"], chosen: Bool[Array, " clip"]
) -> Float[Array, ""]:
    """Fraction of the chosen clips whose highest score is that of a class of theirs."""
    hit = jnp.take_along_axis(members, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    return (hit & chosen).sum() / chosen.sum()


def average_precision(
    scores: Float[Array, "clip class"], members: Bool[Array, "clip class"], chosen: Bool[Array, " clip"]
) -> Float[Array, ""]:
    """Mean over the classes that have a chosen clip of the average precision (scikit-learn's, ties as one step)."""
    return jnp.nanmean(class_average_precision(scores, members, chosen))


def class_average_precision(
    scores: Float[Array, "clip class"], members: Bool[Array, "clip class"], chosen: Bool[Array, " clip"]
) -> Float[Array, " class"]:
    """Average precision of every class over the chosen clips; NaN for a class that none of them belongs to."""

    def of_class(score: Float[Array, " clip"], positive: Bool[Array, " clip"]) -> Float[Array, ""]:
        # From the highest score down; clips that are not chosen come last and are no hits.
        order = jnp.argsort(jnp.where(chosen, -score, jnp.inf))
        ranked, positive = jnp.where(chosen, score, -jnp.inf)[order], (positive & chosen)[order]
        hits = jnp.cumsum(positive)
        place = jnp.arange(len(ranked))
        # For every rank the last rank of its tie: the precision is taken behind the whole tie.
        last_of_tie = jnp.append(ranked[1:] != ranked[:-1], True)
        end = jax.lax.cummin(jnp.where(last_of_tie, place, len(ranked)), reverse=True)
        precision = hits[end] / (end + 1)
        total = positive.sum().astype(jnp.float32)
        return jnp.where(total > 0, jnp.where(positive, precision, 0.0).sum() / jnp.maximum(total, 1), jnp.nan)

    return jax.vmap(of_class, in_axes=(1, 1))(scores, members)


def _moments(
    embeddings: Float[Array, "clip feature"], chosen: Bool[Array, " clip"]
) -> tuple[Float[Array, " feature"], Float[Array, " feature"]]:
    """Mean and variance of the chosen embeddings."""
    chosen = chosen[:, None]
    count = jnp.maximum(chosen.sum(), 1).astype(jnp.float32)
    mean = jnp.where(chosen, embeddings, 0).sum(axis=0) / count
    return mean, jnp.square(jnp.where(chosen, embeddings - mean[None], 0)).sum(axis=0) / count


def _scaled(mean: Array, variance: Array, embeddings: Float[Array, "clip feature"]) -> Float[Array, "clip feature"]:
    return (embeddings - mean[None]) / jnp.sqrt(variance + EPSILON)[None]


def _outputs(params: Params, features: Float[Array, "clip feature"]) -> Float[Array, "clip class"]:
    return jnp.matmul(features, params["kernel"], precision="highest") + params["bias"][None]


def held_out(
    members: Bool[np.ndarray, "clip class"], train: Bool[np.ndarray, " clip"], fraction: float, seed: int
) -> Bool[np.ndarray, " clip"]:
    """A validation part of the training clips: a fraction of them, drawn so that every class is present.

    A class with a single training clip stays wholly in training. Where clips have several labels, a class may be absent
    because each clip of its own would take another class's last training clip. Clips are drawn one by one: two clips
    cut from one recording may fall on both sides, as in EVAR; a table's own `valid` split can prevent that.

    Args:
      members: classes of all clips.
      train: clips to draw from.
      fraction: fraction of these clips to draw, at least one clip.
      seed: seed of the order in which clips are drawn.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(train))
    size = max(1, round(fraction * len(order)))
    left = members[train].sum(axis=0)  # training clips of each class that are left
    drawn = np.zeros(members.shape[1], int)  # validation clips of each class
    valid, count = np.zeros(len(train), bool), 0
    for for_missing_classes in (True, False):  # first a clip of every class, then any
        for clip in order:
            missing = (drawn == 0) & (left > 1)
            if not missing.any() if for_missing_classes else count >= size:
                break
            classes = members[clip]
            if valid[clip] or (for_missing_classes and not (classes & missing).any()):
                continue
            if (left[classes] < 2).any():  # the last training clip of a class stays
                continue
            valid[clip], count = True, count + 1
            drawn += classes
            left -= classes
    return valid
