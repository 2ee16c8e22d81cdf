"""Numbers as a page holds them: with few digits, and without NaN, which JSON does not have."""

import base64
import json
import math

import numpy as np

from jaxdissect.types import Json, Record

DIGITS = 4  # significant digits of a number
# What could end a script element or begin a tag, and the line breaks that JSON allows in a string.
ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def short(values: Json) -> Json:
    """A number, or lists of numbers, with few digits.

    Args:
      values: number, array, or nested lists of numbers.

    Returns:
      Integers, and numbers of at most `DIGITS` significant digits, in lists as nested as `values`. NaN and infinity
      become None.
    """
    if isinstance(values, np.ndarray):  # its numbers become Python's, nested lists for several axes
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [short(value) for value in values]
    if not isinstance(values, (float, np.floating)):
        return int(values)
    if not math.isfinite(values):
        return None
    rounded = float(f"{values:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def packed(values: np.ndarray) -> Record:
    """An array as a JSON object, which `unpack` in `data.js` reads.

    Args:
      values: numbers of any shape, in 8, 16 or 32 bits.

    Returns:
      Type, shape, and base64 of the bytes, which are little-endian and in C order.
    """
    kind = values.dtype.kind + str(values.dtype.itemsize)
    content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return {"type": kind, "shape": list(values.shape), "data": base64.b64encode(content).decode()}


def to_json(value: Record) -> str:
    """JSON for a script element: no string in it ends the element or begins a tag.

    Args:
      value: JSON object.

    Raises:
      ValueError: a number is NaN or infinite.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(ESCAPED)
