"""AP by the COCO rules, with the AP of classes that are about as frequent in training."""

from itertools import pairwise

import hotcoco
import numpy as np

from ..data import check_annotation_file
from ..detections import Detections
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
from .structures import GroundTruth, Group, TaskResult

__all__ = ["COCOEvaluator", "instance_count_groups"]

METRICS = {
    **{name: name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")},
    **{"AR1": "AR@1", "AR10": "AR@10", "AR100": "AR@100"},
    **{"ARs": "ARs@100", "ARm": "ARm@100", "ARl": "ARl@100"},
}
FREQUENCIES = [group.key for group in FREQUENCY_GROUPS]
BOUNDS = (20, 400, 8000)  # training instances (Wang et al. 2020, SimCal)


class COCOEvaluator(ClassEvaluator):
    """COCO's 12 metrics of boxes and masks, 100 detections an image, and where the training
    instances are known AP1 to AP4 of COCO-LT: of classes with fewer than 20, 20 to 399, 400 to
    7,999, and 8,000 or more of them. With ``frequency_groups="image_count"`` in the data set's
    metadata, as of one's own data, it is LVIS's APr, APc and APf by training images instead, or
    by the ``frequency`` of the categories where all of them have one."""

    format = "coco"

    def __init__(self, dataset_name: str, output_dir: str | None = None, **kwargs):
        super().__init__(dataset_name, output_dir, **kwargs)
        self._json_file = annotation_file(dataset_name)

    def _load_ground_truth(self) -> GroundTruth:
        content = check_annotation_file(self._json_file, outlines=False, annotated=False)
        return ground_truth_of(self._dataset_name, self._json_file, content)

    def _groups(self, ground_truth):
        if self._metadata.get("frequency_groups") == "image_count":
            keys = [category.get("frequency") for category in ground_truth.categories]
            if all(key in FREQUENCIES for key in keys):
                return list(FREQUENCY_GROUPS), keys
            counts, make_groups = self._image_count, image_count_groups
        else:
            counts, make_groups = self._instance_count, instance_count_groups
        return super()._groups(ground_truth) if counts is None else make_groups(counts)

    def _evaluate_task(
        self, ground_truth: GroundTruth, detections: Detections, task: str
    ) -> TaskResult:
        content = self._json_file if task == "segm" else ground_truth.data
        loaded = hotcoco.COCO(content)
        evaluation = hotcoco.COCOeval(loaded, load_detections(loaded, detections, task), task)
        results = run(evaluation)
        metrics = {name: results[key] for key, name in METRICS.items()}
        ids = [category["id"] for category in ground_truth.categories]
        class_ap = per_class_ap(evaluation, ids)
        metrics |= group_metrics(*self._groups(ground_truth), class_ap)
        return TaskResult(metrics, class_ap, tide_errors(evaluation))


def instance_count_groups(instance_count: np.ndarray) -> tuple[list[Group], list[str]]:
    """COCO-LT's groups by training instances (K,), the rarest first, and each class's key."""
    groups = [Group("1", "below 20", f"fewer than {BOUNDS[0]} training instances", "AP1")]
    for number, (low, high) in enumerate(pairwise(BOUNDS), start=2):
        rule = f"{low:,} to {high - 1:,} training instances"
        groups.append(Group(str(number), f"{low:,} to {high - 1:,}", rule, f"AP{number}"))
    last = len(BOUNDS) + 1
    rule = f"{BOUNDS[-1]:,} training instances or more"
    groups.append(Group(str(last), f"{BOUNDS[-1]:,} or more", rule, f"AP{last}"))
    keys = 1 + np.searchsorted(BOUNDS, instance_count, side="right")
    return groups, [str(key) for key in keys]
