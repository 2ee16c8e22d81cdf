"""Options that are given and would have no effect: each is refused with the reason, and no new one is forgotten."""

import dataclasses
import shlex
from typing import get_args, get_origin, get_type_hints

import pytest

from jaxdissect.cli import main, no_effect
from jaxdissect.cli.catalogue import COMMANDS
from jaxdissect.cli.no_effect import NO_EFFECT
from jaxdissect.cli.parsing import GIVEN_ONCE, parse
from jaxdissect.commands import dissect
from jaxdissect.errors import InputError
from jaxdissect.options.base import flag as flag_of

NEEDED = {
    "dissect": "--encoder e --task t.csv --run r",
    "activations": "--encoder e --task t.csv --run r",
    "reproduce": "--encoder e --data d --run r",
}
REFUSED = [
    ("activations", "--coordinator h:1", "--coordinator", "without --distributed"),
    ("activations", "--processes 2", "--processes", "without --distributed"),
    ("activations", "--process 0", "--process", "without --distributed"),
    ("activations", "--patience 60", "--patience", "without --distributed"),
    ("dissect", "--coordinator h:1", "--coordinator", "without --distributed"),
    ("dissect", "--processes 2 --no-distributed", "--processes", "without --distributed"),
    ("dissect", "--process 0", "--process", "without --distributed"),
    ("dissect", "--patience 90", "--patience", "without --distributed"),
    ("neurons", "--selector probability --preset aape", "--preset", "with --selector probability, which gives"),
    ("neurons", "--selector d_prime --bar 0.95", "--bar", "with --selector d_prime, which gives"),
    ("neurons", "--selector probability --drop-weakest 0.1", "--drop-weakest", "with --selector probability"),
    ("dissect", "--selector d_prime --preset lape", "--preset", "with --selector d_prime, which gives"),
    ("dissect", "--selector d_prime --bar 0.9", "--bar", "with --selector d_prime, which gives"),
    ("dissect", "--selector d_prime --drop-weakest 0", "--drop-weakest", "with --selector d_prime, which gives"),
    ("dissect", "--selector d_prime --per-class 3", "--per-class", "with --selector d_prime, which gives"),
    ("neurons", "--selector d_prime --least-auroc 0.8", "--least-auroc", "with --selector d_prime, which gives"),
    ("neurons", "--preset lape --per-class 3", "--per-class", "with --preset lape, which chooses by AAPE"),
    ("dissect", "--preset aape --least-auroc 0.8", "--least-auroc", "with --preset aape, which chooses by AAPE"),
    ("dissect", "--keep 0.02", "--keep", "with --preset auroc, which chooses by AUROC"),
    ("neurons", "--bar 0.9", "--bar", "with --preset auroc, which chooses by AUROC"),
    ("neurons", "--keep 0.02", "--keep", "with --preset auroc, which chooses by AUROC"),
    ("dissect", "--bar 0.9", "--bar", "with --preset auroc, which chooses by AUROC"),
    ("activations", "--split all --held-out", "--held-out", "with --split all"),
    ("dissect", "--no-keep-clips --preset lape --held-out", "--held-out", "with --no-keep-clips"),
    ("neurons", "--preset lape --drop-weakest 0.05", "--drop-weakest", "with --preset lape"),
    ("dissect", "--drop-weakest=0.05 --preset=lape", "--drop-weakest", "with --preset lape"),
    ("neurons", "--selector probability --resamples 200", "--resamples", "with --selector probability"),
    ("neurons", "--selector probability --splits 50", "--splits", "with --selector probability"),
    ("dissect", "--selector probability --keep-clips --resamples 9", "--resamples", "with --selector probability"),
    ("dissect", "--selector probability --keep-clips --splits 9", "--splits", "with --selector probability"),
    ("dissect", "--no-keep-clips --preset lape --permutations 1000", "--permutations", "without every clip's counts"),
    ("dissect", "--no-keep-clips --preset lape --resamples 200", "--resamples", "without every clip's counts"),
    ("dissect", "--splits 1 --preset lape --no-keep-clips", "--splits", "without every clip's counts"),
    ("neurons", "--permutations 0 --resamples 5", "--resamples", "with --permutations 0"),
    ("neurons", "--permutations 0 --splits 5", "--splits", "with --permutations 0"),
    ("dissect", "--keep-clips --permutations 0 --splits 5", "--splits", "with --permutations 0"),
    ("neurons", "--permutations 0 --seed 0", "--seed", "with --permutations 0"),
    ("neurons", "--permutations 0 --save-minutes 10", "--save-minutes", "with --permutations 0"),
    ("dissect", "--seed 0 --preset lape --no-keep-clips", "--seed", "where nothing is drawn"),
    ("dissect", "--seed 1 --keep-clips --permutations 0", "--seed", "where nothing is drawn"),
    ("dissect", "--controls 200", "--controls", "without --ablate"),
    ("dissect", "--controls 0 --no-ablate", "--controls", "without --ablate"),
    ("probe", "--run r --head encoder --seeds 3", "--seeds", "with --head encoder"),
    ("probe", "--run r --head encoder --learning-rate 3e-5", "--learning-rate", "with --head encoder"),
    ("probe", "--run r --head encoder --epochs 200", "--epochs", "with --head encoder"),
    ("probe", "--run r --head encoder --patience 20", "--patience", "with --head encoder"),
    ("probe", "--run r --head encoder --probe_batch_size 200", "--probe-batch-size", "with --head encoder"),
    ("ablate", "--run r --match shift --controls 200", "--controls", "with --match shift"),
    ("ablate", "--run r --match shift --controls 0", "--controls", "with --match shift"),
    ("ablate", "--run r --match activity --controls 0", "--match", "with --controls 0"),
    ("ablate", "--run r --no-causal-map --map-sample 12", "--map-sample", "with --no-causal-map"),
    ("report", "--run r --full --max-mb 25", "--max-mb", "with --full"),
    ("reproduce", "--task esc50 --controls 200", "--controls", "with --task esc50"),
    ("reproduce", "--task esc50 --seeds 3", "--seeds", "with --task esc50"),
    ("reproduce", "--task esc50 --learning-rate 3e-5", "--learning-rate", "with --task esc50"),
    ("reproduce", "--task esc50 --seed 0", "--seed", "with --task esc50"),
]  # fmt: skip
EFFECTIVE = [
    ("activations", "--distributed --coordinator h:1 --processes 2 --process 0 --patience 60"),
    ("neurons", "--preset aape --drop-weakest 0.05 --bar 0.95 --keep 0.1 --resamples 1 --splits 1 --seed 0"),
    (
        "neurons",
        "--selector probability --keep 0.1 --permutations 9 --resamples 0 --splits 0 --seed 0 --save-minutes 1",
    ),
    ("neurons", "--preset auroc --per-class 3 --least-auroc 0.8"),
    ("neurons", "--permutations 0 --resamples 0 --splits 0"),
    ("dissect", "--permutations 0 --resamples 0 --splits 0 --save-minutes 3"),
    ("dissect", "--keep-clips --permutations 9 --resamples 9 --splits 9 --seed 0"),
    ("dissect", "--ablate --controls 0 --seed 3"),
    ("probe", "--head encoder --folds test --batch-size 3"),
    ("ablate", "--match shift --map-sample 0 --no-causal-map"),
    ("ablate", "--controls 0 --seed 1 --resamples 9"),  # both are of the bootstrap
    ("report", "--full --with other --data d --encoder e"),
    ("reproduce", "--task cremad --controls 9 --seeds 1 --learning-rate 1 --seed 1"),
]
# Options that are heard whatever is given beside them, or that the named function refuses, by their commands.
ALWAYS_EFFECTIVE = {
    "run": ["demo", "dissect", "activations", "neurons", "share", "probe", "ablate", "report", "reproduce"],
    "units": ["dissect", "activations"],
    "encoder": ["dissect", "activations", "probe", "report", "reproduce", "bench"],  # report: else it is warned of
    "task": ["dissect", "activations", "probe", "reproduce", "train", "prepare", "bench"],
    "data": ["dissect", "activations", "probe", "ablate", "report", "reproduce", "train", "prepare", "bench"],
    "label": ["dissect", "activations", "probe", "train", "prepare"],  # label_names, TrainOptions, run_prepare refuse
    "split": ["dissect", "activations"],
    "test_fold": ["dissect", "activations", "probe", "train"],  # load_task refuses it where there are no folds
    "unit_seconds": [
        "dissect",
        "activations",
        "probe",
        "reproduce",
        "train",
        "prepare",
    ],  # goes before a known task's own
    "multi_label": ["dissect", "activations", "probe", "train"],  # TrainOptions refuses it without labels
    "batch_size": ["demo", "dissect", "activations", "probe", "ablate", "reproduce", "train"],
    "dtype": ["dissect", "activations", "probe", "ablate", "reproduce", "train"],
    "tokens": ["dissect", "activations"],
    "threshold": ["dissect", "activations"],
    "keep_clips": ["dissect", "activations"],
    "max_bad_clips": ["dissect", "activations", "probe", "ablate", "train", "prepare"],
    "save_minutes": ["dissect", "activations", "ablate", "train"],  # of the count, where nothing is drawn
    "profile": ["dissect", "activations", "ablate", "train", "bench"],  # a warning says if nothing was traced
    "distributed": ["dissect", "activations"],
    "selector": ["dissect", "neurons"],
    "permutations": ["neurons"],  # run_neurons refuses it without every clip's counts
    "ablate": ["dissect"],
    "report": ["dissect"],
    "with_": ["share", "report", "reproduce"],
    "figures": ["share", "report"],
    "full": ["report"],
    "head": ["probe"],
    "folds": ["probe"],  # run_probe refuses all folds for an encoder's head, and where there are none
    "layers": ["probe"],  # ProbeOptions refuses all layers for an encoder's head
    "neurons": ["ablate"],
    "suite": ["ablate"],
    "gain": ["ablate"],  # AblationOptions refuses it with --mode mean
    "mode": ["ablate"],
    "causal_map": ["ablate"],
    "evar": ["ablate"],  # run_ablate refuses it with --mode mean
    "resamples": ["ablate"],
    "seed": ["ablate", "train"],
    "at_once": ["ablate"],
    "part": ["ablate", "prepare"],
    "checkpoint": ["convert"],
    "name": ["convert"],
    "heads": ["convert"],
    "licence": ["convert", "train"],
    "out": ["convert", "train", "prepare", "bench"],
    "folder": ["verify"],
    "objective": ["train"],
    "size": ["train"],  # run_train refuses what contradicts --start-from, as of input
    "input": ["train"],
    "start_from": ["train"],
    "epochs": ["train"],
    "part_size": ["train"],
    "learning_rate": ["train"],
    "warm_up": ["train"],
    "weight_decay": ["train"],
    "mask_ratio": ["train"],  # this and what follows: TrainOptions refuses it for other objectives
    "decoder_width": ["train"],
    "decoder_depth": ["train"],
    "ema": ["train"],
    "standardise": ["train"],
    "standardise_patches": ["train"],
    "mixup": ["train"],
    "storage": ["train"],
    "log_steps": ["train"],
    "sample_rate": ["prepare"],
    "shard_clips": ["prepare"],
    "seconds": ["bench"],
    "batch_sizes": ["bench"],
    "dtypes": ["bench"],
    "rounds": ["bench"],
}


