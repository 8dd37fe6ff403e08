"""The classification loss that a config names, with its constants."""

from typing import Any

import torch
from detectron2.config import CfgNode as CN

from .errors import InputError, closest
from .losses import CLS_LOSS_REGISTRY, ClsLoss
from .losses.base import EmptyClassError

__all__ = ["cls_loss_class", "make_cls_loss"]


def cls_loss_class(cfg: CN) -> type[ClsLoss]:
    """The loss that MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME chooses.

    Raises:
        InputError: unknown name.
    """
    name = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME
    names = [name for name, _ in CLS_LOSS_REGISTRY]
    if name not in names:
        raise InputError(
            f"MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME is {name!r}{closest(name, names)}; "
            f"the losses are: {', '.join(names)}."
        )
    return CLS_LOSS_REGISTRY.get(name)


def make_cls_loss(cfg: CN, **context: Any) -> ClsLoss:
    """The loss that the config names, with its constants and what it asks for of the context.

    Args:
        context: values of :data:`igam_d2.losses.base.CONTEXT`. Without them, counts are ones, with
            which its constants can be checked and a checkpoint be loaded.

    Raises:
        InputError: unknown name, or a constant that the loss refuses.
        EmptyClassError: as the loss.
    """
    loss, num_classes = cls_loss_class(cfg), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    ones = torch.ones(num_classes, dtype=torch.int64)
    context = {
        "num_classes": num_classes,
        "embedding_dim": cfg.MODEL.IGAM.EMBEDDING_DIM or 1,
        "normalization": cfg.MODEL.IGAM.NORMALIZATION,
        "class_image_count": ones,
        "class_instance_count": ones,
        "num_images": 1,
        "class_frequency": ["f"] * num_classes,
        **context,
    }
    name = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME
    constants = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS[name]
    try:
        return loss(**{k.lower(): v for k, v in constants.items()}, **loss.asks(context))
    except EmptyClassError:
        raise
    except ValueError as error:
        raise InputError(f"MODEL.ROI_BOX_HEAD.CLS_LOSS.{name}: {error}") from error
