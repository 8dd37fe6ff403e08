"""Checks of the data sets that a config names, before anything expensive begins."""

import contextlib
import difflib
import logging
import os

import hotcoco
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from .annotation_file import check_annotation_file, check_format, image_file, what_is_there
from .boxes import check_test_boxes, check_training_boxes, with_file
from .image_files import check_image_files
from .own_data import OwnDataset, check_not_ignored
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
NAMED = 5  # of the classes without a training annotation


def load_training_set(cfg: CfgNode) -> list[dict]:
    """Detectron2's records of DATASETS.TRAIN, filtered as the config says, with every box checked.

    Raises:
        InputError: an unknown set, a missing or unreadable annotation file, missing images, other
            categories than MODEL.ROI_HEADS.NUM_CLASSES, bad boxes, no outlines for masks, nothing
            to train on.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise InputError("DATASETS.TRAIN is empty: name a data set to train on.")
    for name in names:
        check_registration(name)
        _check_num_classes(name, cfg)
    with explained(names):
        records = _records(cfg)
        check_image_files([record["file_name"] for record in records], names, cfg)
        if cfg.MODEL.MASK_ON:
            _check_outlines(records, names, cfg.INPUT.MASK_FORMAT)
        records = check_training_boxes(records, names, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    _check_every_class(records, names)
    return records


def _records(cfg: CfgNode) -> list[dict]:
    names = cfg.DATASETS.TRAIN
    try:
        return get_detection_dataset_dicts(
            names,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=0,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
    except AssertionError as error:
        if not any(text in str(error) for text in ("No valid data found", "' is empty!")):
            raise
        raise InputError(_nothing_to_train_on(names)) from error


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
    if is_own:
        check_not_ignored(json_file, content)
    unnamed = any("/" not in str(image.get("coco_url", "")) for image in content["images"])
    if kind == "lvis" and unnamed and not is_own:  # Detectron2's loader needs the address
        raise InputError(
            f"{json_file!r} of {name!r} is not an LVIS annotation file: images need a 'coco_url', "
            "whose last two parts are the image's folder and file."
        )
    root = MetadataCatalog.get(name).get("image_root", "")
    paths = [os.path.join(root, image_file(image, kind)) for image in content["images"]]
    check_image_files(paths, [name], cfg)
    check_test_boxes(name, content)
    try:  # what evaluates has types of its own, also of keys that nothing here reads
        hotcoco.COCO(content)
    except ValueError as error:
        raise InputError(f"{json_file!r} of {name!r} cannot be evaluated: {error}.") from error


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
            f"Annotation file {json_file!r} of {name!r} {what_is_there(json_file)}: {how}, or set "
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


def _check_every_class(records: list[dict], names) -> None:
    """Warns of classes without an object to train on; crowds are left out in training."""
    seen = {
        annotation["category_id"]
        for record in records
        for annotation in record.get("annotations", ())
        if not annotation.get("iscrowd", 0)
    }
    if not seen:
        raise InputError(_nothing_to_train_on(names))
    classes = MetadataCatalog.get(names[0]).get("thing_classes", ())
    unseen = [name for number, name in enumerate(classes) if number not in seen]
    if unseen:
        more = f" and {len(unseen) - NAMED} more" if len(unseen) > NAMED else ""
        logging.getLogger(__name__).warning(
            "%d of %d classes %s no training annotation: %s%s",
            *(len(unseen), len(classes), "has" if len(unseen) == 1 else "have"),
            *(", ".join(unseen[:NAMED]), more),
        )


def _nothing_to_train_on(names) -> str:
    return (
        f"{with_file(names)} cannot be trained on: no image has an annotation that is not a crowd; "
        "name a set with annotated objects in DATASETS.TRAIN."
    )
