"""Equalized focal loss (Li et al. 2022, "Equalized Focal Loss for Dense Long-Tailed Object
Detection"), eqs. (3) to (6)."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY
from .focal import FocalLoss, focal_cells
from .reduction import at_least_float32, at_true_class, foreground_mean, sum_over_processes_

__all__ = ["EqualizedFocalLoss"]


@CLS_LOSS_REGISTRY.register()
class EqualizedFocalLoss(FocalLoss):
    """Focal loss whose gamma_j = gamma + focus (1 - g_j) is larger for classes whose positives have
    little gradient beside their negatives, weighted by gamma_j / gamma.

    Buffers:
        positive_grad, negative_grad: (K,) float64, sums of the absolute gradients of the loss by
            the scores since training began; of a step's batch over all processes.
        ratio: (K,), g_j = positive_grad / negative_grad, from 0 to 1; 1 at the start.

    Args:
        alpha: alpha_t of a positive; 1 - alpha that of a negative.
        gamma: gamma_b, of a class in balance.
        focus: s, how much larger that of a class without gradient of positives is.
    """

    def __init__(
        self, num_classes: int, *, alpha: float = 0.25, gamma: float = 2.0, focus: float = 8.0
    ):
        super().__init__(num_classes, alpha=alpha, gamma=gamma)
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, not {gamma}.")
        if not focus >= 0:
            raise ValueError(f"focus must not be negative, not {focus}.")
        self.focus = focus
        self.register_buffer("positive_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("negative_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("ratio", torch.ones(num_classes))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        foreground = gt_classes < self.num_classes
        gamma = self.gamma + self.focus * (1 - self.ratio.to(scores.dtype))
        weight = gamma / self.gamma
        negative, slope = focal_cells(scores, gamma)
        own_gamma = at_true_class(gamma, gt_classes)
        positive, own_slope = focal_cells(-at_true_class(scores, gt_classes), own_gamma)
        own = self.alpha * positive - (1 - self.alpha) * at_true_class(negative, gt_classes)
        own = (own * own_gamma / self.gamma).where(foreground, 0)
        rows = (1 - self.alpha) * (negative @ weight) + own
        if self.training:
            self._accumulate(slope, own_slope, gt_classes, weight)
        return {"loss_cls": foreground_mean(rows, gt_classes, self.num_classes, sample_weight)}

    @torch.no_grad()
    def _accumulate(
        self, slope: Tensor, own_slope: Tensor, gt_classes: Tensor, weight: Tensor
    ) -> None:
        foreground = gt_classes < self.num_classes
        index = gt_classes.clamp(max=self.num_classes - 1)
        taken = at_true_class(slope, gt_classes).where(foreground, 0).double()
        negative = slope.sum(0).double().index_add(0, index, -taken).clamp(min=0)
        positive = torch.zeros_like(negative)
        positive = positive.index_add(0, index, own_slope.where(foreground, 0).double())
        num_foreground = foreground.sum().double()
        sum_over_processes_(positive, negative, num_foreground)
        weight = weight / num_foreground.clamp(min=1)
        self.positive_grad += self.alpha * weight * positive
        self.negative_grad += (1 - self.alpha) * weight * negative
        ratio = self.positive_grad / (self.negative_grad + 1e-10)
        self.ratio.copy_(ratio.clamp(max=1))
