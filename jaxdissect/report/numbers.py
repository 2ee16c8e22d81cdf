"""Numbers as a page takes them: short, and without NaN."""

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

DIGITS = 4  # that count
ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def short(values: Any) -> Any:
    """Numbers, or lists of them, with few digits; None where there is none."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [short(value) for value in values]
    if not isinstance(values, (float, np.floating)):
        return int(values)
    if not math.isfinite(values):
        return None
    rounded = float(f"{values:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def packed(values: np.ndarray) -> dict[str, Any]:
    """An array as base64 of its little-endian bytes, for `unpack` of the page."""
    kind = values.dtype.kind + str(values.dtype.itemsize)
    content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return {"type": kind, "shape": list(values.shape), "data": base64.b64encode(content).decode()}


def to_json(value: Mapping[str, Any]) -> str:
    """JSON that may stand inside a script element: nothing in it ends the element or begins a tag."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(ESCAPED)
