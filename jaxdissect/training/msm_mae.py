"""MSM-MAE: reconstruct the masked patches of a spectrogram.

Source: Niizumi et al., "Masked Spectrogram Modeling using Masked Autoencoders for Learning General-purpose Audio
Representation" (PMLR 166, 2022), after He et al. (CVPR 2022).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdissect.training.masked_prediction import MaskedPrediction, standardised
from jaxdissect.training.objective import Metrics, Params


@dataclasses.dataclass(frozen=True, eq=False)
class MSMMAE(MaskedPrediction):
    """The encoder sees the visible patches; a decoder predicts the pixels of the masked ones.

    Attributes:
      standardise_patches: whether to predict every patch less its own mean and over its own deviation.
    """

    standardise_patches: bool = False

    ema = None  # no target encoder

    @property
    def outputs(self) -> int:
        """Number of pixels of a patch."""
        return self.encoder.config.patch_bands * self.encoder.config.patch_frames

    def loss(
        self,
        params: Params,
        target: Params,
        pcm: Float[Array, "clip sample"],
        members: Bool[Array, "clip class"],
        key: Array,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean squared error over the pixels of the masked patches."""
        answers = self.answers(params, pcm, key)
        wanted = standardised(answers.patches) if self.standardise_patches else answers.patches
        return jnp.square(answers.predicted - wanted).mean(), {}
