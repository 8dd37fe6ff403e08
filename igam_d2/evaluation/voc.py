"""AP by the rules of Pascal VOC, equal to Detectron2's, in seconds."""

import json
import os
from pathlib import Path

import hotcoco
import numpy as np
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_ap
from detectron2.utils.file_io import PathManager

from ..detections import Detections
from ..errors import InputError
from ..files import write_whole
from .coco_format import load_detections, run, tide_errors
from .evaluator import ClassEvaluator
from .structures import GroundTruth, TaskResult

__all__ = ["PascalVOCEvaluator"]

NUM_HARDEST = 5
THRESHOLDS = range(50, 100, 5)  # IoU in %


class PascalVOCEvaluator(ClassEvaluator):
    """AP, AP50 and AP75 as Detectron2's ``PascalVOCDetectionEvaluator`` gives them, up to rounding
    (11 points for VOC 2007, else the area under the curve), the AP50 of every class, and as
    ``AP50_hardest`` its mean over the five hardest. Boxes alone; a "difficult" object does not
    count.
    """

    format = "pascal_voc"
    class_metric = "AP50"

    def __init__(self, dataset_name: str, output_dir: str | None = None, **kwargs):
        super().__init__(dataset_name, output_dir, tasks=("bbox",), **kwargs)
        root = self._metadata.dirname
        self._image_set = os.path.join(root, "ImageSets", "Main", f"{self._metadata.split}.txt")
        if not PathManager.isfile(self._image_set):
            raise InputError(
                f"The annotations of {dataset_name} are missing: {self._image_set} should list its "
                "images; set $DETECTRON2_DATASETS to the folder that holds the datasets (default "
                "./datasets)."
            )
        with PathManager.open(self._image_set) as f:
            self._names = f.read().split()
        self._ids = {name: number for number, name in enumerate(self._names, start=1)}
        annotations = PathManager.get_local_path(os.path.join(root, "Annotations/"))
        self._annotation_template = os.path.join(annotations, "{}.xml")

    def _image_id(self, image_id):
        """VOC's names are text, as "2008_000002"; here they are numbered from 1."""
        if image_id not in self._ids:
            raise InputError(
                f"There are detections for image {image_id!r}, which {self._image_set} does not "
                "list: evaluate on the images of that split."
            )
        return self._ids[image_id]

    def _load_ground_truth(self) -> GroundTruth:
        """From the XML files; written as a COCO file too, which the report reads."""
        classes = list(self._metadata.thing_classes)
        root = Path(self._metadata.dirname)
        images, annotations = [], []
        for name, number in self._ids.items():
            try:
                objects = parse_rec(self._annotation_template.format(name))
            except (OSError, ValueError, AttributeError, SyntaxError) as error:  # the last: no XML
                raise InputError(
                    f"{self._annotation_template.format(name)} of {self._dataset_name!r} is "
                    f"missing or no annotation of Pascal VOC ({error}): get the set again."
                ) from error
            images.append({"id": number, "file_name": f"JPEGImages/{name}.jpg"})
            for found in objects:
                if found["name"] not in classes:  # not among those that the model knows
                    continue
                left, top, right, bottom = found["bbox"]  # pixels from 1, both ends included
                width, height = right - left + 1, bottom - top + 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1 + classes.index(found["name"]),
                        "bbox": [left - 1, top - 1, width, height],
                        "area": width * height,
                        "iscrowd": found["difficult"],
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        json_file = ""
        if self._output_dir:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            json_file = str(self._output_dir / "ground_truth.json")
            write_whole(json_file, lambda f: f.write(json.dumps(content).encode()))
        counted = [a["category_id"] - 1 for a in annotations if not a["iscrowd"]]
        return GroundTruth(
            image_ids=np.arange(1, len(images) + 1),
            categories=categories,
            val_instances=np.bincount(counted, minlength=len(classes)),
            json_file=json_file,
            image_root=str(root),
            data=content,
        )

    def _evaluate_task(
        self, ground_truth: GroundTruth, detections: Detections, task: str
    ) -> TaskResult:
        truth = _Objects(ground_truth.data["annotations"])
        corners, scores = _as_written(detections)
        class_ap = np.empty((len(ground_truth.categories), len(THRESHOLDS)))  # in %
        for row, category in zip(class_ap, ground_truth.categories, strict=True):
            mine = detections.category_id == category["id"]
            # Of equal scores, whose order no rule gives, this is Detectron2's
            order = np.flatnonzero(mine)[np.argsort(-scores[mine])]
            row[:] = truth.average_precisions(
                category["id"],
                *(detections.image_id[order], corners[order]),
                eleven_points=self._metadata.year == 2007,
            )
        known = ground_truth.val_instances > 0
        class_ap[~known] = np.nan
        means = class_ap[known].mean(axis=0)
        metrics = {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[5])}
        hardest = np.argsort(class_ap[:, 0])[: min(NUM_HARDEST, known.sum())]  # NaN is the last
        metrics["AP50_hardest"] = float(class_ap[hardest, 0].mean())
        names = [f"{ground_truth.categories[i]['name']} {class_ap[i, 0]:.1f}" for i in hardest]
        self._logger.info("The hardest classes by AP50 (%%): %s", ", ".join(names))
        loaded = hotcoco.COCO(ground_truth.data)
        evaluation = hotcoco.COCOeval(loaded, load_detections(loaded, detections, task), task)
        run(evaluation)
        return TaskResult(metrics, class_ap[:, 0], tide_errors(evaluation))


