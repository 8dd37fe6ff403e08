"""Adaptive class suppression loss (Wang et al. 2021, "Adaptive Class Suppression Loss for Long-Tail
Object Detection")."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_share
from .reduction import at_least_float32, mean_of_rows, sampled_rows
from .sigmoid import sigmoid_rows

__all__ = ["ACSLLoss"]


@CLS_LOSS_REGISTRY.register()
class ACSLLoss(ClsLoss):
    """Binary cross-entropies of K + 1 sigmoids, in which a foreground RoI discourages only classes
    that it confuses itself with; summed over classes, averaged over RoIs.

    All background RoIs discourage the frequent classes; a random share of them, drawn for each
    batch of a process, the common ones, and another the rare ones.

    Args:
        threshold: probability from which a class is discouraged by a foreground RoI of another.
        common_share, rare_share: of the background RoIs.
    """

    prior_prob = 0.001
    sums_to_one = False

    def __init__(
        self,
        num_classes: int,
        class_frequency: Sequence[str],
        *,
        threshold: float = 0.7,
        common_share: float = 0.1,
        rare_share: float = 0.01,
    ):
        super().__init__(num_classes)
        check_share(threshold=threshold, common_share=common_share, rare_share=rare_share)
        self.least_score = torch.tensor(threshold).logit().item()
        if len(class_frequency) != num_classes:
            raise ValueError(
                f"there are frequencies of {len(class_frequency)} classes, not {num_classes}."
            )
        self.common_share, self.rare_share = common_share, rare_share
        # Columns of `kept` below; the background's own is always kept
        group = torch.tensor(["fcr".index(f) for f in class_frequency] + [0])
        self.register_buffer("group", group, persistent=False)

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        background = gt_classes == self.num_classes
        num_background = background.sum()
        kept = torch.stack(
            [
                background,
                sampled_rows(background, (self.common_share * num_background).floor()),
                sampled_rows(background, (self.rare_share * num_background).floor()),
            ],
            dim=1,
        )  # (R, 3)
        confused = scores.detach() >= self.least_score
        kept = kept.to(scores.dtype).index_select(1, self.group)
        negative = torch.where(background[:, None], kept, confused.to(scores.dtype))
        rows = sigmoid_rows(scores, gt_classes, negative=negative)
        return {"loss_cls": mean_of_rows(rows, sample_weight)}

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return scores.sigmoid()
