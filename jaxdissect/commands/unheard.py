"""Options that a command would not hear: one that is given to no effect is refused, with the reason and the remedy.

Only what the options alone tell is in the table. What depends on the table of clips, the run directory or the encoder
is refused by the function that reads them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from jaxdissect.errors import InputError
from jaxdissect.stages.reproduce import SETS

COUNTING, CHOOSING = ("activations", "dissect"), ("neurons", "dissect")


@dataclass(frozen=True)
class Unheard:
    """When some options have no effect.

    Attributes:
      commands: names of the commands that have the options.
      options: names of the options, as fields.
      when: whether they have no effect, told from the command with all of its options.
      why: the reason and the remedy, which end the sentence "--option has no effect ..."; names of options in braces
        stand for their values.
      nothing: the value that asks for nothing, and so gets what it asks for.
    """

    commands: tuple[str, ...]
    options: tuple[str, ...]
    when: Callable[[Any], bool]
    why: str
    nothing: int | None = None


UNHEARD = (
    Unheard(
        COUNTING,
        ("coordinator", "processes", "process", "patience"),
        lambda given: not given.distributed,
        "without --distributed, as there is one process only: add --distributed, or leave it out.",
    ),
    Unheard(
        CHOOSING,
        ("preset", "bar", "drop_weakest"),
        lambda given: given.selector != "aape",
        "on what --selector {selector} chooses, the fraction --keep of all neurons for every class: leave it out, or "
        "choose --selector aape.",
    ),
    Unheard(
        CHOOSING,
        ("drop_weakest",),
        lambda given: given.preset != "aape",
        "with --preset {preset}, which drops no neurons by their activation rate: leave it out, or choose "
        "--preset aape.",
    ),
    Unheard(
        CHOOSING,
        ("resamples", "splits"),
        lambda given: given.selector != "aape",
        "with --selector {selector}, whose pairs are tested and not resampled: leave it out, or choose "
        "--selector aape.",
        nothing=0,
    ),
    Unheard(
        ("dissect",),
        ("permutations", "resamples", "splits"),
        lambda given: not given.keep_clips,
        "without every clip's counts, from which is drawn: add --keep-clips, or leave it out.",
        nothing=0,
    ),
    Unheard(
        CHOOSING,
        ("resamples", "splits"),
        lambda given: given.permutations == 0,
        "with --permutations 0, after which nothing is resampled either: leave one of the two out.",
        nothing=0,
    ),
    Unheard(
        ("neurons",),
        ("seed", "save_minutes"),
        lambda given: given.permutations == 0,
        "with --permutations 0, which draws nothing: leave one of the two out.",
    ),
    Unheard(
        ("dissect",),
        ("seed",),
        lambda given: not given.ablate and (not given.keep_clips or given.permutations == 0),
        "where nothing is drawn: add --keep-clips for permutations, or --ablate for controls, or leave it out.",
    ),
    Unheard(
        ("dissect",),
        ("controls",),
        lambda given: not given.ablate,
        "without --ablate: add --ablate, or leave it out.",
    ),
    Unheard(
        ("probe",),
        ("seeds", "learning_rate", "epochs", "patience", "probe_batch_size"),
        lambda given: given.head == "encoder",
        "with --head encoder, whose head is judged and not trained: leave it out, or take --head trained.",
    ),
    Unheard(
        ("ablate",),
        ("controls",),
        lambda given: given.match == "shift",
        "with --match shift, which has one control, every neuron index + 1: leave it out, or match by activity or "
        "layer.",
    ),
    Unheard(
        ("ablate",),
        ("match",),
        lambda given: given.controls == 0,
        "with --controls 0, as there is nothing to match: leave one of the two out.",
    ),
    Unheard(
        ("ablate",),
        ("map_sample",),
        lambda given: not given.causal_map,
        "with --no-causal-map, the map that it checks: leave one of the two out.",
        nothing=0,
    ),
    Unheard(
        ("report",),
        ("max_mb",),
        lambda given: given.full,
        "with --full, which writes every top clip whatever its size: leave one of the two out.",
    ),
    Unheard(
        ("reproduce",),
        ("controls", "seeds", "learning_rate", "seed"),
        lambda given: given.task not in SETS,
        "with --task {task}, of which no ablation is published, so that nothing is probed or ablated: leave it out.",
    ),
)


def require_heard(name: str, command: Any, given: Collection[str]) -> None:
    """Refuse an option that was given and has no effect beside the others.

    Args:
      name: of the command.
      command: with its options.
      given: names of the options that were given, be it with their defaults.

    Raises:
      InputError: names the option, the reason and what to do.
    """
    for row in UNHEARD:
        if name in row.commands and row.when(command):
            for option in row.options:
                if option in given and (row.nothing is None or getattr(command, option) != row.nothing):
                    flag = f"--{option.replace('_', '-')}"
                    raise InputError(f"{name}: {flag} has no effect {row.why.format(**vars(command))}")
