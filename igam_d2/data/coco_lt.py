"""COCO-LT, SimCal's long-tailed part of COCO train2017: what it holds, and what a file holds.

SimCal (Wang et al. 2020) gives the set as one file, ``train_coco2017_LT_sampled.json``. One of the
same counts that is drawn anew has another name (:mod:`.coco_lt_rebuild`).

Crowd regions count among the instances here, as SimCal counts them: its 262,465 persons are those
of COCO train2017 with 5,213 crowd regions. Training and :func:`.class_counts` leave them out.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from .checks import check_annotation_file

__all__ = [
    "COCO_CLASSES",
    "COCO_LT",
    "ORIGINAL",
    "REBUILT",
    "Counts",
    "Summary",
    "coco_lt_path",
    "differences",
    "quantities",
]

ORIGINAL = "train_coco2017_LT_sampled.json"  # as SimCal names it
REBUILT = "train_coco2017_LT_rebuilt.json"

COCO_CLASSES = {c["id"]: c["name"] for c in COCO_CATEGORIES if c["isthing"]}


@dataclass(frozen=True)
class Counts:
    """What a long-tailed set holds.

    Attributes:
        images: with an annotation.
        instances: annotations, crowd regions among them.
        smallest, largest: instances of the rarest and of the most frequent class.
        bounds: instances at which the next group of classes begins.
        groups: classes of each group, rarest first; one more than bounds.
    """

    images: int
    instances: int
    smallest: int
    largest: int
    bounds: tuple[int, ...]
    groups: tuple[int, ...]

    @property
    def classes(self) -> int:
        return sum(self.groups)


COCO_LT = Counts(
    images=99_411,
    instances=666_493,
    smallest=11,
    largest=262_465,
    bounds=(20, 400, 8_000),  # as of AP1 to AP4
    groups=(4, 24, 32, 20),
)


def coco_lt_path(file: str = ORIGINAL, root: str | os.PathLike[str] | None = None) -> Path:
    """Where a file of COCO-LT lies below the folder of all data sets.

    Args:
        root: that folder; None takes $DETECTRON2_DATASETS, or "datasets".
    """
    root = os.getenv("DETECTRON2_DATASETS", "datasets") if root is None else root
    return Path(root).expanduser() / "coco_lt" / file


@dataclass(frozen=True)
class Summary:
    """What a file holds.

    Attributes:
        counts: with crowd regions, which belong to the counts of COCO-LT.
        counts_without_crowd: of what is trained on and evaluated by.
        num_listed: images in the file, with and without an annotation.
        names: of the K classes by category id.
        instances_of_classes: (K,) int64, in the order of names.
        rebuilt: what a rebuilt file says of itself; "" for another.
    """

    counts: Counts
    counts_without_crowd: Counts
    num_listed: int
    names: dict[int, str]
    instances_of_classes: np.ndarray
    rebuilt: str

    @classmethod
    def of_file(cls, path: str | os.PathLike[str]) -> "Summary":
        """
        Raises:
            InputError: missing, or no annotation file.
        """
        return cls.of_content(check_annotation_file(os.fspath(path), outlines=False))

    @classmethod
    def of_content(cls, content: dict, bounds: tuple[int, ...] = COCO_LT.bounds) -> "Summary":
        names = {c["id"]: c["name"] for c in content["categories"]}
        names = dict(sorted(names.items()))
        annotations = content["annotations"]
        plain = [a for a in annotations if not a.get("iscrowd", 0)]
        info = content.get("info")
        return cls(
            counts=_counts(annotations, names, bounds),
            counts_without_crowd=_counts(plain, names, bounds),
            num_listed=len(content["images"]),
            names=names,
            instances_of_classes=_instances(annotations, names),
            rebuilt=info.get("rebuilt", "") if isinstance(info, dict) else "",
        )

    def class_with(self, instances: int) -> str:
        """The name of a class with so many instances."""
        return list(self.names.values())[list(self.instances_of_classes).index(instances)]


def _instances(annotations: list[dict], names: dict[int, str]) -> np.ndarray:
    """(K,) annotations of each class; those of a category that is not listed are not counted."""
    numbers = {category: k for k, category in enumerate(names)}
    found = [numbers[a["category_id"]] for a in annotations if a["category_id"] in numbers]
    return np.bincount(np.array(found, dtype=np.int64), minlength=len(names))


def _counts(annotations: list[dict], names: dict[int, str], bounds: tuple[int, ...]) -> Counts:
    per_class = _instances(annotations, names)
    groups = np.bincount(np.digitize(per_class, bounds), minlength=len(bounds) + 1)
    return Counts(
        images=len({a["image_id"] for a in annotations}),
        instances=len(annotations),
        smallest=int(min(per_class, default=0)),
        largest=int(max(per_class, default=0)),
        bounds=bounds,
        groups=tuple(int(number) for number in groups),
    )


def quantities(counts: Counts) -> dict[str, int]:
    """Each count by its name for a user."""
    rows = {
        "classes": counts.classes,
        "images with an annotation": counts.images,
        "instances": counts.instances,
        "instances of the smallest class": counts.smallest,
        "instances of the largest class": counts.largest,
    }
    bounds = [f"{bound:,}" for bound in counts.bounds]
    last = [f"{bound - 1:,}" for bound in counts.bounds]
    names = [f"fewer than {bounds[0]}"]
    names += [f"{a} to {b}" for a, b in zip(bounds[:-1], last[1:], strict=True)]
    names += [f"{bounds[-1]} or more"]
    rows |= {f"classes with {n} instances": g for n, g in zip(names, counts.groups, strict=True)}
    return rows


def differences(
    summary: Summary,
    expected: Counts = COCO_LT,
    classes: dict[int, str] = COCO_CLASSES,
    *,
    name: str = "",
) -> list[str]:
    """What a file has otherwise than expected, each in a few words; empty if all agrees.

    Args:
        classes: names by category id that the set must have, in the order of its test set.
        name: of the file; a rebuilt set must not have that of SimCal's.
    """
    found, wanted = quantities(summary.counts), quantities(expected)
    different = [
        f"{found[quantity]:,} {quantity} (not {value:,})"
        for quantity, value in wanted.items()
        if found[quantity] != value
    ]
    if summary.rebuilt and name == ORIGINAL:
        different.append("a note that it is rebuilt, but the name of SimCal's own file")
    # A class too many or too few would be named a second time
    if len(summary.names) == len(classes):
        theirs, ours = list(summary.names.items()), list(classes.items())
        for (number, theirs_is), (our_number, ours_is) in zip(theirs, ours, strict=True):
            if (number, theirs_is) != (our_number, ours_is):
                different.append(
                    f"category {number} {theirs_is!r} (where COCO has {our_number} {ours_is!r})"
                )
                break
    return different
