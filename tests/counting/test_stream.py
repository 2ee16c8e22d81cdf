"""The streaming pass: equal to a slow loop over clips, whatever the batches, devices, padding and bad files."""

import jax
import numpy as np
import pytest
import soundfile
from foreign import HOP, IntegerEncoder

from jaxdissect import CountOptions, InputError, ViTConfig, collect_activations, load_task, untrained_m2d
from jaxdissect.audio.decode import read_clip
from jaxdissect.counting.clip_store import empty_clip_store
from jaxdissect.counting.labelled import label_activations
from jaxdissect.counting.statistics import flush, init
from jaxdissect.counting.stream import count_clips, counting_step, neuron_shape
from jaxdissect.runtime.sharding import local_mesh, map_per_device, per_device, shard_clips

CLIPS = 21
SECONDS = 0.2
SAMPLES = 3200


@pytest.fixture
def task(data_folder):
    """Clips of three classes and two places: whole, short, silent, and one that cannot be read."""
    rows = ["file_name,label,place,split"]
    for number in range(CLIPS):
        random = np.random.default_rng(number)
        length = {4: 1700, 9: 350}.get(number, SAMPLES + 100)
        loud = np.where(np.arange(length) < length // 2, 0.5, 1e-4 if number % 2 else 0.1)
        samples = np.zeros(length) if number == 7 else random.uniform(-1, 1, length) * loud
        data_folder.write(f"{number}.wav", samples, subtype="FLOAT")
        rows.append(f'{number}.wav,"{"abc"[number % 3]}{",c" if number % 5 == 0 else ""}",{"xy"[number % 2]},train')
    (data_folder.path / "11.wav").write_bytes(b"no audio")
    path = data_folder.table("task.csv", "\n".join(rows) + "\n")
    return load_task(str(path), label=["label", "place"], unit_seconds=SECONDS, multi_label=True)


def slow_mask(kind, pcm, samples):
    """Tokens to count: the first is the class token, the others span HOP samples each."""
    frames = len(pcm) // HOP
    if kind == "all":
        return np.ones(frames + 1, bool)
    if kind == "patches":
        return np.arange(frames + 1) > 0
    power = [np.mean(pcm[f * HOP : (f + 1) * HOP].astype(np.float64) ** 2) for f in range(frames)]
    inside = [(f + 1) * HOP <= samples for f in range(frames)]
    peak = max((p for p, i in zip(power, inside, strict=True) if i), default=0.0)
    return np.array([False] + [i and p > 0 and p >= peak * 1e-6 for p, i in zip(power, inside, strict=True)])


def slow_counts(encoder, task, kind, threshold=0.0):
    """(clips, tokens, active tokens, sums, sums of squares), per class and last of all clips, clip by clip."""
    classes = [*task.classes, "all"]
    clips, tokens = np.zeros(len(classes), int), np.zeros(len(classes), int)
    active = np.zeros((len(classes), 2, 12), int)
    total, squares = np.zeros(active.shape), np.zeros(active.shape)
    for clip, name in enumerate(task.file_names):
        recording = read_clip(task.data, name, 16000, SAMPLES)
        if recording.clip.status == "unreadable":
            continue
        mask = slow_mask(kind, recording.pcm, recording.clip.samples)
        for index in [*np.flatnonzero(task.members([clip])[0]), len(classes) - 1]:
            clips[index] += 1
            tokens[index] += mask.sum()
            for layer, activation in enumerate(encoder.slow_activations(recording.pcm)):
                active[index, layer] += (activation[mask] > threshold).sum(axis=0)
                total[index, layer] += activation[mask].sum(axis=0)
                squares[index, layer] += (activation[mask].astype(np.float64) ** 2).sum(axis=0)
    return clips, tokens, active, total, squares


def assert_same(totals, clips, tokens, active_tokens, total, squares):
    """Integers are equal; sums of whole numbers that float32 holds too, larger ones to 1e-6."""
    np.testing.assert_array_equal(totals.clips, clips)
    np.testing.assert_array_equal(totals.tokens, tokens)
    np.testing.assert_array_equal(totals.active_tokens, active_tokens)
    np.testing.assert_array_equal(totals.sum, total)
    np.testing.assert_allclose(totals.sum_squares, squares, rtol=1e-6)


def assert_equal_totals(one, other):
    assert_same(one, other.clips, other.tokens, other.active_tokens, other.sum, other.sum_squares)
    for a, b in zip(jax.tree.leaves(one.top), jax.tree.leaves(other.top), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["all", "patches", "sounding"])
@pytest.mark.parametrize("threshold", [0.0, 7.5])
def test_count_clips_equals_a_slow_loop(task, kind, threshold):
    encoder = IntegerEncoder()
    counted = count_clips(encoder, task, CountOptions(kind, threshold, batch_size=2), devices=jax.devices()[:2])
    slow = slow_counts(encoder, task, kind, threshold)
    assert slow[2].any()
    assert_same(counted.totals, *slow)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (5, 1), (21, 1), (64, 1), (1, 8), (2, 8), (3, 3)])
