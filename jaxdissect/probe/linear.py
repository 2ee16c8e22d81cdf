"""Linear evaluation: one linear layer on standardised clip embeddings, trained for many seeds and splits at once.

Source: the EVAR protocol as the papers of M2D and AAPE use it: embeddings standardised on the training clips, Adam,
cross entropy (multi-label: binary cross entropy), early stopping on the validation score, best epoch kept.
"""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxdissect.errors import InputError

EPSILON = 1e-5  # added to the variance, as by PyTorch's BatchNorm1d
LARGEST_FEATURE = 1e18  # of an embedding: float32 holds its square, and sums of them


@dataclasses.dataclass(frozen=True)
class ProbeRule:
    """How a probe is trained.

    Attributes:
      learning_rate: of Adam; 3e-5 is the papers' for M2D.
      batch_size: clips of a step at most.
      epochs: passes over the training clips at most.
      patience: epochs without a better validation score after which training stops.

    Raises:
      InputError: a number is not positive.
    """

    learning_rate: float = 3e-5
    batch_size: int = 200
    epochs: int = 200
    patience: int = 20

    def __post_init__(self) -> None:
        for name, option in (
            ("batch_size", "--probe-batch-size"), ("epochs", "--epochs"), ("patience", "--patience"),
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{option} must be positive, got {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"--learning-rate must be a positive number, got {self.learning_rate}.")


@flax.struct.dataclass
class Head:
    """A linear head on a clip embedding: `(x - mean) / sqrt(variance + EPSILON) @ kernel + bias`.

    Attributes:
      mean, variance: of the training embeddings; float32 (feature).
      kernel: float32 (feature, class).
      bias: float32 (class).
    """

    mean: Any
    variance: Any
    kernel: Any
    bias: Any


@flax.struct.dataclass
class Probe:
    """A trained head and how it came to be; a pytree, with further axes in front where many were trained at once.

    Attributes:
      head: of the best epoch, a `Head`: (feature), (feature, class), (class).
      best_epoch: from 0; the head after it; int32 ().
      epochs: that were run; int32 ().
      valid_score: of the best epoch, accuracy or mean average precision from 0 to 1; float32 ().
    """

    head: Any
    best_epoch: Any
    epochs: Any
    valid_score: Any


def logits(head: Head, embeddings: Float[Array, "clip feature"]) -> Float[Array, "clip class"]:
    """What a head says of some clips.

    Args:
      head: one, without axes in front.
      embeddings: of the clips.
    """
    return jnp.matmul(_scaled(head.mean, head.variance, embeddings), head.kernel, precision="highest") + head.bias[None]


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
      embeddings: of all clips.
      members: classes of all clips.
      train, valid: which clips are trained on, at least one, and which decide when to stop.
      key: of the initial weights and the order of the clips.
      rule: how.
      multi_label: binary cross entropy and mean average precision, not cross entropy and accuracy.

    Returns:
      the head of the epoch with the best validation score: mean and variance (feature,), kernel (feature, class), bias
      (class,); scalars beside.
      Without a validation clip the score is -1, and the head is the initial one.
    """
    embeddings, labels = jnp.asarray(embeddings, jnp.float32), jnp.asarray(members).astype(jnp.float32)
    mean, variance = _moments(embeddings, train)
    scaled = jnp.where((train | valid)[:, None], _scaled(mean, variance, embeddings), 0)
    score = average_precision if multi_label else accuracy
    optimizer = optax.adam(rule.learning_rate)
    init_key, order_key = jax.random.split(key)
    features, classes = embeddings.shape[1], labels.shape[1]
    bound = features**-0.5  # PyTorch's Linear
    weights = jax.random.uniform(init_key, (features + 1, classes), minval=-bound, maxval=bound)
    params = {"kernel": weights[:-1], "bias": weights[-1]}

    def outputs(params: Any, rows: Any) -> Any:
        return jnp.matmul(rows, params["kernel"], precision="highest") + params["bias"][None]

    def epoch(carry: Any) -> Any:
        now, optimizer_state, best, number, best_number, best_score = carry
        key = jax.random.fold_in(order_key, number)
        now, optimizer_state = _epoch(
            now, optimizer_state, optimizer, outputs, scaled, labels, train, key, rule, multi_label
        )
        found = score(outputs(now, scaled), labels > 0, valid)
        better = found > best_score
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)
        return (
            now, optimizer_state, best, number + 1, jnp.where(better, number, best_number),
            jnp.where(better, found, best_score),
        )  # fmt: skip

    def going(carry: Any) -> Any:
        _, _, _, number, best_number, _ = carry
        return (number < rule.epochs) & (number - best_number <= rule.patience)

    start = (params, optimizer.init(params), params, 0, 0, jnp.float32(-1))
    _, _, best, number, best_number, best_score = jax.lax.while_loop(going, epoch, jax.tree.map(jnp.asarray, start))
    return Probe(Head(mean, variance, best["kernel"], best["bias"]), best_number, number, best_score)


def _epoch(
    params: Any, state: Any, optimizer: Any, outputs: Any, scaled: Any, labels: Any, train: Any, key: Any,
    rule: ProbeRule, multi_label: bool,
) -> Any:  # fmt: skip
    """One pass over the training clips in a random order; batches that hold none of them change nothing."""
    clips = len(scaled)
    order = jnp.argsort(jnp.where(train, jax.random.uniform(key, (clips,)), 2.0))
    batch = min(rule.batch_size, clips)
    steps = -(-clips // batch)
    order = jnp.pad(order, (0, steps * batch - clips), constant_values=clips).reshape(steps, batch)
    train = jnp.append(train, False)

    def loss(params: Any, rows: Any, weight: Any) -> Any:
        wanted = labels[jnp.minimum(rows, clips - 1)]
        found = outputs(params, scaled[jnp.minimum(rows, clips - 1)])
        if multi_label:
            losses = optax.sigmoid_binary_cross_entropy(found, wanted).mean(axis=1)
        else:
            losses = optax.softmax_cross_entropy(found, wanted)
        return (losses * weight).sum() / jnp.maximum(weight.sum(), 1)

    def step(carry: Any, rows: Any) -> Any:
        params, state = carry
        weight = train[rows].astype(jnp.float32)
        gradient = jax.grad(loss)(params, rows, weight)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of an int
            updates, new_state = optimizer.update(gradient, state, params)
        new = (optax.apply_updates(params, updates), new_state)
        return jax.tree.map(lambda new, old: jnp.where(weight.any(), new, old), new, carry), None

    return jax.lax.scan(step, (params, state), order)[0]


def accuracy(
    scores: Float[Array, "clip class"], members: Bool[Array, "clip class"], chosen: Bool[Array, " clip"]
) -> Float[Array, ""]:
    """Share of the chosen clips whose highest score is of a class of theirs."""
    hit = jnp.take_along_axis(members, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    return (hit & chosen).sum() / chosen.sum()


def average_precision(
    scores: Float[Array, "clip class"], members: Bool[Array, "clip class"], chosen: Bool[Array, " clip"]
) -> Float[Array, ""]:
    """Mean over the classes that have a chosen clip of the average precision (scikit-learn's, ties as one step)."""
    each = class_average_precision(scores, members, chosen)
    return jnp.nanmean(each)


def class_average_precision(
    scores: Float[Array, "clip class"], members: Bool[Array, "clip class"], chosen: Bool[Array, " clip"]
) -> Float[Array, " class"]:
    """Average precision of every class over the chosen clips; NaN for a class that none of them belongs to."""

    def one(score: Any, positive: Any) -> Any:
        order = jnp.argsort(jnp.where(chosen, -score, jnp.inf))
        ranked, positive = jnp.where(chosen, score, -jnp.inf)[order], (positive & chosen)[order]
        hits = jnp.cumsum(positive)
        place = jnp.arange(len(ranked))
        last_of_tie = jnp.append(ranked[1:] != ranked[:-1], True)
        end = jax.lax.cummin(jnp.where(last_of_tie, place, len(ranked)), reverse=True)
        precision = hits[end] / (end + 1)
        total = positive.sum().astype(jnp.float32)
        return jnp.where(total > 0, jnp.where(positive, precision, 0.0).sum() / jnp.maximum(total, 1), jnp.nan)

    return jax.vmap(one, in_axes=(1, 1))(scores, members)


def _moments(embeddings: Any, chosen: Any) -> Any:
    chosen = chosen[:, None]
    count = jnp.maximum(chosen.sum(), 1).astype(jnp.float32)
    mean = jnp.where(chosen, embeddings, 0).sum(axis=0) / count
    return mean, jnp.square(jnp.where(chosen, embeddings - mean[None], 0)).sum(axis=0) / count


def _scaled(mean: Any, variance: Any, embeddings: Any) -> Any:
    return (embeddings - mean[None]) / jnp.sqrt(variance + EPSILON)[None]


def held_out(
    members: Bool[np.ndarray, "clip class"], train: Bool[np.ndarray, " clip"], share: float, seed: int
) -> Bool[np.ndarray, " clip"]:
    """A validation part of the training clips: a share of them, drawn so that every class is present.

    A class with a single training clip stays wholly in training. Where clips have several labels, a class may be absent
    because each clip of its own would take another class's last training clip. Clips are drawn one by one: two clips
    cut from one recording may fall on both sides, as in EVAR; a table's own `valid` split can prevent that.

    Args:
      members: classes of all clips.
      train: clips to draw from.
      share: of them, at least one clip.
      seed: of the order in which they are drawn.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.flatnonzero(train))
    wanted = max(1, round(share * len(order)))
    left = members[train].sum(axis=0)
    have = np.zeros(members.shape[1], int)
    valid, taken = np.zeros(len(train), bool), 0
    for must in (True, False):  # first a clip of every class, then any
        for clip in order:
            missing = (have == 0) & (left > 1)
            if not missing.any() if must else taken >= wanted:
                break
            classes = members[clip]
            if valid[clip] or (must and not (classes & missing).any()) or (left[classes] < 2).any():
                continue
            valid[clip], taken = True, taken + 1
            have += classes
            left = left - classes
    return valid
