"""Config keys of the project, reading a config safely, and checking it before anything is built."""

import difflib
import logging
import re

import torch
import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.utils.file_io import PathManager

from .errors import InputError
from .functional import READINGS, SHRINKAGES
from .losses import CLS_LOSS_REGISTRY, ClsLoss
from .losses.base import loss_defaults

__all__ = ["LVIS_BACKENDS", "add_igam_config", "build_cls_loss", "check_config", "load_config"]


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
    # Classification loss of IGAMROIHeads, by its registered name
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "IGAMLoss"
    # One node of constants for each loss, e.g. CLS_LOSS.IGAMLoss.SCALE
    for name, loss in CLS_LOSS_REGISTRY:
        constants = {key.upper(): value for key, value in loss_defaults(loss).items()}
        cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS[name] = CN(constants)

    # What evaluates LVIS: "hotcoco", or "lvis" for the slow reference
    cfg.TEST.LVIS_BACKEND = LVIS_BACKENDS[0]


def build_cls_loss(cfg: CN) -> ClsLoss:
    """The loss that the config names, with its constants and what it asks for of the context.

    Raises:
        InputError: unknown name, or a constant that the loss refuses.
    """
    node = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
    names = [name for name, _ in CLS_LOSS_REGISTRY]
    if node.NAME not in names:
        raise InputError(
            f"MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME is {node.NAME!r}{_closest(node.NAME, names)}; "
            f"the losses are: {', '.join(names)}."
        )
    loss = CLS_LOSS_REGISTRY.get(node.NAME)
    context = {
        "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        "embedding_dim": cfg.MODEL.IGAM.EMBEDDING_DIM,
        "normalization": cfg.MODEL.IGAM.NORMALIZATION,
    }
    try:
        return loss(**{k.lower(): v for k, v in node[node.NAME].items()}, **loss.asks(context))
    except ValueError as error:
        raise InputError(f"MODEL.ROI_BOX_HEAD.CLS_LOSS.{node.NAME}: {error}") from error


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
                f"{key} is {value!r}{_closest(value, choices)}; "
                f"it must be one of: {', '.join(choices)}."
            )
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES < 1:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {cfg.MODEL.ROI_HEADS.NUM_CLASSES}: it must be the "
            f"number of categories of the data set."
        )
    head = cfg.MODEL.ROI_BOX_HEAD
    if cfg.MODEL.ROI_HEADS.NAME.startswith("IGAM") and (head.USE_SIGMOID_CE or head.USE_FED_LOSS):
        raise InputError(
            "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS have no effect in "
            f"{cfg.MODEL.ROI_HEADS.NAME}, whose loss is MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME: leave "
            "them False."
        )
    build_cls_loss(cfg)


def _closest(name: str, names) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


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
        return f"there is no key {key}{_closest(key, _keys(cfg))}."
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
