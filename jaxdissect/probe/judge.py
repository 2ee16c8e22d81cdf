"""A judge: the probes of one label set, which say of every clip whether its class can be read off."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from jaxdissect.probe.linear import Head


@dataclass(frozen=True, eq=False)
class Judge:
    """The probes of one label set, which judge every intervention.

    Attributes:
      head: trained heads, stacked along a first axis `probe`; what they say is averaged.
      members: which clips of the task belong to which classes.
      multi_label: a clip may belong to several classes, or to none.
    """

    head: Head
    members: Bool[np.ndarray, "clip class"]
    multi_label: bool = False
