"""Crops, the training step and the loop: drawn by seed and step alone, the same on any devices, resumed exactly."""

import dataclasses
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import init_state, train_step
from tolerances import assert_within, relative_error

from jaxdissect import InputError, ViTConfig, load_task, untrained_m2d
from jaxdissect.audio.pcm import FULL_SCALE
from jaxdissect.errors import TrainingError
from jaxdissect.runtime.sharding import local_mesh, replicate, shard_clips
from jaxdissect.training import fit as fit_module
from jaxdissect.training import step as step_module
from jaxdissect.training.checkpoints import Checkpoints
from jaxdissect.training.crops import Clips, audible_span, crops, decoded_clips
from jaxdissect.training.fit import Feed, fit
from jaxdissect.training.m2d import MaskedModelingDuo
from jaxdissect.training.msm_mae import MSMMAE
from jaxdissect.training.step import Schedule
from jaxdissect.training.supervised import Supervised

CONFIG = ViTConfig(frames=32, width=16, depth=1, heads=1, mlp=16)
SAMPLES = 31 * 160
FEED = Feed(SAMPLES, parts=4, part_size=2, seed=0)
pytestmark = pytest.mark.usefixtures("shared_programs")


def some_clips(count=11, samples=8000, classes=3):
    rng = np.random.default_rng(0)
    pcm = rng.integers(-9000, 9000, (count, samples)).astype(np.int16)
    spans = np.tile([0, samples], (count, 1))
    return Clips(pcm, spans, np.eye(classes, dtype=bool)[rng.integers(classes, size=count)], {}, "")


def objectives():
    encoder = untrained_m2d(CONFIG)
    return {
        "m2d": MaskedModelingDuo(encoder, decoder_width=16, decoder_depth=1, ema=(0.9, 1.0)),
        "msm_mae": MSMMAE(encoder, decoder_width=16, decoder_depth=1),
        "supervised": Supervised(encoder, classes=3),
    }


def equal(one, other):
    return all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


# Crops


def test_crops_depend_on_seed_and_step_alone():
    clips = some_clips()
    one, again = (crops(clips, 0, 5, 4, SAMPLES) for _ in range(2))
    np.testing.assert_array_equal(one.pcm, again.pcm)
    np.testing.assert_array_equal(one.members, again.members)
    assert not np.array_equal(one.pcm, crops(clips, 0, 6, 4, SAMPLES).pcm)
    assert not np.array_equal(one.pcm, crops(clips, 1, 5, 4, SAMPLES).pcm)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11])
