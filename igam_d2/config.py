"""Config keys of the project, reading a config safely, and checking it before anything is built."""

import inspect
import logging
import math
import re
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.utils.file_io import PathManager

from .errors import InputError, closest
from .functional import READINGS, SHRINKAGES
from .losses import CLS_LOSS_REGISTRY, ClsLoss
from .losses.base import EmptyClassError, loss_defaults

__all__ = [
    "LVIS_BACKENDS",
    "add_igam_config",
    "check_config",
    "cls_loss_class",
    "load_config",
    "make_cls_loss",
]


LVIS_BACKENDS = ("hotcoco", "lvis")


def add_igam_config(cfg: CN) -> None:
    """Adds the project's keys to a config of Detectron2."""
    cfg.MODEL.IGAM = CN()
    # Dimension of the embedding between box head and classifier; 0: the box head's output itself
    cfg.MODEL.IGAM.EMBEDDING_DIM = 128
    # Embeddings gathered on the device before they enter the classes' moments
    cfg.MODEL.IGAM.QUEUE_LENGTH = 50000
    # Iterations between two refreshes of the information amounts; 0: one epoch
    cfg.MODEL.IGAM.REFRESH_PERIOD = 0
    # Estimate of the covariance: "none" (eq. 2), "floor" (Listing 1), "oas" or "ledoit_peche"
    cfg.MODEL.IGAM.SHRINKAGE = "oas"
    # Reading of the information amount's normalisation: "paper", "mean_sqrt", "mean" or "ratio"
    cfg.MODEL.IGAM.NORMALIZATION = "mean"

    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS = CN()
    # Classification loss of IGAMROIHeads and IGAMCascadeROIHeads, by its registered name
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "IGAMLoss"
    # One node of constants for each loss, e.g. CLS_LOSS.IGAMLoss.SCALE
    for name, loss in CLS_LOSS_REGISTRY:
        constants = {key.upper(): value for key, value in loss_defaults(loss).items()}
        cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS[name] = CN(constants)

    # With several processes, for a model with layers that no loss depends on; costs a little time
    cfg.SOLVER.FIND_UNUSED_PARAMETERS = False

    # What evaluates LVIS: "hotcoco", or "lvis" for the slow reference
    cfg.TEST.LVIS_BACKEND = LVIS_BACKENDS[0]

    # Calibration of a trained model, without training it again
    cfg.TEST.CALIBRATION = CN()
    # NorCal: probabilities over (training images of the class)^gamma, 0.6 in the paper; 0: off
    cfg.TEST.CALIBRATION.NORCAL_GAMMA = 0.0
    # Tau-normalisation: the classes' rows over their length to this power; 0: off
    cfg.TEST.CALIBRATION.TAU = 0.0


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


def load_config(config_file: str, opts: list[str]) -> CN:
    """Reads a YAML config (no code runs) and overrides, checks it, and returns it frozen.

    Raises:
        InputError: no such file, not plain YAML, a key that does not exist, a value of another type
            or out of range.
    """
    cfg = get_cfg()
    add_igam_config(cfg)
    if config_file and not PathManager.isfile(config_file):
        raise InputError(f"Config file {config_file!r} does not exist.")
    try:
        if config_file:
            cfg.merge_from_file(config_file, allow_unsafe=False)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename!r}, the _BASE_ of config file {config_file!r}, does not exist."
        ) from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"Config file {config_file!r} is not plain YAML, which is all that is read: {reason}"
        ) from error
    except (KeyError, AssertionError, ValueError) as error:
        raise InputError(f"Config file {config_file!r}: {_explain(cfg, error)}") from error
    except (AttributeError, TypeError) as error:  # text or a list, where yacs expects keys
        raise InputError(
            f"Config file {config_file!r} is not a mapping of keys to values."
        ) from error
    try:
        cfg.merge_from_list(opts)
    except (KeyError, AssertionError, ValueError) as error:
        raise InputError(f"Command line: {_explain(cfg, error)}") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning(
            "MODEL.DEVICE is %r but no GPU is available: running on the CPU.", cfg.MODEL.DEVICE
        )
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    cfg.freeze()
    return cfg


def check_config(cfg: CN) -> None:
    """Checks the ranges of the project's keys.

    Raises:
        InputError: the first value that is out of range, with what would be right.
    """
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
    has_loss, cascades = _kind_of_heads(roi_heads)
    if has_loss and (head.USE_SIGMOID_CE or head.USE_FED_LOSS):
        raise InputError(
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS have no effect in "
            f"{roi_heads}, whose loss is MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME: leave them False."
        )
    if cascades:
        _check_cascade(cfg)
    _check_calibration(cfg, make_cls_loss(cfg), has_loss)


def _kind_of_heads(name: str) -> tuple[bool, bool]:
    """Whether registered RoI heads have a loss of the registry, and whether they are a cascade."""
    from .modeling import IGAMCascadeROIHeads, IGAMROIHeads  # which import this module

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
                "MODEL.ROI_HEADS.NAME to IGAMROIHeads or IGAMCascadeROIHeads (for a detector of "
                "Detectron2's own with CLS_LOSS.NAME SoftmaxCELoss and MODEL.IGAM.EMBEDDING_DIM 0)."
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


def _keys(node: CN, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        keys += [prefix + key]
        if isinstance(value, CN):
            keys += _keys(value, prefix + key + ".")
    return keys


def _explain(cfg: CN, error: Exception) -> str:
    """One sentence for what yacs raised while merging."""
    text = str(error.args[0]) if error.args else str(error)
    if missing := re.search(r"Non-existent (?:config )?key: (\S+)", text):
        key = missing[1].rstrip(".")
        return f"there is no key {key}{closest(key, _keys(cfg))}."
    if mismatch := re.search(
        r"\((.*) vs\. (.*)\) with values \((.*) vs\. (.*)\).*key: (\S+)", text
    ):
        expected, got, default, value, key = mismatch.groups()
        expected, got = (
            re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", name) for name in (expected, got)
        )
        hint = f"{value}.0" if (expected, got) == ("float", "int") else f"a value like {default}"
        return f"{key} takes a value of type {expected}, not {got} ({value}): write {hint}."
    return text
