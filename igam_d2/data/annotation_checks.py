"""Checks of each record of an annotation file: its keys, ids, what they refer to, its numbers."""

from collections.abc import Callable, Iterable
from functools import partial
from math import inf
from typing import Any

from ..errors import InputError

__all__ = ["FORMAT", "check_categories", "check_records"]

FORMAT = "a JSON object with the lists images, annotations and categories, as COCO's and LVIS's are"
NUMBERS = (int, float)  # exactly, as json reads them: True is none
CATEGORY_LIMIT, ID_LIMIT = 2**31, 2**63  # what detections keep of the ids


def check_records(
    path: str, content: dict, *, annotation: Iterable[str] = (), image: Iterable[str] = ()
) -> None:
    """Checks what a file holds, in one pass: 2 s for the 1.27 million annotations of LVIS.

    Args:
        annotation, image: keys that each of them needs beside those of the format.

    Raises:
        InputError: one of the lists or keys is missing, there are no images or categories, ids that
            are no whole numbers or that two records have, an annotation of an image or category
            that is not in the file, a box that is not four numbers, a size or name that is none.
    """
    for part in ("images", "annotations", "categories"):
        if not isinstance(content.get(part), list):
            raise InputError(f"{path!r} is not {FORMAT}: it has no list {part!r}.")
    keys = ("id", "height", "width", *image)
    images = _check_part(path, "images", content["images"], keys, _image_problem)
    categories = check_categories(path, content["categories"])

    problem = partial(_annotation_problem, images, categories)
    keys = ("id", "image_id", "category_id", "bbox", *annotation)
    _check_part(path, "annotations", content["annotations"], keys, problem)


def check_categories(path: str, categories: list) -> set[int]:
    """As :func:`check_records`, of the categories alone; returns their ids."""
    return _check_part(path, "categories", categories, ("id", "name"), lambda _: "")


def _check_part(
    path: str, part: str, records: list, keys: Iterable[str], problem_of: Callable[[dict], str]
) -> set[int]:
    """The ids of the records of a list, if each of them is in order."""
    if not records and part != "annotations":
        raise InputError(f"{path!r} cannot be used: its list {part!r} is empty.")
    needed, seen = frozenset(keys), set()
    limit = CATEGORY_LIMIT if part == "categories" else ID_LIMIT
    # COCO 2014's minival has annotations twice, and is used nevertheless, as Detectron2 does
    may_repeat = part == "annotations" and "minival" in path
    for number, record in enumerate(records):
        if type(record) is not dict or not needed <= record.keys():
            missing = next(key for key in keys if type(record) is not dict or key not in record)
            raise InputError(f"{path!r} is not {FORMAT}: {part}[{number}] has no {missing!r}.")
        name = record["id"]
        if type(name) is not int or not -limit < name < limit:
            raise InputError(
                f"{path!r} cannot be used: the id of {part}[{number}] is {name!r}, and must be a "
                f"whole number below {limit:,}."
            )
        if name in seen and not may_repeat:
            raise InputError(
                f"{path!r} cannot be used: two of its {part} have the id {name}, the second being "
                f"{part}[{number}], and must have one each."
            )
        seen.add(name)
        if problem := problem_of(record):
            raise InputError(
                f"{path!r} cannot be used: {part}[{number}], of the id {name}, has {problem}."
            )
    return seen


def _is_number(value: Any) -> bool:
    return type(value) in NUMBERS and -inf < value < inf  # NaN is not


def _image_problem(image: dict) -> str:
    for key in ("height", "width"):
        if not _is_number(image[key]) or image[key] <= 0:
            return f"the {key} {image[key]!r}, which must be a number of pixels"
    for key in ("file_name", "coco_url"):
        if not isinstance(image.get(key) or "", str):
            return f"the {key} {image[key]!r}, which must be text"
    return ""


def _annotation_problem(images: set[int], categories: set[int], record: dict) -> str:
    image, category, box = record["image_id"], record["category_id"], record["bbox"]
    if type(image) is not int or image not in images:
        return f"the image_id {image!r}, which is the id of none of its images"
    if type(category) is not int or category not in categories:
        return f"the category_id {category!r}, which is the id of none of its categories"
    try:  # a sum is finite if all are, and takes a third of the time of looking at each
        left, top, width, height = box
        is_box = type(box) is list and _is_number(left + top + width + height)
    except (TypeError, ValueError, OverflowError):
        is_box = False
    if not is_box:
        return f"the bbox {box!r}, which must be four numbers: [x, y, width, height] in pixels"
    if record.get("iscrowd", 0) not in (0, 1):
        return f"the iscrowd {record['iscrowd']!r}, which must be 0 or 1"
    if "area" in record and not _is_number(record["area"]):
        return f"the area {record['area']!r}, which must be a number"
    return ""
