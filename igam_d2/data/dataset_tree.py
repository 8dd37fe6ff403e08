"""The files that the data sets of the configs consist of, and which of them are there."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, closest
from .coco_lt import ORIGINAL, REBUILT
from .digits_lt import NUM_TRAIN_IMAGES, NUM_VAL_IMAGES

__all__ = ["CONFIGURED", "DATASET_TREES", "Finding", "Place", "check_tree", "tree_of"]

COCO_ZIPS = "unpack http://images.cocodataset.org/zips/{}.zip in {{root}}/coco/"
COCO_TRAIN = COCO_ZIPS.format("train2017")
COCO_VAL = COCO_ZIPS.format("val2017")
COCO_JSON = (
    "unpack http://images.cocodataset.org/annotations/annotations_trainval2017.zip in {root}/coco/"
)
LVIS = "unpack {}.json.zip of https://www.lvisdataset.org/dataset in {{root}}/lvis/"
DIGITS = "python tools/prepare_digits_lt.py --root {root}"
REBUILD = "python tools/prepare_coco_lt.py rebuild --root {root}"
SIMCAL = (
    f"put {ORIGINAL}, which the README of https://github.com/twangnh/SimCal links, in "
    f"{{root}}/coco_lt/; where it cannot be had: {REBUILD}"
)
VOC = "unpack {} of http://host.robots.ox.ac.uk/pascal/VOC/ and move VOCdevkit/{} to {{root}}/"
VOC_2007 = VOC.format("VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar", "VOC2007")
VOC_2012 = VOC.format("VOCtrainval_11-May-2012.tar", "VOC2012")


@dataclass(frozen=True)
class Place:
    """A file, or a folder of many.

    Attributes:
        path: below the folder of all data sets.
        how_to_get: what to do where it is missing; {root} is the folder of all data sets.
        expected: files in the folder, or lines of a list; None for a JSON file.
        suffix: of the files that are counted in a folder; "" for a file.
        lists: files below the folder of all data sets that name, without suffix, the files that are
            needed; the others of a folder may then be missing.
    """

    path: str
    how_to_get: str
    expected: int | None = None
    suffix: str = ""
    lists: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Attributes:
    state: "ok", "missing", or what else is wrong with it.
    found: files or lines; None where they are not counted.
    """

    place: Place
    state: str
    found: int | None = None


_TRAIN_IMAGES = Place("coco/train2017", COCO_TRAIN, 118_287, ".jpg")
_VAL_IMAGES = Place("coco/val2017", COCO_VAL, 5_000, ".jpg")


def _voc_year(folder: str, how_to_get: str, splits: dict[str, int], num_images: int):
    lists = [f"{folder}/ImageSets/Main/{split}.txt" for split in splits]
    places = [Place(path, how_to_get, n) for path, n in zip(lists, splits.values(), strict=True)]
    for part, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        places.append(Place(f"{folder}/{part}", how_to_get, num_images, suffix, tuple(lists)))
    return places


DATASET_TREES: dict[str, tuple[Place, ...]] = {
    "lvis_v1": (
        Place("lvis/lvis_v1_train.json", LVIS.format("lvis_v1_train")),
        Place("lvis/lvis_v1_val.json", LVIS.format("lvis_v1_val")),
        _TRAIN_IMAGES,  # LVIS's validation images are in both folders
        _VAL_IMAGES,
    ),
    "coco_lt": (
        Place(f"coco_lt/{ORIGINAL}", SIMCAL),
        Place("coco/annotations/instances_val2017.json", COCO_JSON),
        _TRAIN_IMAGES,
        _VAL_IMAGES,
    ),
    "coco_lt_rebuilt": (
        Place(f"coco_lt/{REBUILT}", REBUILD),
        Place("coco/annotations/instances_train2017.json", COCO_JSON),
        Place("coco/annotations/instances_val2017.json", COCO_JSON),
        _TRAIN_IMAGES,
        _VAL_IMAGES,
    ),
    "voc": (
        *_voc_year("VOC2007", VOC_2007, {"trainval": 5_011, "test": 4_952}, 9_963),
        *_voc_year("VOC2012", VOC_2012, {"trainval": 11_540}, 17_125),
    ),
    "digits_lt": (
        Place("digits_lt/annotations/digits_lt_train.json", DIGITS),
        Place("digits_lt/annotations/digits_lt_val.json", DIGITS),
        Place("digits_lt/train", DIGITS, NUM_TRAIN_IMAGES, ".jpg"),
        Place("digits_lt/val", DIGITS, NUM_VAL_IMAGES, ".jpg"),
    ),
}
CONFIGURED = ("digits_lt", "lvis_v1", "coco_lt", "voc")  # those that a config names


def tree_of(name: str) -> tuple[Place, ...]:
    """
    Raises:
        InputError: another name.
    """
    if name not in DATASET_TREES:
        raise InputError(
            f"There is no data set {name!r}{closest(name, DATASET_TREES)}: it is one of "
            f"{', '.join(DATASET_TREES)}."
        )
    return DATASET_TREES[name]


def check_tree(places: Sequence[Place], root: str | os.PathLike[str]) -> list[Finding]:
    """What is there of each place below `root`; names are read, and of JSON files the end."""
    root = Path(root)
    return [_look(place, root) for place in places]


def _look(place: Place, root: Path) -> Finding:
    path = root / place.path
    if place.suffix:
        return _look_at_folder(place, path, root) if path.is_dir() else Finding(place, "missing")
    if not path.is_file():
        return Finding(place, "missing")
    if place.expected is not None:
        found = len(path.read_text().split())
        return Finding(place, "ok" if found == place.expected else "another list", found)
    return Finding(place, "ok" if _ends(path) else "cut off")


def _look_at_folder(place: Place, path: Path, root: Path) -> Finding:
    with os.scandir(path) as entries:
        names = {entry.name for entry in entries if entry.name.endswith(place.suffix)}
    lists = [root / entry for entry in place.lists]
    if lists and all(entry.is_file() for entry in lists):
        needed = {f"{name}{place.suffix}" for entry in lists for name in entry.read_text().split()}
        absent = sorted(needed - names)
        state = f"{len(absent):,} missing: {absent[0]}" if absent else "ok"
    else:
        state = "ok" if len(names) >= place.expected else f"{place.expected - len(names):,} missing"
    return Finding(place, state, len(names))


def _ends(path: Path) -> bool:
    """Whether a JSON file goes to its end, which one that was not copied as a whole does not."""
    with path.open("rb") as f:
        f.seek(max(path.stat().st_size - 64, 0))
        return f.read().rstrip().endswith(b"}")
