"""One step of a training, jitted over a mesh of devices, and the state that it changes.

All that is drawn at a step is a function of the seed and the step's number. So the state of a training is its
parameters, its optimiser and that number.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.runtime.sharding import AXIS
from jaxdissect.training.objective import Metrics, Objective, Params, is_weight


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How parameters move.

    Attributes:
      steps: number of updates in all, at least one.
      learning_rate: highest learning rate, at the end of the warm-up.
      warm_up: fraction of the steps during which the rate rises from 0; then it falls to 0 along a cosine.
      weight_decay: weight decay of AdamW.
      clip_norm: norm to which longer gradients are scaled.
    """

    steps: int
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    weight_decay: float = 0.05
    clip_norm: float = 1.0

    def rate(self, step: int | Array) -> Float[Array, ""]:
        """Learning rate of a step; steps are counted from 0."""
        warm_up = round(self.warm_up * self.steps)
        # optax wants one step of decay at least.
        schedule = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warm_up, max(self.steps, warm_up + 1))
        with jax.numpy_dtype_promotion("standard"):
            return schedule(step)

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with the betas of masked autoencoders."""
        # Biases, norms, tokens and positions are not shrunk.
        adamw = optax.adamw(self.rate, b1=0.9, b2=0.95, weight_decay=self.weight_decay, mask=is_weight)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: number of updates done so far, int32.
      params: parameters of the objective.
      target: parameters of the target encoder; empty where the objective has none.
      optimizer: state of the optimiser.
    """

    step: PyTree
    params: PyTree
    target: PyTree
    optimizer: PyTree


Step: TypeAlias = Callable[[TrainState, Array, Array], tuple[TrainState, Metrics]]


def init_state(objective: Objective, schedule: Schedule, seed: int, encoder_params: Params | None = None) -> TrainState:
    """The state before the first step.

    Args:
      objective, schedule: loss to train with, and schedule of the updates.
      seed: seed of the random weights.
      encoder_params: parameters that the encoder starts from; by default random ones.
    """

    def build(encoder_params: Params | None) -> TrainState:
        # Step 0 of the random keys; the updates take those from 1.
        params = objective.init(jax.random.fold_in(jax.random.key(seed), 0), encoder_params)
        # A copy: a step donates the state, and one array cannot be given away twice.
        target = {} if objective.ema is None else jax.tree.map(jnp.copy, params["encoder"])
        return TrainState(jnp.zeros((), jnp.int32), params, target, schedule.optimizer().init(params))

    return jax.jit(build)(encoder_params)


def train_step(objective: Objective, schedule: Schedule, seed: int, mesh: Mesh) -> Step:
    """A jitted `step(state, pcm, members) -> (state, metrics)`; the state is donated.

    A batch comes in parts, (part, clip, ...), split over the devices. The gradient is the mean over the parts, each
    with draws of its own, and so it is the same on any number of devices. One part after the other goes through a
    device: what a part keeps for its backward pass then fits the memory, and on a CPU the cache.

    Args:
      objective, schedule: loss to train with, and schedule of the updates.
      seed: seed of everything that is drawn.
      mesh: devices.

    Returns:
      a function of the state, `pcm` (part, clip, sample) int16 and `members` (part, clip, class) bool, the number of
      parts a multiple of the devices. Metrics are float32 scalars: `loss`, `gradient_norm` before clipping, and the
      objective's own.
    """
    optimizer = schedule.optimizer()
    loss_of = jax.value_and_grad(objective.loss, has_aux=True)

    # Sums over parts, not means: the division by the number of all parts comes once, at the end.
    def gradients_of(
        params: Params, target: Params, key: Array, number: Array, pcm: Array, members: Array
    ) -> tuple[Params, Metrics]:
        key = jax.random.fold_in(key, number)  # by the number of the part in the whole batch
        (loss, metrics), gradients = loss_of(params, target, samples_as_float(pcm), members, key)
        return gradients, metrics | {"loss": loss}

    def over_parts(
        params: Params, target: Params, key: Array, number: Array, pcm: Array, members: Array
    ) -> tuple[Params, Metrics]:
        def add_part(total: PyTree, part: tuple[Array, Array, Array]) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, gradients_of(params, target, key, *part)), None

        shapes = jax.eval_shape(gradients_of, params, target, key, number[0], pcm[0], members[0])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add_part, zeros, (number, pcm, members))
        return jax.lax.psum(total, AXIS)

    # The sum over the parts of all devices; parameters and keys are whole on each.
    summed = jax.shard_map(
        over_parts, mesh=mesh, in_specs=(P(), P(), P(), P(AXIS), P(AXIS), P(AXIS)), out_specs=P(), check_vma=False
    )

    def step(state: TrainState, pcm: Array, members: Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step + 1)
        parts = len(pcm)  # of all devices
        total = summed(state.params, state.target, key, jnp.arange(parts), pcm, members)
        gradients, metrics = jax.tree.map(lambda leaf: leaf / parts, total)
        with jax.numpy_dtype_promotion("standard"):  # which optax relies on
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        target = state.target
        if objective.ema is not None:
            first, last = objective.ema
            keep = first + (last - first) * state.step.astype(jnp.float32) / max(schedule.steps - 1, 1)
            # keep x target + (1 - keep) x encoder: the target takes the place of optax's new tensors.
            target = optax.incremental_update(target, params["encoder"], keep)
        metrics = metrics | {"gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, params, target, optimizer_state), metrics

    return jax.jit(step, donate_argnums=0)
