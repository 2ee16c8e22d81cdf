"""`jaxdissect bench`: figures that agree with each other, failures in their rows, and the summary.

How fast anything is depends on the machine, and is not tested.
"""

import copy
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from foreign import IntegerEncoder
from tones import strict_json

from jaxdissect.bench import rates
from jaxdissect.bench.rates import run_bench, task_to_decode, timing
from jaxdissect.commands.bench import bench_summary
from jaxdissect.errors import InputError
from jaxdissect.options.bench import BenchOptions
from jaxdissect.stages.prepare import PrepareOptions, run_prepare

RATE, SECONDS = 16000, 0.1
SIZES, ROUNDS = (2, 3), 2
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes."


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Options of a short measurement of the encoder of integers."""
    monkeypatch.setattr(rates, "LEAST_SECONDS", 0.0)

    def options(**changes):
        defaults = {"encoder": "foreign:make", "seconds": SECONDS, "batch_sizes": SIZES, "dtypes": ("float32",)}
        return BenchOptions(**defaults | {"rounds": ROUNDS, "out": tmp_path / "bench.json"} | changes)

    return options


@pytest.fixture
def own_task(data_folder):
    """Writes a table of some files without labels that matter."""

    def write(*file_names):
        rows = [f"{name},a,train\n" for name in file_names]
        return str(data_folder.table("own.csv", "file_name,label,split\n" + "".join(rows)))

    return write


def test_timing_keeps_every_repetition():
    assert timing([3.0, 1.0, 8.0]) == {"median": 3.0, "least": 1.0, "most": 8.0, "repetitions": [3.0, 1.0, 8.0]}


def test_step_on_noise_counts(monkeypatch):
    counters = []

    class Watched(rates.Counter):
        def __init__(self, *given):
            super().__init__(*given)
            counters.append(self)

    monkeypatch.setattr(rates, "Counter", Watched)
    step = rates._step_on_noise(IntegerEncoder(), SECONDS, 3)
    (batch,) = step.args
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "pcm": "int16",
        "samples": "int32",
        "clip": "int32",
        "members": "bool",
    }
    for _ in range(4):
        assert np.asarray(step()["finite"]).all()
    (counter,) = counters
    totals = counter.totals()
    assert totals.clips[-1] == totals.clips[:-1].sum() == 12
    assert totals.active_tokens[-1].sum() > 0
    assert counter.counts.clips.devices() == {jax.local_devices()[0]}


def test_run_bench_figures_agree_with_each_other(quick):
    result = run_bench(quick(dtypes=("float32", "bfloat16")))
    assert [(row["dtype"], row["batch_size"]) for row in result["rows"]] == [
        (dtype, size) for dtype in ("float32", "bfloat16") for size in SIZES
    ]
    for row in result["rows"]:
        measured, step, ceiling = row["measured"], row["measured"]["step"], row["measured"]["ceiling"]
        assert len(step["repetitions"]) == ROUNDS
        assert step["least"] <= step["median"] <= step["most"]
        assert measured["clips_per_second"] == row["batch_size"] / step["median"]
        assert measured["audio_seconds_per_second"] == pytest.approx(SECONDS * measured["clips_per_second"])
        assert ceiling["flop_per_clip"] == 2 * 5 * (16 * 12 + 12 * 16 + 16 * 12)  # of five tokens
        assert ceiling["clips_per_second"] == pytest.approx(row["batch_size"] / ceiling["seconds"])
        assert measured["share_of_ceiling"] == pytest.approx(measured["clips_per_second"] / ceiling["clips_per_second"])
        assert measured["flop_per_second"] == pytest.approx(ceiling["flop_per_clip"] * measured["clips_per_second"])
    assert result["decode"] is None


def test_run_bench_counts_a_product_as_often_as_a_step_computes_it(quick, monkeypatch):
    monkeypatch.setattr(rates, "product_seconds", lambda product, device: 1.0 if product.right == (16, 12) else 100.0)
    for row in run_bench(quick())["rows"]:
        assert row["measured"]["ceiling"]["seconds"] == 102.0  # into both layers, and back out of the first


def test_run_bench_decodes_the_first_clips_of_a_task(quick, own_task, data_folder, monkeypatch):
    monkeypatch.setattr(rates, "DECODED_CLIPS", 3)
    data_folder.write("long.wav", np.full(4000, 0.5))
    data_folder.write("short.wav", np.full(400, 0.5), rate=8000)
    data_folder.table("broken.wav", "no sound")
    result = run_bench(quick(task=own_task("long.wav", "short.wav", "broken.wav", "missing.wav")))
    decode = result["decode"]
    assert (decode["source"], decode["clips"], decode["unreadable"]) == ("own", 2, 1)
    assert decode["audio_seconds"] == pytest.approx(SECONDS + 0.05)
    assert len(decode["seconds"]["repetitions"]) == ROUNDS
    assert decode["clips_per_second"] == pytest.approx(1 / decode["seconds"]["median"])
    assert decode["audio_seconds_per_second"] == pytest.approx((SECONDS + 0.05) / 2 / decode["seconds"]["median"])
    assert "own: 1 of 3 clips cannot be read and were left out." in bench_summary(result)


def test_run_bench_writes_its_result_as_strict_json(quick):
    options = quick()
    result = run_bench(options)
    written = strict_json(options.out)
    assert written == json.loads(json.dumps(result, default=str))
    assert written["options"]["out"] == str(options.out)
    assert written["versions"]["jax"] == jax.__version__
    assert written["device"].startswith("8 x cpu")
    assert (written["layers"], written["neurons"], written["sample_rate"]) == (2, 12, RATE)
    assert [path.name for path in options.out.parent.iterdir() if path.name.startswith(".")] == []


def test_bench_summary_is_of_the_json_alone(quick, own_task, data_folder):
    data_folder.write("a.wav", np.full(1600, 0.5))
    options = quick(task=own_task("a.wav"))
    text = bench_summary(run_bench(options))
    assert text == bench_summary(strict_json(options.out))
    lines = text.splitlines()
    assert lines[0] == "integers: 2 layers of 12 neurons; clips of 0.1 s at 16,000 Hz."
    assert sum(line.startswith("float32 ") for line in lines) == len(SIZES)
    assert "5.76e-06 GFLOP a clip" in text
    assert "own: one core decodes " in text
    assert "The fastest step takes what " in text
    assert max(map(len, lines)) <= 140


def test_bench_summary_says_where_the_ceiling_is_none(quick):
    result = run_bench(quick())

    def summary(share):
        changed = copy.deepcopy(result)
        for row in changed["rows"]:
            row["measured"]["share_of_ceiling"] = share
        return bench_summary(changed)

    assert "it is no ceiling" in summary(1.01)
    assert "it is no ceiling" not in summary(1.0)
    assert "it is no ceiling" not in summary(None)


def refuse_batches_of_three(monkeypatch):
    whole = rates._step_on_noise

    def step(encoder, clip_seconds, clips):
        if clips == 3:
            raise RuntimeError(f"{OUT_OF_MEMORY}\nA long list of buffers")
        return whole(encoder, clip_seconds, clips)

    monkeypatch.setattr(rates, "_step_on_noise", step)


def refuse_products_of_three(monkeypatch):
    whole = rates.product_seconds

    def seconds(product, device):
        if product.left[0] == 3:
            raise RuntimeError(OUT_OF_MEMORY)
        return whole(product, device)

    monkeypatch.setattr(rates, "product_seconds", seconds)


@pytest.mark.parametrize("fault", [refuse_batches_of_three, refuse_products_of_three])
def test_run_bench_reports_a_batch_that_does_not_fit_in_its_row(quick, monkeypatch, fault):
    fault(monkeypatch)
    options = quick()
    result = run_bench(options)
    first, second = result["rows"]
    assert len(first["measured"]["step"]["repetitions"]) == ROUNDS
    assert second["measured"] is None
    assert second["failure"] == f"RuntimeError: {OUT_OF_MEMORY}"
    assert strict_json(options.out)["rows"][1]["failure"] == second["failure"]
    assert f"float32, batch 3, does not fit: RuntimeError: {OUT_OF_MEMORY}" in bench_summary(result)


def test_run_bench_reports_too_many_tokens_for_a_batch_in_its_row(quick, monkeypatch):
    def refuse(tokens_per_clip, clips_per_step):
        raise InputError("choose a smaller batch")

    monkeypatch.setattr("jaxdissect.counting.statistics.steps_before_overflow", refuse)
    result = run_bench(quick())
    assert [row["failure"] for row in result["rows"]] == ["choose a smaller batch"] * 2
    assert "GFLOP a clip" not in bench_summary(result)


def test_run_bench_reports_an_error_without_a_message(quick, monkeypatch):
    def fail(*given):
        raise MemoryError

    monkeypatch.setattr(rates, "measure_step", fail)
    assert run_bench(quick())["rows"][0]["failure"] == "MemoryError: no reason given"


def test_run_bench_lets_an_interrupt_pass(quick, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(rates, "measure_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_bench(quick())


def test_rounds_compile_nothing(quick, monkeypatch):
    encoder, traces = IntegerEncoder(), []
    monkeypatch.setattr(rates, "load_encoder", lambda path, dtype: encoder)
    for rounds in (1, 4):
        run_bench(quick(rounds=rounds))
        traces.append(len(encoder.traces))
        encoder.traces.clear()
    assert traces[0] == traces[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 0.0}, "--seconds must be a positive number of seconds, at most 3600, got 0.0"),
        ({"seconds": math.nan}, "--seconds must be a positive number of seconds, at most 3600, got nan"),
        ({"seconds": 1e9}, "--seconds must be a positive number of seconds, at most 3600, got 1000000000.0"),
        ({"batch_sizes": ()}, "--batch-sizes must be one or more, each given once, got nothing"),
        ({"batch_sizes": (4, 4)}, "--batch-sizes must be one or more, each given once, got 4 4"),
        ({"batch_sizes": (4, 0)}, "--batch-sizes must be a whole number, at least 1, got 0"),
        ({"dtypes": ()}, "--dtypes must be one or more, each given once, got nothing"),
        ({"rounds": 0}, "--rounds must be a whole number, at least 1, got 0"),
        ({"data": Path("some")}, "--data some needs --task"),
        ({"task": "esc5"}, "Task 'esc5' is neither a known task"),
        ({"encoder": "nowhere"}, "nowhere is no encoder directory"),
        ({"encoder": "m2d_tiny", "seconds": 0.01}, "choose a longer unit length"),
    ],
)
def test_run_bench_refuses_a_mistake_before_measuring(quick, monkeypatch, changes, message):
    for name in ("measure_decoding", "measure_step"):
        monkeypatch.setattr(rates, name, lambda *given: pytest.fail("it has begun"))
    with pytest.raises(InputError) as error:
        run_bench(quick(**changes))
    assert message in str(error.value)


def test_run_bench_refuses_a_task_without_readable_clips(quick, own_task, data_folder, monkeypatch):
    monkeypatch.setattr(rates, "measure_step", lambda *given: pytest.fail("it has begun"))
    data_folder.table("broken.wav", "no sound")
    with pytest.raises(InputError, match="--task own: none of 1 clips can be read, the first: cannot be decoded"):
        run_bench(quick(task=own_task("broken.wav")))


def test_run_bench_refuses_a_place_that_cannot_be_written(quick, tmp_path):
    (tmp_path / "file").touch()
    for out, message in ((tmp_path, "must be a regular file"), (tmp_path / "file" / "a.json", "cannot be written")):
        with pytest.raises(InputError, match=message):
            run_bench(quick(out=out))


def test_task_to_decode_has_the_length_of_its_task_or_of_prepared_data(own_task, data_folder, tmp_path):
    def task(name, data):
        return task_to_decode(BenchOptions(encoder="any", task=name, data=data, seconds=2.0))

    data_folder.write("a.wav", np.full(1600, 0.5))
    (data_folder.path / "meta").mkdir()
    data_folder.table("meta/esc50.csv", "filename,fold,target,category\na.wav,1,0,dog\n")
    table = own_task("a.wav")
    assert task("esc50", data_folder.path).unit_seconds == 5.0
    assert task(table, None).unit_seconds == 2.0
    run_prepare(PrepareOptions(task=table, out=tmp_path / "prepared", unit_seconds=0.05))
    prepared = task(table, tmp_path / "prepared")
    assert (prepared.unit_seconds, prepared.data) == (0.05, tmp_path / "prepared")
    assert task(None, None) is None
