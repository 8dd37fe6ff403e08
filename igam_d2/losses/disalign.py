"""DisAlign (Zhang et al. 2021, "Distribution Alignment: A Unified Framework for Long-tail Visual
Recognition"), eqs. (4) to (11): the second stage, over a trained detector that is frozen."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .base import CLS_LOSS_REGISTRY, ClsLoss, check_not_negative, checked_counts
from .reduction import at_least_float32

__all__ = ["DisAlignLoss"]


class _Aligned(torch.autograd.Function):
    """z + c (a z + b) of z (R, C), a and b (C,), c (R, 1), in a fraction of autograd's passes."""

    @staticmethod
    def forward(ctx, scores, slope, shift, confidence):
        ctx.save_for_backward(scores, slope, shift, confidence)
        return torch.addcmul(shift, scores, slope).mul_(confidence).add_(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        scores, slope, shift, confidence = ctx.saved_tensors
        product = grad * scores
        grad_slope, grad_shift = confidence.T @ product, confidence.T @ grad
        grad_confidence = product @ slope + grad @ shift
        grad_scores = None
        if ctx.needs_input_grad[0]:  # not of a detector that is frozen
            grad_scores = torch.mul(confidence, slope, out=product).add_(1).mul_(grad)
        return grad_scores, grad_slope[0], grad_shift[0], grad_confidence[:, None]


@CLS_LOSS_REGISTRY.register()
class DisAlignLoss(ClsLoss):
    """Softmax cross-entropy of z'_j = c(x) (a_j z_j + b_j) + (1 - c(x)) z_j, c being a sigmoid of a
    linear layer, on the foreground columns; the background's stays.

    Classes weigh n_j^-rho, n_j being their training instances, with a mean of 1 over the
    foreground, and the background 1; the divisor is the sum of the RoIs' weights, as in the public
    code.

    Parameters, the only ones that are trained:
        scale, shift: (K,), a and b.
        confidence: the linear layer of c.

    Args:
        rho: 0 for equal weights.
    """

    second_stage = True

    def __init__(
        self,
        num_classes: int,
        class_instance_count: Tensor,
        embedding_dim: int,
        *,
        rho: float = 0.8,
    ):
        super().__init__(num_classes)
        check_not_negative(rho=rho)
        counts = checked_counts(class_instance_count, num_classes, positive=rho > 0)
        weight = counts**-rho
        weight = F.pad(weight / weight.mean(), (0, 1), value=1.0)
        self.register_buffer("balance", weight.float(), persistent=False)  # (K + 1,)
        self.scale = nn.Parameter(torch.ones(num_classes))
        self.shift = nn.Parameter(torch.zeros(num_classes))
        self.confidence = nn.Linear(embedding_dim, 1)
        nn.init.normal_(self.confidence.weight, std=0.01)
        nn.init.zeros_(self.confidence.bias)

    def forward(
        self, scores, gt_classes, *, embeddings=None, class_weight=None, sample_weight=None
    ) -> dict[str, Tensor]:
        logits = self._aligned(scores, embeddings)
        weight = self.balance.to(logits.dtype)
        rows = F.cross_entropy(logits, gt_classes, weight=weight, reduction="none")
        weight = weight[gt_classes]
        if sample_weight is not None:
            rows, weight = rows * sample_weight, weight * sample_weight
        return {"loss_cls": rows.sum() / weight.sum().clamp(min=1e-12)}

    def _aligned(self, scores: Tensor, embeddings: Tensor) -> Tensor:
        scores = at_least_float32(scores)
        confidence = self.confidence(embeddings.to(self.confidence.weight.dtype)).sigmoid()
        # The background's column stays
        slope, shift = F.pad(self.scale - 1, (0, 1)), F.pad(self.shift, (0, 1))
        return _Aligned.apply(scores, *(v.to(scores.dtype) for v in (slope, shift, confidence)))

    def predict_probs(self, scores, *, embeddings=None) -> Tensor:
        return torch.softmax(self._aligned(scores, embeddings), dim=-1)
