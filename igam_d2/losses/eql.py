"""Equalization loss (Tan et al. 2020, "Equalization Loss for Long-Tailed Object Recognition"),
eqs. (6) and (7)."""

from torch import Tensor

from .base import CLS_LOSS_REGISTRY, check_share, checked_counts
from .reduction import at_least_float32, mean_of_rows
from .sigmoid import SigmoidLoss, sigmoid_rows

__all__ = ["EQLLoss"]


@CLS_LOSS_REGISTRY.register()
class EQLLoss(SigmoidLoss):
    """Binary cross-entropies of K sigmoids, in which the foreground RoIs of other classes do not
    discourage a rare class: summed over classes, averaged over RoIs.

    Args:
        rare_frequency: lambda, share of the training images below which a class is rare.
    """

    def __init__(
        self,
        num_classes: int,
        class_image_count: Tensor,
        num_images: int,
        *,
        rare_frequency: float = 1.76e-3,
    ):
        super().__init__(num_classes)
        check_share(rare_frequency=rare_frequency)
        counts = checked_counts(class_image_count, num_classes)
        rare = counts / num_images < rare_frequency
        self.register_buffer("rare", rare, persistent=False)  # (K,)

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        negative = (self.discourages_rare(gt_classes) | ~self.rare).to(scores.dtype)
        rows = sigmoid_rows(scores, gt_classes, negative=negative)
        return {"loss_cls": mean_of_rows(rows, sample_weight)}

    def discourages_rare(self, gt_classes: Tensor) -> Tensor:
        """(R,) -> (R, 1) or (R, K) bool: whether a RoI counts against a class if that is rare."""
        return (gt_classes == self.num_classes)[:, None]
