"""Compiles one program of the package for a device that need not be there, and prints its account as JSON.

`python -m benchmarks.speed.programs --target h200 --programs counting --blocks 3`, in the environment that
`benchmarks.speed.compiled` makes. That runs this in a process of its own for each target: a compiler that crashes stops
only its own process.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from benchmarks.speed.hlo_account import account
from benchmarks.speed.targets import TARGETS, Target
from jaxdissect.ablation.engine import LayerByLayer, WholeEncoder
from jaxdissect.activations import token_sums
from jaxdissect.audio.log_mel import m2d_front_end, mel_filters
from jaxdissect.audio.pcm import samples_as_float
from jaxdissect.counting import statistics, top_clips
from jaxdissect.counting.stream import CountOptions, counting_step
from jaxdissect.encoder.families import attention, blocks
from jaxdissect.encoder.families.m2d import M2D, NORM_STATS
from jaxdissect.encoder.families.vit import ViTConfig, init_vit, vit_config
from jaxdissect.probe.linear import Head
from jaxdissect.runtime.sharding import AXIS, local_mesh, map_clips, map_per_device
from jaxdissect.tasks.table import LabelSet, Task, make_task
from jaxdissect.training.msm_mae import MSMMAE
from jaxdissect.training.step import Schedule, init_state, train_step
from jaxdissect.types import Record

CLASSES = 50
LABELS = "class"
PROBES = 1
Size = Literal["tiny", "small", "base", "large", "giant"]
Programs = Callable[["Given"], jax.stages.Lowered]


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compile."""

    target: str
    programs: tuple[str, ...] = ("counting",)
    blocks: tuple[int, ...] = (1, 3)
    size: Size = "base"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    clips: int = 64  # of a batch, on each device
    edits: int = 8  # of an ablation's chunk
    seconds: float = 6.0  # length of a clip
    text: Path | None = None  # folder to write the programs into, to read them


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """An encoder without numbers, clips without samples, and the devices to compile for."""

    encoder: M2D
    task: Task
    mesh: Mesh
    clips: int
    edits: int

    def whole(self, tree: PyTree) -> PyTree:
        """Shapes of arrays that every device has."""
        return self._placed(tree, P())

    def split(self, tree: PyTree, axis: int = 0) -> PyTree:
        """Shapes of arrays whose clips are split over the devices."""
        return self._placed(tree, P(*[None] * axis, AXIS))

    def _placed(self, tree: PyTree, spec: P) -> PyTree:
        place = NamedSharding(self.mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    @property
    def pcm(self) -> jax.ShapeDtypeStruct:
        """Samples of a batch, 16 bits, on all devices together."""
        samples = round(self.task.unit_seconds * self.encoder.sample_rate)
        return jax.ShapeDtypeStruct((self.clips * self.mesh.size, samples), jnp.int16)

    @property
    def variables(self) -> PyTree:
        """Shapes of the encoder's variables on a device."""
        return jax.eval_shape(
            lambda variables: dataclasses.replace(self.encoder, variables=variables).device_variables,
            self.encoder.variables,
        )


def sizes(size: Size) -> ViTConfig:
    """A ViT of a named size; the largest has 1.1 billion parameters."""
    if size == "giant":
        return vit_config("large", width=1536, depth=40, heads=24, mlp=6144)
    return vit_config(size)


def given(options: Options, blocks: int, mesh: Mesh) -> Given:
    """An encoder of so many blocks, without weights."""
    config = dataclasses.replace(sizes(options.size), depth=blocks)
    front_end = m2d_front_end(16000, config.bands)
    constants = {"mel_filters": mel_filters(front_end), "norm_stats": np.asarray(NORM_STATS, np.float32)}
    params = jax.eval_shape(partial(init_vit, config), jax.random.key(0))
    variables = {"params": params, "front_end": constants}
    encoder = M2D("untrained", config, variables, jnp.dtype(options.dtype), log_mel=front_end)
    clips = options.clips * mesh.size
    names, members = [f"{number}.wav" for number in range(clips)], tuple((number % CLASSES,) for number in range(clips))
    labels = LabelSet(LABELS, tuple(map(str, range(CLASSES))), members)
    task = make_task("clips", Path(), options.seconds, names, ["train"] * clips, [None] * clips, [labels])
    return Given(encoder, task, mesh, options.clips, options.edits)


def front_end(of: Given) -> jax.stages.Lowered:
    """16-bit samples -> normalised log-mel."""

    def run(variables: PyTree, pcm: jax.Array) -> jax.Array:
        return of.encoder.front_end(variables, samples_as_float(pcm))

    return map_clips(run, of.mesh, (None, 0)).lower(of.whole(of.variables), of.split(of.pcm))


def encoder(of: Given) -> jax.stages.Lowered:
    """Samples -> embeddings of clips, without counting."""

    def run(variables: PyTree, pcm: jax.Array) -> jax.Array:
        output: Any = of.encoder.module.apply(variables, of.encoder.front_end(variables, samples_as_float(pcm)))
        return of.encoder.embed(output)

    return map_clips(run, of.mesh, (None, 0)).lower(of.whole(of.variables), of.split(of.pcm))


def counting(of: Given) -> jax.stages.Lowered:
    """The step of `activations`, as it runs by default: counts, and what every neuron did on every clip."""
    step = counting_step(of.encoder, of.task, CountOptions(), keep_clips=True)
    config, number = of.encoder.config, of.pcm.shape[0]
    counts = jax.eval_shape(partial(statistics.init, CLASSES, config.depth, config.mlp))
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((of.mesh.size, *leaf.shape), leaf.dtype), counts)
    batch = {
        "pcm": of.pcm,
        "samples": jax.ShapeDtypeStruct((number,), jnp.int32),
        "clip": jax.ShapeDtypeStruct((number,), jnp.int32),
        "members": jax.ShapeDtypeStruct((number, CLASSES + 1), jnp.bool_),
    }
    return map_per_device(step, of.mesh).lower(of.split(state), of.whole(of.variables), of.split(batch))


