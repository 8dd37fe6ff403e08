"""Center loss (Wen et al. 2016, "A Discriminative Feature Learning Approach for Deep Face
Recognition"), eqs. (2), (4) and (5): beside the softmax cross-entropy."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, check_not_negative, check_share
from .reduction import at_least_float32, mean_of_rows, sum_over_processes_
from .softmax_ce import SoftmaxCELoss

__all__ = ["CenterLoss"]


@CLS_LOSS_REGISTRY.register()
class CenterLoss(SoftmaxCELoss):
    """Softmax cross-entropy, plus weight / 2 times the mean squared distance between the embeddings
    of foreground RoIs and the centres of their classes.

    After a step, a centre moves by step * sum(x - c) / (1 + n) over its n RoIs of all processes.

    Buffers:
        centers: (K, D), zero at the start.

    Args:
        weight: lambda, not negative.
        step: alpha, from 0 to 1.
    """

    def __init__(
        self, num_classes: int, embedding_dim: int, *, weight: float = 0.003, step: float = 0.5
    ):
        super().__init__(num_classes)
        check_not_negative(weight=weight)
        check_share(step=step)
        self.weight, self.step = weight, step
        self.register_buffer("centers", torch.zeros(num_classes, embedding_dim))

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        losses = super().forward(scores, gt_classes, sample_weight=sample_weight)
        embeddings = at_least_float32(embeddings)
        index = gt_classes.clamp(max=self.num_classes - 1)
        inside = (gt_classes < self.num_classes).to(embeddings.dtype)
        offset = embeddings - self.centers[index].to(embeddings.dtype)  # (R, D)
        if sample_weight is None:
            sample_weight = torch.ones_like(inside)
        distance = mean_of_rows(offset.square().sum(1), inside * sample_weight)
        if self.updates_state:
            self._move(offset.detach() * inside[:, None], index, inside)
        return {**losses, "loss_center": self.weight / 2 * distance}

    @torch.no_grad()
    def _move(self, offset: Tensor, index: Tensor, inside: Tensor) -> None:
        total = torch.zeros_like(self.centers).index_add(0, index, offset.to(self.centers.dtype))
        count = self.centers.new_zeros(self.num_classes)
        count = count.index_add(0, index, inside.to(count.dtype))
        sum_over_processes_(total, count)
        self.centers += self.step * total / (1 + count)[:, None]
