"""The evaluator that fits a data set."""

import logging
import os

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from ..data import class_counts
from ..data.annotation_file import read_categories
from ..data.checks import EVALUATOR_TYPES, check_evaluator_type
from ..errors import InputError
from ..modeling import EmbeddingClassifier
from .coco import COCOEvaluator
from .coco_format import annotation_file
from .evaluator import ClassEvaluator
from .lvis import LVISEvaluator
from .voc import PascalVOCEvaluator

__all__ = ["build_evaluator", "information_of"]

EVALUATORS = dict(
    zip(EVALUATOR_TYPES, (LVISEvaluator, COCOEvaluator, PascalVOCEvaluator), strict=True)
)


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> ClassEvaluator:
    """Choose by the ``evaluator_type`` of the data set's metadata: "lvis", "coco", "pascal_voc".

    Args:
        cfg: ``OUTPUT_DIR``, ``TEST.LVIS_BACKEND``, and ``DATASETS.TRAIN`` for the class counts.
        dataset_name: a registered data set.
        output_folder: where results are written; None is ``OUTPUT_DIR/inference/<dataset_name>``.

    Raises:
        InputError: if the type is none of these, as it is for a data set that nobody registered.
    """
    if output_folder is None:
        output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    evaluator_type = check_evaluator_type(dataset_name)
    kwargs = {}
    if evaluator_type == "lvis":
        kwargs["backend"] = cfg.TEST.get("LVIS_BACKEND", "hotcoco")
    if evaluator_type != "lvis" or not _has_counts(annotation_file(dataset_name)):
        kwargs |= _training_counts(cfg, dataset_name)
    return EVALUATORS[evaluator_type](dataset_name, output_folder, **kwargs)


def information_of(model: nn.Module) -> np.ndarray | None:
    """(K,) bits of the last classifier, which of a cascade decides most; None where nothing was
    measured."""
    layers = [m for m in model.modules() if isinstance(m, EmbeddingClassifier)]
    if not layers or not layers[-1].information.isfinite().any():
        return None
    return layers[-1].information.double().cpu().numpy()


def _has_counts(json_file: str) -> bool:
    """Whether an annotation file says how often its categories are in training, as LVIS's do."""
    keys = ("frequency", "image_count", "instance_count")
    return all(key in category for category in read_categories(json_file) for key in keys)


def _training_counts(cfg: CfgNode, dataset_name: str) -> dict[str, np.ndarray]:
    try:
        counts = class_counts(cfg.DATASETS.TRAIN)
    except (InputError, OSError) as error:
        reason = str(error)
    else:
        classes = MetadataCatalog.get(dataset_name).get("thing_classes")
        if classes is None or len(classes) == len(counts.image_count):
            return {"image_count": counts.image_count, "instance_count": counts.instance_count}
        reason = f"DATASETS.TRAIN has {len(counts.image_count)} classes, not {len(classes)}."
    logging.getLogger(__name__).warning(
        "The evaluation of %s goes without training counts (groups by frequency, correlation with "
        "the count): %s",
        *(dataset_name, reason),
    )
    return {}