def test_count_clips_gives_the_same_for_any_batch_size_and_number_of_devices(task, batch_size, devices):
    encoder = IntegerEncoder()
    one = count_clips(encoder, task, CountOptions("sounding", batch_size=4), devices=jax.devices()[:1])
    other = count_clips(encoder, task, CountOptions("sounding", batch_size=batch_size), devices=jax.devices()[:devices])
    assert_equal_totals(one.totals, other.totals)
    assert one.log.statuses() == other.log.statuses()


def test_count_clips_gives_the_same_whenever_it_flushes(task, monkeypatch):
    encoder = IntegerEncoder()
    whole = count_clips(encoder, task, CountOptions(batch_size=2), devices=jax.devices()[:1])
    monkeypatch.setattr("jaxdissect.counting.statistics.steps_before_overflow", lambda *sizes: 1)
    often = count_clips(encoder, task, CountOptions(batch_size=2), devices=jax.devices()[:1])
    assert_equal_totals(whole.totals, often.totals)


def test_count_clips_fills_the_store_of_clips(task):
    encoder = IntegerEncoder()
    store = empty_clip_store((len(task), 2, 12))
    for array in (store.counts, store.means, store.peaks, store.excesses):
        array[np.arange(len(task)) != 11] = 9
    counted = count_clips(encoder, task, CountOptions(batch_size=4), store, devices=jax.devices()[:2])
    np.testing.assert_array_equal(store.counts.sum(axis=0), counted.totals.active_tokens[-1])
    assert not store.counts[11].any()  # the one that could not be read
    assert not store.peaks[11].any()
    layers = encoder.slow_activations(read_clip(task.data, "3.wav", 16000, SAMPLES).pcm)
    np.testing.assert_array_equal(store.counts[3], [(layer > 0).sum(axis=0) for layer in layers])
    np.testing.assert_array_equal(store.peaks[3], [layer.max(axis=0) for layer in layers])
    # The encoder's activations are whole numbers, so that sums are exact and only the division rounds.
    np.testing.assert_allclose(store.means[3], [layer.mean(axis=0) for layer in layers], rtol=1e-6)
    np.testing.assert_allclose(store.excesses[3], [layer.clip(min=0).mean(axis=0) for layer in layers], rtol=1e-6)


def test_count_clips_counts_chosen_clips_and_stores_all(task):
    """Held-out clips are in no count, and leave those of the others as they are alone."""
    encoder, chooses = IntegerEncoder(), np.arange(len(task)) % 3 != 1
    store = empty_clip_store((len(task), 2, 12))
    counted = count_clips(encoder, task, CountOptions(batch_size=4), store, chooses=chooses)
    alone = count_clips(encoder, task.rows(np.flatnonzero(chooses).tolist()), CountOptions(batch_size=4))
    for name in ("clips", "tokens", "active_tokens"):
        np.testing.assert_array_equal(getattr(counted.totals, name), getattr(alone.totals, name))
    np.testing.assert_allclose(counted.totals.sum, alone.totals.sum, rtol=1e-6)
    numbers = np.flatnonzero(chooses)
    np.testing.assert_array_equal(
        counted.totals.top.clip, np.where(alone.totals.top.clip < 0, -1, numbers[alone.totals.top.clip])
    )
    everything = empty_clip_store((len(task), 2, 12))
    count_clips(encoder, task, CountOptions(batch_size=4), everything)
    for name in ("counts", "means", "peaks", "excesses"):
        np.testing.assert_array_equal(getattr(store, name), getattr(everything, name))
    labels = label_activations(counted, task, chooses=chooses).clip_labels
    np.testing.assert_array_equal(labels["held_out"], ~chooses)


