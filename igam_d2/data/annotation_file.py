"""Annotation files in COCO's and LVIS's format: whether they are, and what is read of them."""

import json
import mmap
import os
import re
from collections.abc import Sequence

from detectron2.utils.file_io import PathManager

from ..errors import InputError
from .annotation_checks import FORMAT, check_categories, check_records

__all__ = [
    "check_annotation_file",
    "check_format",
    "image_file",
    "read_categories",
    "what_is_there",
]

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")  # of each image, in LVIS's format


def check_annotation_file(
    path: str,
    *,
    outlines: bool = True,
    annotated: bool = True,
    annotation: Sequence[str] = (),
    image: Sequence[str] = (),
) -> dict:
    """Checks that a file is an annotation file in COCO or LVIS format, and returns what it holds.

    Args:
        outlines: with the objects' outlines, whose numbers take more memory than all the rest.
        annotated: whether it must have annotations, which a test set has not.
        annotation, image: more keys that each of them needs.

    Raises:
        InputError: missing, not JSON, or with a mistake that :func:`check_records` finds.
    """
    if not PathManager.isfile(path):
        raise InputError(
            f"Annotation file {path!r} {what_is_there(path)}: put it there, or set "
            "DETECTRON2_DATASETS to the folder that holds the data sets."
        )

    def without_outline(record: dict) -> dict:
        record.pop("segmentation", None)
        return record

    try:
        with PathManager.open(path) as f:
            content = json.load(f, object_hook=None if outlines else without_outline)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path!r} is not {FORMAT}: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path!r} is not {FORMAT}: it holds a {type(content).__name__}.")
    if not annotated:
        content.setdefault("annotations", [])
    check_records(path, content, annotation=annotation, image=image)
    return content


def what_is_there(path: str) -> str:
    """What is said of a path that is no file."""
    return "is a folder" if PathManager.isdir(path) else "is missing"


def read_categories(path: str) -> list[dict]:
    """The categories of an annotation file, without the rest of it, which may be a gigabyte.

    Raises:
        InputError: as :func:`check_annotation_file`, of a file that shows no categories at once.
    """
    found = []
    try:
        with (
            open(PathManager.get_local_path(path), "rb") as f,
            mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            place = text.find(b'"categories"')
            while place >= 0 and len(found) < 2:
                if start := re.compile(rb'"categories"\s*:\s*(?=\[)').match(text, place):
                    records = _list_at(text, start.end())
                    found += [records] if _are_categories(records) else []
                place = text.find(b'"categories"', place + 1)
    except (OSError, ValueError):  # no file, or an empty one: it is said below
        found = []
    if len(found) == 1:
        check_categories(path, found[0])
        return found[0]
    return check_annotation_file(path, outlines=False, annotated=False)["categories"]


def _list_at(text: mmap.mmap, start: int) -> list | None:
    """What a list of JSON holds that starts there; None if it does not end."""
    size = 1 << 16
    while True:
        try:
            part = text[start : start + size].decode(errors="ignore")
            return json.JSONDecoder().raw_decode(part)[0]
        except (ValueError, RecursionError):
            if start + size >= len(text):
                return None
            size *= 8


def _are_categories(records: list | None) -> bool:
    return bool(records) and all(
        isinstance(record, dict) and type(record.get("id")) is int and "name" in record
        for record in records
    )


def check_format(path: str, content: dict, kind: str) -> None:
    """Checks that the images of an annotation file have what its format, "coco" or "lvis", asks.

    Raises:
        InputError: one has not; it says so where the file looks like the other format.
    """
    images = content["images"]
    needed = FEDERATED if kind == "lvis" else ("file_name",)
    lacking = [(i, key) for i, image in enumerate(images) for key in needed if key not in image]
    names = ("coco_url", "file_name") if kind == "lvis" else ("file_name",)
    unnamed = [i for i, image in enumerate(images) if not any(image.get(name) for name in names)]
    unlisted = [
        (i, key)
        for i, image in enumerate(images)
        for key in FEDERATED
        if kind == "lvis" and not isinstance(image.get(key, []), list)
    ]
    if lacking:
        other, keys = ("coco", ("file_name",)) if kind == "lvis" else ("lvis", FEDERATED)
        reason = f"images[{lacking[0][0]}] has no {lacking[0][1]!r}"
        if all(key in image for image in images for key in keys):
            hint = f"it looks like {other.upper()} format: set format: {other}"
        elif kind == "lvis":
            hint = f"each image needs {' and '.join(FEDERATED)}"
        else:
            hint = "each image needs one, below the image folder"
    elif unnamed:
        reason = f"images[{unnamed[0]}] has no 'file_name'"
        hint = "each image needs one, below the image folder"
        if kind == "lvis":
            hint = "each image needs one, or a coco_url that ends in its folder and file"
    elif unlisted:
        number, key = unlisted[0]
        reason = f"the {key} of images[{number}] is {images[number][key]!r}"
        hint = "it must be a list of category ids"
    else:
        return
    raise InputError(f"{path!r} is not in {kind.upper()} format: {reason}; {hint}.")


def image_file(image: dict, kind: str) -> str:
    """Where the file of an image record lies below the folder of all images.

    In LVIS's format that is the end of its `coco_url`, the folder of a split and the file, as for
    Detectron2; its `file_name` where it has no such address.
    """
    if kind == "lvis" and image.get("coco_url"):
        return os.path.join(*image["coco_url"].split("/")[-2:])
    return image["file_name"]
