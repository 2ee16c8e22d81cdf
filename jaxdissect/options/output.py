"""How a command answers; every command has these options."""

import dataclasses

import tyro

from jaxdissect.options.rules import Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    """How a command answers.

    Attributes:
      quiet: no progress and no summary; warnings and errors are still printed.
      json: one JSON object in place of the summary; see docs/command-line.md.
    """

    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    json: tyro.conf.FlagCreatePairsOff[bool] = False
