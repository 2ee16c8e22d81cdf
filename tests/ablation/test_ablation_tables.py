"""What `ablate` returns against the slow version, and on cases that can be worked out."""

import dataclasses
import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import slow_ablation as slow
import soundfile
from foreign import HOP, IntegerEncoder
from tolerances import TOLERANCES, assert_within, relative_error

from jaxdissect import AblationOptions, Head, InputError, Judge, ablate, neuron_set
from jaxdissect.ablation.interventions import make_interventions
from jaxdissect.ablation.verdicts import Verdicts, class_means, judge_clips
from jaxdissect.significance.intervals import bootstrap_means
from jaxdissect.significance.p_values import benjamini_hochberg, empirical_p
from jaxdissect.tasks.table import label_set, make_task

CLIPS, SAMPLES, SHAPE = 30, 4 * HOP, (2, 12)
PROBES, CONTROLS, RESAMPLES = 2, 9, 10_000
UNREADABLE, SHORT = (7, 20), 4
OPTIONS = AblationOptions(gains=(0.0, 0.5, 3.0), controls=CONTROLS, match="layer", resamples=RESAMPLES)
SETS = (
    ("first", [(0, 1), (0, 5), (1, 2)], [("kind", "a")]),
    ("second", [(1, 0), (1, 7)], [("kind", "b"), ("kind", "c"), ("place", "x")]),
    ("third", [(0, 3), (1, 4)], [("sounds", "siren"), ("place", "y")]),
    ("aimless", [(0, 8), (1, 8)], []),
)
MARGIN = "margin under an intervention against float64, relative"
PRECISION = "average precision against scikit-learn's, relative"
SHARE = "arithmetic of shares and p-values in float64, relative"


def kind(clip):
    return ["abc"[clip % 3]]


def place(clip):
    return [] if clip % 7 == 3 else ["xy"[clip % 2]]


def sounds(clip):
    """Several, one or none; `a` is a name that another label set has too."""
    named = {"a": clip % 4 == 0, "siren": clip % 15 == 2, "horn": clip % 3 != 0}
    return [name for name, present in named.items() if present]


def recording(clip):
    """Five, of which class c of `kind` has three and `siren` one."""
    return "r2" if clip % 15 == 2 else f"r{clip // 3 % 3 if kind(clip) == ['c'] else clip % 5}"


