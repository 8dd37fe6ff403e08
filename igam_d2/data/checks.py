"""Checks of the data sets that a config names, before anything expensive begins."""

import contextlib
import difflib
import json
import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import InputError

__all__ = [
    "EVALUATOR_TYPES",
    "check_annotation_file",
    "check_evaluator_type",
    "check_test_datasets",
    "explained",
    "load_training_set",
]

EVALUATOR_TYPES = ("lvis", "coco", "pascal_voc")
# Annotators' rounding: LVIS and COCO have boxes that end a fraction of a pixel outside the image.
TOLERANCE = 1.0
# Up to this share of bad boxes are left out with a warning (COCO itself has a few of no area);
# more of them are a mistake in the file, such as corners where width and height belong.
BAD_SHARE = 1e-3


def load_training_set(cfg: CfgNode) -> list[dict]:
    """Detectron2's records of DATASETS.TRAIN, filtered as the config says, with every box checked.

    Raises:
        InputError: an unknown set, a missing or unreadable annotation file, a missing image folder,
            other categories than MODEL.ROI_HEADS.NUM_CLASSES, bad boxes.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise InputError("DATASETS.TRAIN is empty: name a data set to train on.")
    for name in names:
        check_registration(name)
        _check_num_classes(name, cfg)
    with explained(names):
        records = get_detection_dataset_dicts(
            names,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=0,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
    _check_folders({os.path.dirname(record["file_name"]) for record in records}, ", ".join(names))
    return _check_boxes(records, names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)


def check_test_datasets(cfg: CfgNode) -> None:
    """Checks DATASETS.TEST, so that a long training does not end in an evaluation that cannot run.

    Raises:
        InputError: as :func:`load_training_set`.
    """
    for name in cfg.DATASETS.TEST:
        json_file = check_registration(name)
        _check_num_classes(name, cfg)
        check_evaluator_type(name)
        if json_file is None:
            continue
        content = check_annotation_file(json_file, outlines=False, annotated=False)
        metadata = MetadataCatalog.get(name)
        root = metadata.get("image_root", "")
        folders = {root} if root else set()
        if metadata.get("evaluator_type") == "lvis":  # its images lie in folders named by their URL
            urls = [str(image.get("coco_url", "")).split("/") for image in content["images"]]
            if any(len(parts) < 2 for parts in urls):
                raise InputError(
                    f"{json_file!r} of {name!r} is not an LVIS annotation file: images need a "
                    "'coco_url', whose last two parts are the image's folder and file."
                )
            folders = {os.path.join(root, parts[-2]) for parts in urls}
        _check_folders(folders, name)


def check_evaluator_type(name: str) -> str:
    """Checks that a data set can be evaluated, and returns the ``evaluator_type`` of its metadata.

    Raises:
        InputError: another type, or none, as of a data set that nobody registered.
    """
    evaluator_type = MetadataCatalog.get(name).get("evaluator_type")
    if evaluator_type not in EVALUATOR_TYPES:
        raise InputError(
            f"{name!r} cannot be evaluated: the evaluator_type of its metadata is "
            f"{evaluator_type!r}, and should be one of {', '.join(map(repr, EVALUATOR_TYPES))}."
        )
    return evaluator_type


def check_annotation_file(
    path: str,
    *,
    outlines: bool = True,
    annotated: bool = True,
    annotation: Sequence[str] = (),
    image: Sequence[str] = (),
) -> dict:
    """Checks that a file is an annotation file in COCO or LVIS format, and returns what it holds.

    Args:
        outlines: with the objects' outlines, whose numbers take more memory than all the rest.
        annotated: whether it must have annotations, which a test set has not.
        annotation, image: more keys that each of them needs.

    Raises:
        InputError: missing, not JSON, or without one of the lists and keys that the format has.
    """
    if not PathManager.isfile(path):
        raise InputError(
            f"Annotation file {path!r} is missing: put it there, or set DETECTRON2_DATASETS to the "
            "folder that holds the data sets."
        )
    hint = (
        "a JSON object with the lists images, annotations and categories, as COCO's and LVIS's are"
    )

    def without_outline(record: dict) -> dict:
        record.pop("segmentation", None)
        return record

    try:
        with PathManager.open(path) as f:
            content = json.load(f, object_hook=None if outlines else without_outline)
    except ValueError as error:
        raise InputError(f"{path!r} is not {hint}: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path!r} is not {hint}: it holds a {type(content).__name__}.")
    if not annotated:
        content.setdefault("annotations", [])
    required = {
        "images": ("id", "height", "width", *image),
        "annotations": ("id", "image_id", "category_id", "bbox", *annotation),
        "categories": ("id", "name"),
    }
    for part, keys in required.items():
        if not isinstance(content.get(part), list):
            raise InputError(f"{path!r} is not {hint}: it has no list {part!r}.")
        for number, entry in enumerate(content[part]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                raise InputError(f"{path!r} is not {hint}: {part}[{number}] has no {missing[0]!r}.")
    return content


def check_registration(name: str) -> str | None:
    """Checks that a data set is registered, and returns its annotation file where it has one.

    Raises:
        InputError: an unknown name, a missing file.
    """
    if name not in DatasetCatalog.list():
        close = difflib.get_close_matches(name, DatasetCatalog.list(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "register it first."
        raise InputError(f"There is no data set {name!r}: {hint}")
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if json_file is not None and not PathManager.isfile(json_file):
        how = metadata.get("how_to_get", "put it there")
        raise InputError(
            f"Annotation file {json_file!r} of {name!r} is missing: {how}, or set "
            "DETECTRON2_DATASETS to the folder that holds the data sets."
        )
    return json_file


def _check_num_classes(name: str, cfg: CfgNode) -> None:
    classes = MetadataCatalog.get(name).get("thing_classes")
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if classes is not None and len(classes) != expected:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}, but {name!r} has {len(classes)} "
            f"categories: set it to {len(classes)}."
        )


@contextlib.contextmanager
def explained(names):
    """Turns what a loader raises at a file of another format into the file's own mistake."""
    try:
        yield
    except InputError:
        raise
    except (
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,
        ValueError,
    ) as error:
        for name in names:
            json_file = MetadataCatalog.get(name).get("json_file")
            if json_file is not None:
                check_annotation_file(json_file)
        raise InputError(
            f"The annotations of {', '.join(names)} could not be read: "
            f"{type(error).__name__} {error}."
        ) from error