def test_crops_take_every_clip_once_an_epoch(batch_size):
    clips = dataclasses.replace(some_clips(), pcm=np.tile(np.arange(11, dtype=np.int16)[:, None], (1, 100)))
    steps = math.lcm(11, batch_size) // batch_size * 2
    taken = np.concatenate([crops(clips, 0, step, batch_size, 10).pcm[:, 0] for step in range(steps)])
    epochs = taken.reshape(-1, 11)
    assert (np.sort(epochs) == np.arange(11)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_crops_have_the_labels_of_their_clips():
    clips = some_clips()
    taken = crops(clips, 0, 0, 11, clips.pcm.shape[1])
    for pcm, members in zip(taken.pcm, taken.members, strict=True):
        (row,) = np.flatnonzero((clips.pcm == pcm).all(axis=1))
        np.testing.assert_array_equal(members, clips.members[row])


def test_crops_lie_in_the_audible_span_or_cover_it():
    place = np.arange(1000, dtype=np.int16)[None]
    for first, last, starts in (
        (300, 700, range(300, 601)),
        (400, 450, range(350, 401)),
        (0, 30, range(1)),
        (980, 1000, range(900, 901)),
    ):
        clips = Clips(place, np.array([[first, last]]), np.zeros((1, 0), bool), {}, "")
        found = {int(crops(clips, 0, step, 1, 100).pcm[0, 0]) for step in range(400)}
        assert found <= set(starts)
        assert {min(starts), max(starts)} - found == set() or len(starts) > 60
        assert max(found) - min(found) >= 0.9 * (len(starts) - 1)


def test_audible_span():
    pcm = np.zeros(100, np.float32)
    assert audible_span(pcm) == (0, 100)
    pcm[20], pcm[60], pcm[80] = 1.0, -0.002, 0.0005
    assert audible_span(pcm) == (20, 61)


def test_decoded_clips_are_decoded_once_to_16_bits(data_folder):
    rng = np.random.default_rng(0)
    waves = {f"{name}.wav": rng.uniform(-1, 1, 1600) for name in "ab"}
    for name, wave in waves.items():
        data_folder.write(name, wave, subtype="FLOAT")
    table = data_folder.table("t.csv", "file_name,label,split\na.wav,x,train\nbroken.wav,y,train\nb.wav,y,train\n")
    (data_folder.path / "broken.wav").write_bytes(b"no audio")
    task = load_task(str(table), unit_seconds=0.1)
    seen = []
    folder = data_folder.path.parent / "state"
    clips = decoded_clips(task, 16000, folder, seen.append)
    assert seen[-1] == 3
    np.testing.assert_allclose(clips.pcm[1] / FULL_SCALE, waves["b.wav"], atol=1 / FULL_SCALE)
    assert clips.members.tolist() == [[True, False], [False, True]]
    assert list(clips.unreadable) == ["broken.wav"]
    again = decoded_clips(task, 16000, folder, seen.append)
    np.testing.assert_array_equal(clips.pcm, again.pcm)
    assert (again.sha256, again.unreadable, len(seen)) == (clips.sha256, clips.unreadable, 1)
    described = json.loads((folder / "clips.json").read_text())
    assert described["origin"]["full_scale"] == FULL_SCALE
    del described["origin"]["full_scale"]  # as an older version wrote it, whose samples may have another full scale
    (folder / "clips.json").write_text(json.dumps(described))
    assert decoded_clips(task, 16000, folder, seen.append).sha256 == clips.sha256
    assert len(seen) == 2  # decoded afresh
    data_folder.write("broken.wav", waves["a.wav"], subtype="FLOAT")  # mended
    mended = decoded_clips(task, 16000, folder, seen.append)
    assert (len(mended.pcm), len(seen)) == (3, 3)
    (folder / "pcm.npy").write_bytes(b"damaged")
    assert decoded_clips(task, 16000, folder).sha256 == mended.sha256


# Steps


@pytest.mark.parametrize("name", ["m2d", "supervised"])
def test_train_step_is_the_same_on_any_number_of_devices(name):
    """Loss and mean gradient, which Adam's first moment is a multiple of after one step."""
    objective, schedule = objectives()[name], Schedule(10, 1e-2, warm_up=0.0)
    batch = FEED.batch(some_clips(), 0)
    found = []
    for devices in (1, 4):
        mesh = local_mesh(jax.devices()[:devices])
        state = replicate(init_state(objective, schedule, 0), mesh)
        state, metrics = train_step(objective, schedule, 0, mesh)(state, *shard_clips((batch.pcm, batch.members), mesh))
        found.append(jax.device_get((state.optimizer[1][0].mu, metrics)))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        assert_within("a step on several devices, absolute", np.abs(one - other).max())
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found[0][0])) > 1e-3


