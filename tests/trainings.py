"""Trainings of tests share their programs: tracing one takes seconds, and few differ in anything that is traced."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdissect.training import fit, step, train

STATES, STEPS = {}, {}


def all_that_is_traced(objective):
    """A key: objectives of one key have one loss."""
    encoder, fields = objective.encoder, dataclasses.fields(objective)
    own = [(field.name, getattr(objective, field.name)) for field in fields if field.name != "encoder"]
    constants = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(encoder.variables["front_end"])]
    return type(objective), *own, encoder.config, encoder.log_mel, np.dtype(encoder.dtype), *constants


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


@pytest.fixture
def shared_programs(monkeypatch):
    """A training takes these in place of new ones."""
    monkeypatch.setattr(fit, "train_step", train_step)
    monkeypatch.setattr(train, "init_state", init_state)
