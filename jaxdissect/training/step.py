"""One step of a training, jitted over a mesh of devices, and the state that it changes.

All that is drawn at a step is a function of the seed and the step's number. So the state of a training is its
parameters, its optimiser and that number.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.errors import InputError
from jaxdissect.runtime.sharding import AXIS
from jaxdissect.training.objective import Objective, Params, is_weight


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How parameters move.

    Attributes:
      steps: updates in all.
      learning_rate: the highest, at the end of the warm-up.
      warm_up: share of the steps during which the rate rises from 0; then it falls to 0 along a cosine.
      weight_decay: of AdamW.
      clip_norm: gradients of a longer norm are scaled to it.
    """

    steps: int
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    weight_decay: float = 0.05
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"A training needs at least one step, got {self.steps}.")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"--learning-rate must be a positive number, got {self.learning_rate}.")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"--weight-decay must be a number, 0 or more, got {self.weight_decay}.")
        if not 0 <= self.warm_up < 1:
            raise InputError(f"--warm-up must be a share of the steps from 0 to below 1, got {self.warm_up}.")

    def rate(self, step: Any) -> Any:
        """Learning rate of a step, from 0."""
        warm_up = round(self.warm_up * self.steps)
        schedule = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warm_up, max(self.steps, warm_up + 1))
        with jax.numpy_dtype_promotion("standard"):
            return schedule(step)

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with the betas of masked autoencoders."""
        adamw = optax.adamw(self.rate, b1=0.9, b2=0.95, weight_decay=self.weight_decay, mask=is_weight)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: updates done so far, int32.
      params: of the objective.
      target: parameters of the target encoder; empty where the objective has none.
      optimizer: state of the optimiser.
    """

    step: Any
    params: Any
    target: Any
    optimizer: Any


def init_state(objective: Objective, schedule: Schedule, seed: int, encoder_params: Params | None = None) -> TrainState:
    """The state before the first step.

    Args:
      objective, schedule: what is trained, and how.
      seed: of the random weights.
      encoder_params: where the encoder starts; by default at random.
    """

    def build(encoder_params: Params | None) -> TrainState:
        params = objective.init(jax.random.fold_in(jax.random.key(seed), 0), encoder_params)
        target = {} if objective.ema is None else jax.tree.map(jnp.copy, params["encoder"])
        return TrainState(jnp.zeros((), jnp.int32), params, target, schedule.optimizer().init(params))

    return jax.jit(build)(encoder_params)


def train_step(
    objective: Objective, schedule: Schedule, seed: int, mesh: Mesh
) -> Callable[..., tuple[TrainState, Any]]:
    """A jitted `step(state, pcm, members) -> (state, metrics)`; the state is donated.

    A batch comes in parts, (part, clip, ...), split over the devices. The gradient is the mean over the parts, each
    with draws of its own, and so it is the same on any number of devices. One part after the other goes through a
    device: what a part keeps for its backward pass then fits the memory, and on a CPU the cache.

    Args:
      objective, schedule: what is trained, and how.
      seed: of all that is drawn.
      mesh: devices.

    Returns:
      a function of the state, `pcm` (part, clip, sample) int16 and `members` (part, clip, class) bool, the number of
      parts a multiple of the devices. Metrics are float32 scalars: `loss`, `gradient_norm` before clipping, and the
      objective's own.
    """
    optimizer = schedule.optimizer()

    def gradients_of(params: Params, target: Params, key: Any, number: Any, pcm: Any, members: Any) -> Any:
        loss_of = jax.value_and_grad(objective.loss, has_aux=True)
        wave = samples_as_float(pcm)
        (loss, metrics), gradients = loss_of(params, target, wave, members, jax.random.fold_in(key, number))
        return gradients, metrics | {"loss": loss}

    def over_parts(params: Params, target: Params, key: Any, number: Any, pcm: Any, members: Any) -> Any:
        def one(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradients_of(params, target, key, *part)), None

        shapes = jax.eval_shape(gradients_of, params, target, key, number[0], pcm[0], members[0])
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(one, nothing, (number, pcm, members))
        return jax.lax.psum(total, AXIS)

    split = jax.shard_map(
        over_parts, mesh=mesh, in_specs=(P(), P(), P(), P(AXIS), P(AXIS), P(AXIS)), out_specs=P(), check_vma=False
    )

    def step(state: TrainState, pcm: Any, members: Any) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.key(seed), state.step + 1)
        parts = len(pcm)
        total = split(state.params, state.target, key, jnp.arange(parts), pcm, members)
        gradients, metrics = jax.tree.map(lambda leaf: leaf / parts, total)
        with jax.numpy_dtype_promotion("standard"):  # which optax relies on
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        target = state.target
        if objective.ema is not None:
            first, last = objective.ema
            keep = first + (last - first) * state.step.astype(jnp.float32) / max(schedule.steps - 1, 1)
            target = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, target, params["encoder"])
        squares = [jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)]
        metrics = metrics | {"gradient_norm": jnp.sqrt(sum(squares))}
        return TrainState(state.step + 1, params, target, optimizer_state), metrics

    return jax.jit(step, donate_argnums=0)
