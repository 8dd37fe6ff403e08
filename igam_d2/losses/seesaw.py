"""Seesaw loss (Wang et al. 2021, "Seesaw Loss for Long-Tailed Instance Segmentation"), eqs. (4) and
(6) to (8), with the objectness branch and the normalised classifier of its public code."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_not_negative, check_positive
from .reduction import at_least_float32, at_true_class, mean_of_rows, sum_over_processes_

__all__ = ["SeesawLoss"]


@CLS_LOSS_REGISTRY.register()
class SeesawLoss(ClsLoss):
    """Softmax cross-entropy over K classes of z_j + log S_yj on foreground RoIs, plus that of an
    objectness pair on all; both summed over RoIs and divided by their number.

    S_yj = min(1, N_j / N_y)^p max(1, s_j / s_y)^q for j != y: N counts the RoIs of each class since
    training began, those of the batch included, over all processes (the public code counts per
    process), and s are the probabilities, without gradient.

    Buffers:
        class_count: (K + 1,) float64, N; the last is the background's.

    Args:
        p: mitigation of the rarer classes' punishment; 0 for none.
        q: compensation of false classifications; 0 for none.
        eps: least s_y.
        normalized: whether the scores are scale * cosine (without the bias that the public code
            has); or those of a linear classifier.
        scale: tau, positive; of no effect without `normalized`.
    """

    classifier = "cosine"

    def __init__(
        self,
        num_classes: int,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 0.01,
        normalized: bool = True,
        scale: float = 20.0,
    ):
        super().__init__(num_classes)
        check_not_negative(p=p, q=q)
        check_positive(eps=eps, scale=scale)
        self.p, self.q, self.log_eps = p, q, math.log(eps)
        if not normalized:
            self.classifier = "linear"
        self.scale = scale if normalized else 1.0
        self.register_buffer("class_count", torch.zeros(num_classes + 1, dtype=torch.float64))

    @property
    def num_outputs(self) -> int:
        """The classes, then the objectness pair: foreground, background."""
        return self.num_classes + 2

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        if self.updates_state:
            self._count(gt_classes)
        logits, objectness = self._split(scores)
        background = gt_classes == self.num_classes
        index = gt_classes.clamp(max=self.num_classes - 1)
        logits = logits + self._log_seesaw(logits.detach(), index)
        rows = F.cross_entropy(logits, index, reduction="none").where(~background, 0)
        pairs = F.cross_entropy(objectness, background.long(), reduction="none")
        return {
            "loss_cls": mean_of_rows(rows, sample_weight),
            "loss_objectness": mean_of_rows(pairs, sample_weight),
        }

    @torch.no_grad()
    def _log_seesaw(self, logits: Tensor, index: Tensor) -> Tensor:
        """log S, (R, K), which is 0 for the own class."""
        log_n = self.class_count[:-1].clamp(min=1).log().to(logits.dtype)
        log_s = at_true_class(logits, index) - logits.logsumexp(1)
        # log s_j - log s_y, without a softmax: of logits, with s_y held at eps
        shift = (self.log_eps - log_s).clamp(min=0) + at_true_class(logits, index)
        log_seesaw = (logits - shift[:, None]).clamp_(min=0).mul_(self.q)
        return log_seesaw.add_((log_n - log_n[index, None]).clamp_(max=0), alpha=self.p)

    @torch.no_grad()
    def _count(self, gt_classes: Tensor) -> None:
        ones = torch.ones_like(gt_classes, dtype=self.class_count.dtype)
        count = torch.zeros_like(self.class_count).index_add(0, gt_classes, ones)
        sum_over_processes_(count)
        self.class_count += count

    def _split(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        scores = at_least_float32(scores) * self.scale
        return scores.split([self.num_classes, 2], dim=1)

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        """Softmax over the classes times that of the foreground, and that of the background."""
        logits, objectness = self._split(scores)
        foreground, background = objectness.softmax(1).split(1, dim=1)
        return torch.cat([logits.softmax(1) * foreground, background], dim=1)
