"""Data sets of one's own, registered by a config alone: DATASETS.REGISTER."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from pycocotools import mask

from ..errors import InputError, closest
from .annotation_file import (
    FEDERATED,
    check_annotation_file,
    check_format,
    image_file,
    read_categories,
)

__all__ = ["OwnDataset", "check_not_ignored", "read_records", "register_datasets"]

FORMATS = ("coco", "lvis")  # also the evaluator_type of its metadata
KEYS = ("name", "json", "image_root", "format")
KEPT = ("iscrowd", "bbox", "keypoints", "category_id")  # of each annotation
EXAMPLE = "{name: tools_train, json: tools/train.json, image_root: tools/images, format: coco}"


@dataclass(frozen=True)
class OwnDataset:
    """A data set of an annotation file; called, it loads Detectron2's records.

    Equal ones are the same data set, which may be registered again.

    Attributes:
        name: in Detectron2's catalogs.
        json_file: of the annotations, in the format; ids may have gaps.
        image_root: folder that the images' names start from.
        format: "coco" or "lvis".
    """

    name: str
    json_file: str
    image_root: str
    format: str

    def __call__(self) -> list[dict]:
        """
        Raises:
            InputError: the file is missing, or of another format.
        """
        content = check_annotation_file(self.json_file, annotated=False)
        check_format(self.json_file, content, self.format)
        check_not_ignored(self.json_file, content)
        _learn_classes(self, content["categories"])
        classes = MetadataCatalog.get(self.name).thing_dataset_id_to_contiguous_id
        return read_records(self, content, classes)


def read_records(dataset: OwnDataset, content: dict, classes: dict[int, int]) -> list[dict]:
    """The records that Detectron2's ``load_coco_json`` makes, of a file that is in order.

    Detectron2's loader of COCO's files does not know the names of images that LVIS's have, and that
    of LVIS's knows ids from 1 without gaps and polygons alone, and no crowds.

    Args:
        classes: numbers of the categories by id.

    Raises:
        InputError: an outline that is neither polygons nor run lengths.
    """
    objects: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    num_left_out = 0
    for number, annotation in enumerate(content["annotations"]):
        found = {key: annotation[key] for key in KEPT if key in annotation}
        found |= {"bbox_mode": BoxMode.XYWH_ABS, "category_id": classes[annotation["category_id"]]}
        if annotation.get("keypoints"):  # whole pixels, of which Detectron2 takes the middle
            found["keypoints"] = [
                value + 0.5 * (place % 3 != 2)
                for place, value in enumerate(annotation["keypoints"])
            ]
        if annotation.get("segmentation"):
            try:
                found["segmentation"] = _outline(annotation["segmentation"])
            except Exception as error:  # pycocotools raises it as such
                raise InputError(
                    f"{dataset.json_file!r} cannot be used: the segmentation of annotations["
                    f"{number}], of the id {annotation['id']}, is neither a list of polygons nor "
                    "run lengths."
                ) from error
            if not found["segmentation"]:
                num_left_out += 1
                continue
        objects[annotation["image_id"]].append(found)
    if num_left_out:
        logging.getLogger(__name__).warning(
            "%d of %d annotations of %s have no polygon of three points: they are left out.",
            *(num_left_out, len(content["annotations"]), dataset.name),
        )
    records = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        path = os.path.join(dataset.image_root, image_file(image, dataset.format))
        record = {"file_name": path, "height": image["height"], "width": image["width"]}
        record |= {"image_id": image["id"], "annotations": objects[image["id"]]}
        if dataset.format == "lvis":  # for losses that know what was looked for
            record |= {key: image[key] for key in FEDERATED}
        records.append(record)
    return records


def _outline(outline: list | dict) -> list | dict:
    if isinstance(outline, dict):
        is_list = isinstance(outline["counts"], list)
        return mask.frPyObjects(outline, *outline["size"]) if is_list else outline
    return [polygon for polygon in outline if len(polygon) % 2 == 0 and len(polygon) >= 6]


def check_not_ignored(path: str, content: dict) -> None:
    """
    Raises:
        InputError: an annotation with `ignore`, which Detectron2 does not train on.
    """
    for number, annotation in enumerate(content["annotations"]):
        if annotation.get("ignore", 0):
            raise InputError(
                f"{path!r} cannot be used: annotations[{number}], of the id {annotation['id']}, "
                "has 'ignore': take it out, or mark it by iscrowd."
            )


def register_datasets(cfg: CfgNode) -> None:
    """Registers the data sets of DATASETS.REGISTER with Detectron2, if they are not yet.

    Of the annotation files that are there the categories are read; one that is missing matters to
    those who load or check the data set. Relative paths are below $DETECTRON2_DATASETS.

    Raises:
        InputError: a mistake in an entry, a name that is taken, a file that is there and no
            annotation file.
    """
    for number, entry in enumerate(cfg.DATASETS.get("REGISTER") or ()):
        dataset = _dataset_of(entry, f"DATASETS.REGISTER[{number}]")
        known = DatasetCatalog.data.get(dataset.name)
        if known is None:
            _register(dataset)
        elif known != dataset:
            raise InputError(_taken(dataset, known))
        _learn_classes(dataset)


def _dataset_of(entry: Any, where: str) -> OwnDataset:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {entry!r}, where a mapping should be: write {EXAMPLE}.")
    for key in entry:
        if key not in KEYS:
            raise InputError(
                f"{where} has a key {key!r}{closest(key, KEYS)}; its keys are {', '.join(KEYS)}."
            )
    for key in KEYS:
        if key not in entry:
            raise InputError(f"{where} has no {key!r}: it needs {', '.join(KEYS)}.")
        if not isinstance(entry[key], str):
            raise InputError(f"{key!r} of {where} is {entry[key]!r}: it must be text, in quotes.")
    name, kind = entry["name"], entry["format"]
    if not name or "/" in name:  # results are written into a folder of that name
        raise InputError(f"'name' of {where} is {name!r}: it must be a name, without '/'.")
    if kind not in FORMATS:
        raise InputError(
            f"The format of {name!r} in DATASETS.REGISTER is {kind!r}{closest(kind, FORMATS)}: it "
            f"must be {' or '.join(FORMATS)}."
        )
    return OwnDataset(name, _below_root(entry["json"]), _below_root(entry["image_root"]), kind)


def _below_root(path: str) -> str:
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    if "://" in path:
        return path
    return os.path.join(os.path.expanduser(root), os.path.expanduser(path))


def _taken(dataset: OwnDataset, known: Any) -> str:
    where = f"The name {dataset.name!r} in DATASETS.REGISTER"
    if not isinstance(known, OwnDataset):
        return f"{where} is taken by a data set that is registered already: choose another one."
    differing = next(
        field.name
        for field in fields(dataset)
        if getattr(dataset, field.name) != getattr(known, field.name)
    )
    return (
        f"{where} is registered already with the {differing} {getattr(known, differing)!r}, not "
        f"{getattr(dataset, differing)!r}: give each data set a name of its own."
    )


def _register(dataset: OwnDataset) -> None:
    DatasetCatalog.register(dataset.name, dataset)
    MetadataCatalog.get(dataset.name).set(
        json_file=dataset.json_file,
        image_root=dataset.image_root,
        evaluator_type=dataset.format,
        frequency_groups="image_count",
        how_to_get="correct its json in DATASETS.REGISTER",
    )


def _learn_classes(dataset: OwnDataset, categories: list[dict] | None = None) -> None:
    """Names and numbers of the classes, as the loader gives them, before anything is built."""
    metadata = MetadataCatalog.get(dataset.name)
    if categories is None:
        if metadata.get("thing_classes") is not None or not PathManager.isfile(dataset.json_file):
            return
        categories = read_categories(dataset.json_file)
    categories = sorted(categories, key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    for name, number in Counter(map(str, names)).items():
        if number > 1 or name not in names:
            raise InputError(
                f"{number} of the categories of {dataset.json_file!r} have the name {name!r}: "
                "results are written by name, each must have one of its own, as text."
            )
    numbers = {category["id"]: number for number, category in enumerate(categories)}
    known = metadata.get("thing_dataset_id_to_contiguous_id", numbers)
    if known != numbers or metadata.get("thing_classes", names) != names:
        raise InputError(
            f"{dataset.json_file!r} has other categories than when {dataset.name!r} was "
            "registered: start again with the file as it is."
        )
    metadata.thing_classes, metadata.thing_dataset_id_to_contiguous_id = names, numbers
