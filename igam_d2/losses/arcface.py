"""ArcFace (Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition"),
eq. (3)."""

import math

import torch
from torch import Tensor

from .base import CLS_LOSS_REGISTRY
from .target_margin import TargetMarginLoss

__all__ = ["ArcFaceLoss"]


@CLS_LOSS_REGISTRY.register()
class ArcFaceLoss(TargetMarginLoss):
    """Cosine softmax with s cos(theta_y + m) for the true class; beyond theta_y = pi - m, where
    that would rise again, s (cos(theta_y) - m sin(m)), as in the public code.

    Args:
        scale: s, positive; for faces 64.
        margin: m in radians, below pi.
    """

    def __init__(self, num_classes: int, *, scale: float = 30.0, margin: float = 0.5):
        super().__init__(num_classes, scale=scale, margin=margin)
        if not margin < math.pi:
            raise ValueError(f"margin must be below pi, not {margin}.")

    def with_margin(self, cosine: Tensor) -> Tensor:
        sin_m, cos_m = math.sin(self.margin), math.cos(self.margin)
        # The slope of the sine has no bound at an angle of 0
        sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
        beyond = cosine < -cos_m
        return torch.where(beyond, cosine - self.margin * sin_m, cosine * cos_m - sine * sin_m)
