"""Virtual softmax (Chen et al. 2018, "Virtual Class Enhanced Discriminative Embedding
Learning")."""

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY
from .reduction import at_least_float32, at_true_class, mean_of_rows
from .softmax_ce import SoftmaxCELoss

__all__ = ["VirtualSoftmaxLoss"]


@CLS_LOSS_REGISTRY.register()
class VirtualSoftmaxLoss(SoftmaxCELoss):
    """Softmax cross-entropy with one class more in training, whose logit is |w_y| |x|: that of a
    class in the direction of the embedding itself. The classifier has no bias.
    """

    bias = False

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        scores = at_least_float32(scores)
        norm = at_least_float32(class_weight).norm(dim=1).to(scores.dtype)
        virtual = norm[gt_classes] * embeddings.to(scores.dtype).norm(dim=1)
        rows = torch.logaddexp(scores.logsumexp(1), virtual) - at_true_class(scores, gt_classes)
        return {"loss_cls": mean_of_rows(rows, sample_weight)}
