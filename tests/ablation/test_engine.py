"""Many edits at once against one at a time, in other ways of running, and in another framework."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from foreign import IntegerEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from linen_models import with_rows
from noises import CLIPS, CONFIG, FEATURES, SHAPE, clip_samples, random_judge
from tolerances import assert_within
from torch_reference import random_state, reference_model

from jaxdissect import InputError, LayeredEncoder, load_task
from jaxdissect.ablation import engine, stream
from jaxdissect.ablation.edits import Edit
from jaxdissect.ablation.stream import judge_edits


@dataclasses.dataclass(frozen=True)
class Hidden:
    """An encoder that does not tell how it is layered."""

    layered: object

    def __getattr__(self, name):
        if name in ("layer", "layer_neurons", "layer_variables", "outgoing_weights", "enter", "leave"):
            raise AttributeError(name)
        return getattr(self.layered, name)


def random_edits(number, *, shape=SHAPE, seed=0, most=20):
    rng = np.random.default_rng(seed)
    edits = []
    for gain in (0.0, 0.5, 2.0, -1.0, 0.0) * (number // 5 + 1):
        first = rng.integers(shape[0])
        flat = rng.choice(np.arange(first * shape[1], shape[0] * shape[1]), rng.integers(1, most), replace=False)
        offset = rng.normal(size=len(flat)).astype(np.float32) * (len(edits) % 5 == 4)
        edits.append(Edit(flat // shape[1], flat % shape[1], gain, offset))
    return edits[:number]


@pytest.fixture
def judges(task):
    return {labels.name: random_judge(FEATURES, labels.table(), seed=len(labels.name)) for labels in task.label_sets}


def margins(judged):
    return np.concatenate([judged.after[name].margin for name in sorted(judged.after)], axis=1)


def slow_margins(logits, members):
    """(probe, clip, class) -> (clip): the true class's logit less the best other, mean over probes; in loops."""
    result = np.zeros(logits.shape[1])
    for clip, row in enumerate(members):
        (true,) = np.flatnonzero(row)
        result[clip] = np.mean([probe[clip, true] - np.delete(probe[clip], true).max() for probe in logits])
    return result


def head_logits(head, embeddings):
    scaled = (embeddings[None] - head.mean[:, None]) / np.sqrt(head.variance + 1e-5)[:, None]
    return scaled @ head.kernel + head.bias[:, None]


def test_judge_edits_equals_scaled_rows_of_the_second_matrix(encoder, task, judges):
    """Gains other than one scale the rows; offsets are not covered by this equality and come below."""
    edits = [dataclasses.replace(edit, offset=np.zeros(len(edit.layer))) for edit in random_edits(12)]
    judged = judge_edits(encoder, task, judges, edits, SHAPE, batch_size=4, at_once=3)
    assert judged.usable.all()
    pcm = np.stack([clip_samples(clip) for clip in range(CLIPS)])
    inputs = encoder.front_end(encoder.variables, jnp.asarray(pcm))
    for number, edit in enumerate(edits):
        gains = np.ones(SHAPE, np.float32)
        gains[edit.layer, edit.neuron] = edit.gain
        output = encoder.module.apply({"params": with_rows(encoder.variables["params"], gains)}, inputs)
        embeddings = np.asarray(encoder.embed(output), np.float64)
        for labels in task.label_sets:
            wanted = slow_margins(head_logits(judges[labels.name].head, embeddings), labels.table())
            error = np.abs(judged.after[labels.name].margin[number] - wanted).max()
            assert_within("margin under an edit against edited weights, logits", error)


def test_judge_edits_layer_by_layer_equals_whole_runs(encoder, task, judges):
    edits = random_edits(12, seed=1)
    hidden = Hidden(encoder)
    assert isinstance(encoder, LayeredEncoder)
    assert not isinstance(hidden, LayeredEncoder)
    resumed = judge_edits(encoder, task, judges, edits, SHAPE)
    whole = judge_edits(hidden, task, judges, edits, SHAPE)
    error = np.abs(margins(resumed) - margins(whole)).max()
    assert_within("margin, resumed against whole, logits", error)
    for name in judges:
        np.testing.assert_array_equal(resumed.after[name].correct, whole.after[name].correct)


