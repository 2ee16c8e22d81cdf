"""Ground truth for selectors and significance: neurons that are known to answer to known classes, among noise.

`python -m benchmarks.planted --out benchmarks/results/planted.json`. A planted pair is a class and a neuron whose
log-odds of firing are raised by `strength` on the clips of the class. Around it is what real stores hold: neurons of
very different rates, latent factors that many neurons share, and recordings that were cut into several clips.

1. With no planted pairs, or with labels shuffled over recordings: how often is anything found?
2. With planted pairs: recall and false discovery rate of every selector over strength, clips and classes.
3. The same on an encoder whose planted neurons hear tones in synthesised audio: the whole chain from WAV files on.
"""

import csv
import dataclasses
import itertools
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import scipy.stats
import soundfile
import tyro
from jaxtyping import Array, Bool, Float, Int, UInt16

from benchmarks.common import table, write_record
from jaxdissect import CountOptions, SelectionRule, TokenLayout, collect_activations, load_task
from jaxdissect.exchange import find_units
from jaxdissect.permutation import CutOffs, Null, PermutationTest, Tested
from jaxdissect.progress import progress_bar
from jaxdissect.selection import activation_probability, select
from jaxdissect.selectors import best_of_each_class, class_selectivity, d_prime, rank_scores
from jaxdissect.significance import benjamini_hochberg
from jaxdissect.unit_counts import UnitCounts

LEVEL = 0.05
FOLDS = 5
TOKENS = 160  # of a clip
# Rates and noise are about those of m2d_tiny on ESC-50. Planted neurons are ordinary ones.
KINDS = {"ordinary": 0.81, "always": 0.01, "rare": 0.06, "single clip": 0.05, "never": 0.07}
FIRING = tuple(KINDS)[:-1]
BASE, BASE_SD, ALWAYS, RARE, SINGLE = -2.0, 1.2, 5.0, -7.0, 0.0  # log-odds of firing
FACTORS = 6  # latent factors that all neurons share, of recordings and of clips
SHARED_SD = {"recording": 0.7, "clip": 0.5}  # of the log-odds, by factors
OWN_SD = {"recording": 0.5, "clip": 0.3}  # of the neuron alone
SCENARIOS = ("nothing planted", "planted, labels shuffled", "nothing planted, classes differ in size of recordings")
SIZES = ((1,), (1,), (1, 2), (3,))  # of the recordings of a class, in turn, where classes differ; ESC-50 spans as much
SELECTORS = (
    "aape", "lape", f"q <= {LEVEL}", "probability", "class_selectivity", "d_prime", "auroc", "average_precision",
)  # fmt: skip
TESTED = SELECTORS[2]
PROMISED = 0.95  # recall


@dataclass(frozen=True)
class Options:
    """How much to draw."""

    out: Path | None = None  # the JSON file to write
    runs: int = 400  # of each scenario without discoveries to make
    permutations: int = 200  # at least; more where classes are many (`permutations_for`)
    pairs: int = 180  # to plant at each point of the grid, in two repetitions or more
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)  # log-odds
    clips_per_class: tuple[int, ...] = (20, 40, 80)
    classes: tuple[int, ...] = (4, 10, 50)
    encoders: int = 4  # small encoders with audio of their own
    seed: int = 0
    quick: bool = False  # a smoke test: few runs, a corner of the grid

    def __post_init__(self) -> None:
        if min(self.runs, self.permutations, self.pairs, self.encoders) < 1:
            raise SystemExit("--runs, --permutations, --pairs and --encoders must be at least 1.")

    def shortened(self) -> "Options":
        """What `quick` leaves of it."""
        if not self.quick:
            return self
        return dataclasses.replace(
            self, runs=10, pairs=1, encoders=1, strengths=(1.0, 3.0), clips_per_class=(20, 40), classes=(4, 10)
        )


