"""Trainings and ablations of tests share their programs: to trace one takes seconds, and most are traced alike."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdissect.ablation import engine, stream
from jaxdissect.encoder.families.m2d import M2D
from jaxdissect.training import fit, step, train

STATES, STEPS, RUNNERS = {}, {}, {}


def all_that_is_traced(objective):
    """A key: objectives of one key have one loss."""
    encoder, fields = objective.encoder, dataclasses.fields(objective)
    values = [(field.name, getattr(objective, field.name)) for field in fields if field.name != "encoder"]
    constants = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(encoder.variables["front_end"])]
    return type(objective), *values, encoder.config, encoder.log_mel, np.dtype(encoder.dtype), *constants


def init_state(objective, schedule, seed, encoder_params=None):
    """A copy of the state of the same objective, schedule, seed and parameters."""
    given = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(encoder_params)]
    key = (all_that_is_traced(objective), schedule, seed, *given)
    if key not in STATES:
        STATES[key] = jax.device_get(step.init_state(objective, schedule, seed, encoder_params))
    return jax.device_put(STATES[key])


def train_step(objective, schedule, seed, mesh):
    """The program of the same objective, schedule, seed and devices."""
    key = (all_that_is_traced(objective), schedule, seed, mesh)
    if key not in STEPS:
        STEPS[key] = step.train_step(objective, schedule, seed, mesh)
    return STEPS[key]


def runner_of(encoder, multi_label, shape, mesh):
    """What runs edits of M2D encoders of the same sizes: it is given their parameters with each batch."""
    if not isinstance(encoder, M2D):
        return engine.runner_of(encoder, multi_label, shape, mesh)
    key = (type(encoder), encoder.config, encoder.log_mel, np.dtype(encoder.dtype), *multi_label.items(), shape, mesh)
    if key not in RUNNERS:
        RUNNERS[key] = engine.runner_of(encoder, multi_label, shape, mesh)
    return RUNNERS[key]


@pytest.fixture
def shared_programs(monkeypatch):
    """Commands that a test runs take these in place of new ones."""
    monkeypatch.setattr(fit, "train_step", train_step)
    monkeypatch.setattr(train, "init_state", init_state)
    monkeypatch.setattr(stream, "runner_of", runner_of)