def test_count_clips_lists_bad_clips_and_does_not_count_them(task):
    activations = collect_activations(IntegerEncoder(), task, CountOptions(batch_size=4))
    status = activations.clips["status"].tolist()
    assert [status[number] for number in (3, 4, 7, 9, 11)] == ["ok", "short", "silent", "short", "unreadable"]
    assert activations.bad_clips == 1
    assert int(activations.counts["total_clips"]) == CLIPS - 1
    assert activations.clips["samples"][4] == 1700
    assert activations.clips["label"][0] == "a,c"


def test_counting_step_compiles_once(task):
    encoder = IntegerEncoder()
    count_clips(encoder, task, CountOptions(batch_size=2), devices=jax.devices()[:1])
    assert encoder.traces == [(1, SAMPLES), (2, SAMPLES)]  # the shapes of a clip, then the program for a batch


def test_counting_step_holds_no_collective(task):
    encoder, mesh = IntegerEncoder(), local_mesh()
    step = counting_step(encoder, task, CountOptions(batch_size=2), keep_clips=True)
    clips = 2 * mesh.size
    batch = {
        "pcm": np.zeros((clips, SAMPLES), np.float32),
        "samples": np.zeros(clips, np.int32),
        "clip": np.zeros(clips, np.int32),
        "members": np.zeros((clips, 6), bool),
    }
    counts = per_device(lambda: init(5, 2, 12), mesh)
    program = map_per_device(step, mesh).lower(counts, encoder.variables, shard_clips(batch, mesh)).compile().as_text()
    assert mesh.size == 8
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in program


def test_init_per_device_is_equal_everywhere():
    counts = per_device(lambda: init(3, 2, 4, ranks=1), local_mesh())
    assert counts.active_tokens.shape == (8, 4, 2, 4)
    assert flush(counts).active_tokens.shape == (4, 2, 4)


def test_neuron_shape_needs_no_run(task):
    assert neuron_shape(IntegerEncoder(), task) == (2, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "some"}, "tokens must be one of all, patches, sounding, got 'some'"),
        ({"threshold": float("nan")}, "threshold must be a finite number, got nan"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
    ],
)
def test_count_options_refuse_what_breaks_a_rule(options, message):
    with pytest.raises(InputError, match=message):
        CountOptions(**options)


def test_count_clips_lists_clips_whose_activations_are_not_finite_and_does_not_count_them(task):
    """A clip louder than the encoder can bear: its numbers overflow, those of the others stay as they were."""
    encoder = IntegerEncoder()
    whole = collect_activations(encoder, task.only("all"), CountOptions(batch_size=4))
    soundfile.write(task.data / "5.wav", np.full(SAMPLES, 3e38), 16000, subtype="FLOAT")
    store = empty_clip_store((len(task), 2, 12))
    without = collect_activations(encoder, task, CountOptions(batch_size=4), store=store)
    assert without.bad_clips == whole.bad_clips + 1
    assert without.clips["reason"][5] == "the encoder's activations are NaN or infinite"
    assert int(without.counts["total_clips"]) == int(whole.counts["total_clips"]) - 1
    assert np.isfinite(without.counts["sum_squares"]).all()
    assert np.isfinite(store.means).all()
    np.testing.assert_array_equal(store.counts.sum(axis=0), without.counts["total_active_tokens"])


def test_counting_step_has_products_of_the_highest_precision_only(task):
    """On GPU and TPU other products are rounded to fewer bits; on a CPU no count would show it."""
    encoder = untrained_m2d(ViTConfig(frames=16, width=64, depth=1, heads=1, mlp=64))
    step = counting_step(encoder, task, CountOptions(batch_size=2))
    batch = {
        "pcm": np.zeros((2, SAMPLES), np.float32),
        "samples": np.zeros(2, np.int32),
        "clip": np.zeros(2, np.int32),
        "members": np.zeros((2, 6), bool),
    }
    program = str(jax.make_jaxpr(step)(init(5, 1, 64), encoder.variables, batch))
    products = program.count("dot_general[")
    assert products >= 7
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
