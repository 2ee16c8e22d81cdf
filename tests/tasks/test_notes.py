"""The synthetic notes: labels, splits, pitch, aliasing and repeatability, measured on the sound."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from jaxdissect.errors import InputError
from jaxdissect.tasks import notes
from jaxdissect.tasks.notes import SAMPLE_RATE, VARIANTS, Note, all_notes, synthesise, write_notes

TIMBRES = [(variant, instrument) for variant, instruments in VARIANTS.items() for instrument in instruments]
PITCH_TOLERANCE_CENTS = {"breath": 25.0, "string_pad": 6.0, "harmonium": 1.5}  # noise; beating saws; tremolo
NOT_HARMONIC = {"breath", "pan_pipe", "marimba", "glass", "zither"}


def power(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and the fraction of energy at each."""
    length = 2**17
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), length)) ** 2
    return np.fft.rfftfreq(length, 1 / SAMPLE_RATE), spectrum / spectrum.sum()


def cents_off(samples: np.ndarray, frequency: float) -> float:
    """Centre of the energy within a semitone of `frequency`, which must hold nearly all of its octave's energy."""
    hz, energy = power(samples)
    cents = 1200 * np.log2(np.maximum(hz, 1e-3) / frequency)
    near = np.abs(cents) < 100
    assert energy[near].sum() > 0.9 * energy[np.abs(cents) < 600].sum()
    return float((energy[near] * cents[near]).sum() / energy[near].sum())


def played(variant: str, instrument: str, midi: int) -> tuple[float, np.ndarray]:
    """A timbre at exactly the frequency of a note."""
    frequency = Note(variant, instrument, midi, 1).frequency
    time_s = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    return frequency, VARIANTS[variant][instrument](frequency, time_s, np.random.default_rng(midi))