@dataclass(frozen=True)
class Design:
    """A store to be drawn.

    Attributes:
      classes, layers, neurons: how many.
      clips_per_class: the same in every class, spread over the folds.
      planted: neurons of each class, a neuron answers to one class at most.
      strength: what its log-odds rise by on clips of that class.
      unequal: classes differ in how many clips their recordings have (`SIZES`); by default 1, 2, 3, 1, 2, ... in all.
    """

    classes: int = 8
    clips_per_class: int = 30
    layers: int = 4
    neurons: int = 64
    planted: int = 0
    strength: float = 0.0
    unequal: bool = False

    def clips(self) -> tuple[Int[np.ndarray, " clip"], Int[np.ndarray, " clip"], Int[np.ndarray, " clip"]]:
        """Class, fold and recording of every clip."""
        rows: list[tuple[int, int, int]] = []
        recordings = itertools.count()
        for label, fold in itertools.product(range(self.classes), range(FOLDS)):
            left = self.clips_per_class // FOLDS
            for size in itertools.cycle(SIZES[label % len(SIZES)] if self.unequal else (1, 2, 3)):
                rows += [(label, fold, next(recordings))] * min(size, left)
                left -= size
                if left <= 0:
                    break
        label, fold, recording = np.array(rows).T
        return label, fold, recording


@dataclass(frozen=True, eq=False)
class Store:
    """Counts of every clip, and the truth about them.

    Attributes:
      counts: active tokens.
      tokens: of every clip.
      members: classes of every clip.
      folds, recordings: of every clip.
      truth: the planted pairs.
      kind: of every neuron, a number of `KINDS`.
    """

    counts: UInt16[np.ndarray, "clip layer neuron"]
    tokens: Int[np.ndarray, " clip"]
    members: Bool[np.ndarray, "clip class"]
    folds: Int[np.ndarray, " clip"]
    recordings: Int[np.ndarray, " clip"]
    truth: Bool[np.ndarray, "class layer neuron"]
    kind: Int[np.ndarray, "layer neuron"]

    def shuffled(self, rng: np.random.Generator) -> "Store":
        """The same with labels exchanged among the recordings of a fold, and no pair that is true."""
        units = find_units(self.members, self.recordings.tolist(), self.folds.tolist())
        members = units.exchanged(rng)[units.unit]
        return dataclasses.replace(self, members=members, truth=np.zeros_like(self.truth))


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of activations and of their squares over the tokens of each class, and of all clips."""

    total: Float[np.ndarray, "class layer neuron"]
    squares: Float[np.ndarray, "class layer neuron"]
    all_total: Float[np.ndarray, "layer neuron"]
    all_squares: Float[np.ndarray, "layer neuron"]


def make_store(design: Design, rng: np.random.Generator) -> Store:
    """Draw a store: active tokens are binomial, given log-odds that add base, noise and planted strength."""
    label, fold, recording = design.clips()
    clips, recordings, neurons = len(label), int(recording[-1]) + 1, design.layers * design.neurons
    ends = np.cumsum([round(share * neurons) for share in KINDS.values()])[:-1]
    kind = rng.permutation(np.searchsorted(ends, np.arange(neurons), side="right"))
    base = np.select([kind == 1, kind == 2], [ALWAYS, RARE], rng.normal(BASE, BASE_SD, neurons))
    odds = np.broadcast_to(base, (clips, neurons)).copy()
    for level, of_clip in (("recording", recording), ("clip", np.arange(clips))):
        drawn = recordings if level == "recording" else clips
        loading = rng.normal(0, SHARED_SD[level] / math.sqrt(FACTORS), (FACTORS, neurons))
        noise = rng.normal(size=(drawn, FACTORS)) @ loading + rng.normal(0, OWN_SD[level], (drawn, neurons))
        odds += noise[of_clip]
    single = np.flatnonzero(kind == 3)
    odds[:, kind >= 3] = -np.inf
    odds[rng.integers(clips, size=len(single)), single] = SINGLE
    truth = np.zeros((design.classes, neurons), bool)
    chosen = rng.choice(np.flatnonzero(kind == 0), design.classes * design.planted, replace=False)
    truth[np.repeat(np.arange(design.classes), design.planted), chosen] = True
    odds += design.strength * truth[label]
    counts = rng.binomial(TOKENS, 1 / (1 + np.exp(-odds))).astype(np.uint16)
    shape = (design.layers, design.neurons)
    return Store(
        counts.reshape(clips, *shape), np.full(clips, TOKENS), np.eye(design.classes, dtype=bool)[label], fold,
        recording, truth.reshape(-1, *shape), kind.reshape(shape),
    )  # fmt: skip


def draw_sums(store: Store, rng: np.random.Generator) -> Sums:
    """Activations of active tokens are exponential, of the others zero.

    Their sum over the k active tokens of a clip is Gamma(k); the sum of their squares is its mean given that sum.
    """
    counts = store.counts.astype(np.float64)
    total = rng.standard_gamma(counts)
    squares = 2 * total**2 / (counts + 1)
    return Sums(of_classes(store, total), of_classes(store, squares), total.sum(axis=0), squares.sum(axis=0))


def of_classes(store: Store, values: Float[np.ndarray, "clip layer neuron"]) -> Float[np.ndarray, "class layer neuron"]:
    """Sums over the clips of each class."""
    flat = store.members.T.astype(np.float64) @ values.reshape(len(values), -1)
    return flat.reshape(-1, *values.shape[1:])


def permuted(store: Store, permutations: int, seed: int, single_clips: bool = False) -> Tested:
    """The package's permutation test; with `single_clips` as if every clip were a recording of its own."""
    classes = store.members.shape[1]
    sources = range(len(store.tokens)) if single_clips else store.recordings.tolist()
    counts = UnitCounts(store.counts, store.tokens, find_units(store.members, sources, store.folds.tolist()))
    test, null = PermutationTest(counts, CutOffs(math.inf, -1, 1), seed), Null.empty(classes)
    test.run(permutations, null, np.zeros((classes, classes)))
    return test.tested(null)


