"""Annotated objects and detections as arrays, for millions of them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igam_d2.detections import Detections
from igam_d2.errors import InputError

from .run_folder import EVALUATE, Run


@dataclass(frozen=True)
class GroundTruth:
    """M objects on I images, those of an image together. Crowds and ignored ones are left out.

    Attributes:
        image_id: (I,) int64, ascending.
        paths: of the images.
        start: (I + 1,) int64: the objects of image i are start[i] to start[i + 1].
        class_index: (M,) int64.
        box: (M, 4) float64: left, top, width, height in pixels.
    """

    image_id: np.ndarray
    paths: list[Path]
    start: np.ndarray
    class_index: np.ndarray
    box: np.ndarray

    @property
    def image(self) -> np.ndarray:
        """(M,) the index of each object's image."""
        return np.repeat(np.arange(len(self.image_id)), np.diff(self.start))

    def of(self, image: int) -> slice:
        return slice(int(self.start[image]), int(self.start[image + 1]))


@dataclass(frozen=True)
class Found:
    """N detections of a run, by image, and on an image from the best score down.

    Attributes:
        start: (I + 1,) int64, as in :class:`GroundTruth`.
        class_index: (N,) int64.
        box: (N, 4) float64: left, top, width, height in pixels.
        score: (N,) float64.
        unknown: detections that were left out because the annotations have no such image or class.
    """

    start: np.ndarray
    class_index: np.ndarray
    box: np.ndarray
    score: np.ndarray
    unknown: int

    def of(self, image: int) -> slice:
        return slice(int(self.start[image]), int(self.start[image + 1]))

    def best(self, image: int, threshold: float) -> slice:
        """Those with a score of at least `threshold`."""
        place = self.of(image)
        count = int((self.score[place] >= threshold).sum())
        return slice(place.start, place.start + count)


def load_ground_truth(run: Run) -> GroundTruth:
    """The annotations a run was evaluated on.

    Raises:
        InputError: if the file is missing, cut short, or something else.
    """
    path = Path(run.results.get("json_file") or "annotations.json")
    beside = run.results_file.with_name(path.name)  # Pascal VOC's are written there
    path = beside if beside.is_file() and not path.is_file() else path
    if not path.is_file():
        raise InputError(
            f"The annotations {path} of {run.results_file} are not found: copy them there, or "
            "start from the folder that this path is relative to."
        )
    try:
        with path.open() as f:
            data = json.load(f, object_hook=_without_outline)
        images = sorted(data["images"], key=lambda image: image["id"])
        ids = np.array([image["id"] for image in images], dtype=np.int64)
        annotations = [
            (a["image_id"], a["category_id"], *a["bbox"])
            for a in data["annotations"]
            if not a.get("iscrowd") and not a.get("ignore")
        ]
        rows = np.array(annotations, dtype=np.float64).reshape(-1, 6)
        paths = [_path(image, run) for image in images]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a whole file of COCO's or LVIS's annotations "
            f"({type(error).__name__}: {error}): download or prepare it again."
        ) from error
    image = positions(ids, rows[:, 0].astype(np.int64))
    class_index = class_positions(run, rows[:, 1].astype(np.int64))
    known = (image >= 0) & (class_index >= 0)
    order = np.flatnonzero(known)[np.argsort(image[known], kind="stable")]
    return GroundTruth(
        ids, paths, _starts(image[order], len(ids)), class_index[order], rows[order, 2:]
    )


def load_found(
    run: Run, truth: GroundTruth, score_threshold: float, whole_images: np.ndarray
) -> Found:
    """A run's detections with a score of at least the threshold, and all those of some images.

    Args:
        whole_images: indices of images of which lower scores are needed too.

    Raises:
        InputError: if there are none, or no whole file.
    """
    path = run.results_file.with_name("detections.npz")
    detections = Detections.load(path, masks=False)
    n = len(detections.score)
    shapes = [detections.image_id.shape, detections.category_id.shape, detections.box.shape]
    if shapes != [(n,), (n,), (n, 4)]:
        raise InputError(f"{path} has columns of unequal length: {EVALUATE}.")
    image = positions(truth.image_id, detections.image_id)
    class_index = class_positions(run, detections.category_id)
    known = (image >= 0) & (class_index >= 0)
    whole = np.zeros(len(truth.image_id) + 1, dtype=bool)  # the last place is that of -1
    whole[whole_images] = True
    keep = np.flatnonzero(known & ((detections.score >= score_threshold) | whole[image]))
    keep = keep[np.lexsort((-detections.score[keep], image[keep]))]
    return Found(
        _starts(image[keep], len(truth.image_id)),
        class_index[keep],
        detections.box[keep].astype(np.float64),
        detections.score[keep].astype(np.float64),
        int((~known).sum()),
    )


def positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in the ascending `ids` each wanted one is; -1 for one that is not there."""
    if not len(ids):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[place] == wanted, place, -1)


def class_positions(run: Run, category_id: np.ndarray) -> np.ndarray:
    """The contiguous class of each category id of the data set, -1 for an unknown one."""
    ids = np.array([record["id"] for record in run.classes], dtype=np.int64)
    order = np.argsort(ids)
    place = positions(ids[order], category_id.astype(np.int64))
    return np.where(place >= 0, order[place], -1)


def _without_outline(record: dict) -> dict:
    """Of an annotation, what LVIS's would take a gigabyte for."""
    record.pop("segmentation", None)
    return record


def _path(image: dict, run: Run) -> Path:
    root = Path(run.results.get("image_root") or "")
    if run.results.get("format", "lvis") == "lvis" and image.get("coco_url"):
        # The folder of a split is part of the address, not of the file name, as in Detectron2.
        return root.joinpath(*image["coco_url"].split("/")[-2:])
    return root / image["file_name"]


def _starts(image: np.ndarray, num_images: int) -> np.ndarray:
    return np.searchsorted(image, np.arange(num_images + 1)).astype(np.int64)
