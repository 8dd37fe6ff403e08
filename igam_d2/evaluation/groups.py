"""Classes that are about as frequent in training, and the AP of each such group."""

from collections.abc import Sequence

import numpy as np

from ..data.counts import COMMON_IMAGES, RARE_IMAGES, frequency_groups
from .structures import Group

__all__ = ["FREQUENCY_GROUPS", "group_metrics", "image_count_groups"]

FREQUENCY_GROUPS = (
    Group("r", "rare", f"at most {RARE_IMAGES} training images", "APr"),
    Group("c", "common", f"{RARE_IMAGES + 1} to {COMMON_IMAGES} training images", "APc"),
    Group("f", "frequent", f"more than {COMMON_IMAGES} training images", "APf"),
)


def image_count_groups(image_count: np.ndarray) -> tuple[list[Group], list[str]]:
    """LVIS's groups by training images (K,), the rarest first, and each class's key."""
    return list(FREQUENCY_GROUPS), frequency_groups(image_count)


def group_metrics(
    groups: Sequence[Group], keys: Sequence[str | None], class_ap: np.ndarray
) -> dict[str, float]:
    """The mean AP of each group's classes (K,), by its metric's name; NaN without ground truth."""
    metrics = {}
    for group in groups:
        members = class_ap[np.array([key == group.key for key in keys])]
        members = members[np.isfinite(members)]
        metrics[group.metric] = float(members.mean()) if len(members) else float("nan")
    return metrics
