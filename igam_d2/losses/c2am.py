"""Category-aware angular margin (C2AM) loss (Wang et al. 2022, "C2AM Loss: Chasing a Better
Decision Boundary for Long-Tail Object Detection")."""

import math

from torch import Tensor

from .base import CLS_LOSS_REGISTRY, check_not_negative
from .cosine_ce import CosineCELoss
from .igam import margin_cross_entropy
from .reduction import at_least_float32

__all__ = ["C2AMLoss"]


@CLS_LOSS_REGISTRY.register()
class C2AMLoss(CosineCELoss):
    """Cosine softmax with margins m_ij = max(0, (alpha / pi) log(|w_i| / |w_j|)) on the angles to
    the other classes, from the norms of the classifier's rows, without gradient.

    As in IGAM, angles are held at pi and the background has no margin.

    Args:
        scale: s, positive.
        alpha: 0 leaves a cosine softmax.
    """

    def __init__(self, num_classes: int, *, scale: float = 30.0, alpha: float = 0.5):
        super().__init__(num_classes, scale=scale)
        check_not_negative(alpha=alpha)
        self.alpha = alpha

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        norm = at_least_float32(class_weight.detach())[: self.num_classes].norm(dim=1)
        potentials = norm.clamp(min=1e-12).log() * (self.alpha / math.pi)
        loss = margin_cross_entropy(
            scores, gt_classes, potentials, scale=self.scale, sample_weight=sample_weight
        )
        return {"loss_cls": loss}
