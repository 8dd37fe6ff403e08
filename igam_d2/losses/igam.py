"""Information-amount-guided angular margin (IGAM) loss, eq. (6)."""

import math

import torch
from torch import Tensor

from ..functional import (
    READINGS,
    igam_loss,
    margin_logits,
    margin_potentials,
    normalize_information,
)
from .base import CLS_LOSS_REGISTRY
from .cosine_ce import CosineCELoss
from .reduction import at_least_float32, mean_cross_entropy

__all__ = ["IGAMLoss", "margin_cross_entropy"]


def margin_cross_entropy(
    scores: Tensor,
    gt_classes: Tensor,
    potentials: Tensor,
    *,
    scale: float,
    sign: float = 1.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of :func:`igam_d2.functional.margin_logits`, weighted or not."""
    scores = at_least_float32(scores)
    margin = {"scale": scale, "sign": sign}
    if sample_weight is None:
        return igam_loss(scores, gt_classes, potentials, **margin)
    logits = margin_logits(scores, gt_classes, potentials, **margin)
    return mean_cross_entropy(logits, gt_classes, sample_weight)


@CLS_LOSS_REGISTRY.register()
class IGAMLoss(CosineCELoss):
    """Cosine softmax with margins on the angles to the other classes; at test time a cosine
    softmax.

    The margins follow the information amounts that :meth:`set_information` is told, and are zero
    before. They are kept as the buffer `potentials` (K,), NaN for classes without margins.

    Args:
        normalization: reading of the normalisation, see
            :func:`igam_d2.functional.normalize_information`.
        scale: s, positive.
        margin_sign: 1 as printed, which relaxes the loss of the class with more information; -1 to
            ask more of it instead.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        normalization: str = "ratio",
        scale: float = 30.0,
        margin_sign: int = 1,
    ):
        super().__init__(num_classes, scale=scale)
        if margin_sign not in (1, -1):
            raise ValueError(f"margin_sign must be 1 or -1, not {margin_sign}.")
        if normalization not in READINGS:
            raise ValueError(
                f"normalization must be one of {', '.join(READINGS)}, not {normalization!r}."
            )
        self.normalization = normalization
        self.margin_sign = margin_sign
        self.register_buffer("potentials", torch.full((num_classes,), math.nan))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        loss = margin_cross_entropy(
            scores,
            gt_classes,
            self.potentials,
            scale=self.scale,
            sign=self.margin_sign,
            sample_weight=sample_weight,
        )
        return {"loss_cls": loss}

    @torch.no_grad()
    def set_information(self, information: Tensor) -> None:
        normalized = normalize_information(information, reading=self.normalization)
        self.potentials.copy_(margin_potentials(normalized))