def q_values(tested: Tested) -> Float[np.ndarray, "class layer neuron"]:
    """Benjamini-Hochberg over all pairs."""
    return benjamini_hochberg(tested.p_value.ravel()).reshape(tested.p_value.shape)


def null_run(scenario: str, permutations: int, seed: int) -> dict[str, Any]:
    """The smallest q and the smallest p of max-T where there is nothing to find, and how p-values of kinds lie."""
    rng = np.random.default_rng([seed, SCENARIOS.index(scenario)])
    if scenario == SCENARIOS[1]:
        store = make_store(Design(planted=4, strength=2.0), rng).shuffled(rng)
    else:
        store = make_store(Design(unequal=scenario == SCENARIOS[2]), rng)
    found: dict[str, Any] = {}
    for name, single_clips in (("recordings", False), ("clips", True)):
        tested = permuted(store, permutations, seed, single_clips)
        p = tested.p_value
        below = {of: (p[:, store.kind == number] <= 0.01).mean() for number, of in enumerate(FIRING)}
        found[name] = {
            "lowest_q": float(np.nanmin(q_values(tested))),
            "discoveries": int((q_values(tested) <= LEVEL).sum()),
            "lowest_p_highest": float(np.nanmin(tested.p_highest)),
            "share_of_p_below_0.01": {of: float(share) for of, share in below.items()},
        }
    return found


