"""AP by the LVIS rules: federated annotation, 300 detections an image, frequency groups."""

from dataclasses import dataclass

import hotcoco
import numpy as np

from ..config_checks import LVIS_BACKENDS
from ..data import check_annotation_file
from ..detections import Detections
from ..errors import InputError
from . import lvis_package
from .coco_format import (
    annotation_file,
    ground_truth_of,
    load_detections,
    per_class_ap,
    run,
    tide_errors,
)
from .evaluator import ClassEvaluator
from .groups import FREQUENCY_GROUPS, group_metrics, image_count_groups
from .structures import GroundTruth, TaskResult

__all__ = ["LVISEvaluator"]

MAX_DETECTIONS = 300
METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR@300", "ARs@300", "ARm@300", "ARl@300"),
)
NO_SIZE = 1e11  # square pixels; above the range of "all" sizes, which ends at 1e10


class LVISEvaluator(ClassEvaluator):
    """The 13 metrics of LVIS: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR@300 and its s, m, l.

    A class with ground truth and no detection has AP 0, and so has a model that detects nothing.
    """

    format = "lvis"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = MAX_DETECTIONS,
        backend: str = "hotcoco",
        **kwargs,
    ):
        """
        Args:
            max_dets_per_image: the best detections of an image that count.
            backend: "hotcoco", or "lvis" for the reference, which takes 35 times as long.
            dataset_name, output_dir, kwargs: as for :class:`ClassEvaluator`; its counts are those
                of the annotation file, where that has them, and so are the frequency groups;
                without, they follow from the image counts.
        """
        if backend not in LVIS_BACKENDS:
            raise InputError(f"The backend is {backend!r}: it must be one of {LVIS_BACKENDS}.")
        super().__init__(dataset_name, output_dir, **kwargs)
        self._json_file = annotation_file(dataset_name)
        self._max_dets, self._backend = max_dets_per_image, backend

    def _load_ground_truth(self) -> GroundTruth:
        content = check_annotation_file(
            self._json_file,
            outlines=False,
            annotated=False,
            annotation=("area",),
            image=("neg_category_ids", "not_exhaustive_category_ids"),
        )
        truth = ground_truth_of(self._dataset_name, self._json_file, content, crowds=True)
        for key in ("image_count", "instance_count"):
            if all(key in category for category in truth.categories):
                setattr(truth, key, np.array([category[key] for category in truth.categories]))
        truth.data = _Annotations(
            plain=not any(
                a["area"] <= 0 or a.get("iscrowd", 0) or a.get("ignore", 0)
                for a in content["annotations"]
            ),
            boxes=as_hotcoco(content),
            checked=CheckedPairs(content),
        )
        return truth

    def _groups(self, ground_truth):
        keys = [category.get("frequency") for category in ground_truth.categories]
        if any(keys):
            return list(FREQUENCY_GROUPS), keys
        own = ground_truth.image_count
        counts = self._image_count if own is None else own
        return super()._groups(ground_truth) if counts is None else image_count_groups(counts)

    def _select(self, ground_truth, detections):
        detections = best_of_each_image(detections, self._max_dets)
        if self._backend == "lvis":  # the reference sees all and decides for itself
            return detections
        return detections[ground_truth.data.checked.contain(detections)]

    def _evaluate_task(self, ground_truth, detections, task) -> TaskResult:
        ids = [category["id"] for category in ground_truth.categories]
        # The reference cannot evaluate a model that detects nothing.
        if self._backend == "lvis" and len(detections):
            records = list(detections.records())
            metrics, class_ap = lvis_package.evaluate(self._json_file, records, task, ids)
            tide = {}
        else:
            loaded = self._with_masks(ground_truth) if task == "segm" else ground_truth.data.boxes
            # The package drops what has no area after limiting the number, as here; hotcoco would
            # count it as a false positive.
            results = load_detections(loaded, detections, task, drop_empty=True)
            # It has limits of 300 of its own, for an image and for a category of an image.
            evaluation = hotcoco.LVISEval(loaded, results.cap_detections_per_image(None), task)
            parameters = evaluation.params
            parameters.max_dets = [self._max_dets]
            evaluation.params = parameters
            metrics, class_ap = run(evaluation), per_class_ap(evaluation, ids)
            tide = tide_errors(evaluation)
        # Both call it AR@300 whatever the limit was.
        limit = f"@{self._max_dets}"
        metrics = {name.replace("@300", limit): metrics[name] for name in METRICS}
        # As both take them where the file has the groups
        metrics |= dict.fromkeys(("APr", "APc", "APf"), float("nan"))
        metrics |= group_metrics(*self._groups(ground_truth), class_ap)
        return TaskResult(metrics, class_ap, tide)

    def _with_masks(self, ground_truth: GroundTruth) -> hotcoco.COCO:
        if ground_truth.data.plain:  # without making Python's numbers of the outlines
            return hotcoco.LVIS(self._json_file)
        return as_hotcoco(check_annotation_file(self._json_file))


@dataclass
class _Annotations:
    """What an evaluation needs of the annotations; the records they come from take eight times as
    much memory. ``plain``: hotcoco reads the file as the ``lvis`` package does."""

    plain: bool
    boxes: hotcoco.COCO
    checked: "CheckedPairs"


def as_hotcoco(content: dict) -> hotcoco.COCO:
    """The content of an annotation file such that hotcoco sees what the ``lvis`` package sees.

    By the LVIS rules nothing is a crowd, an annotation without area is not there, and one with
    ``ignore`` set is of no size that counts; hotcoco knows COCO's rules for these three.
    """
    annotations = [
        {**ann, "iscrowd": 0, "ignore": 0, "area": NO_SIZE if ann.get("ignore") else ann["area"]}
        for ann in content["annotations"]
        if ann["area"] > 0
    ]
    return hotcoco.LVIS({**content, "annotations": annotations})


def best_of_each_image(detections: Detections, max_dets: int) -> Detections:
    """The best of each image that has more; of equal scores the first."""
    kept = np.ones(len(detections), dtype=bool)
    for _, place in detections.of_images():
        if place.stop - place.start > max_dets:
            order = np.argsort(-detections.score[place], kind="stable")
            kept[place.start + order[max_dets:]] = False
    return detections if kept.all() else detections[kept]


class CheckedPairs:
    """The pairs of image and category that annotators looked for, and found or did not.

    Detections of others do not count, and are most: LVIS's annotators look for a few of 1,203
    categories in an image.
    """

    def __init__(self, content: dict):
        """Of the content of an annotation file."""
        images, annotations = content["images"], content["annotations"]
        self._image_ids = np.array(sorted(image["id"] for image in images), dtype=np.int64)
        self._stride = 1 + max((category["id"] for category in content["categories"]), default=0)
        pairs = [(a["image_id"], a["category_id"]) for a in annotations if a["area"] > 0]
        pairs += [(image["id"], c) for image in images for c in image["neg_category_ids"]]
        pairs = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self._keys = np.unique(self._key(pairs[:, 0], pairs[:, 1]))

    def _key(self, image_id: np.ndarray, category_id: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._image_ids, image_id) * self._stride + category_id

    def contain(self, detections: Detections) -> np.ndarray:
        """(N,) whether a detection of the file's images and categories counts."""
        return np.isin(self._key(detections.image_id, detections.category_id), self._keys)
