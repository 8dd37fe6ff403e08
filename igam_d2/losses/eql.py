"""Equalization loss (Tan et al. 2020, "Equalization Loss for Long-Tailed Object Recognition"),
eqs. (3) to (5)."""

import torch.nn.functional as F
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, checked_counts
from .reduction import at_least_float32, at_true_class, mean_of_rows, with_background

__all__ = ["EQLLoss"]


@CLS_LOSS_REGISTRY.register()
class EQLLoss(ClsLoss):
    """Binary cross-entropies of K sigmoids, in which the foreground RoIs of other classes do not
    discourage a rare class: summed over classes, averaged over RoIs.

    Args:
        rare_frequency: lambda, share of the training images below which a class is rare.
    """

    prior_prob = 0.001
    sums_to_one = False

    def __init__(
        self,
        num_classes: int,
        class_image_count: Tensor,
        num_images: int,
        *,
        rare_frequency: float = 1.76e-3,
    ):
        super().__init__(num_classes)
        if not 0 <= rare_frequency <= 1:
            raise ValueError(f"rare_frequency must be from 0 to 1, not {rare_frequency}.")
        counts = checked_counts(class_image_count, num_classes)
        rare = counts / num_images < rare_frequency
        self.register_buffer("rare", rare, persistent=False)  # (K,)
        self.register_buffer("rare_classes", rare.nonzero().flatten(), persistent=False)

    @property
    def num_outputs(self) -> int:
        return self.num_classes

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        foreground = gt_classes < self.num_classes
        cells = F.softplus(scores)  # the loss of a negative; of a positive, less its score
        dropped = self.dropped(gt_classes).to(scores.dtype)
        rows = cells.sum(1) - (cells.index_select(1, self.rare_classes) * dropped).sum(1)
        # A rare class is not dropped where it is the RoI's own
        own = at_true_class(cells, gt_classes) * at_true_class(self.rare, gt_classes)
        own = own - at_true_class(scores, gt_classes)
        return {"loss_cls": mean_of_rows(rows + own.where(foreground, 0), sample_weight)}

    def dropped(self, gt_classes: Tensor) -> Tensor:
        """(R,) -> (R, 1) or (R, number of rare classes): 1 where a RoI passes over a rare class."""
        return (gt_classes < self.num_classes)[:, None]

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return with_background(scores.sigmoid())
