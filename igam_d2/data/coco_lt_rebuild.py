"""A set with the counts of COCO-LT, drawn from COCO train2017 where SimCal's file cannot be had.

It is not SimCal's: how that was drawn is not in SimCal's code, and its numbers of each class are in
a pickled file of that repository alone. What is known is kept to (:data:`.COCO_LT`); the rest is
chosen here:

* Classes keep the order that they have in COCO. The most frequent group (8,000 instances or more)
  keeps all its annotations, as SimCal's persons are all of COCO train2017's.
* The numbers of the other groups' classes fall from one group's bound to the next, by a constant
  factor from class to class: ``low * (high / low) ** t``, t from 0 to 1. In the group below the
  most frequent one t is raised to the power that gives the total, which is .75 for COCO.
* Annotations of a class are drawn at random, crowd regions last. Images that lose all of theirs
  vanish. Swaps of annotations of one class then bring the number of images to the one wanted.
"""

from itertools import pairwise

import numpy as np

from ..errors import InputError
from .coco_lt import COCO_LT, Counts

__all__ = ["check_seed", "class_targets", "draw", "rebuild"]


def class_targets(available: np.ndarray, counts: Counts = COCO_LT) -> np.ndarray:
    """How many annotations each class shall keep.

    Args:
        available: (K,) annotations of each class.

    Returns:
        (K,) int64, none above `available`, whose order, total, extremes and groups are those asked.

    Raises:
        InputError: other classes or another largest class, too few annotations of a class, or a
            total that cannot be reached.
    """
    available = np.asarray(available, dtype=np.int64)
    if len(available) != counts.classes or available.max(initial=0) != counts.largest:
        raise InputError(
            f"It has {len(available)} classes, the largest with {available.max(initial=0):,} "
            f"annotations, where COCO train2017 has {counts.classes} and {counts.largest:,}: "
            "the set is drawn from instances_train2017.json."
        )
    order = np.argsort(available, kind="stable")  # rarest first; of equal classes the first
    capacity = available[order]
    lows = (counts.smallest, *counts.bounds)
    low = np.repeat(lows, counts.groups)
    if (capacity < low).any():
        k = int((capacity < low).argmax())
        raise InputError(
            f"Its class number {k + 1} from the rarest has {capacity[k]:,} annotations, where at "
            f"least {low[k]:,} are needed: the set is drawn from instances_train2017.json."
        )
    high = np.repeat((*counts.bounds, counts.largest + 1), counts.groups)
    capacity = np.minimum(capacity, high - 1)

    def numbers(power: float) -> np.ndarray:
        targets = []
        for group, size in enumerate(counts.groups[:-1]):
            t = (np.arange(size) + 0.5) / size
            bent = t**power if group == len(counts.groups) - 2 else t
            targets.append(lows[group] * (lows[group + 1] / lows[group]) ** bent)
        targets = np.concatenate([*targets, capacity[len(capacity) - counts.groups[-1] :]])
        targets[0] = counts.smallest
        return np.minimum(targets.astype(np.int64), capacity)

    steep, flat = 100.0, 0.0  # powers with too few and with too many instances
    if not numbers(steep).sum() <= counts.instances <= numbers(flat).sum():
        raise InputError(
            f"{counts.instances:,} instances cannot be reached with the group sizes "
            f"{counts.groups} of COCO-LT: only {numbers(steep).sum():,} to "
            f"{numbers(flat).sum():,} can."
        )
    for _ in range(60):
        middle = (steep + flat) / 2
        if numbers(middle).sum() <= counts.instances:
            steep = middle
        else:
            flat = middle
    # Numbers are whole: a few instances short, which the larger ones between the two powers get
    result, upper = numbers(steep), numbers(flat)
    for k in np.argsort(result - upper, kind="stable"):
        result[k] += min(upper[k] - result[k], counts.instances - result.sum())
    targets = np.empty_like(result)
    targets[order] = result
    return targets


def draw(
    image: np.ndarray,
    category: np.ndarray,
    crowd: np.ndarray,
    targets: np.ndarray,
    *,
    num_images: int,
    seed: int,
) -> np.ndarray:
    """Draws the annotations that stay.

    Args:
        image, category: (N,) of each annotation, numbered from 0.
        crowd: (N,) bool.
        targets: (K,) annotations of each class that stay.
        num_images: that shall keep an annotation; as near to it as can be, if it cannot be.

    Returns:
        (N,) bool, with exactly targets[k] of class k.
    """
    # The legacy generator's numbers are the same in every version of numpy
    key = np.random.RandomState(seed).permutation(len(image))
    kept = np.zeros(len(image), dtype=bool)
    order = np.lexsort((key, crowd, category))
    starts = np.searchsorted(category[order], np.arange(len(targets)))
    for start, number in zip(starts, targets, strict=True):
        kept[order[start : start + number]] = True
    on_image = np.bincount(image[kept], minlength=image.max(initial=-1) + 1)
    missing = num_images - np.count_nonzero(on_image)
    swappable = np.argsort(key)
    swappable = swappable[~crowd[swappable]]
    if missing > 0:
        _add_images(kept, on_image, image, category, swappable, missing)
    elif missing < 0:
        _remove_images(kept, on_image, image, category, swappable, -missing)
    return kept