def ablation_whole(of: Given) -> jax.stages.Lowered:
    """A chunk of edits through the whole encoder."""
    config = of.encoder.config
    runner = WholeEncoder(of.encoder, {LABELS: False}, (config.depth, config.mlp), of.mesh)
    inputs = jax.eval_shape(of.encoder.front_end, of.variables, jax.ShapeDtypeStruct(of.pcm.shape, jnp.float32))
    gain = jax.ShapeDtypeStruct((of.edits, config.mlp), jnp.float32)
    gains = dict.fromkeys(range(config.depth), (gain, gain))
    return runner.run_edits.lower(
        of.whole(of.variables), of.whole(_heads(of)), of.split(inputs), of.split(_members(of)), of.whole(gains)
    )


def ablation_resumed(of: Given) -> jax.stages.Lowered:
    """A chunk of edits through one block, as it runs behind the layer in which the edits begin."""
    config = of.encoder.config
    runner = LayerByLayer(of.encoder, {LABELS: False}, config.mlp, of.mesh)
    pcm = jax.ShapeDtypeStruct(of.pcm.shape, jnp.float32)
    states = jax.eval_shape(
        lambda variables, samples: of.encoder.enter(variables, of.encoder.front_end(variables, samples)),
        of.variables,
        pcm,
    )
    branches = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((of.edits, *leaf.shape), leaf.dtype), states)
    (layer, *_) = of.encoder.layer_variables(of.variables)
    return runner.run_branches.lower(of.whole(layer), of.split(branches, axis=1))


def training(of: Given) -> jax.stages.Lowered:
    """A step of MSM-MAE's training, gradients and update."""
    objective, schedule = MSMMAE(of.encoder), Schedule(1000)
    state = jax.eval_shape(partial(init_state, objective, schedule, 0))
    pcm = jax.ShapeDtypeStruct((of.mesh.size, of.clips, of.pcm.shape[1]), jnp.int16)
    members = jax.ShapeDtypeStruct((of.mesh.size, of.clips, CLASSES), jnp.bool_)
    step: Any = train_step(objective, schedule, 0, of.mesh)  # jitted
    lowered: jax.stages.Lowered = step.lower(of.whole(state), of.split(pcm), of.split(members))
    return lowered