@pytest.mark.parametrize(
    "how",
    [{"at_once": 1, "batch_size": 1}, {"at_once": 5}, {"batch_size": 7, "at_once": 64}, {"devices": 2}, {"devices": 8}],
)
def test_judge_edits_is_the_same_by_any_chunks_batches_and_devices(encoder, task, judges, how):
    edits = random_edits(11, seed=2)
    how = {**how, "devices": jax.devices()[: how.get("devices", 1)]}
    reference = judge_edits(encoder, task, judges, edits, SHAPE, batch_size=2, at_once=2, devices=jax.devices()[:1])
    result = judge_edits(encoder, task, judges, edits, SHAPE, **how)
    assert_within("margin, many at once against few, logits", np.abs(margins(result) - margins(reference)).max())
    one_by_one = [judge_edits(encoder, task, judges, [edit], SHAPE, devices=jax.devices()[:1]) for edit in edits[:3]]
    for number, alone in enumerate(one_by_one):
        error = np.abs(margins(alone)[0] - margins(result)[number]).max()
        assert_within("margin, many at once against few, logits", error)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 999), st.permutations(range(6)))
def test_judge_edits_in_exact_arithmetic_is_the_same_in_any_order(integer_task, seed, order):
    encoder, task = IntegerEncoder(), integer_task
    judge = {"label": random_judge(16, task.label_sets[0].table(), seed=seed)}
    edits = [
        dataclasses.replace(edit, gain=round(edit.gain), offset=np.round(edit.offset))
        for edit in random_edits(6, shape=(2, 12), seed=seed, most=5)
    ]
    result = judge_edits(encoder, task, judge, edits, (2, 12), batch_size=2, at_once=6, devices=jax.devices()[:1])
    shuffled = judge_edits(
        encoder, task, judge, [edits[number] for number in order], (2, 12), batch_size=1, at_once=2,
        devices=jax.devices()[:4],
    )  # fmt: skip
    np.testing.assert_array_equal(result.after["label"].correct[list(order)], shuffled.after["label"].correct)
    scale = np.abs(margins(result)).max()
    error = np.abs(margins(result)[list(order)] - margins(shuffled)).max() / scale
    assert_within("margin of exact embeddings in another order, relative", error)


@pytest.fixture(scope="module")
def integer_task(tmp_path_factory):
    import soundfile

    folder = tmp_path_factory.mktemp("integers")
    rows = ["file_name,label,split"]
    for clip in range(5):
        samples = np.random.default_rng(clip).uniform(-0.5, 0.5, 1600).astype(np.float32)
        soundfile.write(folder / f"{clip}.wav", samples, 16000, subtype="FLOAT")
        rows.append(f"{clip}.wav,{'ab'[clip % 2]},test")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return load_task(str(folder / "t.csv"), unit_seconds=0.1)


