"""Checks of a config's values, before anything is built."""

import inspect
import math

from detectron2.config import CfgNode as CN
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads

from .errors import InputError, closest
from .functional import READINGS, SHRINKAGES
from .loss_config import make_cls_loss
from .losses import ClsLoss
from .modeling import IGAMCascadeROIHeads, IGAMROIHeads
from .modeling.backbone.checks import check_backbone
from .modeling.detr.checks import check_detr
from .solver_checks import check_solver

__all__ = ["LVIS_BACKENDS", "check_config"]

LVIS_BACKENDS = ("hotcoco", "lvis")


def check_config(cfg: CN) -> None:
    """Checks the ranges of the project's keys.

    Raises:
        InputError: the first value that is out of range, with what would be right.
    """
    for key, value, registry in (
        ("META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
    ):
        if value not in registry:  # as it is now, with what others have added
            names = [name for name, _ in registry]
            raise InputError(
                f"MODEL.{key} is {value!r}{closest(value, names)}; it must be registered with "
                f"Detectron2, as are: {', '.join(sorted(names))}."
            )
    check_solver(cfg)
    check_backbone(cfg)
    igam = cfg.MODEL.IGAM
    for key, least, hint in (
        ("EMBEDDING_DIM", 0, "0 for no projection"),
        ("QUEUE_LENGTH", 1, "the paper's is 50000"),
        ("REFRESH_PERIOD", 0, "0 for one epoch"),
    ):
        if igam[key] < least:
            raise InputError(
                f"MODEL.IGAM.{key} is {igam[key]}: it must be at least {least} ({hint})."
            )
    for key, value, choices in (
        ("MODEL.IGAM.SHRINKAGE", igam.SHRINKAGE, SHRINKAGES),
        ("MODEL.IGAM.NORMALIZATION", igam.NORMALIZATION, READINGS),
        ("TEST.LVIS_BACKEND", cfg.TEST.LVIS_BACKEND, LVIS_BACKENDS),
    ):
        if value not in choices:
            raise InputError(
                f"{key} is {value!r}{closest(value, choices)}; "
                f"it must be one of: {', '.join(choices)}."
            )
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES < 1:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}: it must be the "
            f"number of categories of the data set."
        )
    head, roi_heads = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_HEADS.NAME
    detr = cfg.MODEL.META_ARCHITECTURE == "DETR"
    has_loss, cascades = (True, False) if detr else _kind_of_heads(roi_heads)
    where = "DETR" if detr else roi_heads
    if has_loss and (head.USE_SIGMOID_CE or head.USE_FED_LOSS):
        raise InputError(
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS have no effect in "
            f"{where}, whose loss is MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME: leave them False."
        )
    if detr:
        check_detr(cfg)
    if cascades:
        _check_cascade(cfg)
    _check_calibration(cfg, make_cls_loss(cfg), has_loss)


def _kind_of_heads(name: str) -> tuple[bool, bool]:
    """Whether registered RoI heads have a loss of the registry, and whether they are a cascade."""
    if name not in ROI_HEADS_REGISTRY:
        return False, False
    heads = ROI_HEADS_REGISTRY.get(name)
    if not inspect.isclass(heads):
        return False, False
    return issubclass(heads, IGAMROIHeads | IGAMCascadeROIHeads), issubclass(heads, CascadeROIHeads)


def _check_cascade(cfg: CN) -> None:
    """What Detectron2 asserts of a cascade."""
    name, cascade = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_CASCADE_HEAD
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise InputError(
            f"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False: {name} has one box for all "
            "classes, set it to True."
        )
    if not 0 < len(cascade.IOUS) == len(cascade.BBOX_REG_WEIGHTS):
        raise InputError(
            f"MODEL.ROI_BOX_CASCADE_HEAD has {len(cascade.IOUS)} IOUS and "
            f"{len(cascade.BBOX_REG_WEIGHTS)} BBOX_REG_WEIGHTS: {name} needs one of each for every "
            "stage."
        )
    first, sampled = cascade.IOUS[0], cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS[0]
    if first != sampled:
        raise InputError(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS begins with {first} and "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS with {sampled}: they must be the same, as the RoIs "
            f"of the first stage of {name} are sampled by the latter."
        )


def _check_calibration(cfg: CN, loss: ClsLoss, has_loss: bool) -> None:
    name, roi_heads = type(loss).__name__, cfg.MODEL.ROI_HEADS.NAME
    for key, value in cfg.TEST.CALIBRATION.items():
        key = f"TEST.CALIBRATION.{key}"
        if not 0 <= value < math.inf:
            raise InputError(f"{key} is {value}: it must be at least 0 (0.0 for none), and finite.")
        if value and not has_loss:
            raise InputError(
                f"{key} is {value} and has no effect in {roi_heads}: set it to 0.0, or "
                "MODEL.ROI_HEADS.NAME to IGAMROIHeads or IGAMCascadeROIHeads, or "
                "MODEL.META_ARCHITECTURE to DETR (for a detector of Detectron2's own with "
                "CLS_LOSS.NAME SoftmaxCELoss and MODEL.IGAM.EMBEDDING_DIM 0)."
            )
        if value and not loss.sums_to_one:
            raise InputError(
                f"{key} is {value}, which is for softmax classifiers: the probabilities of {name} "
                "do not sum to one, set it to 0.0."
            )
    if cfg.TEST.CALIBRATION.TAU and loss.classifier == "cosine":
        raise InputError(
            f"TEST.CALIBRATION.TAU is {cfg.TEST.CALIBRATION.TAU}, but the cosine classifier of "
            f"{name} has rows of length one already: set it to 0.0."
        )
