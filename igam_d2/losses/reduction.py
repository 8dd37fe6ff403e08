"""The one way in which losses over RoIs are averaged."""

import torch.nn.functional as F
from torch import Tensor


def mean_cross_entropy(
    logits: Tensor, gt_classes: Tensor, sample_weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy in float32, averaged with the weights; zero with zero gradients for no rows.

    Args:
        logits: (R, C)
        gt_classes: (R,) in [0, C)
        sample_weight: (R,), or None for equal ones
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    if sample_weight is None:
        # "mean" of nothing would be NaN
        return F.cross_entropy(logits, gt_classes, reduction="sum") / max(len(gt_classes), 1)
    losses = F.cross_entropy(logits, gt_classes, reduction="none")
    return (losses * sample_weight).sum() / sample_weight.sum().clamp(min=1e-12)
