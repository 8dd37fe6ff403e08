"""Which validation images, and which of their objects, a report shows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .ground_truth import GroundTruth
from .matching import Outcome
from .run_folder import Run

MAX_BOXES = 12  # with more an image in a report cannot be read
MAX_MISSING = 200  # so many files not found in a row: there are none
HARDEST = 5
SMALLEST_OBJECT = 24.0  # pixels: a smaller one is shown only if there is no other


def open_image(path: Path) -> Image.Image:
    """As the model sees it: RGB, and upright as its EXIF data say."""
    with Image.open(path) as file:
        return ImageOps.exif_transpose(file).convert("RGB")


def is_readable(path: Path) -> bool:
    try:
        open_image(path)
        return True
    # Missing, cut short, no image, or one of a size that must be a mistake
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def image_worth(
    run: Run, truth: GroundTruth, outcomes: Sequence[Outcome]
) -> tuple[np.ndarray, np.ndarray]:
    """What makes an image worth showing: where runs differ, or what a single run does wrong.

    Returns:
        (G, I) the worth by the objects of each group, the rarest first, and (I,) in all. An object
        counts twice as much as one of the next group; a false detection a quarter of the commonest.
    """
    found = np.array([outcome.found for outcome in outcomes])  # (N, M)
    false = np.array([outcome.false for outcome in outcomes])
    if len(outcomes) > 1:
        objects, extra = found.max(axis=0) & ~found.min(axis=0), np.ptp(false, axis=0)
    else:
        objects, extra = ~found[0], false[0]
    keys = [group["key"] for group in run.groups] or [None]
    place = {key: i for i, key in enumerate(keys)}
    group = np.array([place.get(record["group"], len(keys) - 1) for record in run.classes])
    of_object, image = group[truth.class_index], truth.image
    worth = np.array(
        [
            np.bincount(image[objects & (of_object == g)], minlength=len(truth.image_id))
            * 2.0 ** (len(keys) - 1 - g)
            for g in range(len(keys))
        ]
    )
    return worth, worth.sum(axis=0) + 0.25 * extra


def choose_images(
    run: Run, truth: GroundTruth, outcomes: Sequence[Outcome], count: int
) -> tuple[list[int], bool]:
    """Indices of the images to show: one for each group, the rarest first, then the best left.

    Returns:
        Also whether it stopped because the files are not there.
    """
    by_group, total = image_worth(run, truth, outcomes)
    num_boxes = np.diff(truth.start)
    readable = (num_boxes > 0) & (num_boxes <= MAX_BOXES)
    allowed = readable if readable.sum() >= count else num_boxes > 0
    chosen: list[int] = []
    missing = 0
    rounds = [by_group[g % len(by_group)] for g in range(min(count, len(by_group)))]
    for worth in rounds + [total] * (count + len(rounds)):
        # The group's own objects decide, then the whole image, then the first
        for image in np.lexsort((np.arange(len(total)), -total, -worth)).tolist():
            if len(chosen) >= count or missing >= MAX_MISSING:
                return chosen, missing >= MAX_MISSING and not chosen
            if not allowed[image] or image in chosen:
                continue
            if worth is not total and worth[image] == 0:
                break  # nothing of this group
            if is_readable(truth.paths[image]):
                chosen.append(image)
                missing = 0
                break
            allowed[image] = False
            missing += 1
    return chosen, bool(missing) and not chosen


def gallery_classes(run: Run, task: str) -> tuple[list[int], str]:
    """The classes of the rarest group, or without groups those of the lowest AP; their name."""
    if run.groups:
        group = run.groups[0]
        members = [k for k, record in enumerate(run.classes) if record["group"] == group["key"]]
        return members, f"{group['name']} classes"
    ap = run.class_ap(task)
    known = np.flatnonzero(np.isfinite(ap))
    return known[np.argsort(ap[known], kind="stable")[:HARDEST]].tolist(), "hardest classes"


def example_objects(truth: GroundTruth, classes: Sequence[int]) -> dict[int, int]:
    """For each class with a readable one an object to show: large enough, on an image with few.

    It is chosen without looking at detections, so that it says something about them.
    """
    image, num_boxes = truth.image, np.diff(truth.start)
    order = np.argsort(truth.class_index, kind="stable")
    starts = np.searchsorted(truth.class_index[order], np.arange(max(classes, default=0) + 2))
    side = truth.box[:, 2:].min(axis=1) if len(truth.box) else np.zeros(0)
    chosen, missing = {}, 0
    for k in classes:
        members = order[starts[k] : starts[k + 1]]
        rank = np.lexsort((members, num_boxes[image[members]], side[members] < SMALLEST_OBJECT))
        for member in members[rank][:5].tolist():
            if missing >= MAX_MISSING and not chosen:
                return {}
            if is_readable(truth.paths[image[member]]):
                chosen[k], missing = member, 0
                break
            missing += 1
    return chosen