def test_train_step_matches_steps_by_hand():
    """Mean gradient over the parts, clipped AdamW, moving average: two steps by a loop over the parts."""
    objective, schedule = objectives()["m2d"], Schedule(3, 1e-2, warm_up=0.0, clip_norm=0.1)
    batch, mesh = FEED.batch(some_clips(), 0), local_mesh(jax.devices()[:1])
    state, step = init_state(objective, schedule, 3), train_step(objective, schedule, 3, mesh)
    params, target = jax.device_get((state.params, state.target))
    first = second = jax.tree.map(np.zeros_like, params)
    loss_of = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    for number in (1, 2):
        state, metrics = step(state, batch.pcm, batch.members)
        key, losses, total = jax.random.fold_in(jax.random.key(3), number), [], jax.tree.map(np.zeros_like, params)
        for part in range(4):
            wave, members = jnp.asarray(batch.pcm[part] / np.float32(FULL_SCALE)), jnp.asarray(batch.members[part])
            (loss, _), gradient = loss_of(params, target, wave, members, jax.random.fold_in(key, part))
            losses.append(float(loss))
            total = jax.tree.map(lambda a, b: a + np.asarray(b) / 4, total, gradient)
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(total)))
        assert_within("loss and gradient norm by hand, relative", relative_error(metrics["loss"], np.mean(losses)))
        assert_within("loss and gradient norm by hand, relative", relative_error(metrics["gradient_norm"], norm))
        assert norm > 0.1  # it is clipped
        clipped = jax.tree.map(lambda leaf, norm=norm: leaf * (0.1 / norm), total)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, clipped)
        second = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g * g, second, clipped)
        rate = 1e-2 * 0.5 * (1 + np.cos(np.pi * (number - 1) / 3))

        def moved(path, old, m, v, number=number, rate=rate):
            update = (m / (1 - 0.9**number)) / (np.sqrt(v / (1 - 0.95**number)) + 1e-8)
            return old - rate * (update + (0.05 * old if path[-1].key == "kernel" else 0))

        params = jax.tree_util.tree_map_with_path(moved, params, first, second)
        keep = 0.9 + 0.1 * (number - 1) / 2
        target = jax.tree.map(lambda a, b, keep=keep: keep * a + (1 - keep) * b, target, params["encoder"])
        assert int(state.step) == number
        for (path, mine), theirs in zip(
            jax.tree_util.tree_leaves_with_path((params, target)),
            jax.tree.leaves((state.params, state.target)),
            strict=True,
        ):
            if "qkv']['bias" in jax.tree_util.keystr(path):
                continue  # the keys' bias has no gradient but rounding, which Adam blows up
            assert_within("parameters after two steps, absolute", np.abs(mine - theirs).max())
        params, target = jax.device_get((state.params, state.target))


def test_train_step_is_compiled_once():
    objective, schedule, clips = objectives()["msm_mae"], Schedule(5), some_clips()
    mesh = local_mesh()
    step = step_module.train_step(objective, schedule, 0, mesh)  # of this test alone
    state = replicate(init_state(objective, schedule, 0), mesh)
    feed = Feed(SAMPLES, parts=8, part_size=1)
    for number in range(4):
        batch = feed.batch(clips, number)
        state, _ = step(state, *shard_clips((batch.pcm, batch.members), mesh))
    assert step._cache_size() == 1


def test_schedule_rate_rises_and_falls():
    schedule = Schedule(100, 2.0, warm_up=0.1)
    rates = np.array([float(schedule.rate(step)) for step in range(101)])
    np.testing.assert_allclose(rates[:11], np.arange(11) / 10 * 2, rtol=1e-6)
    np.testing.assert_allclose(rates[10:], 1 + np.cos(np.arange(91) / 90 * np.pi), atol=1e-6)


@pytest.mark.parametrize("name", ["m2d", "msm_mae", "supervised"])
def test_fit_brings_the_loss_down(name, tmp_path):
    """A few steps on two clearly different kinds of clip bring the loss down."""
    time = np.arange(8000) / 16000
    pcm = np.stack(
        [
            (0.5 * np.sin(2 * np.pi * (300 if row % 2 else 3000) * time) * FULL_SCALE).astype(np.int16)
            for row in range(8)
        ]
    )
    clips = Clips(pcm, np.tile([0, 8000], (8, 1)), np.eye(3, dtype=bool)[np.arange(8) % 2], {}, "")
    objective = objectives()[name]
    if name == "supervised":
        objective = dataclasses.replace(objective, mixup=0.0, stripes=0)
    schedule = Schedule(60, 3e-3)
    fitted = fit(
        objective,
        schedule,
        clips,
        FEED,
        init_state(objective, schedule, 0),
        Checkpoints(tmp_path / "c"),
        local_mesh(jax.devices()[:1]),
    )
    assert fitted.curve[-1]["loss"] < 0.7 * fitted.curve[0]["loss"]


# Resuming


