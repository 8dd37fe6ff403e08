"""Equalization loss v2 (Tan et al. 2021, "Equalization Loss v2: A New Gradient Balance Approach for
Long-tailed Object Detection")."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_not_negative, check_positive
from .reduction import at_least_float32, at_true_class, mean_of_rows, sum_over_processes_
from .sigmoid import probs_beside_background, sigmoid_rows

__all__ = ["EQLv2Loss"]


@CLS_LOSS_REGISTRY.register()
class EQLv2Loss(ClsLoss):
    """Binary cross-entropies of K + 1 sigmoids, whose positives weigh 1 + alpha (1 - f(g_j)) and
    whose negatives f(g_j), f(x) = sigmoid(gamma (x - mu)); summed over classes, averaged over RoIs.

    The background, the last column, weighs 1. It tells objects from background at test time.

    Buffers:
        positive_grad, negative_grad: (K,) float64, sums of the absolute weighted gradients since
            training began, those of the sum over RoIs.
        ratio: (K,), g_j = positive_grad / negative_grad; 100 at the start.

    Args:
        gamma, mu, alpha: as above.
    """

    prior_prob = 0.001
    sums_to_one = False

    def __init__(
        self, num_classes: int, *, gamma: float = 12.0, mu: float = 0.8, alpha: float = 4.0
    ):
        super().__init__(num_classes)
        check_positive(gamma=gamma)
        check_not_negative(mu=mu, alpha=alpha)
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.register_buffer("positive_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("negative_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("ratio", torch.full((num_classes,), 100.0))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        balance = torch.sigmoid(self.gamma * (self.ratio.to(scores.dtype) - self.mu))
        one = balance.new_ones(1)
        negative = torch.cat([balance, one])
        positive = torch.cat([1 + self.alpha * (1 - balance), one])[gt_classes]
        rows = sigmoid_rows(scores, gt_classes, negative=negative, positive=positive)
        if self.updates_state:
            self._accumulate(scores.detach(), gt_classes, negative, positive)
        return {"loss_cls": mean_of_rows(rows, sample_weight)}

    @torch.no_grad()
    def _accumulate(
        self, scores: Tensor, gt_classes: Tensor, negative: Tensor, positive: Tensor
    ) -> None:
        probs = scores.sigmoid()
        own = at_true_class(probs, gt_classes).double()
        zeros = own.new_zeros(self.num_classes + 1)
        # |dBCE/dz| is p for a negative and 1 - p for a positive
        others = probs.sum(0).double().index_add(0, gt_classes, -own).clamp(min=0) * negative
        owns = zeros.index_add(0, gt_classes, (1 - own) * positive)
        sum_over_processes_(owns, others)
        self.positive_grad += owns[:-1]
        self.negative_grad += others[:-1]
        self.ratio.copy_(self.positive_grad / (self.negative_grad + 1e-10))

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return probs_beside_background(scores)
