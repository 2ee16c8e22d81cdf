"""Functions, NNX models and other foreign encoders: from a file to tables, checked, and known by their source."""

import importlib
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from noises import SMALL
from post_norm import PostNorm

from jaxdissect import FunctionEncoder, InputError, Units, check_encoder, load_encoder, tag, untrained_m2d
from jaxdissect.cli import main
from jaxdissect.encoder.protocol import named_units
from jaxdissect.encoder.sources import source_fingerprint
from jaxdissect.runtime.tables import read_netcdf

# An NNX audio encoder, and all that this package needs to know of it.
NNX = """
from flax import nnx
import jax.numpy as jnp

class Relu(nnx.Module):
    def __call__(self, x): return nnx.relu(x)

class Layer(nnx.Module):
    def __init__(self, rngs):
        self.into, self.out, self.act = nnx.Linear(16, 24, rngs=rngs), nnx.Linear(24, 16, rngs=rngs), Relu()
    def __call__(self, x): return x + self.out(self.act(self.into(x)))

class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(160, 16, rngs=rngs)
        self.layers = nnx.List([Layer(rngs) for _ in range(3)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
    def __call__(self, pcm):
        x = self.first(pcm[:, : pcm.shape[1] // 160 * 160].reshape(len(pcm), -1, 160))
        for layer in self.layers:
            x = layer(x)
        return self.dropout(x)

# begin of the adapter
from jaxdissect import FunctionEncoder, Units

def factory(dtype):
    model = Network(nnx.Rngs(0))
    model.eval()
    return FunctionEncoder(
        name="mine", sample_rate=16000, module=model, variables=nnx.state(model), neurons="layers/*/act", hop=160,
        units={"residual": Units("layers/?")},
    )
# end of the adapter
"""

FUNCTION = """
import jax, jax.numpy as jnp, numpy as np
from helper import activation
from jaxdissect import FunctionEncoder, tag

def network(weights, x):
    def layer(x, one):  # a comment
        return x + tag(activation(x @ one["in"]), "neurons") @ one["out"], None
    return jax.lax.scan(jax.checkpoint(layer), x, weights)[0]

def frames(variables, pcm):
    return pcm[:, : pcm.shape[1] // 160 * 160].reshape(len(pcm), -1, 160)[..., ::10] * 10

def factory(dtype):
    rng = np.random.default_rng(0)
    weights = {"in": rng.normal(size=(3, 16, 24)).astype("f"), "out": rng.normal(size=(3, 24, 16)).astype("f") / 9}
    return FunctionEncoder("scanned", 16000, network, weights, "neurons", hop=160, prepare=frames)
"""
EQUINOX = """
import equinox as eqx, jax
from jaxdissect import FunctionEncoder, tag

class Layer(eqx.Module):
    into: eqx.nn.Linear
    out: eqx.nn.Linear
    activation: object = jax.nn.relu
    def __init__(self, key):
        self.into, self.out = eqx.nn.Linear(16, 24, key=key), eqx.nn.Linear(24, 16, key=key)
    def __call__(self, token):
        return token + self.out(tag(self.activation(self.into(token)), "neurons"))

class Network(eqx.Module):
    layers: list
    def __call__(self, pcm):
        x = pcm[: len(pcm) // 160 * 160].reshape(-1, 160)[:, ::10] * 10
        for layer in self.layers:
            x = jax.vmap(layer)(x)
        return x

def factory(dtype):
    model = Network([Layer(jax.random.key(number)) for number in range(3)])
    arrays, rest = eqx.partition(model, eqx.is_array)
    run = lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x)
    return FunctionEncoder("equinox", 16000, run, arrays, "neurons", hop=160)
"""
HELPER = "import jax\ndef activation(x): return jax.nn.relu(x)\n"


