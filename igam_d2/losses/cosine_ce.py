"""Cosine softmax cross-entropy, eq. (5); known as NormFace (Wang et al. 2017)."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_positive
from .reduction import at_least_float32, mean_cross_entropy

__all__ = ["CosineCELoss"]


@CLS_LOSS_REGISTRY.register()
class CosineCELoss(ClsLoss):
    """-log softmax(s cos)_y, averaged over RoIs.

    Args:
        scale: s, positive.
    """

    classifier = "cosine"

    def __init__(self, num_classes: int, *, scale: float = 30.0):
        super().__init__(num_classes)
        check_positive(scale=scale)
        self.scale = scale

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        logits = self.scale * at_least_float32(scores)
        return {"loss_cls": mean_cross_entropy(logits, gt_classes, sample_weight)}

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return torch.softmax(self.scale * at_least_float32(scores), dim=-1)
