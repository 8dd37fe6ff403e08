"""Balanced softmax (Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition"),
in the form of its public code for detection."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, checked_counts
from .reduction import at_least_float32, mean_of_rows
from .sigmoid import SigmoidLoss, sigmoid_rows

__all__ = ["BalancedSoftmaxLoss"]


@CLS_LOSS_REGISTRY.register()
class BalancedSoftmaxLoss(SigmoidLoss):
    """Binary cross-entropies of K sigmoids, whose scores are shifted by -log((1 - q_j) / q_j) on
    foreground RoIs, q_j being a class's share of the training instances; summed over classes,
    averaged over RoIs.

    The paper's eq. (4) is a softmax of z_j + log n_j; its detector was trained with this instead.
    """

    def __init__(self, num_classes: int, class_instance_count: Tensor):
        super().__init__(num_classes)
        counts = checked_counts(class_instance_count, num_classes, positive=True)
        # of a single class, whose share is 1, there is nothing to balance
        shift = torch.logit(counts / counts.sum()).nan_to_num(posinf=0.0)
        self.register_buffer("shift", shift.float(), persistent=False)  # (K,)

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        foreground = (gt_classes < self.num_classes).to(scores.dtype)
        shifted = torch.addcmul(scores, foreground[:, None], self.shift.to(scores.dtype))
        return {"loss_cls": mean_of_rows(sigmoid_rows(shifted, gt_classes), sample_weight)}
