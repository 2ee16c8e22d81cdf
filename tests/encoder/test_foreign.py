"""Encoders of a user's: what goes wrong in their code is told with the part of the protocol and the line of it."""

import json
import re
import sys

import flax.linen as nn
import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdissect import InputError, load_encoder
from jaxdissect.cli import main
from jaxdissect.encoder.foreign import ForeignEncoder, guarded
from jaxdissect.encoder.protocol import LayeredEncoder
from jaxdissect.encoder.user_code import UserCode, definition, user_line

MINE = """
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from foreign import IntegerEncoder

class Branches(nn.Module):
    @nn.compact
    def __call__(self, x):
        if x.sum() > 0:  # of a traced array
            return x
        return nn.relu(x)

class Broken(IntegerEncoder):
    def front_end(self, variables, pcm):
        return np.log(variables["lost"])

    def embed(self, output):
        raise KeyError("no pooling")

    def token_layout(self, samples):
        return 1 / (samples - samples)

    def settings(self):
        return {"front_end": helper()}

def helper():
    raise ValueError("first line\\nsecond line")

class Wrong(IntegerEncoder):
    def front_end(self, variables, pcm): return pcm[0]
    def embed(self, output): return None
    def token_layout(self, samples): return [samples]
    def settings(self): return {"dtype": jnp.float32}

class Layout(IntegerEncoder):
    def token_layout(self, samples):
        (own,) = IntegerEncoder.token_layout(self, samples)
        return (type(own)(own.is_patch[1:], own.start[1:], own.stop[1:]),)

class Branching(IntegerEncoder):
    @property
    def module(self): return Branches()

class Property(IntegerEncoder):
    @property
    def variables(self): return self.lost["x"]

class Rate(IntegerEncoder):
    sample_rate = "16 kHz"
    def __init__(self): object.__setattr__(self, "sample_rate", "16 kHz")

class FewArguments(IntegerEncoder):
    def front_end(self, pcm): return pcm

def broken(dtype): return Broken()
def wrong(dtype): return Wrong()
def layout(dtype): return Layout()
def branching(dtype): return Branching()
def lost_property(dtype): return Property()
def rate(dtype): return Rate()
def few_arguments(dtype): return FewArguments()
def raising(dtype):
    return helper()
def ending(dtype):
    raise SystemExit(7)
def no_dtype(): return Broken()
"""
PCM = jnp.zeros((2, 1600), jnp.float32)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of a user's; returns its file."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("mine", None)  # another test's
    (tmp_path / "mine.py").write_text(MINE)
    yield tmp_path / "mine.py"
    sys.modules.pop("mine", None)


def line_of(text):
    return MINE.splitlines().index(text) + 1


@pytest.mark.parametrize(
    ("call", "part", "kind", "line"),
    [
        (
            lambda e: e.front_end(e.variables, PCM),
            "front_end",
            "KeyError: 'lost'",
            '        return np.log(variables["lost"])',
        ),
        (lambda e: e.embed(PCM), "embed", "KeyError: 'no pooling'", '        raise KeyError("no pooling")'),
        (lambda e: e.token_layout(3), "token_layout", "ZeroDivisionError", "        return 1 / (samples - samples)"),
        (
            lambda e: e.settings(),
            "settings",
            "ValueError: first line;",
            '    raise ValueError("first line\\\\nsecond line")',
        ),
    ],
)
def test_foreign_encoder_names_the_part_and_the_users_line(mine, call, part, kind, line):
    encoder = load_encoder("mine:broken")
    with pytest.raises(InputError) as caught:
        call(encoder)
    message = str(caught.value)
    assert message.startswith(f"Encoder mine:broken: {part} raised {kind}")
    line = line.replace("\\\\n", "\\n")
    assert f"{mine}, line {line_of(line)}: `{line.strip()}`" in message
    assert "\n" not in message
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value.__cause__, InputError)


