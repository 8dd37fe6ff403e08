"""Focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection"), eq. (5)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import CLS_LOSS_REGISTRY, check_not_negative, check_share
from .reduction import at_least_float32, at_true_class, foreground_mean
from .sigmoid import SigmoidLoss

__all__ = ["FocalLoss", "focal_rows"]


def _focal(scores: Tensor, gamma: float | Tensor) -> tuple[Tensor, Tensor]:
    """p^gamma (-log(1 - p)), p = sigmoid(z), and its slope by z, p^gamma (p - gamma (1 - p)
    log(1 - p)): the focal loss of negatives, and with -z of positives."""
    cells = F.softplus(scores)
    log_p = scores - cells
    p = log_p.exp()
    power = log_p.mul_(gamma).exp_()
    slope = torch.sub(1, p).mul_(cells).mul_(gamma).add_(p).mul_(power)
    return cells.mul_(power), slope


class _FocalRows(torch.autograd.Function):
    """Computes the gradient with the loss, and saves that alone."""

    @staticmethod
    def forward(ctx, scores, gt_classes, alpha, gamma, weight):
        foreground = gt_classes < scores.shape[1]
        loss, grad = _focal(scores, gamma)
        own_gamma, own_weight = (at_true_class(v, gt_classes) for v in (gamma, weight))
        own_loss, own_grad = _focal(-at_true_class(scores, gt_classes), own_gamma)
        own_loss = alpha * own_loss - (1 - alpha) * at_true_class(loss, gt_classes)
        rows = (1 - alpha) * (loss @ weight) + (own_loss * own_weight).where(foreground, 0)
        grad.mul_((1 - alpha) * weight)
        own_grad = (-alpha * own_weight * own_grad).where(
            foreground, at_true_class(grad, gt_classes)
        )
        index = gt_classes.clamp(max=scores.shape[1] - 1)
        grad.scatter_(1, index[:, None], own_grad[:, None])
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(grad)
        return rows, grad

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rows, _):
        (grad,) = ctx.saved_tensors
        return grad * grad_rows[:, None], None, None, None, None


def focal_rows(
    scores: Tensor, gt_classes: Tensor, *, alpha: float, gamma: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Focal losses of each row, summed over classes.

    Args:
        scores: (R, K), float32 or float64.
        gt_classes: (R,) in [0, K], K for a row that is negative throughout.
        alpha: weight of a positive; 1 - alpha that of a negative.
        gamma: (K,), not negative.
        weight: (K,), of each class, beside alpha.

    Returns:
        The losses, (R,), and their gradients by the scores, (R, K), which are not differentiable.
    """
    return _FocalRows.apply(scores, gt_classes, alpha, gamma, weight)


@CLS_LOSS_REGISTRY.register()
class FocalLoss(SigmoidLoss):
    """-alpha_t (1 - p_t)^gamma log(p_t) of K sigmoids, summed, over the number of foreground RoIs.

    Args:
        alpha: alpha_t of a positive; 1 - alpha that of a negative.
        gamma: 0 leaves a binary cross-entropy.
    """

    prior_prob = 0.01

    def __init__(self, num_classes: int, *, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__(num_classes)
        check_share(alpha=alpha)
        check_not_negative(gamma=gamma)
        self.alpha, self.gamma = alpha, gamma

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        ones = scores.new_ones(self.num_classes)
        rows, _ = focal_rows(
            scores, gt_classes, alpha=self.alpha, gamma=self.gamma * ones, weight=ones
        )
        return {"loss_cls": foreground_mean(rows, gt_classes, self.num_classes, sample_weight)}
