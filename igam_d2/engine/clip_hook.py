"""Gradient clipping that sees the gradients as they are, also with mixed precision."""

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

__all__ = ["GradientClippingHook"]


class GradientClippingHook(HookBase):
    """Clips gradients between the backward pass and the optimiser's step.

    Detectron2 does so inside the step, where those of a fused optimiser are still multiplied by
    the gradient scaler's factor. A step with gradients that are not finite is left to the scaler,
    which skips it.

    Register it with the :class:`SimpleTrainer` or :class:`AMPTrainer` that runs the step: a
    `DefaultTrainer` does not tell its own hooks of a backward pass.
    """

    def __init__(self, clip_type: str, max_value: float, norm_type: float = 2.0):
        """
        Args:
            clip_type: "value" for each element, "norm" for that of each parameter, "full_model"
                for that of all parameters together.
            max_value: largest absolute value or norm.
            norm_type: p of the p-norm.
        """
        self._clip_type, self._max_value, self._norm_type = clip_type, max_value, norm_type

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "GradientClippingHook":
        clip = cfg.SOLVER.CLIP_GRADIENTS
        return cls(clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE)

    @torch.no_grad()
    def after_backward(self):
        optimizer = self.trainer.optimizer
        if (scaler := getattr(self.trainer, "grad_scaler", None)) is not None:
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if self._clip_type == "value":
            clip_grad_value_(parameters, self._max_value)
        elif self._clip_type == "full_model":
            clip_grad_norm_(parameters, self._max_value, self._norm_type)
        else:
            for p in parameters:
                clip_grad_norm_(p, self._max_value, self._norm_type)
