"""The classification loss of a config, with what it asks for of the training annotations."""

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from ..data.counts import ClassCounts, class_counts
from ..errors import InputError
from ..loss_config import cls_loss_class, make_cls_loss
from ..losses import ClsLoss
from ..losses.base import COUNTS, EmptyClassError

__all__ = ["build_cls_loss", "norcal_counts"]


def build_cls_loss(cfg: CfgNode, embedding_dim: int) -> ClsLoss:
    """The loss that the config names, over embeddings (R, embedding_dim); the training annotations
    are read if it asks for counts.

    Where they cannot be read, as on a machine for inference alone, it is a loss that predicts, with
    buffers for a checkpoint to fill, but does not train.

    Raises:
        InputError: unknown name, a constant that the loss refuses, a training set of another number
            of classes or without some that the loss needs; when it is trained: one that could not
            be read.
    """
    loss, name = cls_loss_class(cfg), cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME
    if not loss.asks(dict.fromkeys(COUNTS)):
        return make_cls_loss(cfg, embedding_dim=embedding_dim)
    try:
        counts = class_counts(cfg.DATASETS.TRAIN)
    except (InputError, OSError) as error:
        message = (
            f"{name} needs the class counts of the training set, which could not be read when the "
            f"model was built: {error}"
        )

        def refuse(*_):
            raise InputError(message)

        loss = make_cls_loss(cfg, embedding_dim=embedding_dim)
        loss.register_forward_pre_hook(refuse)  # predict_probs does not call it
        return loss
    _check_num_classes(cfg, counts)
    try:
        return make_cls_loss(
            cfg,
            embedding_dim=embedding_dim,
            class_image_count=torch.from_numpy(counts.image_count),
            class_instance_count=torch.from_numpy(counts.instance_count),
            num_images=counts.num_images,
            class_frequency=counts.frequency,
        )
    except EmptyClassError as error:
        raise InputError(
            f"{name} needs training data of every class, and {', '.join(cfg.DATASETS.TRAIN)} has "
            f"none of {_named(error.classes, cfg)}: leave such classes out of the data set, or "
            "choose a MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME that takes them."
        ) from error


def norcal_counts(cfg: CfgNode) -> Tensor:
    """Training images of every class, (K,) int64, for NorCal.

    Raises:
        InputError: a training set that cannot be read, of another number of classes, or without an
            image of some.
    """
    key = "TEST.CALIBRATION.NORCAL_GAMMA"
    try:
        counts = class_counts(cfg.DATASETS.TRAIN)
    except (InputError, OSError) as error:
        raise InputError(
            f"{key} needs the class counts of the training set, which cannot be read: {error}"
        ) from error
    _check_num_classes(cfg, counts)
    if empty := (counts.image_count == 0).nonzero()[0].tolist():
        raise InputError(
            f"{key} divides by the number of a class's training images, and "
            f"{', '.join(cfg.DATASETS.TRAIN)} has none of {_named(empty, cfg)}: set it to 0.0."
        )
    return torch.from_numpy(counts.image_count)


def _check_num_classes(cfg: CfgNode, counts: ClassCounts) -> None:
    found, expected = len(counts.image_count), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if found != expected:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}, but {', '.join(cfg.DATASETS.TRAIN)} has "
            f"{found} categories: set it to {found}."
        )


def _named(classes: list[int], cfg: CfgNode, most: int = 5) -> str:
    """As "classes 3 (boat), 7 (sled)", and how many more there are."""
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") or ()
    shown = [f"{k} ({names[k]})" if k < len(names) else str(k) for k in classes[:most]]
    more = f" and {len(classes) - most} more" if len(classes) > most else ""
    return f"{'class' if len(classes) == 1 else 'classes'} {', '.join(shown)}{more}"
