"""Focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection"), eq. (5)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import CLS_LOSS_REGISTRY, ClsLoss
from .reduction import at_least_float32, at_true_class, foreground_mean, with_background

__all__ = ["FocalLoss", "focal_cells"]


class _FocalCells(torch.autograd.Function):
    """Computes the slope with the value, and saves that alone."""

    @staticmethod
    def forward(ctx, scores, gamma):
        cells = F.softplus(scores)
        log_p = scores - cells
        p = log_p.exp()
        power = log_p.mul_(gamma).exp_()
        slope = torch.sub(1, p).mul_(cells).mul_(gamma).add_(p).mul_(power)
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(slope)
        return cells.mul_(power), slope

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        (slope,) = ctx.saved_tensors
        return slope * grad, None


def focal_cells(scores: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor]:
    """p^gamma (-log(1 - p)), p = sigmoid(z): the focal loss of negatives; of positives with -z.

    Args:
        scores: z, any shape.
        gamma: not negative, a number or what broadcasts to `scores`; it gets no gradient.

    Returns:
        The loss, and its slope by z, p^gamma (p - gamma (1 - p) log(1 - p)), which is never
        negative; both of the shape of `scores`. The slope is not differentiable.
    """
    return _FocalCells.apply(scores, gamma)


@CLS_LOSS_REGISTRY.register()
class FocalLoss(ClsLoss):
    """-alpha_t (1 - p_t)^gamma log(p_t) of K sigmoids, summed, over the number of foreground RoIs.

    Args:
        alpha: alpha_t of a positive; 1 - alpha that of a negative.
        gamma: 0 leaves a binary cross-entropy.
    """

    prior_prob = 0.01
    sums_to_one = False

    def __init__(self, num_classes: int, *, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__(num_classes)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, not {alpha}.")
        if not gamma >= 0:
            raise ValueError(f"gamma must not be negative, not {gamma}.")
        self.alpha, self.gamma = alpha, gamma

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        negative, _ = focal_cells(scores, self.gamma)
        positive, _ = focal_cells(-at_true_class(scores, gt_classes), self.gamma)
        own = self.alpha * positive - (1 - self.alpha) * at_true_class(negative, gt_classes)
        rows = (1 - self.alpha) * negative.sum(1) + own.where(gt_classes < self.num_classes, 0)
        return {"loss_cls": foreground_mean(rows, gt_classes, self.num_classes, sample_weight)}

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return with_background(scores.sigmoid())
