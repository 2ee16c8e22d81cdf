"""Clips of three classes, encoders of exact arithmetic, and a quick probe: what tests of the stage `probe` share."""

import dataclasses
import json
from functools import cached_property

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
from foreign import HOP, IntegerEncoder

from jaxdissect import load_task
from jaxdissect.cli import main
from jaxdissect.options.probe import ProbeOptions

CLIPS, SECONDS, SAMPLES = 48, 0.1, 1600
FILES = {"head", "probe.json", "scores.csv", "class_scores.csv"}


@dataclasses.dataclass(frozen=True)
class OtherEncoder(IntegerEncoder):
    """The same settings, other weights, and perhaps a task head of so many classes."""

    head_classes: int = 0

    @cached_property
    def variables(self):
        variables = jax.tree.map(lambda leaf: leaf + 1, IntegerEncoder.variables.func(self))
        if not self.head_classes:
            return variables
        random = np.random.default_rng(5)
        shapes = {"mean": 16, "variance": 16, "kernel": (16, self.head_classes), "bias": self.head_classes}
        return {**variables, "head": {name: random.random(shape).astype(np.float32) for name, shape in shapes.items()}}


def other(dtype):
    """For `--encoder tones:other`."""
    return OtherEncoder()


def three_classes(dtype):
    return OtherEncoder(head_classes=3)


def two_classes(dtype):
    return OtherEncoder(head_classes=2)


@dataclasses.dataclass(frozen=True)
class ChangedEncoder(OtherEncoder):
    """With a head of three classes in which something is changed, or embeddings of another shape."""

    head_classes: int = 3
    source: object = "a string, which foreign encoders may have"
    head: tuple = ()
    three_axes: bool = False

    @cached_property
    def variables(self):
        variables = OtherEncoder.variables.func(self)
        head = {name: leaf for name, leaf in (variables["head"] | dict(self.head)).items() if leaf is not None}
        return {**variables, "head": head}

    def embed(self, output):
        return output if self.three_axes else super().embed(output)


def heard_all_but_five(dtype):
    return ChangedEncoder(source={"head": {"label_set": "label", "classes": list("abc"), "test_fold": 5}})


def three_axes(dtype):
    return ChangedEncoder(three_axes=True)


def half_a_head(dtype):
    return ChangedEncoder(head=(("mean", None),))


def head_of_other_features(dtype):
    return ChangedEncoder(head=(("mean", np.zeros(7, np.float32)),))


class Tones:
    """Clips of three classes and three places, each class a pattern that a linear layer can tell."""

    def __init__(self, data_folder):
        self.path = data_folder.path
        patterns = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 16))
        self.classes, self.places = np.arange(CLIPS) % 3, np.arange(CLIPS) // 3 % 3
        for clip in range(CLIPS):
            random = np.random.default_rng(clip)
            samples = np.tile(np.repeat(patterns[self.classes[clip]], HOP // 16), SAMPLES // HOP)
            data_folder.write(f"{clip}.wav", samples + random.uniform(-0.4, 0.4, SAMPLES), subtype="FLOAT")
        self.table = self.write("tones.csv")

    def write(self, name, **columns):
        """A table of all clips: columns `label`, `place` and `split`, or those given, as lists or functions of clip."""
        default = {"label": lambda clip: "abc"[self.classes[clip]], "place": lambda clip: "xyz"[self.places[clip]]}
        if "fold" not in columns:
            default["split"] = lambda clip: "test" if clip % 4 == 3 else "train"
        columns = {"file_name": lambda clip: f"{clip}.wav", **default, **columns}
        frame = pd.DataFrame({name: [of(clip) for clip in range(CLIPS)] for name, of in columns.items()})
        frame.to_csv(self.path / name, index=False)
        return self.path / name


@pytest.fixture
def tones(data_folder):
    return Tones(data_folder)


@pytest.fixture
def options(tones, tmp_path):
    """Options of a quick probe of the tones."""

    def make(**changes):
        quick = {
            "run": tmp_path / "run",
            "encoder": "foreign:make",
            "task": str(tones.table),
            "unit_seconds": SECONDS,
            "learning_rate": 0.1,
            "epochs": 4,
            "batch_size": 1,
            "seeds": 2,
        }
        return ProbeOptions(**quick | changes)

    make.run = tmp_path / "run"
    return make


@pytest.fixture
def jaxdissect(tones, tmp_path, capsys):
    """Run a command; returns (exit code, printed, printed errors). Of `probe`, only what is not given is filled in."""

    def run(command, *options, inputs=True, run="run"):
        arguments = [command, "--run", str(tmp_path / run)]
        if inputs:
            arguments += ["--encoder", "foreign:make", "--task", str(tones.table), "--unit-seconds", str(SECONDS)]
        if command == "probe" and "encoder" not in options:  # whose head is not trained
            arguments += ["--epochs", "4", "--seeds", "2", "--learning-rate", "0.1"]
        capsys.readouterr()
        code = main([*arguments, "--batch-size", "1", *options])
        return code, *capsys.readouterr()

    run.path = tmp_path / "run"
    return run


def names(folder):
    return {path.name for path in folder.iterdir()}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def strict_json(path):
    """JSON as its standard has it, which knows no NaN."""

    def refuse(constant):
        raise ValueError(f"{path.name} holds {constant}, which other readers of JSON refuse")

    return json.loads(path.read_text(), parse_constant=refuse)


def load(table, **options):
    return load_task(str(table), unit_seconds=SECONDS, **options)


def restored(folder):
    """The heads as arrays, on one device wherever they were saved."""
    with ocp.StandardCheckpointer() as checkpointer:
        path = (folder / "head").absolute()
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            dict(checkpointer.metadata(path).item_metadata.tree),
        )
        return jax.tree.map(np.asarray, checkpointer.restore(path, target))


def slow_embedding(encoder, pcm):
    """The mean over the tokens of the last layer's output, in plain numpy."""
    last = encoder.variables["params"]["out_1"]
    return (encoder.slow_activations(pcm)[-1] @ last["kernel"] + last["bias"]).mean(axis=0)
