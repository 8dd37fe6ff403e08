"""Equalized focal loss (Li et al. 2022, "Equalized Focal Loss for Dense Long-Tailed Object
Detection")."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, check_not_negative, check_positive
from .focal import FocalLoss, focal_rows
from .reduction import at_least_float32, at_true_class, foreground_mean, sum_over_processes_

__all__ = ["EqualizedFocalLoss"]


@CLS_LOSS_REGISTRY.register()
class EqualizedFocalLoss(FocalLoss):
    """Focal loss whose gamma_j = gamma + focus (1 - g_j) is larger for classes whose positives have
    little gradient beside their negatives, weighted by gamma_j / gamma.

    Buffers:
        positive_grad, negative_grad: (K,) float64, sums of the absolute gradients of the loss
            (without `sample_weight`) by the scores since training began. A step's batch is that of
            all processes, and so is the number of foreground RoIs that they are divided by.
        ratio: (K,), g_j = positive_grad / negative_grad, from 0 to 1; 1 at the start.

    Args:
        alpha: alpha_t of a positive; 1 - alpha that of a negative.
        gamma: gamma_b, of a class in balance.
        focus: s, how much larger that of a class without gradient of positives is.
    """

    prior_prob = 0.001

    def __init__(
        self, num_classes: int, *, alpha: float = 0.25, gamma: float = 2.0, focus: float = 8.0
    ):
        super().__init__(num_classes, alpha=alpha, gamma=gamma)
        check_positive(gamma=gamma)
        check_not_negative(focus=focus)
        self.focus = focus
        self.register_buffer("positive_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("negative_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("ratio", torch.ones(num_classes))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        gamma = self.gamma + self.focus * (1 - self.ratio.to(scores.dtype))
        rows, grad = focal_rows(
            scores, gt_classes, alpha=self.alpha, gamma=gamma, weight=gamma / self.gamma
        )
        if self.updates_state:
            self._accumulate(grad, gt_classes)
        return {"loss_cls": foreground_mean(rows, gt_classes, self.num_classes, sample_weight)}

    @torch.no_grad()
    def _accumulate(self, grad: Tensor, gt_classes: Tensor) -> None:
        foreground = gt_classes < self.num_classes
        index = gt_classes.clamp(max=self.num_classes - 1)
        # Of the own class it is negative, of the others positive
        own = at_true_class(grad, gt_classes).where(foreground, 0).double()
        positive = own.new_zeros(self.num_classes).index_add(0, index, -own)
        negative = (grad.sum(0).double() + positive).clamp(min=0)
        num_foreground = foreground.sum().double()
        sum_over_processes_(positive, negative, num_foreground)
        self.positive_grad += positive / num_foreground.clamp(min=1)
        self.negative_grad += negative / num_foreground.clamp(min=1)
        ratio = self.positive_grad / (self.negative_grad + 1e-10)
        self.ratio.copy_(ratio.clamp(max=1))
