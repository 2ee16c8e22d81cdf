"""Options without effect: an option that would change nothing is refused, with the reason and the remedy.

The table holds what the options alone show. What depends on the table of clips, the run directory or the encoder is
refused by the function that reads them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import SimpleNamespace

from jaxdissect.errors import InputError
from jaxdissect.options.base import Options, flag
from jaxdissect.options.reproduce import PUBLISHED_ABLATIONS

COUNTING, CHOOSING = ("activations", "dissect"), ("neurons", "dissect")


@dataclass(frozen=True)
class NoEffect:
    """When some options have no effect.

    Attributes:
      commands: names of the commands that have the options.
      options: names of the options, as fields.
      when: whether they have no effect beside the command's other options.
      why: reason and remedy, the end of the sentence "--option has no effect ..."; names of options in braces stand for
        their values.
      nothing: value that asks for nothing, and so is never refused.
    """

    commands: tuple[str, ...]
    options: tuple[str, ...]
    when: Callable[[SimpleNamespace], bool]
    why: str
    nothing: int | None = None


NO_EFFECT = (
    NoEffect(
        COUNTING,
        ("coordinator", "processes", "process", "patience"),
        lambda given: not given.distributed,
        "without --distributed, since there is one process only: add --distributed, or leave it out.",
    ),
    NoEffect(
        COUNTING,
        ("held_out",),
        lambda given: given.split != "train",
        "with --split {split}, since the test split is held out from the split train only: leave one of the two out.",
    ),
    NoEffect(
        COUNTING,
        ("held_out",),
        lambda given: given.keep_clips is False,
        "with --no-keep-clips, since neurons are judged clip by clip: leave one of the two out.",
    ),
    NoEffect(
        CHOOSING,
        ("preset", "bar", "drop_weakest", "per_class", "least_auroc"),
        lambda given: given.selector is not None,
        "with --selector {selector}, which gives every class the fraction --keep of all neurons: leave one of the two "
        "out.",
    ),
    NoEffect(
        CHOOSING,
        ("per_class", "least_auroc"),
        lambda given: given.preset != "auroc",
        "with --preset {preset}, which chooses by AAPE: leave it out, or choose --preset auroc.",
    ),
    NoEffect(
        CHOOSING,
        ("keep", "bar"),
        lambda given: given.preset == "auroc" and given.selector is None,
        "with --preset auroc, which chooses by AUROC, at most --per-class neurons for a class: leave it out, or choose "
        "--preset lape.",
    ),
    NoEffect(
        CHOOSING,
        ("drop_weakest",),
        lambda given: given.preset != "aape",
        "with --preset {preset}, which drops no neurons by their activation rate: leave it out, or choose "
        "--preset aape.",
    ),
    NoEffect(
        CHOOSING,
        ("resamples", "splits"),
        lambda given: given.selector is not None,
        "with --selector {selector}, whose pairs are tested and not resampled: leave one of the two out.",
        nothing=0,
    ),
    NoEffect(
        ("dissect",),
        ("permutations", "resamples", "splits"),
        lambda given: given.keep_clips is False,
        "without every clip's counts, which are permuted and resampled: leave one of the two out.",
        nothing=0,
    ),
    NoEffect(
        CHOOSING,
        ("resamples", "splits"),
        lambda given: given.permutations == 0,
        "with --permutations 0, after which nothing is resampled either: leave one of the two out.",
        nothing=0,
    ),
    NoEffect(
        ("neurons",),
        ("seed", "save_minutes"),
        lambda given: given.permutations == 0,
        "with --permutations 0, which draws nothing: leave one of the two out.",
    ),
    NoEffect(
        ("dissect",),
        ("seed",),
        lambda given: not given.ablate and (given.keep_clips is False or given.permutations == 0),
        "where nothing is drawn: leave out --no-keep-clips, ask for permutations, or add --ablate.",
    ),
    NoEffect(
        ("dissect",),
        ("controls",),
        lambda given: not given.ablate,
        "without --ablate: add --ablate, or leave it out.",
    ),
    NoEffect(
        ("probe",),
        ("seeds", "learning_rate", "epochs", "patience", "probe_batch_size"),
        lambda given: given.head == "encoder",
        "with --head encoder, whose head is judged and not trained: leave it out, or choose --head trained.",
    ),
    NoEffect(
        ("ablate",),
        ("controls",),
        lambda given: given.match == "shift",
        "with --match shift, which has one control, every neuron index + 1: leave it out, or match by activity or "
        "layer.",
    ),
    NoEffect(
        ("ablate",),
        ("match",),
        lambda given: given.controls == 0,
        "with --controls 0, since there is nothing to match: leave one of the two out.",
    ),
    NoEffect(
        ("ablate",),
        ("map_sample",),
        lambda given: not given.causal_map,
        "with --no-causal-map, the map that it checks: leave one of the two out.",
        nothing=0,
    ),
    NoEffect(
        ("report",),
        ("max_mb",),
        lambda given: given.full,
        "with --full, which writes every top clip whatever its size: leave one of the two out.",
    ),
    NoEffect(
        ("reproduce",),
        ("controls", "seeds", "learning_rate", "seed"),
        lambda given: given.task not in PUBLISHED_ABLATIONS,
        "with --task {task}, for which no ablation is published, so that nothing is probed or ablated: leave it out.",
    ),
)


def require_effect(name: str, options: Options, given: Collection[str]) -> None:
    """Refuse an option that was given and has no effect beside the others.

    Args:
      name: name of the command.
      options: options of the command.
      given: names of the options that were given, be it with their defaults.

    Raises:
      InputError: names the option, the reason and what to do.
    """
    values = SimpleNamespace(**vars(options))  # each row looks at options that only its commands have
    for row in NO_EFFECT:
        if name in row.commands and row.when(values):
            for option in row.options:
                if option in given and (row.nothing is None or getattr(options, option) != row.nothing):
                    raise InputError(f"{name}: {flag(option)} has no effect {row.why.format(**vars(options))}")
