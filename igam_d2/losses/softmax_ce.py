"""Softmax cross-entropy over logits of a linear classifier, eq. (3)."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss
from .reduction import mean_cross_entropy

__all__ = ["SoftmaxCELoss"]


@CLS_LOSS_REGISTRY.register()
class SoftmaxCELoss(ClsLoss):
    """-log softmax(z)_y, averaged over RoIs."""

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        return {"loss_cls": mean_cross_entropy(scores, gt_classes, sample_weight)}

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return torch.softmax(scores, dim=-1)
