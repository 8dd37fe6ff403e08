"""The evaluator that fits a dataset."""

import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator

from igam_d2.errors import InputError

from .lvis_evaluation import LVISEvaluator


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """Choose by the ``evaluator_type`` of the dataset's metadata: "lvis", "coco" or "pascal_voc".

    Args:
        cfg: only ``OUTPUT_DIR`` is read.
        dataset_name: a registered dataset.
        output_folder: where results are written; None is ``OUTPUT_DIR/inference/<dataset_name>``.

    Raises:
        InputError: if the type is none of these, as it is for a dataset that nobody registered.
    """
    if output_folder is None:
        output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type == "lvis":
        return LVISEvaluator(dataset_name, output_dir=output_folder)
    if evaluator_type == "coco":
        return COCOEvaluator(dataset_name, output_dir=output_folder)
    if evaluator_type == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    raise InputError(
        f"No evaluator for dataset {dataset_name!r}: the evaluator_type of its metadata is "
        f"{evaluator_type!r}, and should be one of 'lvis', 'coco', 'pascal_voc'."
    )
