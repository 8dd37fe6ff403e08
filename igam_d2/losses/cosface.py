"""CosFace (Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition"),
eq. (4)."""

from torch import Tensor

from .base import CLS_LOSS_REGISTRY
from .target_margin import TargetMarginLoss

__all__ = ["CosFaceLoss"]


@CLS_LOSS_REGISTRY.register()
class CosFaceLoss(TargetMarginLoss):
    """Cosine softmax with s (cos(theta_y) - m) for the true class; for faces s is 64.

    Args:
        scale: s, positive.
        margin: m, in cosine.
    """

    def __init__(self, num_classes: int, *, scale: float = 30.0, margin: float = 0.35):
        super().__init__(num_classes, scale=scale, margin=margin)

    def with_margin(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin
