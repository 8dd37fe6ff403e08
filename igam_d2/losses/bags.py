"""Balanced group softmax (Li et al. 2020, "Overcoming Classifier Imbalance for Long-tail Object
Detection with Balanced Group Softmax")."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_not_negative, checked_counts
from .reduction import at_least_float32, mean_of_rows, sampled_rows

__all__ = ["BAGSLoss"]


class _GroupRows(torch.autograd.Function):
    """-log softmax of one column in each group of columns, (R, C) -> (R, groups).

    Args:
        order, place: (C,), the columns group by group, and where each of them is then.
        sizes: of the groups.
        targets: (R, groups), columns in that order.
    """

    @staticmethod
    def forward(ctx, scores, order, place, sizes, targets):
        log_probs = scores.index_select(1, order)
        for part in log_probs.split(sizes, dim=1):
            part.sub_(part.logsumexp(1, keepdim=True))
        ctx.save_for_backward(log_probs, place, targets)
        ctx.sizes = sizes
        return -log_probs.gather(1, targets)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rows):
        log_probs, place, targets = ctx.saved_tensors
        grad = log_probs.exp()
        for part, rows in zip(grad.split(ctx.sizes, dim=1), grad_rows.T, strict=True):
            part.mul_(rows[:, None])
        grad.scatter_add_(1, targets, -grad_rows)
        return grad.index_select(1, place), None, None, None, None


@CLS_LOSS_REGISTRY.register()
class BAGSLoss(ClsLoss):
    """Softmax cross-entropies within groups of classes of like instance counts, summed.

    One group is {background, any foreground}, over all RoIs. Each other one has a column for what
    is not in it, "others": it takes the mean over its own RoIs and at most beta times as many
    others, drawn at random from the batch of a process; without own RoIs it is 0.

    Columns of the scores: K classes, background, any foreground, and "others" of each group.

    Buffers:
        members: (groups, K), True for the classes of each group.

    Args:
        thresholds: instance counts, rising. The groups: below the first, from each to below the
            next, from the last on.
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
        numbers = all(isinstance(n, int | float) and 0 < n < math.inf for n in thresholds)
        if not numbers or list(thresholds) != sorted(set(thresholds)):
            raise ValueError(
                f"thresholds must rise, and be positive numbers: they are {thresholds}."
            )
        check_not_negative(beta=beta)
        counts = checked_counts(class_instance_count, num_classes)
        self.beta, self.num_groups = beta, len(thresholds) + 1
        group = torch.bucketize(counts, counts.new_tensor(list(thresholds)), right=True)
        groups = torch.arange(self.num_groups)[:, None]
        # In this form, a checkpoint of another number of groups does not fit
        self.register_buffer("members", group == groups)
        self.register_buffer("group", group, persistent=False)  # (K,)
        self.register_buffer("order", torch.arange(self.num_outputs), persistent=False)
        self.register_buffer("place", torch.arange(self.num_outputs), persistent=False)
        self._arrange()

    @property
    def num_outputs(self) -> int:
        return self.num_classes + 2 + self.num_groups

    def _arrange(self) -> None:
        """Lays out the columns group by group, the pair and the others of each first."""
        self.group = self.members.long().argmax(dim=0)
        sizes = torch.bincount(self.group, minlength=self.num_groups) + 1
        self.sizes = [2, *sizes.tolist()]  # on the host
        rank = 2 * torch.arange(1, self.num_groups + 1, device=self.group.device)
        rank = torch.cat([rank[self.group] + 1, rank.new_zeros(2), rank])  # of each column
        self.order = rank.argsort(stable=True)
        self.place = self.order.argsort()

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self._arrange()

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        background = (gt_classes == self.num_classes)[:, None]
        group = F.pad(self.group, (0, 1), value=-1)[gt_classes]
        own = group[:, None] == torch.arange(self.num_groups, device=group.device)  # (R, groups)
        starts = self.place[self.num_classes + 2 :]  # of each group: its others
        members = torch.where(own, self.place[gt_classes][:, None], starts)
        pair = torch.where(
            background, self.place[self.num_classes], self.place[self.num_classes + 1]
        )
        targets = torch.cat([pair, members], dim=1)
        rows = _GroupRows.apply(scores, self.order, self.place, self.sizes, targets)
        losses = {"loss_pair": mean_of_rows(rows[:, 0], sample_weight)}
        for g in range(self.num_groups):
            others = sampled_rows(~own[:, g], (self.beta * own[:, g].sum()).floor())
            weight = (own[:, g] | others).to(rows.dtype)
            if sample_weight is not None:
                weight = weight * sample_weight
            losses[f"loss_group{g}"] = mean_of_rows(rows[:, g + 1], weight)
        return losses

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        """Probability in the group times that of the foreground, and that of the background."""
        parts = at_least_float32(scores).index_select(1, self.order).split(self.sizes, dim=1)
        probs = torch.cat([part.softmax(1) for part in parts], dim=1)
        classes = probs.index_select(1, self.place[: self.num_classes])
        return torch.cat([classes * probs[:, 1:2], probs[:, :1]], dim=1)
