"""What neurons do: interventions on many neuron sets at once, judged by linear probes, beside matched controls.

A result comes about in these steps, each in modules of its own:

- `interventions`: a neuron set with a gain is an `Intervention`. `matched_controls` draws random sets to compare it
  with, which are matched in what `activity` measures.
- `edits`: the intervention is an `Edit` of one pass of the encoder, and so is each of its controls. Edits that run
  together are a `Chunk`.
- `engine`: runs chunks on a batch of clips, and judges the clips: `Verdicts`, as `verdicts` defines them.
- `stream`: runs all clips of a task, and collects the verdicts: `ClipVerdicts`.
- `suite_state`: averages them by class: `ClassVerdicts`, in a `SuiteState` that `saved_state` keeps on disk.
- `tables`: compares interventions with their controls: `Ablation`, which `files` writes.

`confusion` says which classes the probes take each other for. `causal_map` estimates the effect of every single neuron
from a backward pass, and `causal_check` checks the estimate.
"""
