"""A judge: the probes of one label set, which decide of every clip whether its class can be read off."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from jaxdissect.probe.linear import Head


@dataclass(frozen=True, eq=False)
class Judge:
    """The probes of one label set, which judge every intervention.

    Attributes:
      head: trained heads, stacked along a first axis `probe`; their verdicts are averaged.
      members: membership of the task's clips in the classes.
      multi_label: whether a clip may belong to several classes, or to none.
    """

    head: Head
    members: Bool[np.ndarray, "clip class"]
    multi_label: bool = False
