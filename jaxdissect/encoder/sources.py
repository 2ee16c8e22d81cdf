"""The source of a user's encoder as a part of its fingerprint: changed code makes another encoder."""

import ast
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params
from jaxtyping import PyTree

from jaxdissect.encoder.models import apply_model
from jaxdissect.encoder.protocol import Encoder, module_input
from jaxdissect.encoder.user_code import is_library_file


def source_fingerprint(encoder: Encoder, user_object: object, samples: int) -> str:
    """SHA-256 of the code in every user's file that an operation of the encoder comes from.

    Comments and layout do not count. Code of installed packages does not either.

    Args:
      encoder: encoder whose operations count.
      user_object: object that the user's factory returned; the file of its class counts, too.
      samples: length of a clip, in samples.
    """

    def run(variables: PyTree, pcm: jax.Array) -> PyTree:
        return encoder.embed(apply_model(encoder.module, variables, module_input(encoder, variables, pcm)))

    program = jax.make_jaxpr(run)(encoder.variables, jax.ShapeDtypeStruct((1, samples), jnp.float32))
    files = set(_files(program.jaxpr)) | {inspect.getsourcefile(type(user_object)) or ""}
    dumps = []
    for name in files:
        path = Path(name)
        if name and path.is_file() and not is_library_file(name):
            dumps.append(ast.dump(ast.parse(path.read_bytes())))
    # In the order of their contents, for folders may be moved and files renamed.
    return hashlib.sha256("\n".join(sorted(dumps)).encode()).hexdigest()


def _files(jaxpr: Jaxpr) -> Iterator[str]:
    """Files of all calls that led to the operations of a program."""
    for equation in jaxpr.eqns:
        traceback = equation.source_info.traceback
        yield from {frame.file_name for frame in traceback.frames} if traceback else ()
        for inner in jaxprs_in_params(equation.params):
            yield from _files(inner)