def test_note_has_its_labels():
    note = Note("notes", "organ", 60, 1)
    assert (note.file_name, note.octave, note.pitch_class) == ("audio/organ_060_1.wav", 4, "C")
    assert note.frequency == pytest.approx(261.6256, abs=1e-4)
    assert [(n.octave, n.pitch_class) for n in (Note("notes", "organ", 36, 1), Note("notes", "organ", 95, 1))] == [
        (2, "C"),
        (6, "B"),
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_notes_cover_every_combination_once(variant):
    every = all_notes(variant)
    assert len(every) == len({note.file_name for note in every}) == 960
    assert set(Counter((n.octave, n.pitch_class, n.instrument) for n in every).values()) == {2}
    assert len({n.octave for n in every}) == 5
    assert len({n.pitch_class for n in every}) == 12


def test_all_notes_of_two_variants_share_no_instrument():
    assert len(VARIANTS["notes"]) == len(VARIANTS["notes2"]) == 8
    assert not set(VARIANTS["notes"]) & set(VARIANTS["notes2"])
    assert len({timbre for instruments in VARIANTS.values() for timbre in instruments.values()}) == 16


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_notes_hold_out_combinations_in_balanced_splits(variant):
    table = pd.DataFrame(
        [(n.octave, n.pitch_class, n.instrument, n.midi, n.split) for n in all_notes(variant)],
        columns=["octave", "pitch_class", "instrument", "midi", "split"],
    )
    assert (table.groupby(["instrument", "midi"]).split.nunique() == 1).all()
    wanted = pd.Series({"test": 0.2, "train": 0.6, "valid": 0.2})
    for column, tolerance in (("octave", 0.04), ("pitch_class", 1e-9), ("instrument", 1e-9)):
        fractions = pd.crosstab(table[column], table.split, normalize="index")
        assert list(fractions.columns) == list(wanted.index)
        assert (fractions - wanted).abs().to_numpy().max() <= tolerance, column
    assert (pd.crosstab([table.pitch_class, table.instrument], table.split) == [2, 6, 2]).all(axis=None)


def test_synthesise_does_not_depend_on_order_or_process():
    chosen = [Note(variant, instrument, 60, take) for variant, instrument in TIMBRES for take in (1, 2)]
    forward = [synthesise(note).tobytes() for note in chosen]
    backward = [synthesise(note).tobytes() for note in reversed(chosen)]
    assert forward == backward[::-1]
    assert len(set(forward)) == len(chosen)
    code = (
        "import hashlib; from jaxdissect.tasks.notes import *; "
        "print(hashlib.sha256(synthesise(Note('notes', 'organ', 60, 1)).tobytes()).hexdigest())"
    )
    root = str(Path(notes.__file__).parents[2])
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert elsewhere == hashlib.sha256(forward[chosen.index(Note("notes", "organ", 60, 1))]).hexdigest()


@pytest.mark.parametrize(("variant", "instrument"), TIMBRES)
def test_synthesise_makes_sound_whose_takes_differ(variant, instrument):
    for midi in (36, 65, 95):
        takes = [synthesise(Note(variant, instrument, midi, take)).astype(np.float64) for take in (1, 2)]
        for samples in takes:
            assert samples.shape == (32000,)
            assert np.isfinite(samples).all()
            assert 10 ** (-15 / 20) - 1e-6 <= np.abs(samples).max() <= 10 ** (-3 / 20) + 1e-6
            assert np.flatnonzero(samples)[0] <= 0.15 * SAMPLE_RATE + 2
            assert samples[-1] == 0
            assert np.abs(samples[-16:]).max() < 0.15 * np.abs(samples).max()
        loud = [np.abs(samples).max() for samples in takes]
        onset = [np.flatnonzero(np.abs(samples) > 1e-3 * peak)[0] for samples, peak in zip(takes, loud, strict=True)]
        assert abs(loud[0] - loud[1]) > 1e-4
        assert onset[0] != onset[1]


def test_synthesise_tunes_takes_a_few_cents_apart():
    cents = np.array(
        [
            [
                cents_off(synthesise(note), note.frequency)
                for note in (Note("notes", "organ", midi, 1), Note("notes", "organ", midi, 2))
            ]
            for midi in range(48, 84, 3)
        ]
    )
    assert np.abs(cents).max() < 5.1
    assert np.abs(cents[:, 0] - cents[:, 1]).mean() > 1
    assert cents.min() < 0 < cents.max()


def test_partials_equal_their_formulas():
    time_s = np.arange(30011) / SAMPLE_RATE
    cycles = 2 * np.pi * time_s
    index = 1.5 * np.exp(-time_s)
    carrier, modulator = 2 * np.pi * np.random.default_rng(3).random(2)
    np.testing.assert_allclose(
        notes._fm(300.0, 1.5, index, time_s, np.random.default_rng(3)),
        np.sin(300 * cycles + carrier + index * np.sin(450 * cycles + modulator)),
        atol=1e-4,
    )

    hz, levels, decays_s = np.array([100.0, 231.0, 9000.0]), np.array([1.0, 0.3, 5.0]), np.array([0.5, 0.2, 1.0])
    phases = 2 * np.pi * np.random.default_rng(3).random(3)
    np.testing.assert_allclose(
        notes._modes(hz, levels, decays_s, time_s, np.random.default_rng(3)),
        sum(levels[m] * np.exp(-time_s / decays_s[m]) * np.sin(hz[m] * cycles + phases[m]) for m in (0, 1)),
        atol=1e-9,
    )

    phases = 2 * np.pi * np.random.default_rng(3).random(3)  # the highest harmonic draws first
    np.testing.assert_allclose(
        notes._harmonics(2000.0, time_s, np.random.default_rng(3), lambda k: time_s / k),
        sum(time_s / k * np.sin(2000 * k * cycles + phases[3 - k]) for k in (1, 2, 3)),
        atol=1e-9,
    )


def test_guitar_solves_the_karplus_strong_loop():
    delay = 160  # samples; averaging two neighbours adds half of one
    frequency = SAMPLE_RATE / (delay + 0.5)
    samples = notes._guitar(frequency, np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE, np.random.default_rng(0))
    loop = 10 ** (-3 / (2.5 * frequency)) * (samples[1:-delay] + samples[: -delay - 1]) / 2
    burst = delay + 1 + 4
    np.testing.assert_allclose(samples[delay + 1 :][burst:], loop[burst:], atol=1e-3 * np.abs(samples[-4000:]).max())


@pytest.mark.parametrize(("variant", "instrument"), TIMBRES)
def test_timbre_has_its_fundamental_in_tune_and_lowest(variant, instrument):
    for midi in (36, 47, 69, 83, 95):
        frequency, samples = played(variant, instrument, midi)
        assert abs(cents_off(samples, frequency)) < PITCH_TOLERANCE_CENTS.get(instrument, 0.5), midi
        hz, energy = power(samples)
        assert energy[np.abs(hz / frequency - 1) < 0.06].sum() > 0.03, midi
        assert energy[hz < 0.7 * frequency].sum() < 5e-3, midi


@pytest.mark.parametrize(("variant", "instrument"), TIMBRES)
def test_timbre_does_not_fold_back(variant, instrument):
    for midi in (84, 87, 90, 93, 95):
        frequency, samples = played(variant, instrument, midi)
        hz, energy = power(samples)
        assert energy[hz > 7900].sum() < 1e-5, midi
        if instrument not in NOT_HARMONIC:
            off = np.abs(hz / frequency - np.round(hz / frequency)) > 0.06
            assert energy[off].sum() < 1e-3, midi


def test_write_notes(tmp_path, monkeypatch):
    chosen = [Note("notes2", "voice", 50, 1), Note("notes2", "voice", 50, 2), Note("notes2", "glass", 61, 1)]
    monkeypatch.setattr(notes, "all_notes", lambda variant: tuple(n for n in chosen if n.variant == variant))
    seen: list[Note] = []

    def progress(items: Iterable[Note]) -> Iterator[Note]:
        for note in items:
            seen.append(note)
            yield note

    write_notes("notes2", tmp_path / "data", progress)
    assert seen == chosen
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["audio", "notes2.csv"]
    table = pd.read_csv(tmp_path / "data" / "notes2.csv", dtype=str)
    assert list(table.columns) == ["file_name", "octave", "pitch_class", "instrument", "split"]
    assert table.values.tolist() == [[n.file_name, str(n.octave), n.pitch_class, n.instrument, n.split] for n in chosen]
    for note in chosen:
        path = tmp_path / "data" / note.file_name
        samples, rate = soundfile.read(path)
        assert (rate, soundfile.info(path).subtype, soundfile.info(path).channels) == (16000, "PCM_16", 1)
        np.testing.assert_allclose(samples, synthesise(note), atol=1 / 32768)
    with pytest.raises(InputError, match="not an empty folder"):
        write_notes("notes2", tmp_path / "data")


def test_write_notes_leaves_nothing_if_interrupted(tmp_path):
    def stop_after_two(items: Iterable[Note]) -> Iterator[Note]:
        for count, note in enumerate(items):
            if count == 2:
                raise KeyboardInterrupt
            yield note

    with pytest.raises(KeyboardInterrupt):
        write_notes("notes", tmp_path / "data", stop_after_two)
    assert not list(tmp_path.iterdir())


def test_all_notes_of_an_unknown_variant_names_the_known(tmp_path):
    with pytest.raises(InputError, match=r"'surge'.*notes, notes2"):
        all_notes("surge")
    with pytest.raises(InputError, match=r"'surge'.*notes, notes2"):
        write_notes("surge", tmp_path / "data")
    assert not list(tmp_path.iterdir())
