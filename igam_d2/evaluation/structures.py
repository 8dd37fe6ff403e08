"""What an evaluation compares with, and what comes out."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["GroundTruth", "Group", "TaskResult"]


@dataclass(frozen=True)
class Group:
    """Classes that are about as frequent in training; the rarest group comes first.

    Attributes:
        key: in the class records, as "r".
        name: as "rare".
        rule: as "1 to 10 training images".
        metric: the name of the group's AP, as "APr".
    """

    key: str
    name: str
    rule: str
    metric: str


@dataclass
class GroundTruth:
    """What an evaluation compares with.

    Attributes:
        image_ids: of all images.
        categories: the records of all categories, in contiguous order.
        val_instances: (K,) instances of every class.
        json_file: in COCO's or LVIS's format.
        image_root: folder that the images' names start from.
        data: what the format's own evaluation needs.
        image_count, instance_count: (K,) of training, where the annotations say them.
    """

    image_ids: np.ndarray
    categories: list[dict[str, Any]]
    val_instances: np.ndarray
    json_file: str
    image_root: str
    data: Any = None
    image_count: np.ndarray | None = None
    instance_count: np.ndarray | None = None


@dataclass
class TaskResult:
    """Of boxes or masks: metrics in %, the AP of every class (K,) in %, NaN without ground truth,
    and the AP50 in points of % that each of TIDE's errors costs."""

    metrics: dict[str, float]
    class_ap: np.ndarray
    tide: dict[str, float] = field(default_factory=dict)