@pytest.mark.parametrize("name", ["m2d", "supervised"])
def test_fit_resumed_at_every_checkpoint_ends_the_same(name, tmp_path):
    objective, schedule, clips, mesh = (
        objectives()[name],
        Schedule(9, 1e-3),
        some_clips(),
        local_mesh(jax.devices()[:2]),
    )

    def run(folder, stop=None):
        def progress(step, _point, stop=stop):
            if step == stop:
                os.kill(os.getpid(), signal.SIGINT)

        checkpoints = Checkpoints(folder)
        try:
            state = init_state(objective, schedule, 0)
            return fit(
                objective,
                schedule,
                clips,
                FEED,
                state,
                checkpoints,
                mesh,
                log_steps=2,
                save_minutes=0,
                progress=progress,
            )
        finally:
            checkpoints.close()

    whole = run(tmp_path / "whole")
    for stop in (4, 8):
        folder = tmp_path / f"stopped {stop}"
        with pytest.raises(KeyboardInterrupt):
            run(folder, stop)
        resumed = run(folder)
        assert equal(jax.device_get(whole.state), jax.device_get(resumed.state))
        assert whole.curve == resumed.curve
    done = run(tmp_path / "whole")  # nothing is left to do
    assert equal(jax.device_get(whole.state), jax.device_get(done.state))


def test_fit_stops_at_a_loss_that_is_not_finite_and_keeps_the_last_good_state(tmp_path):
    objective, mesh = objectives()["msm_mae"], local_mesh(jax.devices()[:1])
    schedule = Schedule(10, 1e30, warm_up=0.5)  # the first update is by a rate of 0, the second far too long
    state, checkpoints = init_state(objective, schedule, 0), Checkpoints(tmp_path)
    with pytest.raises(TrainingError, match=r"the (loss|gradient norm) of step 3 is (nan|inf)"):
        fit(objective, schedule, some_clips(), FEED, state, checkpoints, mesh, log_steps=1, save_minutes=0)
    restored, record = checkpoints.restore(init_state(objective, schedule, 0), mesh)
    assert int(restored.step) == 1
    assert [point["step"] for point in record["curve"]] == [1]
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(jax.device_get(restored.params))) < 10


def test_fit_stops_at_a_collapse(tmp_path):
    objective, schedule = dataclasses.replace(objectives()["m2d"], ema=(1.0, 1.0)), Schedule(4, 1e-3)
    state = init_state(objective, schedule, 0)
    deaf = {**state.target, "patch_embed": jax.tree.map(jnp.zeros_like, state.target["patch_embed"])}
    state = dataclasses.replace(state, target=deaf)
    feed = dataclasses.replace(FEED, parts=2, part_size=4)
    with pytest.raises(TrainingError, match=r"by step 2 M2D has collapsed, .* --start-from"):
        fit(objective, schedule, some_clips(), feed, state, Checkpoints(tmp_path), local_mesh(jax.devices()[:1]), 2)


def test_fit_keeps_no_state_of_a_collapsed_training(tmp_path):
    """Every step is to be saved, the points of the curve come later."""
    objective, schedule = dataclasses.replace(objectives()["m2d"], ema=(1.0, 1.0)), Schedule(9, 1e-3)
    state = init_state(objective, schedule, 0)
    deaf = {**state.target, "patch_embed": jax.tree.map(jnp.zeros_like, state.target["patch_embed"])}
    state, checkpoints = dataclasses.replace(state, target=deaf), Checkpoints(tmp_path)
    feed, mesh = dataclasses.replace(FEED, parts=2, part_size=4), local_mesh(jax.devices()[:1])
    with pytest.raises(TrainingError, match=r"by step 1 M2D has collapsed"):
        fit(objective, schedule, some_clips(), feed, state, checkpoints, mesh, log_steps=6, save_minutes=0)
    assert checkpoints.restore(init_state(objective, schedule, 0), mesh) is None


