"""DropLoss (Hsieh et al. 2021, "DropLoss for Long-Tail Instance Segmentation"), in the form of its
public code, which drops more the fewer rare RoIs a batch has; the paper's text reads otherwise."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY
from .eql import EQLLoss
from .reduction import at_true_class, coin_flips

__all__ = ["DropLoss"]


@CLS_LOSS_REGISTRY.register()
class DropLoss(EQLLoss):
    """:class:`EQLLoss` whose background RoIs, too, pass over each rare class with the probability
    1 - beta, beta being the share of rare ones among the batch's foreground RoIs.

    Without foreground RoIs none is passed over. The batch is that of a process.
    """

    def discourages_rare(self, gt_classes: Tensor) -> Tensor:
        foreground = gt_classes < self.num_classes
        num_rare = (foreground & at_true_class(self.rare, gt_classes)).sum()
        num_foreground = foreground.sum()
        beta = torch.where(num_foreground > 0, num_rare / num_foreground, 1.0)
        return coin_flips(self.num_classes, torch.where(foreground, 0.0, beta))
