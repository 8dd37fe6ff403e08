"""Foreground classification balance loss of BACL (Qi et al. 2023, "Balanced Classification: A
Unified Framework for Long-Tailed Object Detection"), without its hallucinated features."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_not_negative
from .reduction import at_least_float32, at_true_class, mean_of_rows, sum_over_processes_
from .sigmoid import probs_beside_background, sigmoid_rows

__all__ = ["FCBLLoss"]

CERTAIN = 0.7  # a probability from which a class is not passed over


@CLS_LOSS_REGISTRY.register()
class FCBLLoss(ClsLoss):
    """Binary cross-entropies of K + 1 sigmoids, summed over classes, averaged over RoIs. To the
    scores of a foreground RoI's K classes alpha log(M_yj / M_jy) is added, where M_yj is how much
    the RoIs of class y are taken for class j: who takes more RoIs than it loses is held back.

    M is the mean softmax over the K scores, without gradient, of each class's RoIs of all processes
    up to the step before. Its definition is a K x K matrix.

    Buffers:
        confusion: (K, K), M; zero at the start.
        confusion_count: (K,) float64, RoIs seen of each class.

    Args:
        alpha: 0 leaves a binary cross-entropy; the public configs for ResNet-50 have .85.
        floor: least M.
        reweight: whether a foreground RoI passes over the classes whose probability, as at test
            time, is below its own class's and below .7, as in the public code.
    """

    prior_prob = 0.001
    sums_to_one = False

    def __init__(
        self, num_classes: int, *, alpha: float = 1.0, floor: float = 1e-3, reweight: bool = False
    ):
        super().__init__(num_classes)
        check_not_negative(alpha=alpha)
        if not 0 < floor < 1:
            raise ValueError(f"floor must be above 0 and below 1, not {floor}.")
        self.alpha, self.floor, self.reweight = alpha, floor, reweight
        self.register_buffer("confusion", torch.zeros(num_classes, num_classes))
        self.register_buffer("confusion_count", torch.zeros(num_classes, dtype=torch.float64))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        log_m = self.confusion.to(scores.dtype).clamp(min=self.floor).log_()
        k = self.num_classes
        margin = log_m.new_zeros(k + 1, k + 1)  # none for the background
        torch.sub(log_m, log_m.T, out=margin[:k, :k]).mul_(self.alpha)
        shifted = margin.index_select(0, gt_classes).add_(scores)
        negative = self._negatives(scores.detach(), gt_classes) if self.reweight else None
        rows = sigmoid_rows(shifted, gt_classes, negative=negative)
        if self.updates_state:
            self._update(scores.detach(), gt_classes)
        return {"loss_cls": mean_of_rows(rows, sample_weight)}

    def _negatives(self, scores: Tensor, gt_classes: Tensor) -> Tensor:
        """(R, K + 1), 1 where a RoI discourages a class, else 0."""
        probs = probs_beside_background(scores)
        own = at_true_class(probs, gt_classes)
        kept = probs >= own.clamp(max=CERTAIN)[:, None]
        kept[:, -1] = True
        return (kept | (gt_classes == self.num_classes)[:, None]).to(scores.dtype)

    @torch.no_grad()
    def _update(self, scores: Tensor, gt_classes: Tensor) -> None:
        probs = scores[:, :-1].softmax(1).to(self.confusion.dtype)
        total = self.confusion.new_zeros(self.num_classes + 1, self.num_classes)
        total = total.index_add_(0, gt_classes, probs)[:-1]
        count = self.confusion.new_zeros(self.num_classes + 1)
        count = count.index_add_(0, gt_classes, torch.ones_like(probs[:, 0]))[:-1]
        sum_over_processes_(total, count)
        seen = self.confusion_count + count
        kept = (self.confusion_count / seen.clamp(min=1)).to(probs.dtype)
        self.confusion.mul_(kept[:, None])
        self.confusion.addcmul_(total, (1 / seen.clamp(min=1)).to(probs.dtype)[:, None])
        self.confusion_count.copy_(seen)

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return probs_beside_background(scores)