def parsed(command, line):
    needed = NEEDED.get(command, "" if "--run " in line else "--run r")
    return parse([command, *shlex.split(f"{needed} {line}")])[0]


@pytest.mark.parametrize(("command", "line", "flag", "why"), REFUSED)
def test_no_effect_option_is_refused_with_the_reason(command, line, flag, why):
    with pytest.raises(InputError) as refused:
        parsed(command, line)
    assert str(refused.value).startswith(f"{command}: {flag} has no effect {why}")
    assert str(refused.value).endswith(".")
    assert "leave" in str(refused.value)


@pytest.mark.parametrize(("command", "line"), EFFECTIVE)
def test_no_effect_options_are_taken_where_they_have_an_effect(command, line):
    assert isinstance(parsed(command, line), COMMANDS[command].options)


def test_no_effect_option_ends_the_command_with_exit_code_2(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["dissect", *shlex.split(NEEDED["dissect"]), "--controls", "200"]) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors == (
        "jaxdissect: dissect: --controls has no effect without --ablate: add --ablate, or leave it out.\n"
    )
    assert not list(tmp_path.iterdir())


def test_no_effect_table_is_tested_row_by_row(monkeypatch):
    """Every option of every row is refused above by that row, and for every command that has it."""
    monkeypatch.setattr(no_effect, "NO_EFFECT", ())
    tested, commands = set(), set()
    for command, line, flag, _ in REFUSED:
        option = flag[2:].replace("-", "_")
        given = parsed(command, line)
        rows = [row for row in NO_EFFECT if command in row.commands and option in row.options and row.when(given)]
        tested.add((rows[0].why, option))
        commands.add((command, option))
    assert tested == {(row.why, option) for row in NO_EFFECT for option in row.options}
    assert commands == {(command, option) for row in NO_EFFECT for command in row.commands for option in row.options}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_the_table_or_is_always_heard(command):
    """Who adds an option decides: a row of `NO_EFFECT`, or a line of `ALWAYS_EFFECTIVE` above."""
    options = {field.name for field in dataclasses.fields(COMMANDS[command].options)}
    conditional = {option for row in NO_EFFECT if command in row.commands for option in row.options}
    always = {option for option, commands in ALWAYS_EFFECTIVE.items() if command in commands}
    assert conditional | always == options
    assert not conditional & always


