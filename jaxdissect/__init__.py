"""Neuron-level dissection of audio Transformers in JAX: audio in, class-specific neurons out."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxdissect.ablation.causal_map import causal_map
    from jaxdissect.ablation.controls import Activity
    from jaxdissect.ablation.outcomes import Judge
    from jaxdissect.ablation.results import Ablation, ablate
    from jaxdissect.ablation.suites import AblationOptions, Intervention, make_interventions
    from jaxdissect.activations import Reading, read_neurons, stack_layers
    from jaxdissect.collect import CountOptions
    from jaxdissect.comparing import Sets, Sharing, read_sets, share
    from jaxdissect.embeddings import Embeddings, embed_clips
    from jaxdissect.encoder.base import Encoder, LayeredEncoder, TokenLayout
    from jaxdissect.encoder.checkpoint import load_encoder, save_encoder
    from jaxdissect.encoder.convert import convert_checkpoint
    from jaxdissect.encoder.m2d import M2D, untrained_m2d
    from jaxdissect.encoder.vit import ViTConfig, vit_config
    from jaxdissect.errors import InputError, LostProcessError, TrainingError
    from jaxdissect.grid import ActivationGrid, GridReader, activation_grid, grid_reader
    from jaxdissect.interventions import run_with_gains
    from jaxdissect.neuron_sets import NeuronSet, neuron_set
    from jaxdissect.probe import Head, Probe, ProbeRule, logits, train_probe
    from jaxdissect.probing import ProbeOptions, ProbeResult, run_probe
    from jaxdissect.results import Activations, Neurons, collect_activations, select_neurons
    from jaxdissect.selection import SelectionRule
    from jaxdissect.tasks.known import load_task
    from jaxdissect.tasks.table import LabelSet, Task
    from jaxdissect.training.options import TrainOptions
    from jaxdissect.training.train import run_train

__version__ = "0.1.0"

_PUBLIC = {
    "ablation.causal_map": ("causal_map",),
    "ablation.controls": ("Activity",),
    "ablation.outcomes": ("Judge",),
    "ablation.results": ("Ablation", "ablate"),
    "ablation.suites": ("AblationOptions", "Intervention", "make_interventions"),
    "activations": ("Reading", "read_neurons", "stack_layers"),
    "collect": ("CountOptions",),
    "comparing": ("Sets", "Sharing", "read_sets", "share"),
    "encoder.base": ("Encoder", "LayeredEncoder", "TokenLayout"),
    "encoder.checkpoint": ("load_encoder", "save_encoder"),
    "encoder.convert": ("convert_checkpoint",),
    "encoder.m2d": ("M2D", "untrained_m2d"),
    "encoder.vit": ("ViTConfig", "vit_config"),
    "embeddings": ("Embeddings", "embed_clips"),
    "errors": ("InputError", "LostProcessError", "TrainingError"),
    "grid": ("ActivationGrid", "GridReader", "activation_grid", "grid_reader"),
    "interventions": ("run_with_gains",),
    "neuron_sets": ("NeuronSet", "neuron_set"),
    "probe": ("Head", "Probe", "ProbeRule", "logits", "train_probe"),
    "probing": ("ProbeOptions", "ProbeResult", "run_probe"),
    "results": ("Activations", "Neurons", "collect_activations", "select_neurons"),
    "selection": ("SelectionRule",),
    "tasks.known": ("load_task",),
    "tasks.table": ("LabelSet", "Task"),
    "training.options": ("TrainOptions",),
    "training.train": ("run_train",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "M2D",
    "Ablation",
    "AblationOptions",
    "ActivationGrid",
    "Activations",
    "Activity",
    "CountOptions",
    "Embeddings",
    "Encoder",
    "GridReader",
    "Head",
    "InputError",
    "Intervention",
    "Judge",
    "LabelSet",
    "LayeredEncoder",
    "LostProcessError",
    "NeuronSet",
    "Neurons",
    "Probe",
    "ProbeOptions",
    "ProbeResult",
    "ProbeRule",
    "Reading",
    "SelectionRule",
    "Sets",
    "Sharing",
    "Task",
    "TokenLayout",
    "TrainOptions",
    "TrainingError",
    "ViTConfig",
    "ablate",
    "activation_grid",
    "causal_map",
    "collect_activations",
    "convert_checkpoint",
    "embed_clips",
    "grid_reader",
    "load_encoder",
    "load_task",
    "logits",
    "make_interventions",
    "neuron_set",
    "read_neurons",
    "read_sets",
    "run_probe",
    "run_train",
    "run_with_gains",
    "save_encoder",
    "select_neurons",
    "share",
    "stack_layers",
    "train_probe",
    "untrained_m2d",
    "vit_config",
]


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


def __getattr__(name: str) -> object:
    """Public names are imported on first use, so that a bare host can use the pieces that it has packages for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