def share_of_runs(runs: list[float]) -> dict[str, Any]:
    """How many are at most `LEVEL`, with the exact 95% interval of the share."""
    hits = sum(value <= LEVEL for value in runs)
    interval = scipy.stats.binomtest(hits, len(runs)).proportion_ci()
    return {"runs": len(runs), "hits": hits, "share": hits / len(runs), "low": interval.low, "high": interval.high}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the runs of a scenario, with one kind of exchange."""
    below = [run["share_of_p_below_0.01"] for run in runs]
    return {
        "any_q": share_of_runs([run["lowest_q"] for run in runs]),
        "any_p_highest": share_of_runs([run["lowest_p_highest"] for run in runs]),
        "share_of_p_below_0.01": {of: float(np.mean([one[of] for one in below])) for of in FIRING},
        "lowest_q": [round(run["lowest_q"], 4) for run in runs],
        "lowest_p_highest": [round(run["lowest_p_highest"], 4) for run in runs],
        "discoveries": [run["discoveries"] for run in runs],
    }


def choose(store: Store, sums: Sums, permutations: int, seed: int) -> dict[str, Bool[np.ndarray, "class layer neuron"]]:
    """What every selector picks; those that pick a given number are given the planted one."""
    members, truth = store.members, store.truth
    active = of_classes(store, store.counts.astype(np.float64)).astype(np.int64)
    tokens = members.T.astype(np.int64) @ store.tokens
    p = activation_probability(active, tokens)
    shares = store.counts.reshape(len(members), -1) / store.tokens[:, None]
    auroc, precision = (score.reshape(truth.shape) for score in rank_scores(shares, members))
    everything = int(store.tokens.sum())
    scores = {
        "probability": p,
        "class_selectivity": class_selectivity(p),
        "d_prime": d_prime(sums.total, sums.squares, tokens, sums.all_total, sums.all_squares, everything),
        "auroc": auroc,
        "average_precision": precision,
    }
    found = {name: best_of_each_class(score, truth.sum() / truth.size) for name, score in scores.items()}
    for preset in ("aape", "lape"):
        rule = SelectionRule(preset, keep=float(truth.any(axis=0).mean()))
        found[preset] = select(active, tokens, rule).specific
    found[TESTED] = q_values(permuted(store, permutations, seed)) <= LEVEL
    return {name: found[name] for name in SELECTORS}


def judge(
    found: Mapping[str, Bool[np.ndarray, "class layer neuron"]], truth: Bool[np.ndarray, "class layer neuron"]
) -> dict[str, dict[str, float]]:
    """Recall and false discovery proportion, which is 0 where nothing is found."""
    return {
        name: {
            "recall": round(float((chosen & truth).sum() / truth.sum()), 4),
            "false": round(float((chosen & ~truth).sum() / max(1, chosen.sum())), 4),
            "pairs": int(chosen.sum()),
        }
        for name, chosen in found.items()
    }


def grid_point(options: Options, classes: int, clips_per_class: int, strength: float) -> dict[str, Any]:
    """Repetitions of one design, and their means; planted are 3 neurons of 512 for each class."""
    design = Design(classes, clips_per_class, 4, 128, 3, strength)
    raw = []
    for number in range(max(2, math.ceil(options.pairs / (classes * design.planted)))):
        rng = np.random.default_rng([options.seed, classes, clips_per_class, round(100 * strength), number])
        store = make_store(design, rng)
        permutations = max(options.permutations, permutations_for(classes))
        raw.append(judge(choose(store, draw_sums(store, rng), permutations, number), store.truth))
    return {
        "classes": classes, "clips_per_class": clips_per_class, "clips": classes * clips_per_class,
        "recordings_per_class": len(np.unique(design.clips()[2])) // classes, "strength": strength,
        "mean": means(raw), "repetitions": columns(raw),
    }  # fmt: skip


def permutations_for(classes: int) -> int:
    """So many that the smallest p-value of the pooled null lets Benjamini-Hochberg reject a single pair."""
    return math.ceil(classes / LEVEL)


def columns(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Every number of every selector, over repetitions."""
    return {name: {what: [one[name][what] for one in raw] for what in first} for name, first in raw[0].items()}