def test_every_name_in_the_lists_is_a_command():
    named = {command for row in NO_EFFECT for command in row.commands} | {
        one for names in ALWAYS_EFFECTIVE.values() for one in names
    }
    assert named <= set(COMMANDS)


def test_lists_are_given_once():
    """Of an option given twice the last counts, which would lose values of a list."""
    lists = {
        flag_of(field.name)
        for command in COMMANDS.values()
        for field in dataclasses.fields(command.options)
        for hint in [get_type_hints(command.options)[field.name]]
        for one in (hint, *get_args(hint))
        if get_origin(one) is tuple and Ellipsis in get_args(one)
    }
    assert lists == set(GIVEN_ONCE)


def test_dissect_hands_seed_and_save_minutes_to_the_stages_that_draw(monkeypatch):
    for name, value in {"load_inputs": (None, None), "stage_inputs": {}, "check_ahead": "layer"}.items():
        monkeypatch.setattr(dissect, name, lambda *given, value=value: value)
    options = parsed("dissect", "--ablate --controls 9 --seed 3 --save-minutes 2")
    ablation, choosing = dissect.ablation_ahead(options), dissect.selection_options(options, kept=False)
    assert (ablation.seed, ablation.save_minutes, ablation.controls) == (3, 2.0, 9)
    assert (choosing.seed, choosing.save_minutes) == (None, None)  # where no clips are kept, nothing is drawn
    choosing = dissect.selection_options(parsed("dissect", "--seed 3 --save-minutes 2"), kept=True)
    assert (choosing.seed, choosing.save_minutes) == (3, 2.0)
    assert dissect.ablation_ahead(parsed("dissect", "--ablate")).seed == 0
