"""Cosine softmax whose margin is on the angle to the true class, as of CosFace and ArcFace."""

from abc import ABC, abstractmethod

from torch import Tensor

from .base import check_not_negative
from .cosine_ce import CosineCELoss
from .reduction import at_least_float32, at_true_class, mean_cross_entropy

__all__ = ["TargetMarginLoss"]


class TargetMarginLoss(CosineCELoss, ABC):
    """A subclass says what becomes of the true class's cosine; background RoIs have no margin.

    Args:
        scale: s, positive.
        margin: m, not negative; 0 leaves a cosine softmax.
    """

    def __init__(self, num_classes: int, *, scale: float, margin: float):
        super().__init__(num_classes, scale=scale)
        check_not_negative(margin=margin)
        self.margin = margin

    @abstractmethod
    def with_margin(self, cosine: Tensor) -> Tensor:
        """Cosines to the true classes, (R,) -> (R,), not above them."""

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        own = at_true_class(scores, gt_classes)
        shift = self.scale * (self.with_margin(own) - own).where(gt_classes < self.num_classes, 0)
        logits = (self.scale * scores).scatter_add_(1, gt_classes[:, None], shift[:, None])
        return {"loss_cls": mean_cross_entropy(logits, gt_classes, sample_weight)}