def signal(clip):
    """Of three patterns that a linear layer can tell, under noise, as float32."""
    patterns = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 16))
    noise = np.random.default_rng(100 + clip).uniform(-0.5, 0.5, SAMPLES)
    pcm = np.tile(np.repeat(patterns[clip % 3], HOP // 16), SAMPLES // HOP) + noise
    return (pcm[:1100] if clip == SHORT else pcm).astype(np.float32)


def heads_of(embeddings, members, seed):
    """Probes that know the classes' mean embeddings, less than well."""
    random = np.random.default_rng(seed)
    scaled = (embeddings - embeddings.mean(axis=0)) / embeddings.std(axis=0)
    ideal = np.stack([scaled[own].mean(axis=0) - scaled[~own].mean(axis=0) for own in members.T], axis=1)
    heads = []
    for _ in range(PROBES):
        kernel = ideal + random.normal(size=ideal.shape)
        head = {"mean": embeddings.mean(axis=0) + random.normal(size=16), "variance": embeddings.var(axis=0),
                "kernel": kernel, "bias": random.normal(size=ideal.shape[1])}  # fmt: skip
        heads.append({name: leaf.astype(np.float32) for name, leaf in head.items()})
    return tuple(heads)


def judge_of(labels, task_labels):
    head = Head(**{name: np.stack([head[name] for head in labels.heads]) for name in labels.heads[0]})
    return Judge(head, task_labels.table(), labels.multi_label)


def chosen_of(options=OPTIONS, suffix="", sets=SETS):
    return make_interventions([neuron_set(name + suffix, *rest) for name, *rest in sets], SHAPE, options)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A task with two label sets of one class a clip and one of several, and probes of each."""
    folder, encoder = tmp_path_factory.mktemp("data"), IntegerEncoder()
    clips = [signal(clip) for clip in range(CLIPS)]
    for number, pcm in enumerate(clips):
        soundfile.write(folder / f"{number}.wav", pcm, encoder.sample_rate, subtype="FLOAT")
    for number in UNREADABLE:
        (folder / f"{number}.wav").write_bytes(b"no recording")
    clips = [None if number in UNREADABLE else np.pad(pcm, (0, SAMPLES - len(pcm))) for number, pcm in enumerate(clips)]
    readable = [number for number in range(CLIPS) if number not in UNREADABLE]
    embeddings = np.array([slow.embedding(encoder, clips[number]) for number in readable])

    task_labels = [
        label_set("kind", [kind(clip) for clip in range(CLIPS)]),
        label_set("place", [place(clip) for clip in range(CLIPS)]),
        label_set("sounds", [sounds(clip) for clip in range(CLIPS)], multi_label=True),
    ]
    labels = [
        slow.Labels(one.name, one.classes, one.members, one.multi_label,
                    heads_of(embeddings, one.table(readable), seed))
        for seed, one in enumerate(task_labels)
    ]  # fmt: skip
    names = [f"{number}.wav" for number in range(CLIPS)]
    recordings = [recording(clip) for clip in range(CLIPS)]
    seconds = SAMPLES / encoder.sample_rate
    splits, folds = ["test"] * CLIPS, [None] * CLIPS
    task = make_task("world", folder, seconds, names, splits, folds, task_labels, recordings=recordings)
    judges = {one.name: judge_of(one, own) for one, own in zip(labels, task_labels, strict=True)}
    means = np.random.default_rng(9).uniform(0, 60, SHAPE)
    chosen = chosen_of() + chosen_of(dataclasses.replace(OPTIONS, gains=None, mode="mean"), " by mean")
    return SimpleNamespace(encoder=encoder, clips=clips, labels=labels, task=task, judges=judges, means=means,
                           chosen=chosen, readable=readable)  # fmt: skip


@pytest.fixture(scope="module", params=["whole", "parts"])
def result(world, request):
    """Also in many small parts, on the devices and in the host's memory."""
    small = {"batch_size": 3, "at_once": 5} if request.param == "parts" else {}
    passes = []
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr("jaxdissect.ablation.suite_state.LARGEST_VERDICTS", 100_000)
        ablated = ablate(
            world.encoder, world.task, world.judges, world.chosen, OPTIONS, world.means, progress=passes.append, **small
        )
    assert passes == sorted(passes)
    assert passes[-1] == len(world.chosen) * (1 + CONTROLS) * CLIPS
    return ablated


@pytest.fixture(scope="module")
def expected(world):
    """The slow version's tables, and of each row of the first the exact distribution of its bootstrap."""
    ablated = slow.ablate(world.encoder, world.clips, world.labels, world.chosen, world.means)
    resampled = [
        slow.resampled_means(list(changes.values()), [recording(clip) for clip in changes])
        for changes in (row.pop("clip_changes") for row in ablated.rows)
    ]
    tables = {name: pd.DataFrame(getattr(ablated, name)) for name in ("controls", "suite")}
    gaps = {name: getattr(ablated, name) for name in ("logit_gap", "p_gap")}
    return SimpleNamespace(table=pd.DataFrame(ablated.rows), resampled=resampled, **tables, **gaps)


def assert_same(result, expected, columns):
    pd.testing.assert_frame_equal(result[columns], expected[columns], check_dtype=False, check_exact=True)


def assert_near(result, expected, columns, name):
    for column in columns:
        assert_within(name, relative_error(result[column], expected[column]))


# --- against the slow version


def test_ablate_rows_are_label_sets_interventions_and_classes(result, expected):
    names = ["label_set", "intervention", "mode", "gain", "neurons", "class", "clips", "controls"]
    assert_same(result.table, expected.table, names)
    assert_same(result.controls, expected.controls, ["intervention", "control", "class"])
    assert_same(result.suite, expected.suite, ["label_set", "mode", "gain", "interventions", "contrast", "controls"])


def test_ablate_counts_recall_exactly(result, expected):
    """As numbers of clips that are right, over the probes."""
    single = expected.table.label_set != "sounds"
    table, wanted = result.table[single], expected.table[single]
    for column in ("accuracy_before", "accuracy_after", "change"):
        right = wanted[column] * wanted.clips * PROBES
        np.testing.assert_array_equal(np.rint(table[column] * wanted.clips * PROBES), np.rint(right))
    accuracy = ["accuracy_before", "accuracy_after", "change", "change_clips"]
    assert_near(table, wanted, accuracy, SHARE)


def test_ablate_average_precision_is_scikit_learns(result, expected):
    several = expected.table.label_set == "sounds"
    table, wanted = result.table[several], expected.table[several]
    assert_near(table, wanted, ["accuracy_before", "accuracy_after", "change"], PRECISION)
    assert table.change_clips.isna().all()


def test_ablate_margins_match_the_slow_ones(result, expected):
    assert_near(result.table, expected.table, ["margin_before", "margin_after", "margin_change"], MARGIN)
    assert_near(result.table, expected.table, ["control_mean", "control_sd"], MARGIN)


def test_ablate_controls_match_the_slow_ones(result, expected):
    assert_near(result.controls, expected.controls, ["change"], PRECISION)
    assert_near(result.controls, expected.controls, ["margin_change"], MARGIN)


def test_ablate_suite_matches_the_slow_one(result, expected):
    assert_near(result.suite, expected.suite, ["margin_change", "control_mean", "control_sd"], MARGIN)
    assert_same(result.suite, expected.suite, ["p_value"])


def test_ablate_p_and_q_values_match_the_slow_ones(result, expected):
    assert_same(result.table, expected.table, ["p_value"])
    assert_near(result.table, expected.table, ["q_value"], SHARE)


def test_ablate_intervals_are_quantiles_of_all_resamples(result, expected):
    """Within the error of the number that were drawn: five of its standard deviations."""
    error = 5 * math.sqrt(0.025 * 0.975 / RESAMPLES)
    for (_, row), means in zip(result.table.iterrows(), expected.resampled, strict=True):
        if len(means) == 1:  # of one source
            assert math.isnan(row.ci_low)
            assert math.isnan(row.ci_high)
            continue
        slack = TOLERANCES[MARGIN].allowed * np.abs(expected.table.margin_after).max()
        for limit, share in ((row.ci_low, 0.025), (row.ci_high, 0.975)):
            least, most = (np.quantile(means, share + sign * error, method="inverted_cdf") for sign in (-1, 1))
            assert least - slack <= limit <= most + slack, f"{row.intervention}, {row['class']}"


def test_ablate_lists_its_sets_and_the_clips_left_out(result, world):
    neurons = [(one.name, one.mode, one.gain, *pair) for one in world.chosen for pair in one.neurons.neurons]
    assert list(result.sets.itertuples(index=False, name=None)) == neurons
    assert sorted(result.reasons) == list(UNREADABLE)
    assert all("cannot be decoded" in reason for reason in result.reasons.values())


def test_ablate_comparison_with_the_slow_version_is_not_trivial(expected):
    """No decision hangs on a rounding error, and there are all kinds of results."""
    table = expected.table
    error = TOLERANCES[MARGIN].allowed * np.abs(table.margin_after).max()
    assert expected.logit_gap > error
    assert expected.p_gap > 10 * error
    assert (table.change < 0).sum() > 10
    assert (table.change > 0).sum() > 10
    assert table.p_value.nunique() == 1 + CONTROLS
    assert table.groupby("label_set").q_value.nunique().min() > 2
    assert expected.suite.p_value.nunique() > 5
    assert {len(means) for means in expected.resampled} == {1, 3**3, 5**5}
    assert ((table.accuracy_before * table.clips) % 1 > 0.1).any()  # probes that are not of one mind


# --- clips that take no part


QUICK = dataclasses.replace(OPTIONS, gains=(0.0, 3.0), controls=4, resamples=200)


def ablate_part(world, options=QUICK, clips=range(CLIPS), sets=SETS[:1], labels=("kind",)):
    """What one set's interventions do to some of the clips, as some of the label sets tell."""
    task = world.task.rows(list(clips))
    task = dataclasses.replace(task, label_sets=tuple(one for one in task.label_sets if one.name in labels))
    judges = {one.name: dataclasses.replace(world.judges[one.name], members=one.table()) for one in task.label_sets}
    return ablate(world.encoder, task, judges, chosen_of(options, sets=sets), options)


def test_ablate_ignores_an_unreadable_clip(world):
    every, readable = ablate_part(world, labels=["place"]), ablate_part(world, clips=world.readable, labels=["place"])
    pd.testing.assert_frame_equal(every.table, readable.table)
    pd.testing.assert_frame_equal(every.controls, readable.controls)
    pd.testing.assert_frame_equal(every.suite, readable.suite)
    assert set(every.reasons) == set(UNREADABLE)
    assert not readable.reasons


def test_ablate_ignores_a_clip_without_a_label(world):
    """Not so of a multi-label set: there it is one more clip for average precision, as in the slow version."""
    labelled = [clip for clip in world.readable if place(clip)]
    assert len(world.readable) - len(labelled) > 2
    every, fewer = (ablate_part(world, clips=clips, labels=["place"]) for clips in (world.readable, labelled))
    pd.testing.assert_frame_equal(every.table, fewer.table)
    pd.testing.assert_frame_equal(every.controls, fewer.controls)


def test_ablate_gives_nan_and_no_test_for_a_class_of_unreadable_clips(world):
    """The other rows are as without it, q-values too."""
    only = label_set("place", [["z"] if clip in UNREADABLE else place(clip) for clip in range(CLIPS)])
    head = world.judges["place"].head
    head = head.replace(kernel=np.pad(head.kernel, ((0, 0), (0, 0), (0, 1))),  # a class that is never the highest
                        bias=np.pad(head.bias, ((0, 0), (0, 1)), constant_values=-1e4))  # fmt: skip
    task = dataclasses.replace(world.task, label_sets=(only,))
    chosen = chosen_of(QUICK, sets=SETS[:1])
    result = ablate(world.encoder, task, {"place": Judge(head, only.table())}, chosen, QUICK).table
    without = ablate_part(world, labels=["place"]).table
    assert result["class"].tolist() == ["x", "y", "z"] * 2
    pd.testing.assert_frame_equal(result[result["class"] != "z"].reset_index(drop=True), without)
    empty = result[result["class"] == "z"]
    assert (empty.clips == 0).all()
    numbers = [column for column in result.columns[result.columns.get_loc("accuracy_before") :] if column != "controls"]
    assert empty[numbers].isna().all(axis=None)


# --- sources


def test_ablate_intervals_depend_on_the_sources_of_clips(world):
    """Twice each clip is no more evidence than once, unless one takes them for different sources."""
    twice = [clip for clip in world.readable for _ in range(2)]
    names = [f"{number}-{clip}.wav" for number, clip in enumerate(twice)]
    for name, clip in zip(names, twice, strict=True):
        soundfile.write(world.task.data / name, world.clips[clip], 16000, subtype="FLOAT")
    labels = label_set("kind", [kind(clip) for clip in twice])
    intervals = {}
    for sources, of in {"one": lambda clip: "all", "clips": str, "files": None}.items():
        recordings = of and [of(clip) for clip in twice]
        task = make_task("twice", world.task.data, world.task.unit_seconds, names, ["test"] * len(names),
                         [None] * len(names), [labels], recordings=recordings)  # fmt: skip
        judges = {"kind": Judge(world.judges["kind"].head, labels.table())}
        options = dataclasses.replace(QUICK, resamples=RESAMPLES)
        intervals[sources] = ablate(world.encoder, task, judges, chosen_of(options, sets=SETS[:1]), options).table
    assert intervals["one"][["ci_low", "ci_high"]].isna().all(axis=None)
    pd.testing.assert_series_equal(intervals["clips"].margin_change, intervals["files"].margin_change)
    widths = [intervals[sources].ci_high - intervals[sources].ci_low for sources in ("clips", "files")]
    moved = (intervals["files"].change_clips != 0).to_numpy()
    assert moved.sum() >= 3
    np.testing.assert_allclose((widths[0] / widths[1])[moved], math.sqrt(2), rtol=0.15)


def test_bootstrap_means_of_many_sources_give_the_normal_interval():
    """Mean and standard error of sources of unequal size: the linearised ratio of sums, 1.96 of them on each side."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, 5, 400)
    sources = np.repeat(np.arange(400), sizes)
    values = random.exponential(size=400)[sources] + 0.1 * random.normal(size=len(sources))
    low, high = bootstrap_means(values[:, None], sources, RESAMPLES, 0)
    mean = values.mean()
    residuals = [sum(values[sources == one] - mean) for one in range(400)]
    error = math.sqrt(sum(one**2 for one in residuals)) / len(values)
    assert (high - low)[0] == pytest.approx(2 * 1.96 * error, rel=0.04)
    assert low[0] < mean - 1.8 * error < mean + 1.8 * error < high[0]


# --- special cases


def test_ablate_with_gain_one_changes_nothing(world):
    """Up to rounding: the pass with gains is another program than the pass without, and rounds as it likes."""
    table = ablate_part(world, dataclasses.replace(QUICK, gains=(1.0,))).table
    assert (table[["change", "change_clips"]] == 0).all(axis=None)
    moved = table[["margin_change", "control_mean", "control_sd", "ci_low", "ci_high"]]
    assert_within("margin under gain 1, relative", float((moved.abs().max(axis=1) / table.margin_before.abs()).max()))


def test_ablate_shifted_control_is_an_intervention_on_the_next_neurons(world):
    shifted = ablate_part(world, dataclasses.replace(QUICK, match="shift"), sets=[("last", [(0, 11), (1, 2)])])
    beside = ablate_part(world, sets=[("first", [(0, 0), (1, 3)])])
    np.testing.assert_array_equal(shifted.controls.margin_change, shifted.table.control_mean)
    np.testing.assert_allclose(shifted.table.control_mean, beside.table.margin_change)
    assert (shifted.table.controls == 1).all()
    assert shifted.table.control_sd.isna().all()
    assert (shifted.table[["p_value", "q_value"]] == 1).all(axis=None)
    assert len(shifted.suite) == 0  # meant for no class


def test_ablate_without_controls_gives_no_p_value(world):
    alone, beside = (ablate_part(world, dataclasses.replace(QUICK, controls=controls)) for controls in (0, 4))
    of_controls = ["controls", "control_mean", "control_sd", "p_value", "q_value"]
    pd.testing.assert_frame_equal(alone.table.drop(columns=of_controls), beside.table.drop(columns=of_controls))
    assert alone.table[of_controls[1:]].isna().all(axis=None)
    assert alone.suite[of_controls[1:4]].isna().all(axis=None)
    assert (alone.table.controls == 0).all()
    assert len(alone.controls) == 0


def test_ablate_suite_has_no_others_for_an_intervention_meant_for_every_class(world):
    sets = [("all", [(0, 1)], [("kind", name) for name in "abc"])]
    result = ablate_part(world, sets=sets)
    changes = result.table.groupby("intervention", sort=False).margin_change.mean()
    suite = result.suite.set_index("contrast")
    np.testing.assert_allclose(suite.margin_change["own classes"].astype(float), changes)
    assert suite.drop("own classes")[["margin_change", "p_value"]].isna().all(axis=None)


# --- p-values and false discovery rate


@pytest.mark.parametrize(
    ("target", "controls", "p"),
    [
        (8, [1, 1, 2], 0.25),  # mean 3: distances 5 | 2, 2, 1
        (-8, [-1, -1, -2], 0.25),
        (7, [0, 2, 3, 8], 0.6),  # mean 4: distances 3 | 4, 2, 1, 4
        (5, [3, 3, 3, 6], 1.0),  # mean 4: distances 1 | 1, 1, 1, 2
        (4, [4, 4, 4], 1.0),
        (0, [-1, 1], 1.0),
        (5, [0], 1.0),  # one control lies as far from the mean as the target does
        (10, [0] * 9, 0.1),
    ],
)
def test_empirical_p_worked_out(target, controls, p):
    result = empirical_p(np.array([float(target)]), np.array(controls, float)[:, None])
    assert result.tolist() == [p]
    assert slow.exact_p(target, controls)[0] == p


@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-7])
def test_empirical_p_with_many_ties_equals_the_slow_one(scale):
    """Ties at unequal distances on both sides of the mean, in numbers that are no exact binary fractions too."""
    random = np.random.default_rng(1)
    observed, controls = random.integers(-3, 4, 300), random.integers(-3, 4, (7, 300))
    result = empirical_p(observed * scale, controls * scale)
    wanted = [slow.exact_p(one, of)[0] for one, of in zip(observed, controls.T, strict=True)]
    np.testing.assert_array_equal(result, wanted)
    assert len(set(wanted)) == 8


@pytest.mark.parametrize("draw", ["normal", "skewed", "heavy tails", "ties", "a level of their own"])
@pytest.mark.parametrize("controls", [19, 39])
def test_empirical_p_of_a_target_like_its_controls_is_rarely_significant(draw, controls):
    """P(p <= 0.05) is at most 0.05, and without ties just that, over many data sets, within 4 standard errors."""
    random, data_sets = np.random.default_rng(controls), 20_000
    shape = (1 + controls, data_sets)
    values = {
        "normal": lambda: random.normal(size=shape),
        "skewed": lambda: random.exponential(size=shape) ** 2,
        "heavy tails": lambda: random.standard_cauchy(shape),
        "ties": lambda: random.binomial(4, 0.2, shape).astype(float),
        "a level of their own": lambda: random.normal(size=shape) + 100 * random.normal(size=data_sets),
    }[draw]()
    share = (empirical_p(values[0], values[1:]) <= 0.05).mean()
    error = 4 * math.sqrt(0.05 * 0.95 / data_sets)
    assert share <= 0.05 + error
    if draw != "ties":
        assert share >= 0.05 - error


@pytest.mark.parametrize(
    ("p_values", "q_values"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.04, 0.04, 0.04]),
        ([0.04, 0.001, 0.5, 0.02], [0.04 * 4 / 3, 0.004, 0.5, 0.04]),
        ([0.2, 0.2, 0.9, 0.01], [0.8 / 3, 0.8 / 3, 0.9, 0.04]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([0.3], [0.3]),
    ],
)
def test_benjamini_hochberg_worked_out(p_values, q_values):
    assert_within(SHARE, relative_error(benjamini_hochberg(np.array(p_values)), q_values))
    assert_within(SHARE, relative_error(slow.q_values(p_values), q_values))


def test_benjamini_hochberg_equals_scipys_and_leaves_out_nan():
    random = np.random.default_rng(0)
    for count in (1, 2, 40):
        p_values = random.integers(1, 21, count) / 20
        wanted = scipy.stats.false_discovery_control(p_values)
        gaps = np.repeat(p_values, 2)
        gaps[::2] = np.nan
        result = benjamini_hochberg(gaps)
        assert np.isnan(result[::2]).all()
        assert_within(SHARE, relative_error(result[1::2], wanted))
        assert_within(SHARE, relative_error(slow.q_values(p_values), wanted))


def test_ablate_suite_leaves_out_a_class_without_a_usable_clip(world):
    """And so does an intervention that is meant for every class, which has no others."""
    every = [("kind", name) for name in "abc"]
    sets = (("for all", [(0, 1), (1, 2)], every), ("for a", [(0, 5), (1, 3)], [("kind", "a")]))
    kinds = dataclasses.replace(world.task.label_sets[0], classes=("a", "b", "c", "z"))
    members = [(3,) if clip in UNREADABLE else own for clip, own in enumerate(kinds.members)]
    task = dataclasses.replace(world.task, label_sets=(dataclasses.replace(kinds, members=tuple(members)),))
    head = world.judges["kind"].head
    wider = Head(
        head.mean, head.variance, *(np.concatenate([part, part[..., :1] - 9], -1) for part in (head.kernel, head.bias))
    )
    ablated = ablate(
        world.encoder, task, {"kind": Judge(wider, task.label_sets[0].table())}, chosen_of(sets=sets), OPTIONS
    )
    table = ablated.table[ablated.table["gain"] == 0].set_index(["intervention", "class"])["margin_change"]
    assert np.isnan(table["for a x 0", "z"])
    suite = ablated.suite[ablated.suite["gain"] == 0].set_index("contrast")
    assert suite["interventions"].tolist() == [2, 2, 2]
    own = np.mean([np.mean([table["for all x 0", name] for name in "abc"]), table["for a x 0", "a"]])
    others = np.mean([table["for a x 0", name] for name in "bc"])
    assert suite["margin_change"].tolist() == pytest.approx([own, others, table["for a x 0", "a"] - others])
    assert suite["p_value"].between(0.1, 1).all()


def test_class_means_are_nan_only_where_an_edit_blows_up_a_margin():
    verdicts = Verdicts(np.array([[np.nan, 1, 2]], np.float32), np.array([[np.nan, 1, 0]], np.float32))
    none = np.zeros((1, 2), np.float32)
    head = Head(none, none + 1, np.ones((1, 2, 2), np.float32), none)
    accuracy, margin = class_means(verdicts, Judge(head, np.eye(3, dtype=bool)), np.ones(3, bool))
    np.testing.assert_array_equal(margin, [[np.nan, 1, 2]])
    np.testing.assert_array_equal(accuracy, [[np.nan, 1, 0]])
    blown = judge_clips(head, jnp.array([[np.inf, 0], [1, 1]]), jnp.array([[True, False]] * 2), False)
    assert np.isnan(blown.correct[0])
    assert np.isfinite(blown.correct[1])


def test_ablate_refuses_what_does_not_fit_together(world):
    chosen = chosen_of()

    def run(**changes):
        given = {"judges": world.judges, "chosen": chosen, "options": OPTIONS} | changes
        with pytest.raises(InputError) as refusal:
            ablate(world.encoder, world.task, **given)
        return str(refusal.value)

    assert "needs an intervention at least" in run(chosen=[])
    assert "names that differ" in run(chosen=[chosen[0], chosen[0]])
    assert "needs the mean of every neuron" in run(
        chosen=chosen_of(AblationOptions(mode="mean", controls=0, match="layer"))
    )
    assert "The judge of the label set 'kind' must have" in run(judges={})
    judge = world.judges["kind"]
    fewer = dataclasses.replace(judge, members=judge.members[1:])
    assert "members of the shape (30, 3)" in run(judges={**world.judges, "kind": fewer})
    assert "multi_label False" in run(judges={**world.judges, "kind": dataclasses.replace(judge, multi_label=True)})
    narrow = dataclasses.replace(judge.head, kernel=judge.head.kernel[..., :1])
    assert "a head of 3 classes" in run(judges={**world.judges, "kind": dataclasses.replace(judge, head=narrow)})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gains": (0.0, math.nan)}, "gains must be finite, and at most 1,000,000 in size, got 0.0, nan"),
        ({"gains": (2e6,)}, "gains must be finite"),
        ({"gains": (0.0, 0.0)}, "gains must be numbers that differ, got 0.0, 0.0"),
        ({"gains": ()}, "gains must be numbers that differ, got none"),
        ({"gains": (0.0,), "mode": "mean"}, "leave gains out"),
        ({"controls": -1}, "controls must not be negative, got -1"),
        ({"resamples": 0}, "resamples must be positive, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_ablation_options_refuse(wrong, message):
    with pytest.raises(InputError, match=message):
        AblationOptions(**wrong)
