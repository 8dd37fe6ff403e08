"""Registers this project's data sets with Detectron2."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json

from igam_d2.data.digits_lt import CLASS_NAMES


def register_digits_lt(root: str | os.PathLike[str] | None = None) -> None:
    """Register `digits_lt_train` and `digits_lt_val`; a second call changes nothing.

    Args:
        root: the folder of all data sets; None takes $DETECTRON2_DATASETS, or "datasets". Nothing
            is read before the data set is asked for.
    """
    root = os.fspath(root) if root is not None else os.getenv("DETECTRON2_DATASETS", "datasets")
    # load_lvis_json appends the split's folder to image_root without a separator
    image_root = os.path.join(os.path.expanduser(root), "digits_lt", "")
    for split in ("train", "val"):
        name = f"digits_lt_{split}"
        if name in DatasetCatalog.list():
            continue
        json_file = os.path.join(image_root, "annotations", f"{name}.json")
        DatasetCatalog.register(
            name, lambda json_file=json_file: load_lvis_json(json_file, image_root)
        )
        MetadataCatalog.get(name).set(
            json_file=json_file,
            image_root=image_root,
            evaluator_type="lvis",
            thing_classes=list(CLASS_NAMES),
            how_to_get="make it with `python tools/prepare_digits_lt.py`",
        )
