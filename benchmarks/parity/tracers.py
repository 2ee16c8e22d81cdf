"""Every neuron of an encoder before and after GELU, computed by Flax or by PyTorch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import PyTree

from jaxdissect.encoder.families.m2d import M2D


class Trace(NamedTuple):
    """What one side has computed of a batch.

    Attributes:
      output: final tokens (clip, token, feature).
      before: neurons before GELU, one array (clip, token, neuron) per layer.
      after: neurons after GELU, likewise.
    """

    output: np.ndarray
    before: list[np.ndarray]
    after: list[np.ndarray]


def flax_tracer(
    encoder: M2D, device: jax.Device | None = None, default_precision: bool = False
) -> Callable[[np.ndarray], Trace]:
    """Run our encoder on inputs (clip, frame, band).

    Args:
      encoder: any encoder of M2D's family.
      device: device that computes; default: JAX's own.
      default_precision: linear layers multiply at the device's default precision, which float32 must not mean.
    """

    def dense(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> PyTree:
        if not (default_precision and isinstance(context.module, nn.Dense) and context.method_name == "__call__"):
            return call(*args, **kwargs)
        params = context.module.variables["params"]
        return jnp.matmul(args[0], params["kernel"], precision="default") + params["bias"]

    @jax.jit
    def run(params: PyTree, inputs: jax.Array) -> PyTree:
        with nn.intercept_methods(dense):
            return encoder.module.apply(
                {"params": params},
                inputs,
                mutable=["intermediates"],
                capture_intermediates=lambda module, _: module.name in ("fc1", "act"),
            )

    params = jax.device_put(encoder.variables["params"], device)

    def trace(inputs: np.ndarray) -> Trace:
        output, captured = jax.device_get(run(params, jax.device_put(inputs, device)))
        layers = [captured["intermediates"][f"blocks_{layer}"]["mlp"] for layer in range(encoder.config.depth)]
        before, after = ([join_calls(layer[name]["__call__"]) for layer in layers] for name in ("fc1", "act"))
        return Trace(join_calls(output), before, after)

    return trace


def join_calls(calls: Sequence[np.ndarray]) -> np.ndarray:
    """(clip, chunk, token, feature) of every call -> (clip, token, feature)."""
    return np.concatenate([part.reshape(len(part), -1, part.shape[-1]) for part in calls], axis=1)


def torch_tracer(
    model: torch.nn.Module,
    mlps: Sequence[torch.nn.Module],
    activation: str,
    output: Callable[[PyTree], Sequence[torch.Tensor]],
) -> Callable[[np.ndarray], Trace]:
    """Run a PyTorch model on inputs (clip, frame, band), with forward hooks.

    Args:
      model: takes (clip, 1, band, frame).
      mlps: MLP of every block, each with a linear layer `fc1`.
      activation: name of the activation module in an MLP.
      output: turns what the model returns into the final tokens of every chunk.
    """
    kept: dict[tuple[int, str], list[torch.Tensor]] = {}

    def keep(key: tuple[int, str]) -> Callable[..., None]:
        return lambda _module, _inputs, value: kept.setdefault(key, []).append(value)

    for layer, mlp in enumerate(mlps):
        for name in ("fc1", activation):
            getattr(mlp, name).register_forward_hook(keep((layer, name)))

    def trace(inputs: np.ndarray) -> Trace:
        kept.clear()
        with torch.inference_mode():
            parts = output(model(torch.from_numpy(inputs).mT[:, None].contiguous()))
        before, after = (
            [torch.cat(kept[layer, name], dim=1).numpy() for layer in range(len(mlps))] for name in ("fc1", activation)
        )
        return Trace(torch.cat(list(parts), dim=1).numpy(), before, after)

    return trace
