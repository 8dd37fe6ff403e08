"""Registers this project's data sets with Detectron2."""

import logging
import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.utils.logger import log_first_n

from ..errors import InputError
from .annotation_file import check_annotation_file
from .coco_lt import COCO_CLASSES, ORIGINAL, REBUILT, Summary, coco_lt_path, differences
from .digits_lt import CLASS_NAMES
from .own_data import OwnDataset, read_records


def register_digits_lt(root: str | os.PathLike[str] | None = None) -> None:
    """Register `digits_lt_train` and `digits_lt_val`; a second call changes nothing.

    Args:
        root: the folder of all data sets; None takes $DETECTRON2_DATASETS, or "datasets". Nothing
            is read before the data set is asked for.
    """
    # load_lvis_json appends the split's folder to image_root without a separator
    image_root = os.path.join(_expanded(root), "digits_lt", "")
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


def register_coco_lt(root: str | os.PathLike[str] | None = None) -> None:
    """Register `coco_lt_train`, SimCal's file, and `coco_lt_rebuilt_train`; a second call changes
    nothing. Both are tested on Detectron2's own `coco_2017_val`, whose classes they have.

    Args:
        root: as of :func:`register_digits_lt`.
    """
    files = {
        "coco_lt_train": (
            ORIGINAL,
            "get it by the link in the README of https://github.com/twangnh/SimCal, make another "
            "with its counts by `python tools/prepare_coco_lt.py rebuild` and train on "
            "'coco_lt_rebuilt_train'",
        ),
        "coco_lt_rebuilt_train": (
            REBUILT,
            "make it with `python tools/prepare_coco_lt.py rebuild`",
        ),
    }
    image_root = os.path.join(_expanded(root), "coco", "train2017")
    for name, (file, how_to_get) in files.items():
        if name in DatasetCatalog.list():
            continue
        json_file = os.fspath(coco_lt_path(file, root))
        DatasetCatalog.register(
            name, lambda name=name, json_file=json_file: _load_coco_lt(json_file, image_root, name)
        )
        MetadataCatalog.get(name).set(
            json_file=json_file,
            image_root=image_root,
            evaluator_type="coco",
            how_to_get=how_to_get,
            **_get_builtin_metadata("coco"),
        )


def _expanded(root: str | os.PathLike[str] | None) -> str:
    root = os.getenv("DETECTRON2_DATASETS", "datasets") if root is None else root
    return os.path.expanduser(os.fspath(root))


def _load_coco_lt(json_file: str, image_root: str, name: str) -> list[dict]:
    """Warns of a file that is not the whole set: a subset may be what is wanted."""
    content = check_annotation_file(json_file)
    if {c["id"]: c["name"] for c in content["categories"]} != COCO_CLASSES:
        raise InputError(
            f"{json_file!r} of {name!r} has other classes than coco_2017_val, on which it is "
            f"tested: `python tools/prepare_coco_lt.py check {json_file}` says which."
        )
    classes = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    records = read_records(OwnDataset(name, json_file, image_root, "coco"), content, classes)
    file = os.path.basename(json_file)
    if different := differences(Summary.of_content(content), name=file):
        log_first_n(
            logging.WARNING,
            f"{json_file!r} of {name!r} is not the whole COCO-LT: it has {', '.join(different)}. "
            f"`python tools/prepare_coco_lt.py check {json_file}` compares the two.",
            name=__name__,
            key="message",
        )
    return records
