"""Config keys of the project, reading a config safely, and checking it before anything is built."""

import logging
import re

import torch
import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.utils.file_io import PathManager

from .config_checks import LVIS_BACKENDS, check_config
from .data.own_data import EXAMPLE, register_datasets
from .errors import InputError, closest
from .losses import CLS_LOSS_REGISTRY
from .losses.base import loss_defaults

__all__ = ["add_igam_config", "load_config"]


def add_igam_config(cfg: CN) -> None:
    """Adds the project's keys to a config of Detectron2."""
    cfg.MODEL.IGAM = CN()
    # Dimension of the embedding between box head and classifier; 0: the box head's output itself
    cfg.MODEL.IGAM.EMBEDDING_DIM = 128
    # Embeddings gathered on the device before they enter the classes' moments
    cfg.MODEL.IGAM.QUEUE_LENGTH = 50000
    # Iterations between two refreshes of the information amounts; 0: one epoch
    cfg.MODEL.IGAM.REFRESH_PERIOD = 0
    # Estimate of the covariance: "none" (eq. 2), "floor" (Listing 1), "oas" or "ledoit_peche". The
    # default, and the next one, are those that docs/evidence.md settles on
    cfg.MODEL.IGAM.SHRINKAGE = "none"
    # Reading of the information amount's normalisation: "paper", "mean_sqrt", "mean" or "ratio"
    cfg.MODEL.IGAM.NORMALIZATION = "ratio"

    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS = CN()
    # Classification loss of IGAMROIHeads, IGAMCascadeROIHeads and DETR, by its registered name
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "IGAMLoss"
    # One node of constants for each loss, e.g. CLS_LOSS.IGAMLoss.SCALE
    for name, loss in CLS_LOSS_REGISTRY:
        constants = {key.upper(): value for key, value in loss_defaults(loss).items()}
        cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS[name] = CN(constants)

    _add_swin(cfg)
    _add_detr(cfg)
    _add_solver(cfg)

    # Convolutions with channels last in memory: faster with AMP on GPUs with tensor cores
    cfg.MODEL.CHANNELS_LAST = False

    # Data sets of one's own: a list of {name, json, image_root, format}, the format "coco" or
    # "lvis"
    cfg.DATASETS.REGISTER = []
    # Images that cannot be decoded are passed over and named, up to this many; one more stops
    cfg.DATALOADER.MAX_BAD_IMAGES = 0
    # Test sets are read once in a run, and their loaders' workers stay between evaluations
    cfg.DATALOADER.PERSISTENT_WORKERS = False

    # What evaluates LVIS: "hotcoco", or "lvis" for the slow reference
    cfg.TEST.LVIS_BACKEND = LVIS_BACKENDS[0]

    # Calibration of a trained model, without training it again
    cfg.TEST.CALIBRATION = CN()
    # NorCal: probabilities over (training images of the class)^gamma, 0.6 in the paper; 0: off
    cfg.TEST.CALIBRATION.NORCAL_GAMMA = 0.0
    # Tau-normalisation: the classes' rows over their length to this power; 0: off
    cfg.TEST.CALIBRATION.TAU = 0.0


def _add_swin(cfg: CN) -> None:
    """Of build_swin_backbone and build_swin_fpn_backbone; Swin-T's are the defaults.

    BACKBONE.FREEZE_AT: 0 for nothing, 1 for the patch embedding, n for the first n - 1 stages too.
    """
    cfg.MODEL.SWIN = CN()
    cfg.MODEL.SWIN.EMBED_DIM = 96
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    cfg.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    # Stochastic depth: of the deepest block, growing from 0; needs timm, the extra `swin`; 0.0: off
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.2
    # Stages that are handed on, of p0 (stride 4) to p3 (stride 32); a pyramid takes FPN.IN_FEATURES
    # of them. What nothing takes is not built.
    cfg.MODEL.SWIN.OUT_FEATURES = ["p0", "p1", "p2", "p3"]
    # Activations are computed again in the backward pass: less memory, about a third more time
    cfg.MODEL.SWIN.USE_CHECKPOINT = False


def _add_detr(cfg: CN) -> None:
    """Of the meta architecture DETR; the paper's (Carion et al. 2020) are the defaults. Beside them
    it has ROI_HEADS.NUM_CLASSES and SCORE_THRESH_TEST, ROI_BOX_HEAD.CLS_LOSS and IGAM."""
    cfg.MODEL.DETR = CN()
    # The backbone's feature map that the transformer sees
    cfg.MODEL.DETR.IN_FEATURE = "res5"
    # Most instances that an image is learned from
    cfg.MODEL.DETR.NUM_QUERIES = 100
    # A multiple of 4 and of NUM_HEADS
    cfg.MODEL.DETR.HIDDEN_DIM = 256
    cfg.MODEL.DETR.NUM_HEADS = 8
    cfg.MODEL.DETR.ENC_LAYERS = 6
    cfg.MODEL.DETR.DEC_LAYERS = 6
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 2048
    cfg.MODEL.DETR.DROPOUT = 0.1
    # Losses of all decoder layers, not of the last alone
    cfg.MODEL.DETR.AUX_LOSS = True
    # Weight of queries without an object in the classification loss
    cfg.MODEL.DETR.NO_OBJECT_WEIGHT = 0.1
    # What a query and an instance are matched by
    cfg.MODEL.DETR.CLS_COST = 1.0
    cfg.MODEL.DETR.L1_COST = 5.0
    cfg.MODEL.DETR.GIOU_COST = 2.0
    # Weights of the losses
    cfg.MODEL.DETR.CLS_WEIGHT = 1.0
    cfg.MODEL.DETR.L1_WEIGHT = 5.0
    cfg.MODEL.DETR.GIOU_WEIGHT = 2.0


def _add_solver(cfg: CN) -> None:
    # Length in epochs, and the epochs after which the rate drops, in place of MAX_ITER and STEPS;
    # 0: by MAX_ITER and STEPS
    cfg.SOLVER.MAX_EPOCHS = 0
    cfg.SOLVER.STEPS_EPOCHS = []
    # Images per batch that BASE_LR and WARMUP_ITERS are meant for: another IMS_PER_BATCH scales
    # the rate with it, and the warm-up against it; 0: they are as they are
    cfg.SOLVER.REFERENCE_BATCH_SIZE = 0
    # CLIP_GRADIENTS.CLIP_TYPE may be "full_model" too: the norm of all gradients together

    # "SGD", or "AdamW" with betas .9 and .999
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of the backbone (the parameters under `backbone.`) over that of the rest
    cfg.SOLVER.BACKBONE_LR_FACTOR = 1.0
    # Parameters without weight decay, by the last part of their name
    cfg.SOLVER.NO_DECAY = []
    # One kernel for all parameters' updates
    cfg.SOLVER.FUSED = False
    # With AMP: "float16" with a gradient scaler, or "bfloat16" without one
    cfg.SOLVER.AMP.DTYPE = "float16"
    # With several processes, for a model with layers that no loss depends on; costs a little time
    cfg.SOLVER.FIND_UNUSED_PARAMETERS = False


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
    register_datasets(cfg)
    cfg.freeze()
    return cfg


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
    if text.endswith("config key: DATASETS.REGISTER"):
        return f"DATASETS.REGISTER must be a list: begin each entry with '- ', as - {EXAMPLE}."
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
