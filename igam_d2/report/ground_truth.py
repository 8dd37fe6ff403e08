"""Annotated objects and detections as arrays, for millions of them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from igam_d2.detections import Detections
from igam_d2.errors import InputError

from .run_folder import EVALUATE, Run


@dataclass(frozen=True)
class GroundTruth:
    """M objects on I images, those of an image together.

    Attributes:
        image_id: (I,) int64, ascending.
        paths: of the images.
        start: (I + 1,) int64: the objects of image i are start[i] to start[i + 1].
        class_index: (M,) int64.
        box: (M, 4) float64: left, top, width, height in pixels.
        judged: of each image the classes of which all objects are annotated, or known to be absent;
            None where they all are. Of LVIS they are a few.
        ignored: classes (n,) and boxes (n, 4) of an image's crowds and ignored objects; a detection
            on one is neither right nor wrong.
    """

    image_id: np.ndarray
    paths: list[Path]
    start: np.ndarray
    class_index: np.ndarray
    box: np.ndarray
    judged: list[np.ndarray] | None = None
    ignored: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def image(self) -> np.ndarray:
        """(M,) the index of each object's image."""
        return np.repeat(np.arange(len(self.image_id)), np.diff(self.start))

    def of(self, image: int) -> slice:
        return slice(int(self.start[image]), int(self.start[image + 1]))

    @property
    def judges_all(self) -> bool:
        return self.judged is None and not self.ignored

    def unknown(self, image: int, class_index: np.ndarray, box: np.ndarray) -> np.ndarray:
        """(N,) bool of detections of an image: nobody can say that they are wrong."""
        unknown = np.zeros(len(box), dtype=bool)
        if self.judged is not None:
            unknown |= ~np.isin(class_index, self.judged[image])
        if image in self.ignored:
            classes, boxes = self.ignored[image]
            inside = shared_area(box, boxes) >= 0.5 * box[:, 2:].prod(axis=1)[:, None]
            unknown |= (inside & (class_index[:, None] == classes)).any(axis=1)
        return unknown


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
        with path.open(encoding="utf-8") as f:
            data = json.load(f, object_hook=_without_outline)
        images = sorted(data["images"], key=lambda image: image["id"])
        ids = np.array([image["id"] for image in images], dtype=np.int64)
        annotations = [
            (a["image_id"], a["category_id"], *a["bbox"], bool(a.get("iscrowd") or a.get("ignore")))
            for a in data["annotations"]
        ]
        rows = np.array(annotations, dtype=np.float64).reshape(-1, 7)
        keys = ("neg_category_ids", "not_exhaustive_category_ids")
        federated = [
            [image[key] for key in keys] for image in images if all(k in image for k in keys)
        ]
        paths = [_path(image, run) for image in images]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a whole file of COCO's or LVIS's annotations "
            f"({type(error).__name__}: {error}): download or prepare it again."
        ) from error
    image = positions(ids, rows[:, 0].astype(np.int64))
    class_index = class_positions(run, rows[:, 1].astype(np.int64))
    known = (image >= 0) & (class_index >= 0)
    crowd, ignored = known & (rows[:, 6] > 0), {}
    for i in np.unique(image[crowd]).tolist():
        members = crowd & (image == i)
        ignored[i] = (class_index[members], rows[members, 2:6])
    known &= ~crowd
    order = np.flatnonzero(known)[np.argsort(image[known], kind="stable")]
    start, classes = _starts(image[order], len(ids)), class_index[order]
    judged = None
    if federated and len(federated) == len(images):
        judged = [
            np.setdiff1d(
                np.union1d(classes[start[i] : start[i + 1]], _classes(run, absent)),
                _classes(run, not_exhaustive),
            )
            for i, (absent, not_exhaustive) in enumerate(federated)
        ]
        if all(len(known[known >= 0]) == len(run.classes) for known in judged):
            judged = None
    return GroundTruth(ids, paths, start, classes, rows[order, 2:6], judged, ignored)


def _classes(run: Run, category_ids: list[int]) -> np.ndarray:
    return class_positions(run, np.array(category_ids, dtype=np.int64))


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


def shared_area(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) square pixels that boxes (N, 4) and (M, 4), x, y, width, height, have in common."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:])[None])
    return np.clip(high - low, 0, None).prod(axis=2)


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
    """Of an annotation, what takes more memory than all the rest."""
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