def test_judge_edits_equals_torch_with_hooks(encoder, task, judges):
    """Waveform to verdict is tested elsewhere; here from the spectrogram, with transformers' ViT and its hooks."""
    state = random_state(CONFIG, seed=4)
    edits = random_edits(4, seed=3)
    judged = judge_edits(encoder, task, judges, edits, SHAPE)
    pcm = np.stack([clip_samples(clip) for clip in range(CLIPS)])
    spectrogram = np.asarray(encoder.front_end(encoder.variables, jnp.asarray(pcm)))
    spectrogram = np.pad(spectrogram, ((0, 0), (0, 96 - spectrogram.shape[1]), (0, 0)))
    for number, edit in enumerate(edits):
        gain, offset = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
        gain[edit.layer, edit.neuron], offset[edit.layer, edit.neuron] = edit.gain, edit.offset
        model = reference_model(state, CONFIG, 48)
        for layer, *rows in zip(model.layers, torch.from_numpy(gain), torch.from_numpy(offset), strict=True):
            layer.mlp.activation_fn.register_forward_hook(lambda _m, _i, output, rows=rows: output * rows[0] + rows[1])
        frames = []
        for start in (0, 48):
            with torch.no_grad():
                image = torch.from_numpy(spectrogram[:, start : start + 48]).mT[:, None].contiguous()
                tokens = model(image).last_hidden_state.numpy()[:, 1:]
            frames.append(tokens.reshape(CLIPS, 2, 3, 32).swapaxes(1, 2).reshape(CLIPS, 3, 64))
        embeddings = np.concatenate(frames, axis=1).mean(axis=1, dtype=np.float64)
        for labels in task.label_sets:
            logits = head_logits(judges[labels.name].head, embeddings)
            error = np.abs(judged.after[labels.name].margin[number] - slow_margins(logits, labels.table())).max()
            assert_within("margin under an edit against torch, logits", error)
            hits = np.sum(logits.argmax(axis=2) == labels.table().argmax(axis=1), axis=0)
            np.testing.assert_array_equal(judged.after[labels.name].correct[number], hits)


def test_judge_edits_layer_by_layer_equals_whole_runs_in_bfloat16(encoder, task, judges):
    half = dataclasses.replace(encoder, dtype=jnp.bfloat16)
    edits = random_edits(5, seed=6)
    with jax.numpy_dtype_promotion("standard"):  # Flax's own LayerNorm promotes bfloat16 to float32
        resumed, whole = (judge_edits(one, task, judges, edits, SHAPE) for one in (half, Hidden(half)))
    scale = np.abs(margins(whole)).max()
    assert_within(
        "margin in bfloat16, resumed against whole, relative", np.abs(margins(resumed) - margins(whole)).max() / scale
    )


def test_judge_edits_reports_clips_that_cannot_be_read(encoder, task, judges):
    edits = random_edits(3)
    before = judge_edits(encoder, task, judges, edits, SHAPE)
    (task.data / "2.wav").write_bytes(b"no audio")
    after = judge_edits(encoder, task, judges, edits, SHAPE)
    assert after.usable.tolist() == [clip != 2 for clip in range(CLIPS)]
    assert "cannot be decoded" in after.reasons[2]
    assert set(after.reasons) == {2}
    kept = np.array([0, 1, 3, 4, 5, 6])
    np.testing.assert_allclose(
        before.after["label"].margin[:, kept], after.after["label"].margin[:, kept], rtol=1e-5, atol=1e-5
    )


def test_judge_edits_gives_no_margin_to_a_clip_of_no_class(encoder, task, judges):
    members = judges["label"].members.copy()
    members[3] = False
    judged = judge_edits(
        encoder, task, {"label": dataclasses.replace(judges["label"], members=members)}, random_edits(2), SHAPE
    )
    assert np.isnan(judged.after["label"].margin[:, 3]).all()
    assert np.isfinite(np.delete(judged.after["label"].margin, 3, axis=1)).all()
    assert judged.usable.all()


