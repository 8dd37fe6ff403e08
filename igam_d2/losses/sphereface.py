"""SphereFace (Liu et al. 2017, "SphereFace: Deep Hypersphere Embedding for Face Recognition"),
eq. (7), with the annealing of its public code."""

import math

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_not_negative
from .reduction import at_least_float32, at_true_class, mean_cross_entropy

__all__ = ["SphereFaceLoss"]


@CLS_LOSS_REGISTRY.register()
class SphereFaceLoss(ClsLoss):
    """Softmax over |x| cos(theta_j), for the true class |x| (lambda cos(theta_y) + psi(theta_y)) /
    (1 + lambda): psi(t) = (-1)^k cos(m t) - 2 k on [k pi / m, (k + 1) pi / m].

    lambda = max(lambda_min, lambda_max / (1 + n / 10)) in the n-th step of the training. RoIs of
    the background have no margin.

    Buffers:
        iteration: n.

    Args:
        margin: m, a positive whole number; 1 leaves the softmax.
        lambda_max, lambda_min: not negative.
    """

    classifier = "cosine"

    def __init__(
        self,
        num_classes: int,
        *,
        margin: int = 4,
        lambda_max: float = 1500.0,
        lambda_min: float = 5.0,
    ):
        super().__init__(num_classes)
        if margin < 1:
            raise ValueError(f"margin must be at least 1, not {margin}.")
        check_not_negative(lambda_max=lambda_max)
        if not 0 <= lambda_min <= lambda_max:
            raise ValueError(
                f"lambda_min must be from 0 to lambda_max, which is {lambda_max}, not {lambda_min}."
            )
        self.margin, self.lambda_max, self.lambda_min = margin, lambda_max, lambda_min
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        if self.updates_state:
            self.iteration += 1
        scores = at_least_float32(scores)
        norm = embeddings.to(scores.dtype).norm(dim=1)
        lambda_ = (self.lambda_max / (1 + 0.1 * self.iteration)).clamp(min=self.lambda_min)
        own = at_true_class(scores, gt_classes)
        shift = norm * (self._psi(own) - own) / (1 + lambda_.to(scores.dtype))
        shift = shift.where(gt_classes < self.num_classes, 0)
        logits = (scores * norm[:, None]).scatter_add_(1, gt_classes[:, None], shift[:, None])
        return {"loss_cls": mean_cross_entropy(logits, gt_classes, sample_weight)}

    def _psi(self, cosine: Tensor) -> Tensor:
        # cos(m t) of cos(t) by Chebyshev's recurrence, whose slope is finite at t = 0 too
        before, cos_m = torch.ones_like(cosine), cosine
        for _ in range(self.margin - 1):
            before, cos_m = cos_m, 2 * cosine * cos_m - before
        angle = cosine.detach().clamp(-1, 1).acos()
        k = (self.margin * angle / math.pi).floor().clamp(max=self.margin - 1)
        return (1 - 2 * (k % 2)) * cos_m - 2 * k

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        norm = embeddings.to(scores.dtype).norm(dim=1, keepdim=True)
        return torch.softmax(norm * scores, dim=-1)