def _as_written(detections: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Corners (N, 4) in pixels from 1 and scores (N,), to the digits that VOC's files of results
    have, and so Detectron2's evaluator."""
    corners = detections.box.astype(np.float64)
    corners[:, 2:] += corners[:, :2]
    corners[:, :2] += 1
    corners = [float(f"{value:.1f}") for value in corners.ravel().tolist()]
    scores = [float(f"{value:.3f}") for value in detections.score.tolist()]
    return np.array(corners).reshape(-1, 4), np.array(scores)


class _Objects:
    """The annotated objects (M,), by image."""

    def __init__(self, annotations: list[dict]):
        annotations = sorted(annotations, key=lambda annotation: annotation["image_id"])
        box = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
        self._corners = np.concatenate([box[:, :2] + 1, box[:, :2] + box[:, 2:]], axis=1)
        self._image = np.array([a["image_id"] for a in annotations], dtype=np.int64)
        self._category = np.array([a["category_id"] for a in annotations], dtype=np.int64)
        self._difficult = np.array([a["iscrowd"] for a in annotations], dtype=bool)

    def average_precisions(
        self, category: int, image: np.ndarray, corners: np.ndarray, *, eleven_points: bool
    ) -> list[float]:
        """AP in % at every threshold of a category's detections (N,), the best first."""
        mine = self._category == category
        difficult = self._difficult[mine]
        overlap, found = _best_overlaps(image, corners, self._image[mine], self._corners[mine])
        results = []
        for threshold in THRESHOLDS:
            hit = overlap > threshold / 100
            counts = hit & ~np.append(difficult, False)[found]  # found is -1 without an object
            true = np.zeros(len(hit), dtype=bool)
            # An object is found once, by the best of those that overlap it most.
            true[np.flatnonzero(counts)[np.unique(found[counts], return_index=True)[1]]] = True
            num_true, num_false = np.cumsum(true), np.cumsum(~hit | (counts & ~true))
            recall = num_true / max((~difficult).sum(), 1)
            precision = num_true / np.maximum(num_true + num_false, np.finfo(np.float64).eps)
            results.append(100 * voc_ap(recall, precision, eleven_points))
        return results


def _best_overlaps(
    image: np.ndarray, corners: np.ndarray, truth_image: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection (N,) the IoU with, and the index of, the object of its image that it
    overlaps most: -Inf and -1 where there is none. Objects are sorted by image."""
    first = np.searchsorted(truth_image, image, side="left")
    number = np.searchsorted(truth_image, image, side="right") - first
    # All pairs of a detection and an object of the same image
    detection = np.repeat(np.arange(len(image)), number)
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    other = np.repeat(first, number) + place
    a, b = corners[detection], truth[other]
    # Pixels at both ends belong to a box
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2] + 1).prod(axis=1) + (b[:, 2:] - b[:, :2] + 1).prod(axis=1)
    iou = shared / (areas - shared)
    best, found = np.full(len(image), -np.inf), np.full(len(image), -1)
    np.maximum.at(best, detection, iou)
    is_best = iou == best[detection]
    hit, index = np.unique(detection[is_best], return_index=True)
    found[hit] = other[is_best][index]
    return best, found
