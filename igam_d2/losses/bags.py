"""Balanced group softmax (Li et al. 2020, "Overcoming Classifier Imbalance for Long-tail Object
Detection with Balanced Group Softmax")."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import CLS_LOSS_REGISTRY, ClsLoss, checked_counts
from .reduction import at_least_float32, mean_of_rows, sampled_rows

__all__ = ["BAGSLoss"]


class _Permuted(torch.autograd.Function):
    """Columns in another order, and the gradients back: autograd would add them up one by one."""

    @staticmethod
    def forward(ctx, scores, order, place):
        ctx.save_for_backward(place)
        return scores.index_select(1, order)

    @staticmethod
    def backward(ctx, grad):
        (place,) = ctx.saved_tensors
        return grad.index_select(1, place), None, None


@CLS_LOSS_REGISTRY.register()
class BAGSLoss(ClsLoss):
    """Softmax cross-entropies within groups of classes of like instance counts, summed.

    One group is {background, any foreground}, over all RoIs. Each other one has a column for what
    is not in it, "others": it takes the mean over its own RoIs and at most beta times as many
    others, drawn at random from the batch of a process; without own RoIs it is 0.

    Columns of the scores: K classes, background, any foreground, and "others" of each group.

    Buffers:
        group: (K,), of each class.

    Args:
        thresholds: instance counts, rising; the g-th group has the classes from the g-th to below
            the next.
        beta: others per own RoI, not negative.
    """

    sums_to_one = False

    def __init__(
        self,
        num_classes: int,
        class_instance_count: Tensor,
        *,
        thresholds: Sequence[int] = (10, 100, 1000),
        beta: float = 8.0,
    ):
        super().__init__(num_classes)
        if list(thresholds) != sorted(set(thresholds)):
            raise ValueError(f"thresholds must rise, not {tuple(thresholds)}.")
        if not beta >= 0:
            raise ValueError(f"beta must not be negative, not {beta}.")
        counts = checked_counts(class_instance_count, num_classes)
        self.beta, self.num_groups = beta, len(thresholds) + 1
        edges = counts.new_tensor(list(thresholds))
        self.register_buffer("group", torch.bucketize(counts, edges, right=True))
        self.register_buffer("order", torch.arange(self.num_outputs), persistent=False)
        self.register_buffer("place", torch.arange(self.num_outputs), persistent=False)
        self._arrange()
        self.register_load_state_dict_post_hook(lambda module, _: module._arrange())

    @property
    def num_outputs(self) -> int:
        return self.num_classes + 2 + self.num_groups

    def _arrange(self) -> None:
        """Lays out the columns group by group, the pair and the others of each first."""
        sizes = torch.bincount(self.group, minlength=self.num_groups) + 1
        self.sizes = [2, *sizes.tolist()]  # on the host
        rank = 2 * torch.arange(1, self.num_groups + 1, device=self.group.device)
        rank = torch.cat([rank[self.group] + 1, rank.new_zeros(2), rank])  # of each column
        self.order = rank.argsort(stable=True)
        self.place = self.order.argsort()

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        pair, *groups = self._split(scores)
        foreground = gt_classes < self.num_classes
        rows = F.cross_entropy(pair, foreground.long(), reduction="none")
        losses = {"loss_pair": mean_of_rows(rows, sample_weight)}
        group = F.pad(self.group, (0, 1), value=-1)[gt_classes]
        place, start = self.place[gt_classes], 2
        for g, logits in enumerate(groups):
            own = group == g
            others = sampled_rows(~own, (self.beta * own.sum()).floor())
            rows = F.cross_entropy(logits, (place - start).where(own, 0), reduction="none")
            start += logits.shape[1]
            weight = (own | others).to(rows.dtype)
            if sample_weight is not None:
                weight = weight * sample_weight
            losses[f"loss_group{g}"] = mean_of_rows(rows, weight)
        return losses

    def _split(self, scores: Tensor) -> tuple[Tensor, ...]:
        """(R, 2), and (R, 1 + classes of the group) for each of the others."""
        scores = _Permuted.apply(at_least_float32(scores), self.order, self.place)
        return scores.split(self.sizes, dim=1)

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        """Probability in the group times that of the foreground, and that of the background."""
        probs = torch.cat([part.softmax(1) for part in self._split(scores)], dim=1)
        classes = probs.index_select(1, self.place[: self.num_classes])
        return torch.cat([classes * probs[:, 1:2], probs[:, :1]], dim=1)