@pytest.fixture
def files(tmp_path, monkeypatch, data_folder):
    """Writes modules of a user's; and a table of tones beside."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = ["file_name,label,split"]
    for clip in range(24):
        rng = np.random.default_rng(clip)
        tone = np.sin(np.arange(1600) * (0.1 + 0.25 * (clip % 3))) * 0.3 + rng.normal(size=1600) * 0.05
        data_folder.write(f"{clip}.wav", tone.astype(np.float32))
        rows.append(f"{clip}.wav,{'abc'[clip % 3]},{'test' if clip % 4 == 3 else 'train'}")
    table = data_folder.table("t.csv", "\n".join(rows) + "\n")

    def write(**modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
            forget(name)
        return ["--task", str(table), "--unit-seconds", "0.1"]

    def forget(*names):
        for name in names:
            sys.modules.pop(name, None)

    yield write
    forget("mine", "helper")


@pytest.mark.parametrize("modules", [{"mine": NNX}, {"mine": EQUINOX}, {"mine": FUNCTION, "helper": HELPER}])
def test_an_encoder_of_any_kind_goes_through_all_commands(files, tmp_path, capsys, modules):
    task, run = files(**modules), str(tmp_path / "run")
    encoder = ["--encoder", "mine:factory"]
    assert main(["dissect", *encoder, *task, "--run", run, "--preset", "lape", "--keep", "0.3", "--bar", "0.5"]) == 0
    assert read_netcdf(tmp_path / "run" / "activations.nc")["active_tokens"].shape[1:] == (3, 24)
    assert main(["probe", "--run", run, "--epochs", "10", "--learning-rate", "0.03", "--seeds", "1"]) == 0
    for mode in ("gain", "mean", "patch"):
        assert main(["ablate", "--run", run, "--controls", "3", "--match", "layer", "--mode", mode]) == 0
    assert set(pd.read_csv(tmp_path / "run" / "ablation.csv")["mode"]) == {"patch"}
    assert main(["report", "--run", run]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err


def test_the_adapter_of_an_nnx_encoder_is_short():
    adapter = NNX.partition("# begin of the adapter\n")[2].partition("# end")[0]
    assert len([line for line in adapter.splitlines() if line.strip()]) <= 20


def test_units_of_a_factory_are_chosen_by_name(files, tmp_path):
    task, run = files(mine=NNX), tmp_path / "run"
    given = ["activations", "--encoder", "mine:factory", *task, "--run", str(run), "--units", "residual"]
    assert main(given) == 0
    assert read_netcdf(run / "activations.nc")["active_tokens"].shape[1:] == (3, 16)
    assert json.loads((run / "run.json").read_text())["stages"]["activations"]["inputs"]["units"] == "residual"
    with pytest.raises(InputError, match="units must be one of residual for mine, got 'heads'"):
        load_encoder("mine:factory", units="heads")


def test_changed_code_is_another_encoder(files, tmp_path, capsys):
    """Of a file that the user's own module imports, too; a comment is no change."""
    task, run = files(mine=FUNCTION, helper=HELPER), str(tmp_path / "run")
    count = ["activations", "--encoder", "mine:factory", *task, "--run", run]
    assert main(count) == 0
    files(mine=FUNCTION.replace("# a comment", "# another one, and\n        # a line more"), helper=HELPER)
    assert main(["probe", "--run", run, "--epochs", "2", "--seeds", "1"]) == 0
    files(mine=FUNCTION, helper=HELPER.replace("relu", "gelu"))
    jax.clear_caches()
    capsys.readouterr()
    assert main(["neurons", "--run", run, "--preset", "lape", "--keep", "0.3", "--bar", "0.5"]) == 0
    assert main(["ablate", "--run", run, "--controls", "0"]) == 2
    assert "encoder" in capsys.readouterr().err


def test_source_fingerprint_holds_all_that_the_factory_imports(files, tmp_path):
    """A constant, a table made with NumPy, an argument in the factory's own file; and not where the files lie."""
    main_file = "import helper\nfrom config import SCALE\ndef factory(dtype): return helper.activation, SCALE, 1.0\n"

    def print_of(main_file, helper, config):
        files(mine=main_file, helper=helper, config=config)
        importlib.invalidate_caches()
        importlib.import_module("mine")
        try:
            return source_fingerprint(["mine"])
        finally:
            for name in ("mine", "helper", "config"):
                sys.modules.pop(name, None)

    texts = main_file, HELPER, "SCALE = 2.0  # of the input\n"
    first = print_of(*texts)
    assert print_of(*texts) == first
    assert print_of(texts[0], texts[1], "SCALE = 2.0\n") == first
    changed = [print_of(texts[0], texts[1], "SCALE = 3.0\n"), print_of(texts[0], texts[1] + "A = 1\n", texts[2])]
    changed.append(print_of(texts[0].replace("1.0", "1.5"), *texts[1:]))
    assert len({first, *changed}) == 4


