"""Streams a task's clips through many edits, and collects the verdicts of linear probes on them.

Silencing asks whether neurons are needed for a class. Patching asks whether they are enough. A clip of the class is the
donor, and a clip of another class is the recipient. The recipient's activations in some neurons are replaced by the
donor's. The recipient is then judged by the donor's class.

Source of patching: Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation Analysis" (NeurIPS
2020); pairs by class are not from there.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSet, Sequence
from typing import TypedDict, TypeVar
from weakref import WeakSet

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from jaxdissect.ablation.edits import Chunk, Edit, plan
from jaxdissect.ablation.engine import (
    UNTOUCHED,
    BatchVerdicts,
    Heads,
    LayerByLayer,
    Members,
    WholeEncoder,
    runner_of,
)
from jaxdissect.ablation.verdicts import Verdicts
from jaxdissect.encoder.protocol import Encoder, LayeredEncoder, Variables, module_input, variables_on
from jaxdissect.errors import require
from jaxdissect.probe.judge import Judge
from jaxdissect.runtime.profiling import step_done
from jaxdissect.runtime.sharding import local_mesh, replicate, shard_clips
from jaxdissect.tasks.loader import Batch, device_batches
from jaxdissect.tasks.table import Task

# Clips x edits that run together on a device. A CPU is fastest while a layer's activations stay in its cache.
ROWS_ON_CPU, ROWS_ON_ACCELERATOR = 16, 256

# Largest difference between two ways of running an edit: shares of what the edit changes, and of the largest margin.
TOLERATED, TOLERATED_BFLOAT16 = (0.01, 1e-5), (0.25, 0.01)
# Encoders whose layers, run one by one, were found to give what the whole encoder gives.
_COMPARED: MutableSet[Encoder] = WeakSet()

T = TypeVar("T")


class Running(TypedDict, total=False):
    """How edits are run: optional arguments of `judge_edits`, which describes them, for functions that pass them on."""

    batch_size: int
    at_once: int | None
    devices: Sequence[jax.Device] | None
    progress: Callable[[int], object]
    recipients: Int[np.ndarray, " clip"] | None


class ClipVerdicts:
    """Verdicts on every clip under every edit, which come in batch by batch.

    Attributes:
      clips, edits: number of clips of the task, and of edits.
      position: clips that have been judged under all edits, from the first on.
      passes: clips x edits that have been judged.
      verdicts: verdicts of each label set, arrays (1 + edits, clips, ...). Row 0 is the untouched encoder's, and NaN
        marks what has not been judged.
      usable: which clips could be read and have a finite embedding in the untouched encoder.
      reasons: why a judged clip is not usable, by its number.
    """

    def __init__(self, clips: int, edits: int) -> None:
        """Nothing judged yet.

        Args:
          clips: number of clips of the task.
          edits: number of edits to judge them under.
        """
        self.clips, self.edits, self.position, self.passes = clips, edits, 0, 0
        self.verdicts: dict[str, Verdicts] = {}
        self.usable, self.reasons = np.zeros(clips, bool), dict[int, str]()

    @property
    def before(self) -> dict[str, Verdicts]:
        """Verdicts of each label set on the untouched encoder, with an axis `edit` of length 1."""
        return self._rows(slice(0, 1))

    @property
    def after(self) -> dict[str, Verdicts]:
        """Verdicts of each label set under the edits, in their order."""
        return self._rows(slice(1, None))

    def put(self, batch: Batch, numbers: Sequence[int], judged: BatchVerdicts) -> None:
        """Add the verdicts on a batch.

        Args:
          batch: the clips.
          numbers: numbers of the edits, or `UNTOUCHED`.
          judged: verdicts on the devices, (edit, clip, ...), perhaps with padding behind either axis.
        """
        verdicts, finite = jax.device_get(judged)  # waits until they are computed
        count = len(batch.statuses)
        # Rows (edit, 1) and columns (1, clip); the number of `UNTOUCHED`, -1, gives row 0.
        place = np.array(numbers)[:, None] + 1, batch.clip[None, :count]
        for name, parts in verdicts.items():
            if name not in self.verdicts:  # now the shapes are known
                self.verdicts[name] = jax.tree.map(
                    lambda part: np.full((1 + self.edits, self.clips, *part.shape[2:]), np.nan, np.float32), parts
                )
            for collected, new in zip(jax.tree.leaves(self.verdicts[name]), jax.tree.leaves(parts), strict=True):
                collected[place] = new[: len(numbers), :count]
        # What can be used is decided by the untouched encoder, so that an edit cannot remove clips from its own test.
        if numbers != [UNTOUCHED]:
            self.passes += len(numbers) * count
            return
        readable = batch.members[:, -1]  # the loader's last class holds all clips that could be read
        for row, status in enumerate(batch.statuses):
            clip = int(batch.clip[row])
            self.usable[clip] = readable[row] and finite[0, row]
            if not self.usable[clip]:
                self.reasons[clip] = "its embedding is not finite" if readable[row] else status.reason

    def _rows(self, rows: slice) -> dict[str, Verdicts]:
        return {name: jax.tree.map(lambda leaf: leaf[rows], parts) for name, parts in self.verdicts.items()}


def judge_edits(
    encoder: Encoder,
    task: Task,
    judges: Mapping[str, Judge],
    edits: Sequence[Edit],
    shape: tuple[int, int],
    batch_size: int = 4,
    at_once: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int], object] = lambda passes: None,
    so_far: ClipVerdicts | None = None,
    between: Callable[[], None] = lambda: None,
    recipients: Int[np.ndarray, " clip"] | None = None,
) -> ClipVerdicts:
    """Run every clip under every edit, and judge it.

    Args:
      encoder: any `Encoder`.
      task: the clips.
      judges: judge of each label set.
      edits: what is changed, each in its own pass.
      shape: layers, and neurons per layer, of the encoder.
      batch_size: clips per device and step.
      at_once: edits that run together; default: so many that they make 16 rows with the clips of a CPU, 256 with those
        of an accelerator.
      devices: devices to split the clips over; default: all of this process.
      progress: called with the number of passes finished, one for every clip and edit.
      so_far: verdicts to resume from, to which the others are added; default: none.
      between: called after each batch of clips, when `so_far` is complete up to its position.
      recipients: for patching, the number of each donor's recipient; every clip is once the donor, and its classes
        judge the recipient. Default: no patching, every clip is changed itself.

    Raises:
      InputError: `batch_size` or `at_once` is not positive, or there are several processes.
    """
    require(batch_size >= 1, f"batch_size must be positive, got {batch_size}.")
    require(at_once is None or at_once >= 1, f"at_once must be positive, got {at_once}.")
    require(jax.process_count() == 1, f"Ablation runs in one process, got {jax.process_count()}.")
    # The mesh splits the clips of a batch; edits are not split, so that devices need not exchange anything.
    mesh = local_mesh(devices)
    batch_size = min(batch_size, -(-len(task) // mesh.size))  # no more than the task fills
    rows_together = ROWS_ON_CPU if mesh.devices.flat[0].platform == "cpu" else ROWS_ON_ACCELERATOR
    chunks = plan(edits, at_once or max(1, rows_together // batch_size))
    runner = runner_of(encoder, {name: judge.multi_label for name, judge in judges.items()}, shape, mesh)
    variables = variables_on(encoder, mesh)
    heads = replicate({name: judge.head for name, judge in judges.items()}, mesh)
    # Batches start where the saved state ends; chunks are always all judged on a batch before its position is counted.
    collected = so_far or ClipVerdicts(len(task), len(edits))
    rest = np.arange(collected.position, len(task))
    for batch, pcm, donor_pcm in _batches(task, encoder, batch_size * mesh.size, mesh, rest, recipients):
        rows = np.maximum(batch.clip, 0)  # padding has the number -1, and takes the first clip's classes
        members = shard_clips({name: judge.members[rows] for name, judge in judges.items()}, mesh)
        if isinstance(runner, LayerByLayer) and not _was_compared(encoder):
            require_layers(runner, variables, heads, pcm, members, mesh)
            with contextlib.suppress(TypeError):  # an encoder that cannot be referred to weakly
                _COMPARED.add(encoder)
        for numbers, judged in _one_behind(runner.run(variables, heads, pcm, members, chunks, donor_pcm)):
            collected.put(batch, numbers, judged)
            progress(collected.passes)
            step_done()
        collected.position += len(batch.statuses)
        between()
    return collected


def require_layers(
    runner: LayerByLayer,
    variables: Variables,
    heads: Heads,
    pcm: Array,
    members: Members,
    mesh: Mesh,
) -> None:
    """Refuse an encoder whose layers, run one by one, do not give what the encoder as a whole gives under an edit.

    Half of the neurons of the first and the last layer are silenced, in both ways.

    Args:
      runner: runner of the layers.
      variables, heads, pcm, members, mesh: as for its `run`; a batch of clips.

    Raises:
      InputError: the verdicts differ by more than rounding.
    """
    encoder, layers = runner.encoder, len(runner.encoder.layer_variables(variables))
    chosen = np.random.default_rng(0).random((layers, runner.neurons)) < 0.5
    chosen[1:-1] = False
    layer, neuron = np.nonzero(chosen if chosen.any() else ~chosen)
    chunk = Chunk([0], [Edit(layer, neuron, 0.0, np.zeros(len(layer), np.float32))], rows=1)
    given = variables, heads, pcm, members, [chunk]
    whole = WholeEncoder(encoder, runner.multi_label, (layers, runner.neurons), mesh)
    margins = np.array([_margins(one.run(*given)) for one in (runner, whole)])  # (way, edit or untouched, clip)
    margins = margins[..., np.isfinite(margins).all(axis=(0, 1))]  # not of clips without a class
    if not margins.size:
        return
    change, largest = np.abs(margins[1, 0] - margins[1, 1]).max(), np.abs(margins[1, 1]).max()
    of_change, of_largest = TOLERATED_BFLOAT16 if _computes_in_bfloat16(encoder, variables, pcm) else TOLERATED
    for number, what in ((1, "untouched"), (0, "under an edit")):
        error = np.abs(margins[0, number] - margins[1, number]).max()
        require(
            bool(error <= of_change * change + of_largest * largest),
            f"{encoder.name}: run layer by layer, {what}, the encoder gives other margins than its whole module does. "
            f"They differ by {error:.3g} logits, and the edit itself changes them by {change:.3g}. There are two "
            f"possible causes. `enter`, the layers and `leave` do not give what the module gives. Or a norm (as in "
            f"post-norm layers), a scale, a gate or dropout comes after the neurons' output, which is then not simply "
            f"added to the layer's output. In the second case name the module to whose output the neurons add in "
            f"`outgoing_module`, or let `outgoing_weights` return None. See docs/encoders.md.",
        )


def _margins(judged: Iterable[tuple[Sequence[int], BatchVerdicts]]) -> list[np.ndarray]:
    """All margins under the edit, then those of the untouched pass."""
    of_passes = [jax.device_get(verdicts) for _, (verdicts, _) in judged]
    return [np.concatenate([part.margin.ravel() for part in one.values()]) for one in of_passes]


def _computes_in_bfloat16(encoder: LayeredEncoder, variables: Variables, pcm: Array) -> bool:
    """Whether the states between layers are of less than 32 bits."""
    states = jax.eval_shape(lambda *given: encoder.enter(given[0], module_input(encoder, *given)), variables, pcm)
    return any(state.dtype.itemsize < 4 for state in states)


def draw_recipients(task: Task, judges: Mapping[str, Judge], seed: int) -> Int[np.ndarray, " clip"]:
    """For every clip, as a donor, the number of a random clip that has none of its classes in any label set.

    Args:
      task: the clips.
      judges: judge of each label set, which knows the classes.
      seed: seed of the draws.

    Raises:
      InputError: every other clip has a class of some clip.
    """
    members = np.concatenate([judge.members for judge in judges.values()], axis=1).astype(np.float32)
    rng = np.random.default_rng(seed)
    recipients = np.zeros(len(members), np.int64)
    for clip, own in enumerate(members):
        others = np.flatnonzero(members @ own == 0)
        others = others[others != clip]  # a clip without a class shares none with itself
        require(
            len(others) > 0,
            f"Patching needs a clip that shares no class with {task.file_names[clip]!r} in any of the label sets "
            f"{', '.join(judges)}, and the test split has none: count with fewer label sets.",
        )
        recipients[clip] = rng.choice(others)
    return recipients


def _was_compared(encoder: Encoder) -> bool:
    """Whether the layers of an encoder were compared before."""
    with contextlib.suppress(TypeError):  # an encoder that has no hash is compared each time
        return encoder in _COMPARED
    return False


def _batches(
    task: Task,
    encoder: Encoder,
    batch_size: int,
    mesh: Mesh,
    clips: Int[np.ndarray, " chosen"],
    recipients: Int[np.ndarray, " clip"] | None,
) -> Iterator[tuple[Batch, Array, Array | None]]:
    """Batches of clips, each with the PCM to change and that of the donors; without recipients there are no donors."""
    stream = functools.partial(device_batches, task, encoder.sample_rate, batch_size, mesh)
    if recipients is None:
        for batch, arrays in stream(clips):
            yield batch, arrays["pcm"], None
        return
    for (donors, of_donors), (changed, of_changed) in zip(stream(clips), stream(recipients[clips]), strict=True):
        yield _paired_batch(donors, changed), of_changed["pcm"], of_donors["pcm"]


def _paired_batch(donors: Batch, recipients: Batch) -> Batch:
    """The batch of donors; a donor counts as unreadable, too, if its recipient cannot be read.

    Args:
      donors, recipients: clips in pairs, row by row.
    """
    readable = recipients.members[:, -1]
    statuses = list(donors.statuses)
    for row, recipient in enumerate(recipients.statuses):
        if statuses[row].status != "unreadable" and not readable[row]:
            reason = f"its recipient cannot be read: {recipient.reason}"
            statuses[row] = dataclasses.replace(statuses[row], status="unreadable", reason=reason)
    return dataclasses.replace(donors, members=donors.members & readable[:, None], statuses=tuple(statuses))


def _one_behind(started: Iterable[T]) -> Iterator[T]:
    """The same items, each only when the next one has been started.

    So the host collects the verdicts on one chunk while the devices are busy with the next.
    """
    waiting: list[T] = []
    for item in started:
        yield from waiting
        waiting = [item]
    yield from waiting