def test_fit_is_not_resumed_with_other_audio(tmp_path):
    objective, schedule, mesh = objectives()["msm_mae"], Schedule(3), local_mesh(jax.devices()[:1])
    checkpoints, state = Checkpoints(tmp_path), replicate(init_state(objective, schedule, 0), mesh)
    checkpoints.save(1, state, {"curve": [], "rows": [], "seconds": 1.0, "audio": "another"})
    with pytest.raises(InputError, match=r"holds a training on other audio: the files have changed"):
        fit(objective, schedule, some_clips(), FEED, state, checkpoints, mesh)


def test_fit_interrupted_has_saved_its_last_step(tmp_path):
    objective, schedule, mesh = objectives()["msm_mae"], Schedule(9), local_mesh(jax.devices()[:1])
    checkpoints = Checkpoints(tmp_path)

    def interrupt(step, _point):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    state = init_state(objective, schedule, 0)
    with pytest.raises(KeyboardInterrupt):
        fit(objective, schedule, some_clips(), FEED, state, checkpoints, mesh, 2, progress=interrupt)
    restored, record = checkpoints.restore(init_state(objective, schedule, 0), mesh)
    assert int(restored.step) == 4
    assert [point["step"] for point in record["curve"]] == [2, 4]


@pytest.mark.parametrize("moment", ["waiting for a point of the curve", "in the first step"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fit_ends_a_step_before_a_signal_stops_it(tmp_path, monkeypatch, moment, number):
    """Wherever it comes, the training goes on later as if it had not: the same parameters, the same curve."""
    objective, schedule, mesh = objectives()["msm_mae"], Schedule(8), local_mesh(jax.devices()[:1])

    def run(folder):
        checkpoints = Checkpoints(folder)
        return fit(objective, schedule, some_clips(), FEED, init_state(objective, schedule, 0), checkpoints, mesh, 2)

    whole = run(tmp_path / "whole")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
    try:
        name = "_finite" if moment.startswith("waiting") else "shard_clips"
        real, calls = getattr(fit_module, name), []

        def interrupted(*given):
            calls.append(1)
            if len(calls) == 2 or name == "shard_clips":
                os.kill(os.getpid(), number)
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(fit_module, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "stopped")
        assert signal.getsignal(number) is signal.default_int_handler
        wanted = 4 if name == "_finite" else 1
        assert [path.name for path in (tmp_path / "stopped").iterdir()] == [str(wanted)]
    finally:
        signal.signal(signal.SIGTERM, before)
    resumed = run(tmp_path / "stopped")
    assert equal(jax.device_get(whole.state), jax.device_get(resumed.state))
    assert whole.curve == resumed.curve


def test_checkpoints_refuse_states_of_other_sizes_and_damaged_ones(tmp_path):
    objective, schedule = objectives()["msm_mae"], Schedule(3)
    mesh = local_mesh(jax.devices()[:1])
    checkpoints = Checkpoints(tmp_path / "c")
    state = replicate(init_state(objective, schedule, 0), mesh)
    checkpoints.save(1, state, {"curve": [], "rows": [], "seconds": 1.0, "audio": ""})
    wider = MSMMAE(untrained_m2d(dataclasses.replace(CONFIG, width=32)), decoder_width=16, decoder_depth=1)
    with pytest.raises(InputError, match=r"damaged or holds a training of other sizes .* to start afresh"):
        checkpoints.restore(init_state(wider, schedule, 0), mesh)
    checkpoints.save(2, state, {"curve": [], "rows": [], "seconds": 2.0, "audio": ""})
    for file in (tmp_path / "c" / "2" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"junk")
    fresh = Checkpoints(tmp_path / "c")
    with pytest.raises(InputError, match=r"2 is damaged .* remove that folder"):
        fresh.restore(state, mesh)


def test_schedule_rate_is_the_optimisers():
    """The rate that the optimiser uses is the schedule's at the step that is shown in the curve."""
    schedule = Schedule(10, 1.0, warm_up=0.5)
    optimizer = optax.sgd(schedule.rate)
    params, state = jnp.zeros(()), optimizer.init(jnp.zeros(()))
    for step in range(4):
        update, state = optimizer.update(jnp.ones(()), state, params)
        assert float(update) == pytest.approx(-float(schedule.rate(step)))
