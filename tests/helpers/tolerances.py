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
    # Natural log of mel power; "maximum" is over what has a mel power above 1e-8, "mean" over everything. More than
    # 2e-3 and 1e-5 against nnAudio would be another front end.
    "log-mel against nnAudio, maximum": Tolerance(measured=2.3e-4, allowed=1e-3),
    "log-mel against nnAudio, mean": Tolerance(measured=5.4e-6, allowed=1e-5),
    "log-mel against float64, maximum": Tolerance(measured=1.4e-4, allowed=6e-4),
    "log-mel against float64, mean": Tolerance(measured=5.3e-6, allowed=1e-5),
    "log-mel of a loud chirp against float64, maximum": Tolerance(measured=1.0e-3, allowed=2e-3),
    "log-mel of a loud chirp against float64, mean": Tolerance(measured=1.5e-5, allowed=3e-5),
    "log-mel, compiled against not": Tolerance(measured=9.5e-7, allowed=4e-6),
    "mel filters against float64, relative": Tolerance(measured=6.3e-8, allowed=2e-7),
    # The ViT, at most 1e-5 in float32.
    "tokens against torch, relative": Tolerance(measured=4.4e-7, allowed=2e-6),
    "neurons against torch, relative": Tolerance(measured=5.6e-7, allowed=2e-6),
    "embedding against numpy, relative": Tolerance(measured=1.1e-7, allowed=4e-7),
    "tokens of a chunk in a batch against alone, relative": Tolerance(measured=0.0, allowed=1e-6),
    "embeddings after layers against torch, relative": Tolerance(measured=1.7e-7, allowed=7e-7),
    "embedding, layer by layer against whole, relative": Tolerance(measured=0.0, allowed=1e-6),
    "head's logits against torch, relative": Tolerance(measured=1.3e-7, allowed=5e-7),
    # Interventions.
    "gains against scaled rows, relative": Tolerance(measured=4.0e-7, allowed=2e-6),
    "tokens under gains against torch, relative": Tolerance(measured=5.0e-7, allowed=2e-6),
    "activation x gradient by hand, relative": Tolerance(measured=2.0e-7, allowed=1e-6),
    # Margins of random heads on random weights are of order ten.
    "margin under an edit against edited weights, logits": Tolerance(measured=4.2e-6, allowed=2e-5),
    "margin under an edit against torch, logits": Tolerance(measured=4.6e-6, allowed=2e-5),
    "margin, resumed against whole, logits": Tolerance(measured=3.8e-6, allowed=2e-5),
    "margin, many at once against few, logits": Tolerance(measured=5.7e-6, allowed=2e-5),
    "margin of exact embeddings in another order, relative": Tolerance(measured=4.5e-7, allowed=2e-6),
    "margin in bfloat16, resumed against whole, relative": Tolerance(measured=5.5e-3, allowed=2e-2),
    # Ablation, on an encoder of exact integers. Average precision is found in float32, recall in float64.
    "margin under an intervention against float64, relative": Tolerance(measured=8.0e-8, allowed=4e-7),
    "margin under gain 1, relative": Tolerance(measured=3.1e-7, allowed=2e-6),
    "average precision against scikit-learn's, relative": Tolerance(measured=1.1e-7, allowed=5e-7),
    "arithmetic of shares and p-values in float64, relative": Tolerance(measured=3.0e-16, allowed=1.2e-15),
    "causal map against torch, relative": Tolerance(measured=2.2e-7, allowed=1e-6),
    "causal map by batch and devices, relative": Tolerance(measured=2.2e-7, allowed=1e-6),
    "hundredfold change of a hundredth against the map, relative": Tolerance(measured=1.9e-3, allowed=1e-2),
    "impact by hand, relative": Tolerance(measured=1.2e-7, allowed=5e-7),
    # Training: losses, and every parameter's gradient relative to its largest entry.
    "loss against torch, relative": Tolerance(measured=7.2e-7, allowed=3e-6),
    "gradient against torch, relative": Tolerance(measured=6.5e-7, allowed=3e-6),
    "parameters after two steps, absolute": Tolerance(measured=1.0e-6, allowed=5e-6),
    "loss in bfloat16, relative": Tolerance(measured=5.1e-4, allowed=2e-3),
    "gradient in bfloat16, relative": Tolerance(measured=6.1e-3, allowed=2e-2),
    "a step on several devices, absolute": Tolerance(measured=9.5e-7, allowed=4e-6),
    "losses on several devices, relative": Tolerance(measured=1.1e-7, allowed=5e-7),
    "loss and gradient norm by hand, relative": Tolerance(measured=7.8e-8, allowed=4e-7),
    "tokens of chosen patches against the encoder's pass, relative": Tolerance(measured=0.0, allowed=1e-6),
    "answers in another order, relative": Tolerance(measured=4.5e-7, allowed=2e-6),
    "supervised loss by hand, relative": Tolerance(measured=1.7e-7, allowed=7e-7),
    "M2D's loss by the batch, relative": Tolerance(measured=6.0e-9, allowed=2.4e-7),
    "spread by a loop, relative": Tolerance(measured=8.1e-8, allowed=4e-7),
    # A probe's parameters after some hundred steps of Adam at a rate of 1e-2, which magnifies rounding: the step of a
    # parameter whose gradient is nearly zero depends on the gradient's last bits. At the papers' rate it is 5e-7.
    "probe against float64 and torch's Adam, relative": Tolerance(measured=2.0e-5, allowed=1e-4),
    "probes at once against alone, relative": Tolerance(measured=2.5e-5, allowed=1e-4),
    "probe's logits against float64, relative": Tolerance(measured=1.8e-7, allowed=7e-7),
    "probe's logits against torch, relative": Tolerance(measured=6.3e-8, allowed=3e-7),
    # Certainty. Statistics are float64; intervals are kept in float32.
    "statistic against fractions, relative": Tolerance(measured=4.3e-16, allowed=2e-15),
    "interval in float32, absolute": Tolerance(measured=5.7e-8, allowed=2.5e-7),
    "rank correlation against scipy's, relative": Tolerance(measured=0.0, allowed=1e-14),
    "sharing by breadth by enumeration, relative": Tolerance(measured=4.5e-16, allowed=2e-15),
    # The largest activation, too, may be another neuron's by one bit.
    "float sums on other devices": Tolerance(measured=2.4e-7, allowed=1e-6),
    # bfloat16 keeps 8 bits: one rounding is 4e-3.
    "tokens in bfloat16 against float32, relative": Tolerance(measured=7.6e-3, allowed=2e-2),
    "neurons in bfloat16 against float32, relative": Tolerance(measured=9.8e-3, allowed=3e-2),
    "embedding in bfloat16 against float32, relative": Tolerance(measured=3.4e-3, allowed=1e-2),
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