# The forms that a GPU takes in place of a processor's: where each is, and what takes its place without it.
LEVERS: dict[str, tuple[Any, str, Any]] = {
    "cudnn": (attention, "has_cudnn", lambda: False),
    "pairs": (token_sums, "in_pairs", token_sums.one_by_one),
    "sort": (top_clips, "_insert_together", top_clips._insert_one_by_one),
    "three_products": (blocks, "_three_products", blocks._one_product),
    "casts_ahead": (M2D, "device_variables", property(lambda encoder: encoder.variables)),
}


def counting_without(*levers: str) -> Programs:
    """The counting step without some of its levers."""

    def lower(of: Given) -> jax.stages.Lowered:
        with contextlib.ExitStack() as stack:
            for lever in levers:
                stack.enter_context(mock.patch.object(*LEVERS[lever]))
            return counting(of)

    return lower


def counting_with_kernel(of: Given) -> jax.stages.Lowered:
    """The counting step with sums over tokens by the kernel, which is not the default."""
    with mock.patch.object(token_sums, "KERNEL", True):
        return counting(of)


PROGRAMS: dict[str, Programs] = {
    one.__name__: one for one in (front_end, encoder, counting, ablation_whole, ablation_resumed, training)
}
WITHOUT: dict[str, Programs] = {
    "counting_without_all": counting_without(*LEVERS),
    **{f"counting_without_{lever}": counting_without(lever) for lever in LEVERS},
    "counting_with_kernel": counting_with_kernel,
}


def _heads(of: Given) -> PyTree:
    features = jax.eval_shape(
        of.encoder.embed,
        jax.eval_shape(
            of.encoder.module.apply,
            of.variables,
            jax.eval_shape(of.encoder.front_end, of.variables, jax.ShapeDtypeStruct(of.pcm.shape, jnp.float32)),
        ),
    ).shape[-1]
    mean = jax.ShapeDtypeStruct((PROBES, features), jnp.float32)
    return {
        LABELS: Head(
            mean,
            mean,
            jax.ShapeDtypeStruct((PROBES, features, CLASSES), jnp.float32),
            jax.ShapeDtypeStruct((PROBES, CLASSES), jnp.float32),
        )
    }


def _members(of: Given) -> PyTree:
    return {LABELS: jax.ShapeDtypeStruct((of.pcm.shape[0], CLASSES), jnp.bool_)}


def pretend_cudnn() -> None:
    """Let JAX make programs with cuDNN's kernels, which only the device needs to have."""
    import jax._src.cudnn.fused_attention_stablehlo as cudnn  # private: it asks this machine for its version of cuDNN

    cudnn.check_cudnn_version = lambda: 91000
    attention.has_cudnn = lambda: True


def mesh_of(target: Target) -> Mesh:
    """The devices of a target, which need not be there."""
    more: dict[str, Any] = {"target_config": target.description} if target.platform == "cuda" else {}
    name = {"topology": target.topology} if target.platform == "cuda" else {"topology_name": target.topology}
    return local_mesh(topologies.get_topology_desc(platform=target.platform, **name, **more).devices)


def compile_program(lowered: jax.stages.Lowered, text: Path | None) -> Record:
    """Compile, and account for what the program does on one device."""
    started = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    program = compiled.as_text() or ""
    if text is not None:
        text.write_text(program)
    memory: Any = compiled.memory_analysis()
    return {
        "compile_seconds": round(seconds, 2),
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        **vars(account(program)),
    }


def main() -> None:
    """Compile each program with each number of blocks; a line of JSON for each."""
    options = tyro.cli(Options, description=__doc__)
    if TARGETS[options.target].platform == "cuda":
        pretend_cudnn()
    mesh = mesh_of(TARGETS[options.target])
    for name in options.programs:
        for depth in options.blocks:
            of = given(options, depth, mesh)
            file = options.text and options.text / f"{options.target}-{name}-{options.dtype}-{depth}.txt"
            row = {"target": options.target, "program": name, "blocks": depth, "devices": mesh.size}
            print(json.dumps(row | compile_program((PROGRAMS | WITHOUT)[name](of), file)), flush=True)


if __name__ == "__main__":
    main()
