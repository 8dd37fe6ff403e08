"""Losses of a second stage: parameters of their own over a detector that is frozen."""

from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from ..losses import ClsLoss

__all__ = ["freeze_detector", "second_stage_loss"]


def second_stage_loss(model: nn.Module) -> ClsLoss | None:
    """The model's first loss that declares `second_stage`, None without one."""
    losses = (module for module in model.modules() if isinstance(module, ClsLoss))
    return next((loss for loss in losses if loss.second_stage), None)


def freeze_detector(model: nn.Module) -> nn.Module:
    """Freezes what is not of a loss, in place: it stays in training mode, for its losses, but is
    the detector that a test sees, without dropout and with the statistics of its batch norms.

    The keys of its state dict remain what they were.
    """
    model = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    losses = [module for module in model.modules() if isinstance(module, ClsLoss)]
    trained = {id(part) for loss in losses for part in (*loss.modules(), *loss.parameters())}
    for parameter in model.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
    for module in model.modules():
        if id(module) in trained:
            continue
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        elif hasattr(module, "drop_prob"):  # timm's DropPath, in Detectron2's Swin and ViT
            module.drop_prob = 0.0
    return model
