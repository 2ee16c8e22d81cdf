"""`jaxdissect bench`: results that agree with themselves, failures in their rows.

How fast anything is depends on the machine, and is not tested.
"""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from foreign import IntegerEncoder
from tones import strict_json

from jaxdissect.bench import decode as bench_decode
from jaxdissect.bench import device as bench_device
from jaxdissect.bench import stage as bench
from jaxdissect.bench.decode import task_to_decode
from jaxdissect.bench.stage import BenchOptions, run_bench
from jaxdissect.bench.timings import Failure, Rounds, Timing, attempt, queued_seconds
from jaxdissect.commands.bench_summary import bench_summary
from jaxdissect.errors import InputError
from jaxdissect.stages.prepare import PrepareOptions, run_prepare

RATE, SECONDS = 16000, 0.1
SIZES, ROUNDS = (2, 3), 2
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes."


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Options of a short measurement of the encoder of integers."""
    monkeypatch.setattr(bench_device, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(bench_device, "SQUARE_ON_CPU", 8)
    monkeypatch.setattr(bench_decode, "SYNTHESISED_CLIPS", 2)

    def options(**changes):
        defaults = {"encoder": "foreign:make", "seconds": SECONDS, "batch_sizes": SIZES, "dtypes": ("float32",),
                    "classes": 7, "rounds": ROUNDS, "out": tmp_path / "bench.json"}  # fmt: skip
        return BenchOptions(**defaults | changes)

    return options


@pytest.fixture
def made(monkeypatch):
    """The encoder that the next measurements load."""
    encoder = IntegerEncoder()
    monkeypatch.setattr(bench, "load_encoder", lambda path, dtype: encoder)
    return encoder


def workload(classes=7, clips=3, seconds=SECONDS):
    return bench_device.Workload.make(jax.local_devices()[0], seconds, RATE, classes, clips)


def test_every_call_is_waited_for():
    class Result:
        waited = 0

        def block_until_ready(self):
            Result.waited += 1

    assert queued_seconds(Result, 9) > 0
    assert Result.waited == 9


def test_rounds_measure_in_turn():
    order = []
    rounds = Rounds({name: lambda name=name: order.append(name) for name in "ab"}, 0.0)
    del order[:]  # of warming up
    for _ in range(3):
        rounds.measure()
    assert order == list("ababab")
    assert [len(values) for values in rounds.seconds.values()] == [3, 3]
    assert Timing.of([3.0, 1.0, 8.0]) == Timing(3.0, 1.0, 8.0, (3.0, 1.0, 8.0))


def test_what_is_timed_counts():
    counter, batch = workload().counter(IntegerEncoder(), 3, 7)
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "pcm": "int16", "samples": "int32", "clip": "int32", "members": "bool",
    }  # fmt: skip
    for _ in range(4):
        assert np.asarray(counter.start(batch)["finite"]).all()
    totals = counter.totals()
    assert totals.clips[-1] == totals.clips[:-1].sum() == 12
    assert totals.active_tokens[-1].sum() > 0
    assert counter.counts.clips.devices() == {jax.local_devices()[0]}


def test_the_figures_agree_with_each_other(quick):
    result = run_bench(quick(dtypes=("float32", "bfloat16")))
    assert [(row.dtype, row.batch_size) for row in result.rows] == [
        (dtype, size) for dtype in ("float32", "bfloat16") for size in SIZES
    ]
    squares = {square.dtype: square for square in result.squares}
    for row in result.rows:
        done = row.measured
        for timing in (done.step, done.transfer, done.front_end, done.encoder, done.counting):
            assert len(timing.repetitions) == ROUNDS
            assert timing.least <= timing.median <= timing.most
        assert done.clips_per_second == row.batch_size / done.step.median
        assert done.audio_seconds_per_second == pytest.approx(SECONDS * done.clips_per_second)
        parts = zip(done.step.repetitions, done.front_end.repetitions, done.encoder.repetitions, strict=True)
        assert done.counting.repetitions == pytest.approx([step - first - second for step, first, second in parts])
        ceiling = done.ceiling
        assert ceiling.seconds == pytest.approx(sum(one.times * one.seconds for one in ceiling.products))
        assert ceiling.flop_per_clip * row.batch_size == sum(one.times * one.flop for one in ceiling.products)
        assert ceiling.flop_per_clip == 2 * 5 * (16 * 12 + 12 * 16 + 16 * 12)  # of five tokens
        assert ceiling.clips_per_second == pytest.approx(row.batch_size / ceiling.seconds)
        assert done.share_of_ceiling == pytest.approx(ceiling.seconds / done.step.median)
        assert done.flop_per_second == pytest.approx(ceiling.flop_per_clip * done.clips_per_second)
        assert done.share_of_square == pytest.approx(done.flop_per_second / squares[row.dtype].flop_per_second)
    for square in result.squares:
        assert square.flop_per_second == pytest.approx(2 * 8**3 / square.seconds)
    for dtype, cost in zip(("float32", "bfloat16"), result.class_costs, strict=True):
        best = max((row for row in result.rows if row.dtype == dtype), key=lambda row: row.measured.clips_per_second)
        assert (cost.dtype, cost.batch_size, cost.few, cost.many) == (dtype, best.batch_size, 7, 527)
        pairs = zip(cost.few_seconds.repetitions, cost.many_seconds.repetitions, strict=True)
        assert cost.ratio == pytest.approx(np.median([many / few for few, many in pairs]))


def test_decoding_is_measured_for_every_format(quick):
    result = run_bench(quick())
    assert [rate.source for rate in result.decode] == [
        "WAV 44.1 kHz stereo", "FLAC 44.1 kHz stereo", "OGG 44.1 kHz stereo", "WAV 16 kHz mono", "FLAC 16 kHz mono",
        "OGG 16 kHz mono", "shards 16 kHz",
    ]  # fmt: skip
    for rate in result.decode:
        assert not rate.failure
        assert (rate.clips, rate.unreadable, len(rate.seconds.repetitions)) == (2, 0, ROUNDS)
        assert rate.audio_seconds == pytest.approx(2 * SECONDS)
        assert rate.clips_per_second == pytest.approx(1 / rate.seconds.median)
        assert rate.audio_seconds_per_second == pytest.approx(SECONDS / rate.seconds.median)


def test_the_first_clips_of_a_task_are_decoded_as_they_are(quick, data_folder, monkeypatch):
    monkeypatch.setattr(bench_decode, "TASK_CLIPS", 3)
    data_folder.write("long.wav", np.full(4000, 0.5))
    data_folder.write("short.wav", np.full(400, 0.5), rate=8000)
    data_folder.table("broken.wav", "no sound")
    rows = [f"{name}.wav,a,train\n" for name in ("long", "short", "broken", "missing")]
    table = data_folder.table("own.csv", "file_name,label,split\n" + "".join(rows))
    result = run_bench(quick(task=str(table)))
    rate = result.decode[0]
    assert (rate.source, rate.clips, rate.unreadable) == ("own", 2, 1)
    assert rate.audio_seconds == pytest.approx(SECONDS + 0.05)
    assert "own: 1 of 3 clips cannot be read and were left out." in bench_summary(result)


def test_a_task_that_cannot_be_read_does_not_stop_the_others(quick, data_folder):
    data_folder.table("broken.wav", "no sound")
    table = data_folder.table("own.csv", "file_name,label,split\nbroken.wav,a,train\n")
    first, *others = run_bench(quick(task=str(table))).decode
    assert first.failure.startswith("none of 1 clips can be read, the first: cannot be decoded")
    assert first.clips_per_second is None
    assert all(rate.clips_per_second for rate in others)


def decoded(source, audio_seconds_per_second):
    timing = Timing.of([SECONDS / audio_seconds_per_second])
    return bench_decode.DecodeRate(source, 1, 0, SECONDS, timing, 1 / timing.median, audio_seconds_per_second)


def test_the_estimate_by_hand(quick):
    row = run_bench(quick()).rows[0]
    slow, fast = (
        dataclasses.replace(
            row, batch_size=size, measured=dataclasses.replace(row.measured, clips_per_second=rate,
                                                               audio_seconds_per_second=6 * rate),
        )
        for size, rate in ((4, 10.0), (16, 50.0))
    )  # fmt: skip
    lost = bench_device.Row("float32", 64, None, "too large")
    found = bench.estimate([slow, fast, lost], [decoded("ogg", 100.0), decoded("shards", 500.0)], cores=2)
    assert (found.dtype, found.batch_size) == ("float32", 16)
    assert found.device_clips_per_second == 30  # 300 seconds of audio a second
    assert found.device_hours == pytest.approx(20_000_000 / 300 / 3600)
    assert found.decode[0].core_hours == pytest.approx(20_000_000 / 100 / 3600)
    assert [load.clips_per_second for load in found.decode] == [20, 100]
    assert [load.limit for load in found.decode] == ["decoding", "the device"]
    nothing = bench.estimate([lost], [decoded("ogg", 100.0)], cores=2)
    assert (nothing.dtype, nothing.device_hours, nothing.decode[0].limit) == (None, None, None)


def test_the_json_holds_everything_and_is_strict(quick):
    options = quick()
    result = run_bench(options)
    found = strict_json(options.out)
    assert found == json.loads(json.dumps(dataclasses.asdict(result), default=str))
    assert found["options"]["out"] == str(options.out)
    assert found["versions"]["jax"] == jax.__version__
    assert found["device"].startswith("8 x cpu")
    assert (found["layers"], found["neurons"], found["sample_rate"]) == (2, 12, RATE)
    assert [path.name for path in options.out.parent.iterdir() if path.name.startswith(".")] == []


def test_the_summary_tells_every_figure(quick):
    result = run_bench(quick())
    text = bench_summary(result)
    lines = text.splitlines()
    assert lines[0] == "integers: 2 layers of 12 neurons; clips of 0.1 s at 16,000 Hz, 7 classes."
    assert sum(line.startswith("float32 ") for line in lines) == 2 * len(SIZES)
    for rate in result.decode:
        assert any(line.startswith(rate.source) for line in lines)
    assert "527 classes (float32, batch" in text
    assert "device-hours of one device" in text
    assert "scaled by seconds of audio, not measured" in text
    assert "Here the device is the processor itself" in text
    assert max(map(len, lines)) <= 140


def test_doubtful_ceilings_are_told(quick):
    result = run_bench(quick())
    row = result.rows[0]

    def summary(share, launch_seconds):
        measured = dataclasses.replace(row.measured, share_of_ceiling=share)
        rows = (dataclasses.replace(row, measured=measured),)
        return bench_summary(dataclasses.replace(result, rows=rows, launch_seconds=launch_seconds))

    assert "it is no ceiling" in summary(1.01, 0.0)
    assert "it is no ceiling" not in summary(1.0, 0.0)
    assert "of a launch" not in summary(None, 0.0)
    products = len(row.measured.ceiling.products)
    assert f"{products} of the products take less than twice the 9,000,000 us of a launch" in summary(None, 9.0)


def refuse_batches_of_three(monkeypatch):
    whole = bench_device.Workload.counter

    def counter(self, encoder, clips, classes):
        if clips == 3:
            raise RuntimeError(f"{OUT_OF_MEMORY}\nA long list of buffers")
        return whole(self, encoder, clips, classes)

    monkeypatch.setattr(bench_device.Workload, "counter", counter)


def fail_in_the_second_round(monkeypatch):
    whole, measured = Rounds.measure, []

    def measure(self):
        measured.append(self)
        if len(measured) > 3 and self is measured[1]:
            raise RuntimeError(OUT_OF_MEMORY)
        whole(self)

    monkeypatch.setattr(Rounds, "measure", measure)


@pytest.mark.parametrize("fault", [refuse_batches_of_three, fail_in_the_second_round])
def test_a_batch_that_does_not_fit_is_told_in_its_row(quick, monkeypatch, fault):
    fault(monkeypatch)
    options = quick(rounds=3)
    result = run_bench(options)
    first, second = result.rows
    assert len(first.measured.step.repetitions) == 3
    assert second.measured is None
    assert second.failure == f"RuntimeError: {OUT_OF_MEMORY}"
    assert result.estimate.batch_size == 2
    assert strict_json(options.out)["rows"][1]["failure"] == second.failure
    text = bench_summary(result)
    assert f"float32, batch 3, does not fit: RuntimeError: {OUT_OF_MEMORY}" in text


def test_too_many_tokens_for_a_batch_are_told_in_its_row(quick, monkeypatch):
    def refuse(tokens_per_clip, clips_per_step):
        raise InputError("choose a smaller batch")

    monkeypatch.setattr("jaxdissect.counting.statistics.steps_before_overflow", refuse)
    result = run_bench(quick())
    assert [row.failure for row in result.rows] == ["choose a smaller batch"] * 2
    assert result.class_costs == ()
    text = bench_summary(result)
    assert "no step was measured" in text
    assert "ms per batch" not in text


def test_more_classes_or_a_product_may_fail_alone(quick, monkeypatch):
    whole = bench_device.Workload.counter

    def counter(self, encoder, clips, classes):
        if classes == 527:
            raise MemoryError
        return whole(self, encoder, clips, classes)

    def no_product(product, device):
        raise RuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr(bench_device.Workload, "counter", counter)
    monkeypatch.setattr(bench_device, "product_seconds", no_product)
    options = quick()
    result = run_bench(options)
    assert result.class_costs[0].failure == "MemoryError: no reason given"
    assert result.squares[0].failure == f"RuntimeError: {OUT_OF_MEMORY}"
    done = result.rows[0].measured
    assert (done.share_of_ceiling, done.share_of_square, done.ceiling.seconds) == (None, None, None)
    assert done.flop_per_second > 0
    text = bench_summary(result)
    assert "527 classes (float32, batch" in text
    assert "could not be measured: MemoryError: no reason given" in text
    assert f"A product could not be measured: RuntimeError: {OUT_OF_MEMORY}" in text
    strict_json(options.out)


def test_rounds_compile_nothing(quick, made):
    traces = []
    for rounds in (1, 4):
        run_bench(quick(rounds=rounds))
        traces.append(len(made.traces))
        made.traces.clear()
    assert traces[0] == traces[1]


def test_an_interrupt_is_no_failure():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(interrupted)
    assert attempt(lambda: 1 / 0) == Failure("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 0.0}, "--seconds must be a positive number of seconds, at most 3600, got 0.0"),
        ({"seconds": math.nan}, "--seconds must be a positive number of seconds, at most 3600, got nan"),
        ({"seconds": 1e9}, "--seconds must be a positive number of seconds, at most 3600, got 1000000000.0"),
        ({"batch_sizes": ()}, "--batch-sizes must be one or more, each given once, got nothing"),
        ({"batch_sizes": (4, 4)}, "--batch-sizes must be one or more, each given once, got 4 4"),
        ({"batch_sizes": (4, 0)}, "--batch-sizes must be at least 1, got 4 0"),
        ({"dtypes": ()}, "--dtypes must be one or more, each given once, got nothing"),
        ({"classes": 0}, "--classes must be a whole number, at least 1, got 0"),
        ({"rounds": 0}, "--rounds must be a whole number, at least 1, got 0"),
        ({"data": Path("some")}, "--data some needs --task"),
        ({"task": "esc5"}, "--task 'esc5' is neither a known task"),
        ({"encoder": "nowhere"}, "nowhere is no encoder directory"),
        ({"encoder": "m2d_tiny", "seconds": 0.01}, "choose a longer unit length"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(quick, monkeypatch, changes, message):
    monkeypatch.setattr(bench, "decode_rates", lambda *arguments: pytest.fail("it has begun"))
    with pytest.raises(InputError) as error:
        run_bench(quick(**changes))
    assert message in str(error.value)


def test_a_place_that_cannot_be_written_is_told_at_once(quick, tmp_path):
    (tmp_path / "file").touch()
    for out, message in ((tmp_path, "must be a regular file"), (tmp_path / "file" / "a.json", "cannot be written")):
        with pytest.raises(InputError, match=message):
            run_bench(quick(out=out))


def test_a_known_task_brings_its_own_length_and_prepared_data_theirs(data_folder, tmp_path):
    data_folder.write("a.wav", np.full(1600, 0.5))
    (data_folder.path / "meta").mkdir()
    data_folder.table("meta/esc50.csv", "filename,fold,target,category\na.wav,1,0,dog\n")
    table = str(data_folder.table("own.csv", "file_name,label,split\na.wav,x,train\n"))
    assert task_to_decode("esc50", data_folder.path, 2.0).unit_seconds == 5.0
    assert task_to_decode(table, None, 2.0).unit_seconds == 2.0
    run_prepare(PrepareOptions(task=table, out=tmp_path / "prepared", unit_seconds=0.05))
    task = task_to_decode(table, tmp_path / "prepared", 2.0)
    assert (task.unit_seconds, task.data) == (0.05, tmp_path / "prepared")
    assert task_to_decode(None, None, 2.0) is None
