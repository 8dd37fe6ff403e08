"""How many images and instances of every class a model is trained on."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from ..files import write_whole
from .checks import check_annotation_file, check_registration, explained

__all__ = ["COMMON_IMAGES", "RARE_IMAGES", "ClassCounts", "class_counts", "frequency_groups"]

# Most training images of LVIS's rare and common classes; the others are frequent.
RARE_IMAGES, COMMON_IMAGES = 10, 100


@dataclass(frozen=True)
class ClassCounts:
    """Counts of K classes in contiguous order, crowd regions left out as in training.

    Attributes:
        image_count: (K,) int64, images that a class is annotated in.
        instance_count: (K,) int64.
        num_images: of the data sets, with those that have no annotation.
    """

    image_count: np.ndarray
    instance_count: np.ndarray
    num_images: int

    @property
    def frequency(self) -> list[str]:
        """K of "r", "c" and "f", the groups of LVIS."""
        return frequency_groups(self.image_count)


def frequency_groups(image_count: np.ndarray) -> list[str]:
    """LVIS's groups, "r", "c" or "f", of classes with so many training images (K,)."""
    groups = np.digitize(image_count, (RARE_IMAGES, COMMON_IMAGES), right=True)
    return ["rcf"[group] for group in groups]


def class_counts(datasets: Sequence[str]) -> ClassCounts:
    """Counts of registered data sets, together.

    Those of an annotation file are kept beside it, in `<file>.counts.json` with the file's SHA-256,
    so that it is read as a whole only once.

    Raises:
        InputError: no data set, an unknown one, a file that is missing or of another format,
            records that cannot be counted, data sets with different classes, or no annotation.
    """
    if not datasets:
        raise InputError("There is no training set to count: name one in DATASETS.TRAIN.")
    per_dataset = [_count(name) for name in datasets]
    if len({len(counts.image_count) for counts in per_dataset}) > 1:
        numbers = ", ".join(
            f"{name} {len(counts.image_count)}"
            for name, counts in zip(datasets, per_dataset, strict=True)
        )
        raise InputError(f"The data sets have different numbers of classes: {numbers}.")
    _check_same_names(datasets)
    total = ClassCounts(
        sum(counts.image_count for counts in per_dataset),
        sum(counts.instance_count for counts in per_dataset),
        sum(counts.num_images for counts in per_dataset),
    )
    if not total.instance_count.any():
        raise InputError(f"{', '.join(datasets)} has no annotations to count.")
    return total


def _check_same_names(datasets: Sequence[str]) -> None:
    """Compares the classes of the sets whose metadata names them."""
    named = [(name, MetadataCatalog.get(name).get("thing_classes")) for name in datasets]
    named = [(name, classes) for name, classes in named if classes]
    for name, classes in named[1:]:
        first, expected = named[0]
        for k, (a, b) in enumerate(zip(expected, classes, strict=False)):
            if a != b:
                raise InputError(
                    f"The data sets have different classes: class {k} is {a!r} in {first} and "
                    f"{b!r} in {name}."
                )


def _count(name: str) -> ClassCounts:
    json_file = check_registration(name)
    with explained([name]):
        if json_file is None:
            content = _of_records(DatasetCatalog.data[name])
        else:
            content = _of_file(PathManager.get_local_path(json_file))
    metadata = MetadataCatalog.get(name)  # a loader may have filled it
    if json_file is None:  # as of Pascal VOC, whose loader gives contiguous classes
        classes = metadata.get("thing_classes")
        if classes is None:
            raise InputError(f"{name!r} has no thing_classes, so its classes cannot be counted.")
        order = range(len(classes))
    else:
        mapping = metadata.get("thing_dataset_id_to_contiguous_id")
        # As Detectron2's loaders number them
        order = sorted(mapping, key=mapping.get) if mapping else content["category_ids"]
    images, instances = content["images"], content["instances"]
    return ClassCounts(
        np.array([images.get(str(c), 0) for c in order], dtype=np.int64),
        np.array([instances.get(str(c), 0) for c in order], dtype=np.int64),
        content["num_images"],
    )


@lru_cache(maxsize=8)
def _of_records(loader: Callable[[], list[dict]]) -> dict:
    """Kept while the process lives: there is no file to keep it beside."""
    records = loader()
    content = _tally((i, a) for i, r in enumerate(records) for a in r.get("annotations", ()))
    content["num_images"] = len(records)
    return content


def _of_file(json_file: str) -> dict:
    status = os.stat(json_file)
    return _read_file(json_file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read_file(json_file: str, _mtime_ns: int, _size: int) -> dict:
    """Kept until the file changes: every head of a cascade and a calibration ask for it."""
    path = Path(json_file)
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    cache = path.with_name(path.name + ".counts.json")
    try:
        content = json.loads(cache.read_text())
        if content["sha256"] == digest:
            return content
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or not whole: made below
    data = check_annotation_file(json_file, outlines=False)
    content = _tally((ann["image_id"], ann) for ann in data["annotations"])
    content["category_ids"] = sorted(category["id"] for category in data["categories"])
    content["num_images"] = len(data["images"])
    content["sha256"] = digest
    if not comm.is_main_process():
        return content
    try:
        write_whole(cache, lambda f: f.write(json.dumps(content).encode()))
    except OSError as error:  # a data set that one may only read
        logging.getLogger(__name__).info("The class counts are not kept: %s", error)
    return content


def _tally(annotations: Iterable[tuple[int, dict]]) -> dict:
    """Images and instances by category, whose names are text as in JSON."""
    images, instances = {}, Counter()
    for image, annotation in annotations:
        if not annotation.get("iscrowd", 0):
            category = str(annotation["category_id"])
            instances[category] += 1
            images.setdefault(category, set()).add(image)
    return {"images": {c: len(found) for c, found in images.items()}, "instances": instances}