def means(raw: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of every number of every selector."""
    of = columns(raw)
    return {name: {what: float(np.mean(values)) for what, values in of[name].items()} for name in of}


def holds_from(grid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of clips the least strength from which on the test finds what is planted, whatever the classes.

    Only pairs of strength and clips from which on recall stays, for more clips and more strength, at what is promised.
    """
    rows = []
    for clips in sorted({point["clips_per_class"] for point in grid}):
        for strength in sorted({point["strength"] for point in grid}):
            beyond = [p for p in grid if p["clips_per_class"] >= clips and p["strength"] >= strength]
            if min(point["mean"][TESTED]["recall"] for point in beyond) >= PROMISED:
                here = [p for p in beyond if p["clips_per_class"] == clips and p["strength"] == strength]
                rows.append(
                    {
                        "clips_per_class": clips,
                        "recordings_per_class": here[0]["recordings_per_class"],
                        "strength": strength,
                        "lowest_recall": min(point["mean"][TESTED]["recall"] for point in here),
                        "highest_fdr": max(point["mean"][TESTED]["false"] for point in here),
                    }
                )
                break
    return rows


RATE, HOP, FRAMES = 16000, 400, 20  # Hz; samples and frames of a clip
TONE_CLASSES, NOISE_BANDS, EACH = 8, 24, 3  # EACH: neurons of each class in each layer
WIDTH = 96  # neurons of a layer
NOISE_LEVEL, TONE_LEVEL = 0.01, 0.05
OWN_TONE, OTHER_TONE = 0.8, 0.05  # share of frames in which a class's tone sounds, on its own clips and on others


class Rectifier(nn.Module):
    """The neurons' nonlinearity, as a module that can be read."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The positive part."""
        return nn.relu(x)


class Filters(nn.Module):
    """Two layers over frames of band levels, with a residual."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Levels (clip, frame, band) -> the same shape."""
        for layer in range(2):
            hidden = Rectifier(name=f"act_{layer}")(nn.Dense(WIDTH, name=f"in_{layer}")(x))
            x = x + nn.Dense(TONE_CLASSES + NOISE_BANDS, name=f"out_{layer}")(hidden)
        return x


@dataclass(frozen=True)
class ToneEncoder:
    """An encoder in which the first neurons of each layer hear one class's tone each, and no other neuron hears any.

    Band b is the power of a frame at (b + 2) x 40 Hz, in which a frame holds whole periods: nothing leaks. The first
    bands are the classes' tones, the rest noise, which every neuron hears.
    """

    seed: int
    name: str = "tones"
    sample_rate: int = RATE
    neurons: str = "act_*"

    @property
    def module(self) -> nn.Module:
        """The filters."""
        return Filters()

    @cached_property
    def truth(self) -> Bool[np.ndarray, "class layer neuron"]:
        """The planted pairs."""
        own = np.repeat(np.arange(TONE_CLASSES), EACH)
        truth = np.zeros((TONE_CLASSES, 2, WIDTH), bool)
        truth[own, :, np.arange(len(own))] = True
        return truth

    @cached_property
    def variables(self) -> Mapping[str, Any]:
        """Random weights between noise bands and neurons, and one weight from and to the tone of a planted neuron."""
        rng = np.random.default_rng(self.seed)
        params = {}
        for layer in range(2):
            hears = self.truth[:, layer].astype(np.float32)
            planted = hears.any(axis=0)
            noise = rng.normal(0, 1 / math.sqrt(NOISE_BANDS), (2, NOISE_BANDS, WIDTH))
            bias = np.where(planted, rng.uniform(-2.5, -1.5, WIDTH), rng.normal(-0.8, 0.6, WIDTH))
            back = np.concatenate([0.3 * hears, np.where(planted, 0, 0.3 * noise[1])])
            params[f"in_{layer}"] = {"kernel": np.concatenate([hears, noise[0]]), "bias": bias}
            params[f"out_{layer}"] = {"kernel": back.T, "bias": np.zeros(len(back))}
        return {
            "params": {name: {part: np.float32(values) for part, values in of.items()} for name, of in params.items()}
        }

    def front_end(self, variables: Mapping[str, Any], pcm: Float[Array, "clip sample"]) -> Array:
        """Log powers of the bands, about 0 in noise alone."""
        spectrum = jnp.fft.rfft(pcm.reshape(len(pcm), -1, HOP), axis=-1)
        power = jnp.square(jnp.abs(spectrum[..., 2 : 2 + TONE_CLASSES + NOISE_BANDS])) / HOP
        return (jnp.log(power + 1e-9) - 2 * math.log(NOISE_LEVEL)) / 2

    def embed(self, output: Any) -> Array:
        """Mean over frames."""
        return output.mean(axis=1)

    def token_layout(self, samples: int) -> tuple[TokenLayout, ...]:
        """A token is a frame."""
        start = np.arange(samples // HOP) * HOP
        return (TokenLayout(np.ones(len(start), bool), start, start + HOP),)

    def settings(self) -> dict[str, Any]:
        """What defines it."""
        return {"seed": self.seed, "front_end": {"hop": HOP}}


def write_tones(folder: Path, rng: np.random.Generator) -> tuple[Path, Design]:
    """Clips of noise, with level and colour of the recording, in which tones sound now and then; and their table."""
    design = Design(TONE_CLASSES)
    time_ = np.arange(FRAMES * HOP) / RATE
    bands = TONE_CLASSES + NOISE_BANDS
    waves = np.sin(2 * np.pi * np.outer((np.arange(bands) + 2) * RATE / HOP, time_))
    labels, folds, recordings = design.clips()
    level = np.exp(rng.normal(0, 0.3, int(recordings[-1]) + 1))
    colour = NOISE_LEVEL * rng.exponential(0.2, (len(level), NOISE_BANDS))
    with (folder / "tones.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "label", "fold", "src_file"])
        for clip, (label, fold, recording) in enumerate(zip(labels, folds, recordings, strict=True)):
            often = np.where(np.arange(TONE_CLASSES) == label, OWN_TONE, OTHER_TONE)
            sounds = rng.random((FRAMES, TONE_CLASSES)) < often
            tones = TONE_LEVEL * np.repeat(sounds, HOP, axis=0).T * waves[:TONE_CLASSES]
            hum = colour[recording][:, None] * waves[TONE_CLASSES:]
            noise = NOISE_LEVEL * rng.normal(size=len(time_))
            samples = tones.sum(axis=0) + level[recording] * (noise + hum.sum(axis=0))
            soundfile.write(folder / f"{clip:03d}.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
            rows.writerow([f"{clip:03d}.wav", f"tone {label}", fold, f"recording {recording}"])
    return folder / "tones.csv", design


def encoder_run(permutations: int, seed: int) -> dict[str, Any]:
    """From WAV files through the encoder to what every selector picks."""
    rng, encoder = np.random.default_rng([seed, 1]), ToneEncoder(seed)
    with tempfile.TemporaryDirectory() as folder:
        path, design = write_tones(Path(folder), rng)
        task = load_task(str(path), unit_seconds=FRAMES * HOP / RATE, test_fold=None)
        counts = np.zeros((len(task), 2, WIDTH), np.uint16)
        found = collect_activations(encoder, task, CountOptions(batch_size=48), clip_counts=counts)
    labels = found.clip_labels
    members = task.members(range(len(task)))
    _, recordings = np.unique(labels["source"].values.astype(str), return_inverse=True)
    store = Store(
        counts, labels["tokens"].values.astype(np.int64), members, labels["fold"].values, recordings, encoder.truth,
        np.zeros((2, WIDTH), int),
    )  # fmt: skip
    if not np.array_equal(store.counts[members[:, 0]].sum(axis=0), found.counts["active_tokens"].values[0]):
        raise SystemExit("The counts of single clips do not add up to those of their class.")
    sums = Sums(*(found.counts[name].values for name in ("sum", "sum_squares", "total_sum", "total_sum_squares")))
    return judge(choose(store, sums, max(permutations, permutations_for(design.classes)), seed), encoder.truth)


def measure(options: Options) -> dict[str, Any]:
    """Everything, with a bar."""
    null: dict[str, Any] = {}
    grid: list[dict[str, Any]] = []
    with progress_bar(what="Runs with nothing to find", total=len(SCENARIOS) * options.runs, unit="run") as bar:
        for scenario in SCENARIOS:
            runs = []
            for run in range(options.runs):
                runs.append(null_run(scenario, options.permutations, options.seed * 100_000 + run))
                bar.update()
            null[scenario] = {kind: summary([one[kind] for one in runs]) for kind in ("recordings", "clips")}
    points = list(itertools.product(options.classes, options.clips_per_class, options.strengths))
    with progress_bar(what="Planted pairs", total=sum(a * b for a, b, _ in points), unit="clip") as bar:
        for classes, clips, strength in points:
            grid.append(grid_point(options, classes, clips, strength))
            bar.update(classes * clips)
    raw = [
        encoder_run(options.permutations, seed)
        for seed in progress_bar(range(options.encoders), what="Small encoders", unit="encoder")
    ]
    encoder = {"mean": means(raw), "repetitions": columns(raw)}
    return {"null": null, "grid": grid, "holds_from": holds_from(grid), "encoder": encoder}


def print_null(null: Mapping[str, Any]) -> None:
    """Runs in which anything was found."""

    def share(part: Mapping[str, Any]) -> str:
        return f"{part['share']:.1%} ({part['low']:.1%} to {part['high']:.1%})"

    rows = [
        (
            scenario, exchanged, share(part["any_q"]), share(part["any_p_highest"]),
            *(f"{value:.2%}" for value in part["share_of_p_below_0.01"].values()),
        )
        for scenario, both in null.items()
        for exchanged, part in both.items()
    ]  # fmt: skip
    head = ("scenario", "labels exchanged among", f"runs with any q <= {LEVEL}", f"any max-T p <= {LEVEL}")
    print(table([*head, *(f"p <= 0.01, {kind}" for kind in FIRING)], rows))


def print_planted(results: Mapping[str, Any]) -> None:
    """Recall / false discovery rate, and from where on the test finds what is planted."""

    def cells(mean: Mapping[str, Any]) -> list[str]:
        return [f"{mean[name]['recall']:.2f} / {mean[name]['false']:.2f}" for name in SELECTORS]

    rows = [
        (point["classes"], point["clips_per_class"], point["strength"], *cells(point["mean"]))
        for point in results["grid"]
    ]
    print("\nRecall / false discovery rate:\n")
    print(table(["classes", "clips per class", "strength", *SELECTORS], rows))
    mean = results["encoder"]["mean"]
    print("\nThe same on a small encoder that hears tones:\n")
    print(table(SELECTORS, [cells(mean)]), "\n")
    for row in results["holds_from"]:
        print(
            f"With {row['clips_per_class']} clips ({row['recordings_per_class']} recordings) of each class, q <= "
            f"{LEVEL} finds at least {row['lowest_recall']:.1%} of the pairs planted with a strength of "
            f"{row['strength']:g} or more; false are at most {row['highest_fdr']:.1%} of what is found."
        )
    if not results["holds_from"]:
        print(f"Nowhere on the grid does q <= {LEVEL} find {PROMISED:.0%} of the planted pairs.")


def main(options: Options) -> None:
    """Measure, print and write down."""
    options, started = options.shortened(), time.perf_counter()
    results = measure(options)
    print_null(results["null"])
    print_planted(results)
    if options.out is not None:
        told = {name: value for name, value in dataclasses.asdict(options).items() if name != "out"}
        seconds = round(time.perf_counter() - started, 1)
        write_record(
            options.out, ("jax", "flax", "numpy", "scipy"), options=told, seconds=seconds, composition=composition(),
            **results,
        )  # fmt: skip


def composition() -> dict[str, Any]:
    """What the stores are made of, in log-odds; recall depends on it."""
    return {
        "tokens_per_clip": TOKENS, "folds": FOLDS, "kinds": KINDS, "base": [BASE, BASE_SD],
        "always": ALWAYS, "rare": RARE, "single_clip": SINGLE, "factors": FACTORS, "shared_sd": SHARED_SD,
        "own_sd": OWN_SD,
    }  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options))