def _add_images(kept, on_image, image, category, order, number: int) -> None:
    """Gives `number` more images an annotation, each for one of its class on an image that has two.

    Args:
        kept: (N,) bool, changed in place.
        on_image: annotations kept of each image, changed in place.
        order: of the annotations that may be swapped, in which they are tried.
    """
    partners = _by_class(order[kept[order]], category)
    for i in order[~kept[order]].tolist():
        if not number:
            return
        candidates = partners.get(int(category[i]), [])
        while on_image[image[i]] == 0 and candidates:
            j = candidates.pop()
            if on_image[image[j]] > 1:
                _swap(i, j, kept, on_image, image)
                number -= 1


def _remove_images(kept, on_image, image, category, order, number: int) -> None:
    """Takes all annotations from `number` images, each for one of its class on an image that has
    some; from images with the fewest first. The arguments are those of :func:`_add_images`.
    """
    partners = _by_class(order[~kept[order]], category)
    by_image = np.argsort(image, kind="stable")
    ends = np.cumsum(np.bincount(image, minlength=len(on_image)))
    # Images in random order: that of the first of their annotations
    _, first = np.unique(image[order], return_index=True)
    images = image[order][np.sort(first)]
    for m in images[np.argsort(on_image[images], kind="stable")].tolist():
        if not number:
            return
        mine = by_image[ends[m - 1] if m else 0 : ends[m]]
        mine = mine[kept[mine]].tolist()
        taken = []
        for i in mine:
            candidates = partners.get(int(category[i]), [])
            while candidates:
                j = candidates.pop()
                if image[j] != m and on_image[image[j]] > 0:
                    taken.append(j)
                    break
        if mine and len(taken) == len(mine):
            for i, j in zip(mine, taken, strict=True):
                _swap(j, i, kept, on_image, image)
            number -= 1
        else:
            for j in taken:
                partners[int(category[j])].append(j)


def _by_class(annotations: np.ndarray, category: np.ndarray) -> dict[int, list[int]]:
    """Annotations of each class, the first one last, where it is popped."""
    lists: dict[int, list[int]] = {}
    for i in annotations[::-1].tolist():
        lists.setdefault(int(category[i]), []).append(i)
    return lists


def _swap(comes: int, goes: int, kept, on_image, image) -> None:
    kept[comes], kept[goes] = True, False
    on_image[image[comes]] += 1
    on_image[image[goes]] -= 1


def check_seed(seed: int) -> None:
    """
    Raises:
        InputError: it is none.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"The seed is {seed}: it must be from 0 to {2**32 - 1}.")


def rebuild(content: dict, *, seed: int, counts: Counts = COCO_LT, source: str = "") -> dict:
    """The part of an annotation file in COCO's format that is drawn by `seed`.

    It does not depend on the order in the file, but images and annotations are in that of their id.

    Args:
        content: what COCO's ``instances_train2017.json`` holds; it is not changed.
        source: the name of the file, for the note that the result is rebuilt.

    Raises:
        InputError: as :func:`class_targets`, ids that are not unique, or a seed that is none.
    """
    check_seed(seed)
    images = sorted(content["images"], key=lambda record: record["id"])
    annotations = sorted(content["annotations"], key=lambda record: record["id"])
    categories = sorted(content["categories"], key=lambda record: record["id"])
    for name, records in (("images", images), ("annotations", annotations)):
        for a, b in pairwise(records):
            if a["id"] == b["id"]:
                raise InputError(f"Two of its {name} have the id {a['id']}: ids must be unique.")
    image_numbers = {record["id"]: number for number, record in enumerate(images)}
    class_numbers = {record["id"]: number for number, record in enumerate(categories)}
    try:
        image = np.array([image_numbers[a["image_id"]] for a in annotations], dtype=np.int64)
        category = np.array([class_numbers[a["category_id"]] for a in annotations], dtype=np.int64)
    except KeyError as error:
        raise InputError(
            f"An annotation has the image or category {error}, which the file does not list."
        ) from error
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
    targets = class_targets(np.bincount(category, minlength=len(categories)), counts)
    kept = draw(image, category, crowd, targets, num_images=counts.images, seed=seed)
    has_one = np.zeros(len(images), dtype=bool)
    has_one[image[kept]] = True
    note = (
        "COCO-LT rebuilt: not SimCal's train_coco2017_LT_sampled.json, but annotations of "
        f"{source or 'COCO train2017'} drawn at random with the same counts, seed {seed}."
    )
    return {
        "info": {"description": note, "rebuilt": note, "seed": seed, "of": content.get("info")},
        "licenses": content.get("licenses", []),
        "images": [images[i] for i in np.flatnonzero(has_one)],
        "annotations": [annotations[i] for i in np.flatnonzero(kept)],
        "categories": categories,
    }
