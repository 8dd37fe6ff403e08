"""Data sets of one's own, registered by a config alone: DATASETS.REGISTER."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pycocotools.coco
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from ..errors import InputError, closest
from .annotation_file import (
    FEDERATED,
    check_annotation_file,
    check_format,
    image_file,
    read_categories,
)

__all__ = ["OwnDataset", "register_datasets"]

FORMATS = ("coco", "lvis")  # also the evaluator_type of its metadata
KEYS = ("name", "json", "image_root", "format")
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
        if self.format == "coco":
            return load_coco_json(self.json_file, self.image_root, self.name)
        # Detectron2's loader of LVIS's files knows ids from 1 without gaps, polygons and addresses
        # of images alone, and no crowds; that of COCO's knows all, but the names of the images.
        content = check_annotation_file(self.json_file)
        check_format(self.json_file, content, self.format)
        for image in content["images"]:
            image["file_name"] = image_file(image, self.format)
        with _given_to_pycocotools(content):
            records = load_coco_json(self.json_file, self.image_root, self.name)
        images = {image["id"]: image for image in content["images"]}
        for record in records:  # for losses that know what was looked for, as of LVIS
            record |= {key: images[record["image_id"]][key] for key in FEDERATED}
        return records


@contextlib.contextmanager
def _given_to_pycocotools(content: dict) -> Iterator[None]:
    """Lends pycocotools, which Detectron2 reads a file with, what was read of it already."""
    original = pycocotools.coco.COCO

    def read(_path: str) -> pycocotools.coco.COCO:
        coco = original()
        coco.dataset = content
        coco.createIndex()
        return coco

    pycocotools.coco.COCO = read
    try:
        yield
    finally:
        pycocotools.coco.COCO = original


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


def _learn_classes(dataset: OwnDataset) -> None:
    """Names and numbers of the classes, as the loader gives them, before anything is built."""
    metadata = MetadataCatalog.get(dataset.name)
    if metadata.get("thing_classes") is not None or not PathManager.isfile(dataset.json_file):
        return
    categories = sorted(read_categories(dataset.json_file), key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    for name, number in Counter(names).items():
        if number > 1 or not isinstance(name, str):
            raise InputError(
                f"{number} of the categories of {dataset.json_file!r} have the name {name!r}: "
                "results are written by name, each must have one of its own, as text."
            )
    metadata.thing_classes = names
    metadata.thing_dataset_id_to_contiguous_id = {
        category["id"]: number for number, category in enumerate(categories)
    }