def test_foreign_module_names_the_users_line_while_jax_traces_it(mine):
    """JAX takes frames out of a traceback under jit; the user's line is told all the same, and the error kept."""
    encoder = load_encoder("mine:branching")
    with pytest.raises(InputError, match=r"module\.apply raised TracerBoolConversionError: .*line 10: `if x\.sum") as e:
        jax.jit(lambda x: encoder.module.apply({}, x))(PCM)
    chain, error = [], e.value
    while error is not None:
        chain.append(type(error))
        error = error.__cause__ or error.__context__
    assert jax.errors.TracerBoolConversionError in chain


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e: e.front_end(e.variables, PCM),
            r"front_end must return arrays with the clips in front \(2 here\), f"
            r"ound float32\[1600\]\.",
        ),
        (lambda e: e.token_layout(3), r"token_layout must return a tuple with a TokenLayout .* found list\."),
        (lambda e: e.settings(), r"settings must return JSON values \(.* not JSON serializable\), found dict\."),
    ],
)
def test_foreign_encoder_refuses_other_results(mine, call, message):
    with pytest.raises(InputError, match=f"^Encoder mine:wrong: {message}"):
        call(load_encoder("mine:wrong"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising", r"the factory raised ValueError: first line; .*mine\.py, line 28: `raise ValueError"),
        ("no_dtype", r"the factory raised TypeError: no_dtype\(\) got an .*'dtype'; .*mine\.py, line \d+: `def no_d"),
        ("lost_property", r"variables raised AttributeError: .*'lost'; .*line \d+: `def variables.*self\.lost"),
        ("rate", r"sample_rate must be a positive whole number, in Hz, found str '16 kHz'"),
    ],
)
def test_load_foreign_explains_what_the_factory_raises(mine, name, message):
    with pytest.raises(InputError, match=f"^Encoder mine:{name}: {message}"):
        load_encoder(f"mine:{name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport a_package_that_is_not_here\n", r"importing mine raised ModuleNotFoundError: .*, line 2: `imp"),
        ("x = 1\ny = (\n", r"importing mine raised SyntaxError: .*mine\.py, line 2: `y = \("),
        ("raise RuntimeError", r"importing mine raised RuntimeError: RuntimeError; .*, line 1: `raise RuntimeError`"),
    ],
)
def test_load_foreign_names_the_line_at_which_an_import_fails(mine, text, message):
    mine.write_text(text)
    with pytest.raises(InputError, match=f"^Encoder mine:f: {message}"):
        load_encoder("mine:f")


@pytest.mark.parametrize("name", ["no_such_module_of_mine:f", "mine:lost", ":f", "mine:"])
def test_load_foreign_refuses_what_is_not_there(mine, name):
    with pytest.raises(InputError, match=f"^{re.escape(name)}: neither a directory nor an importable package"):
        load_encoder(name)


def test_foreign_front_end_with_other_arguments_shows_its_definition(mine):
    encoder = load_encoder("mine:few_arguments")
    with pytest.raises(InputError, match=r"front_end raised TypeError: .*positional.*mine\.py, line \d+: `def front_e"):
        encoder.front_end(encoder.variables, PCM)


def test_foreign_module_mistake_is_one_paragraph_of_a_command(mine, data_folder, capsys):
    data_folder.write("a.wav", np.ones(1600))
    table = data_folder.table("t.csv", "file_name,label,split\na.wav,x,train\n")
    options = ["--encoder", "mine:branching", "--task", str(table), "--unit-seconds", "0.1"]
    assert main(["activations", *options, "--run", str(data_folder.path / "run"), "--json"]) == 2
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert printed.err == f"jaxdissect: {answer['error']}\n"
    assert re.search(r"module\.apply raised TracerBoolConversionError.*mine\.py, line 10: `if x\.sum", answer["error"])


def test_load_foreign_lets_a_factory_end_the_program(mine, tmp_path, capsys):
    with pytest.raises(SystemExit):
        load_encoder("mine:ending")
    assert main(["bench", "--encoder", "mine:ending", "--json"]) == 7
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 7
    assert "sys.exit(7)" in answer["error"]


def test_token_layout_must_fit_the_neurons_before_counting(mine, data_folder, capsys):
    """With --tokens all nothing is masked, and the report would lay activations out wrongly."""
    data_folder.write("a.wav", np.ones(1600))
    table = data_folder.table("t.csv", "file_name,label,split\na.wav,x,train\n")
    options = ["--encoder", "mine:layout", "--task", str(table), "--unit-seconds", "0.1"]
    assert main(["activations", *options, "--run", str(data_folder.path / "run")]) == 2
    printed = capsys.readouterr().err
    assert "call 0 has (1, 5), and the masks have [(1, 4)]. An encoder's masks come from its token_layout." in printed


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_user_code_lets_interrupts_pass(stop):
    with pytest.raises(stop), UserCode("mine:f").part("embed"):
        raise stop


def test_user_code_lets_input_errors_pass():
    with pytest.raises(InputError, match=r"^told$"), UserCode("mine:f").part("embed"):
        raise InputError("told")


def test_guarded_encoder_behaves_as_the_users():
    own = foreign.IntegerEncoder()
    encoder = guarded(own, UserCode("foreign:make"))
    assert isinstance(encoder, ForeignEncoder)
    assert not isinstance(encoder, LayeredEncoder)
    assert (encoder.name, encoder.neurons, encoder.settings()) == (own.name, own.neurons, own.settings())
    assert encoder.module == own.module
    inputs = encoder.front_end(encoder.variables, PCM)
    np.testing.assert_array_equal(inputs, own.front_end(own.variables, PCM))
    assert encoder.traces is own.traces  # what else it has


def test_user_line_is_the_innermost_of_the_package_or_of_neither_library():
    def fails():
        return jnp.zeros(2).reshape(3)

    with pytest.raises(TypeError) as caught:
        nn.Dense(2).apply({}, fails())
    here = f"{__file__}, line {fails.__code__.co_firstlineno + 1}: `return jnp.zeros(2).reshape(3)`"
    assert user_line(caught.value, "somewhere_else") == here
    assert definition(fails) == f"{__file__}, line {fails.__code__.co_firstlineno}: `def fails`"
    assert user_line(ValueError(), "mine") is None