def _check_folders(folders: set[str], name: str) -> None:
    for folder in sorted(folders):
        if "://" not in folder and not PathManager.isdir(folder):
            raise InputError(
                f"Image folder {folder!r} of {name} is missing: put the images there, or set "
                "DETECTRON2_DATASETS to the folder that holds the data sets."
            )


def _check_boxes(records: list[dict], names, num_classes: int) -> list[dict]:
    """Leaves out the few boxes of no area or outside their image; raises if they are many."""
    bad: dict[str, list[str]] = {"no area": [], "a part outside its image": []}
    total = 0
    for record in records:
        kept = []
        for annotation in record.get("annotations", ()):
            total += 1
            if not 0 <= annotation["category_id"] < num_classes:
                raise InputError(
                    f"An annotation of {record['file_name']} ({', '.join(names)}) has category "
                    f"{annotation['category_id']} after mapping, but MODEL.ROI_HEADS.NUM_CLASSES "
                    f"is {num_classes}: categories must map to 0 ... {num_classes - 1}."
                )
            problem = _box_problem(annotation, record)
            if problem is None:
                kept.append(annotation)
            else:
                bad[problem].append(f"{annotation['bbox']} in {record['file_name']}")
        if "annotations" in record:
            record["annotations"] = kept
    for problem, boxes in bad.items():
        if not boxes:
            continue
        text = (
            f"{len(boxes)} of {total} boxes of {', '.join(names)} have {problem}, the first being "
            f"{boxes[0]}"
        )
        if len(boxes) > BAD_SHARE * total:
            raise InputError(
                f"{text}: boxes must be [x, y, width, height] in pixels, inside the image."
            )
        logging.getLogger(__name__).warning("%s: they are left out.", text)
    return records


def _box_problem(annotation: dict, record: dict) -> str | None:
    if annotation["bbox_mode"] not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        return None  # rotated or relative boxes, which no set of ours has
    left, top, right, bottom = annotation["bbox"]
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:  # BoxMode.convert: 20 us a box
        right, bottom = left + right, top + bottom
    if not (right > left and bottom > top):  # NaN too
        return "no area"
    height, width = record.get("height"), record.get("width")
    outside = min(left, top) < -TOLERANCE
    if height is not None and width is not None:
        outside |= right > width + TOLERANCE or bottom > height + TOLERANCE
    return "a part outside its image" if outside else None
