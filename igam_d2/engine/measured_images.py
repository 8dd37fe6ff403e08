"""The images that a trained detector is measured on: as in testing, with their ground truth."""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation

from ..data import load_training_set
from ..data.mapper import CheckedMapper, EvaluationImages, max_bad_images
from ..errors import InputError

__all__ = ["ground_truth_batches", "load_records"]


def load_records(
    cfg: CfgNode, names: tuple[str, ...], num_classes: int, max_images: int | None
) -> list[dict]:
    """Records of the data sets that have an instance, checked as a training set is.

    Args:
        max_images: at most so many, evenly spaced; None for all.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = names
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    cfg.MODEL.LOAD_PROPOSALS = False
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    try:
        records = load_training_set(cfg)
    except InputError as error:
        if cfg.MODEL.META_ARCHITECTURE != "RetinaNet":
            raise
        key = "MODEL.RETINANET.NUM_CLASSES"
        raise InputError(str(error).replace("MODEL.ROI_HEADS.NUM_CLASSES", key)) from error
    number = min(max_images or len(records), len(records))
    return [_essential(records[i * len(records) // number]) for i in range(number)]


def _essential(record: dict) -> dict:
    """Without masks and keypoints, which would be copied into every worker for nothing."""
    keys = ("bbox", "bbox_mode", "category_id", "iscrowd")
    annotations = [{key: a[key] for key in keys if key in a} for a in record["annotations"]]
    kept = {key: record[key] for key in ("file_name", "height", "width") if key in record}
    return kept | {"annotations": annotations}


def ground_truth_batches(
    cfg: CfgNode, records: list[dict], batch_size: int = 1
) -> Iterator[list[dict]]:
    """Batches of mapped records with `image` and `instances`, without augmentation.

    Images that cannot be read are left out, up to DATALOADER.MAX_BAD_IMAGES.
    """
    mapper = CheckedMapper(
        is_train=True,  # keeps the annotations
        augmentations=build_augmentation(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
    )
    images = EvaluationImages(records, mapper, max_bad=max_bad_images(cfg), then="it is left out")
    loader = build_detection_test_loader(
        images, mapper=None, batch_size=batch_size, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    return ([record for record in batch if "instances" in record] for batch in loader)
