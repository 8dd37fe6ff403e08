"""Equilibrium loss of LOCE (Feng et al. 2021, "Exploring Classification Equilibrium in Long-Tailed
Object Detection"), without its sampling of features from a memory."""

import math

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_share
from .reduction import at_least_float32, at_true_class, mean_cross_entropy, sum_over_processes_

__all__ = ["LOCELoss"]


@CLS_LOSS_REGISTRY.register()
class LOCELoss(ClsLoss):
    """-log(s_y e^(z_y) / sum_j s_j e^(z_j)), averaged over RoIs: classes that score high on their
    own RoIs are held back on those of others.

    s_j is a running mean, of the batch of all processes and before its loss, with momentum^n for a
    class that has n RoIs in it. (The public code averages the RoIs of an object first, and counts
    objects.)

    Buffers:
        mean_score: (K,), s.

    Args:
        start: s before a class was seen.
        momentum: alpha.
        background: s of the background, constant.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        start: float = 0.01,
        momentum: float = 0.9,
        background: float = 0.01,
    ):
        super().__init__(num_classes)
        for name, value in (("start", start), ("background", background)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, not {value}.")
        check_share(momentum=momentum)
        self.momentum, self.background = momentum, background
        self.register_buffer("mean_score", torch.full((num_classes,), start))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        if self.updates_state:
            self._update(scores.detach(), gt_classes)
        # A score of 0, of a class that was never right by as much as float32 can hold
        log_s = self.mean_score.clamp(min=1e-12).log().to(scores.dtype)
        log_s = torch.cat([log_s, log_s.new_full((1,), math.log(self.background))])
        return {"loss_cls": mean_cross_entropy(scores + log_s, gt_classes, sample_weight)}

    @torch.no_grad()
    def _update(self, scores: Tensor, gt_classes: Tensor) -> None:
        own = (at_true_class(scores, gt_classes) - scores.logsumexp(1)).exp().double()
        zeros = own.new_zeros(self.num_classes + 1)
        total = zeros.index_add(0, gt_classes, own)
        count = zeros.index_add(0, gt_classes, torch.ones_like(own))
        sum_over_processes_(total, count)
        total, count = total[:-1], count[:-1]
        share = 1 - self.momentum**count  # 0 for a class that is not in the batch
        mean = (total / count.clamp(min=1)).to(self.mean_score.dtype)
        self.mean_score.lerp_(mean, share.to(self.mean_score.dtype))

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return torch.softmax(scores, dim=-1)
