"""Checks of the data sets that a config names, before anything expensive begins."""

import contextlib
import difflib
import logging
import math
import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from .annotation_file import check_annotation_file, check_format, image_file
from .own_data import OwnDataset
from .voc import check_voc_annotations, check_voc_tree, is_voc

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
# Images whose files are looked for: of so many some are found missing where a folder is wrong.
SAMPLE = 16


def load_training_set(cfg: CfgNode) -> list[dict]:
    """Detectron2's records of DATASETS.TRAIN, filtered as the config says, with every box checked.

    Raises:
        InputError: an unknown set, a missing or unreadable annotation file, a missing image folder,
            other categories than MODEL.ROI_HEADS.NUM_CLASSES, bad boxes, no outlines for masks.
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
    paths = [record["file_name"] for record in records]
    _check_images(paths, ", ".join(names), cfg)
    if cfg.MODEL.MASK_ON:
        _check_outlines(records, names, cfg.INPUT.MASK_FORMAT)
    return _check_boxes(records, names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)


def check_test_datasets(cfg: CfgNode) -> None:
    """Checks DATASETS.TEST, so that a long training does not end in an evaluation that cannot run.

    Raises:
        InputError: as :func:`load_training_set`.
    """
    for name in cfg.DATASETS.TEST:
        json_file = check_registration(name)
        _check_num_classes(name, cfg)
        kind = check_evaluator_type(name)
        if json_file is not None:
            _check_test_file(name, json_file, kind, cfg)
        elif is_voc(MetadataCatalog.get(name)):
            check_voc_annotations(name, evaluated=True)
    _check_class_order(cfg)


def _check_test_file(name: str, json_file: str, kind: str, cfg: CfgNode) -> None:
    needed = ("area",) if kind == "lvis" else ()
    content = check_annotation_file(json_file, outlines=False, annotated=False, annotation=needed)
    check_format(json_file, content, kind)
    is_own = isinstance(DatasetCatalog.data[name], OwnDataset)
    unnamed = any("/" not in str(image.get("coco_url", "")) for image in content["images"])
    if kind == "lvis" and unnamed and not is_own:  # Detectron2's loader needs the address
        raise InputError(
            f"{json_file!r} of {name!r} is not an LVIS annotation file: images need a 'coco_url', "
            "whose last two parts are the image's folder and file."
        )
    root = MetadataCatalog.get(name).get("image_root", "")
    _check_images([os.path.join(root, image_file(im, kind)) for im in content["images"]], name, cfg)


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


def check_registration(name: str) -> str | None:
    """Checks that a data set is registered, and returns its annotation file where it has one.

    Raises:
        InputError: an unknown name, a missing file, or a missing part of a tree of Pascal VOC.
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
    if json_file is None and is_voc(metadata):
        check_voc_tree(name)
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
        FileNotFoundError,
        SyntaxError,  # of an XML file
    ) as error:
        for name in names:
            metadata = MetadataCatalog.get(name)
            json_file = metadata.get("json_file")
            if json_file is not None:
                content = check_annotation_file(json_file)
                if metadata.get("evaluator_type") in ("coco", "lvis"):
                    check_format(json_file, content, metadata.evaluator_type)
            elif is_voc(metadata):
                check_voc_annotations(name)
        raise InputError(
            f"The annotations of {', '.join(names)} could not be read: "
            f"{type(error).__name__} {error}."
        ) from error


def _check_images(paths: list[str], name: str, cfg: CfgNode) -> None:
    """Looks for the folders of all images, and for a few files: not one for one, of 100,000."""
    paths = [path for path in paths if "://" not in path]
    for folder in sorted({os.path.dirname(path) or os.curdir for path in paths}):
        if not PathManager.isdir(folder):
            raise InputError(
                f"Image folder {folder!r} of {name} is missing: put the images there, or set "
                "DETECTRON2_DATASETS to the folder that holds the data sets."
            )
    sample = [paths[i] for i in range(0, len(paths), math.ceil(len(paths) / SAMPLE) or 1)]
    missing = [path for path in sample if not PathManager.isfile(path)]
    passed_over = cfg.DATALOADER.get("MAX_BAD_IMAGES", 0) > 0 and len(missing) < len(sample)
    if missing and not passed_over:
        raise InputError(
            f"{len(missing)} of the {len(sample)} images of {name} that were looked for are "
            f"missing, the first being {missing[0]!r}: put them there, or take them out of the "
            "annotations; a few of many are passed over with DATALOADER.MAX_BAD_IMAGES."
        )


def _check_class_order(cfg: CfgNode) -> None:
    """Compares the classes that are trained with those that are tested, by their numbers."""
    named = [MetadataCatalog.get(name).get("thing_classes") for name in cfg.DATASETS.TRAIN]
    trained = next((classes for classes in named if classes), None)
    for name in cfg.DATASETS.TEST:
        tested = MetadataCatalog.get(name).get("thing_classes")
        if not trained or not tested or len(trained) != len(tested):
            continue
        pairs = enumerate(zip(trained, tested, strict=True))
        differing = [(k, a, b) for k, (a, b) in pairs if a != b]
        if not differing:
            continue
        text = "class {} is {!r} in DATASETS.TRAIN, but {!r} in {!r}".format(*differing[0], name)
        if sorted(trained) == sorted(tested):
            raise InputError(
                f"The {text}: classes are numbered as the ids of the categories are sorted, give "
                "those of both annotation files the same order."
            )
        logging.getLogger(__name__).warning("The %s: results are by the number.", text)


def _check_outlines(records: list[dict], names, mask_format: str) -> None:
    """What Detectron2's mapper makes masks of; crowds it leaves out."""
    for record in records:
        for annotation in record.get("annotations", ()):
            outline = annotation.get("segmentation")
            if annotation.get("iscrowd", 0) or (outline and mask_format != "polygon"):
                continue
            where = f"an object of {record['file_name']!r} ({', '.join(names)})"
            if not outline:
                raise InputError(
                    f"MODEL.MASK_ON is True, but {where} has no segmentation: give all objects "
                    "one, or set it to False."
                )
            if isinstance(outline, dict):
                raise InputError(
                    f"INPUT.MASK_FORMAT is 'polygon', but {where} is outlined by run lengths: set "
                    "it to bitmask."
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
