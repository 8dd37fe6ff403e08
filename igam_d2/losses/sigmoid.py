"""Losses and probabilities of classifiers with a sigmoid per class."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import ClsLoss
from .reduction import at_true_class

__all__ = ["SigmoidLoss", "probs_beside_background", "sigmoid_rows", "with_background"]


class SigmoidLoss(ClsLoss):
    """A sigmoid for each of the K classes, and none for the background: without `forward`."""

    prior_prob = 0.001
    sums_to_one = False

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        """(R, K) -> (R, K + 1): the background has probability zero."""
        return with_background(scores.sigmoid())


class _SigmoidRows(torch.autograd.Function):
    """Autograd would make a matrix of zeros for each column that is gathered, and add it."""

    @staticmethod
    def forward(ctx, scores, gt_classes, negative, positive):
        ctx.save_for_backward(scores, gt_classes, negative, positive)
        cells = F.softplus(scores)  # -log(1 - sigmoid(z)); -log sigmoid(z) is less by z
        own = at_true_class(cells, gt_classes)
        own_positive = positive * (own - at_true_class(scores, gt_classes))
        if negative is None:
            rows = cells.sum(1)
        elif negative.dim() == 1:
            rows, own = cells @ negative, own * at_true_class(negative, gt_classes)
        else:
            rows, own = cells.mul_(negative).sum(1), own * at_true_class(negative, gt_classes)
        return rows + (own_positive - own).where(gt_classes < scores.shape[1], 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rows):
        scores, gt_classes, negative, positive = ctx.saved_tensors
        grad = scores.sigmoid()
        own = positive * (at_true_class(grad, gt_classes) - 1) * grad_rows
        if negative is not None:
            grad.mul_(negative)
        grad.mul_(grad_rows[:, None])
        own = own.where(gt_classes < scores.shape[1], at_true_class(grad, gt_classes))
        index = gt_classes.clamp(max=scores.shape[1] - 1)
        return grad.scatter_(1, index[:, None], own[:, None]), None, None, None


def sigmoid_rows(
    scores: Tensor,
    gt_classes: Tensor,
    *,
    negative: Tensor | None = None,
    positive: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropies of each row, summed: -log sigmoid(z) of its class, and
    -log(1 - sigmoid(z)) of the others.

    Args:
        scores: (R, C), C = K + 1, or K for a classifier without background: its rows of class K
            are negative throughout.
        gt_classes: (R,) in [0, K].
        negative: weight of the others, (C,) or (R, C); None for 1. Without gradient, as `positive`.
        positive: weight of the own class, (R,); None for 1.

    Returns:
        (R,)
    """
    if positive is None:
        positive = scores.new_ones(())
    return _SigmoidRows.apply(scores, gt_classes, negative, positive)


def with_background(probs: Tensor) -> Tensor:
    """(R, K) -> (R, K + 1): a background of probability zero, for methods that have none."""
    return F.pad(probs, (0, 1))


def probs_beside_background(scores: Tensor) -> Tensor:
    """(R, K + 1) scores -> (R, K + 1): sigmoid_j (1 - sigmoid_K), the background's sigmoid_K."""
    probs = scores.sigmoid()
    return torch.cat([probs[:, :-1] * (1 - probs[:, -1:]), probs[:, -1:]], dim=1)