def function_encoder(**changes):
    weights = {"in": np.ones((4, 6), np.float32), "out": np.ones((6, 4), np.float32)}

    def network(weights, x):
        return tag(jax.nn.relu(x @ weights["in"]), "neurons") @ weights["out"]

    def prepare(variables, pcm):
        return pcm[:, : pcm.shape[1] // 100 * 100].reshape(len(pcm), -1, 4, 25).sum(axis=-1)

    given = {"hop": 100, "prepare": prepare, "neurons": "neurons", "module": network, "variables": weights}
    return FunctionEncoder(**{"name": "f", "sample_rate": 8000, **given, **changes})


def test_function_encoder_lays_its_tokens_in_time():
    encoder = function_encoder(class_tokens=2, tokens=lambda samples: samples // 100 - 1)
    (layout,) = encoder.token_layout(450)
    assert layout.is_patch.tolist() == [False, False, True, True, True]
    assert layout.start.tolist() == [0, 0, 0, 100, 200]
    assert layout.stop.tolist() == [0, 0, 100, 200, 300]
    np.testing.assert_allclose(encoder.embed(jnp.arange(12.0).reshape(1, 2, 2, 3)), [[4.5, 5.5, 6.5]])
    assert named_units(encoder) == {"neurons": "neurons", "vectors": False}


def test_check_encoder_says_that_all_fits():
    small = untrained_m2d(SMALL)
    for encoder in (function_encoder(), small, PostNorm("second"), PostNorm("nothing")):
        check = check_encoder(encoder, seconds=1)
        assert check.fits, str(check)
    assert "3 layers give what the module gives; edits run their first layer again" in str(check)


def in_batch(weights, x):
    return tag((x - x.mean(axis=0, keepdims=True)) @ weights["in"], "neurons")


class TwoRuns(FunctionEncoder):
    """Its layers run on both halves of a clip."""

    def token_layout(self, samples):
        return super().token_layout(samples // 2) * 2


def halves(weights, x):
    first, second = (tag(half @ weights["in"], "neurons") for half in jnp.split(x, 2, axis=1))
    return first + second


class NoPooling(PostNorm):
    def embed(self, output):
        return output


def unused(weights, x):
    tag(x @ weights["in"], "neurons")
    return x


@pytest.mark.parametrize(
    ("encoder", "part", "message"),
    [
        (object(), "attributes", "lacks name, sample_rate"),
        (PostNorm(sample_rate="8 kHz"), "attributes", "sample_rate must be a positive whole number"),
        (PostNorm(neurons=3), "attributes", "neurons must be a text, the pattern of paths or tags"),
        (function_encoder(constants={"a": {1}}), "settings", "must return JSON values"),
        (function_encoder(prepare=lambda _, pcm: pcm[0]), "front_end", "arrays with the clips in front"),
        (function_encoder(module=lambda weights, x: 1 / 0), "module", "module raised ZeroDivisionError"),
        (NoPooling(), "embed", r"must have the axes \(clip, feature\)"),
        (
            TwoRuns(**vars(function_encoder(module=halves))),
            "token_layout",
            "must have one entry: a function's layers run once",
        ),
        (function_encoder(neurons="neuron"), "neurons", "No module or tag matches the pattern 'neuron'"),
        (function_encoder(hop=50), "token_layout", "The masks must have the shapes of the outputs"),
        (function_encoder(tokens=lambda samples: 0), "token_layout", "The masks must have"),
        (function_encoder(module=in_batch), "clips beside each other", "clips must not act on each other"),
        (function_encoder(module=unused), "silencing", "no neuron has an effect on the embedding"),
        (PostNorm(), "layers", "a norm .as.*in post-norm layers., a scale, a gate or dropout"),
    ],
)
def test_check_encoder_says_what_does_not_fit(encoder, part, message):
    check = check_encoder(encoder, seconds=1)
    (failed,) = [one for one in check.parts if not one.fits]
    assert not check.fits
    assert failed.part == part
    assert re.search(message, failed.found), failed.found


def test_units_of_vectors_need_a_threshold_and_no_mean(tmp_path, dissected, capsys):
    encoder = str(dissected / "encoder")
    task = ["--task", str(dissected / "data" / "t.csv"), "--unit-seconds", "0.1", "--label", "label"]
    run = ["--run", str(tmp_path / "run")]
    count = ["dissect", "--encoder", encoder, *task, *run, "--units", "heads", "--preset", "lape", "--keep", "0.6"]
    assert main(count) == 2
    assert "is above --threshold 0 at every token. Give a threshold above 0" in capsys.readouterr().err
    assert main([*count, "--bar", "0.3", "--threshold", "0.5"]) == 0
    assert main(["probe", *run, "--epochs", "5", "--seeds", "1"]) == 0
    capsys.readouterr()
    assert main(["ablate", *run, "--mode", "mean", "--neurons", "a"]) == 2
    assert "units of this run are vectors" in capsys.readouterr().err
    assert Units("x") == Units("x", vectors=False)


def test_units_of_a_layered_encoder_of_ones_own_are_found_in_its_layers():
    """Those with a path inside the layer run layer by layer, others whole; its own units stay as they are."""
    kinds = {
        "own": Units("layer_*/act"),
        "sums": Units("layer_*/second", layer_neurons="second"),
        "outputs": Units("layer_*/norm"),
    }
    encoder = PostNorm("second")
    object.__setattr__(encoder, "units", kinds)
    chosen = {name: check_encoder(encoder, 1, units=name) for name in kinds}
    assert all(check.fits for check in chosen.values()), "\n".join(map(str, chosen.values()))
    assert "edits add to their first layer's output" in str(chosen["own"])
    assert "edits run their first layer again" in str(chosen["sums"])
    assert "layers:" not in str(chosen["outputs"]).replace("3 layers", "")
    assert "must be one of own, sums, outputs for post-norm, got 'heads'" in str(
        check_encoder(encoder, 1, units="heads")
    )