def test_judge_edits_reports_every_pass_once(encoder, task, judges):
    seen = []
    judge_edits(encoder, task, judges, random_edits(7), SHAPE, batch_size=2, at_once=3, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 7 * CLIPS


def test_layer_by_layer_runs_shared_layers_once(encoder, task, judges, monkeypatch):
    """The layers that run: once untouched, and behind the first touched layer only; the front end once per batch."""
    runs = {"entered": 0, "layers": 0}
    counted = engine.LayerByLayer

    class Counting(counted):
        def __init__(self, *given):
            super().__init__(*given)
            for name in ("run_layer", "observe_layer"):
                setattr(self, name, self.counted("layers", getattr(self, name)))
            for name in ("run_branches", "edit_branches"):
                setattr(self, name, self.counted("edited", getattr(self, name)))
            self.enter = self.counted("entered", self.enter)

        def counted(self, counter, function):
            def run(*given):
                rows = len(jax.tree.leaves(given[1])[0]) if counter == "edited" else 1
                runs[counter] = runs.get(counter, 0) + rows
                return function(*given)

            return run

    monkeypatch.setattr(engine, "LayerByLayer", Counting)
    monkeypatch.setattr(stream, "require_layers", lambda *_: None)
    edits = [Edit(np.array([layer]), np.array([n]), 0.0, np.zeros(1)) for layer in range(3) for n in range(4)]
    judge_edits(encoder, task, judges, edits, SHAPE, batch_size=7, at_once=4, devices=jax.devices()[:1])
    assert runs == {"entered": 1, "layers": 3, "edited": 4 * 2 + 4 * 1}


def test_layer_by_layer_programs_hold_no_collective(encoder):
    """Devices share nothing: each judges its own clips."""
    from jaxdissect.runtime.sharding import local_mesh, replicate, shard_clips

    mesh = local_mesh(jax.devices()[:4])
    runner = engine.LayerByLayer(encoder, {"label": False}, CONFIG.mlp, mesh)
    members = np.eye(3, dtype=bool)[np.arange(8) % 3]
    head = random_judge(FEATURES, members).head
    variables, heads = replicate((encoder.variables, {"label": head}), mesh)
    pcm, members = shard_clips((np.zeros((8, 14400), np.float32), {"label": members}), mesh)
    layer = encoder.layer_variables(variables)[0]
    states = runner.enter(variables, pcm)
    after, activations = runner.observe_layer(layer, states)
    edit = np.zeros((2, 4), np.int32), np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
    branches = runner.add(layer, states, after, activations, activations, *edit)
    dense = np.ones((2, 64), np.float32), np.zeros((2, 64), np.float32)
    compiled = [
        runner.enter.lower(variables, pcm),
        runner.run_layer.lower(layer, states),
        runner.observe_layer.lower(layer, states),
        runner.add.lower(layer, states, after, activations, activations, *edit),
        runner.edit_first.lower(layer, states, activations, *dense),
        runner.run_branches.lower(layer, branches),
        runner.edit_branches.lower(layer, branches, activations, *dense),
        runner.leave.lower(variables, heads, members, branches),
    ]
    for program in compiled:
        text = program.compile().as_text()
        assert not any(word in text for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"))
    for state in branches:
        assert state.sharding.shard_shape(state.shape)[:2] == (2, 2)


def test_layer_by_layer_memory_follows_the_edits_at_once(encoder, task, judges, monkeypatch):
    """The largest set of branches that lives is that of one chunk."""
    largest = []
    counted = engine.LayerByLayer

    class Watching(counted):
        def run(self, *given):
            for numbers, said in super().run(*given):
                alive = sum(array.nbytes for array in jax.live_arrays() if array.ndim == 5)
                largest.append(alive)
                yield numbers, said

    monkeypatch.setattr(engine, "LayerByLayer", Watching)
    peaks = {}
    for number, at_once in ((8, 4), (64, 4), (64, 8)):
        largest.clear()
        gc.collect()
        edits = [Edit(np.array([0]), np.array([n]), 0.0, np.zeros(1)) for n in range(number)]
        judge_edits(encoder, task, judges, edits, SHAPE, batch_size=4, at_once=at_once, devices=jax.devices()[:1])
        peaks[number, at_once] = max(largest)
    assert peaks[8, 4] == peaks[64, 4] > 0
    assert peaks[64, 8] > 1.5 * peaks[64, 4]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"at_once": 0}])
def test_judge_edits_needs_positive_numbers(encoder, task, judges, wrong):
    with pytest.raises(InputError, match="must be positive"):
        judge_edits(encoder, task, judges, random_edits(1), SHAPE, **wrong)
