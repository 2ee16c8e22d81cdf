"""Options of a job that runs in several processes."""

import dataclasses

from jaxdissect.options.rules import Options, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedOptions(Options):
    """One job in several processes, each with its own devices.

    Attributes:
      distributed: this is one process of several, started with the same command on every host. SLURM, Open MPI, GKE and
        Cloud TPU tell JAX which one; elsewhere the next three options do.
      coordinator: host:port of process 0.
      processes: number of processes.
      process: number of this process, from 0.
      patience: seconds without a sign of life after which another process counts as dead.
    """

    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    patience: Positive = 60.0
