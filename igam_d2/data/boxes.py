"""Boxes of no area or outside their image: a few are warned of, many are a mistake in the file."""

import logging
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from ..errors import InputError

__all__ = ["check_test_boxes", "check_training_boxes", "with_file"]

# Annotators' rounding: LVIS and COCO have boxes that end a fraction of a pixel outside the image.
TOLERANCE = 1.0
# Up to this share of bad boxes are warned of (COCO itself has a few of no area); more of them are a
# mistake in the file, such as corners where width and height belong.
BAD_SHARE = 1e-3
PROBLEMS = ("no area", "a part outside its image")


def check_training_boxes(records: list[dict], names: Sequence[str], num_classes: int) -> list[dict]:
    """Leaves out of Detectron2's records the few boxes that are bad.

    Raises:
        InputError: more than BAD_SHARE of them are, or a class that the model does not have.
    """
    bad: dict[str, list[str]] = {problem: [] for problem in PROBLEMS}
    total = 0
    for record in records:
        kept = []
        for annotation in record.get("annotations", ()):
            total += 1
            if not 0 <= annotation["category_id"] < num_classes:
                raise InputError(
                    f"An annotation of {record['file_name']} ({', '.join(names)}) has category "
                    f"{annotation['category_id']} after mapping, but MODEL.ROI_HEADS.NUM_CLASSES "
                    f"is {num_classes}: categories must map to 0 ... {num_classes - 1}."
                )
            problem = None
            mode = annotation["bbox_mode"]
            # Not rotated or relative boxes, which no set of ours has
            if mode in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
                is_corners = mode == BoxMode.XYXY_ABS
                problem = _problem(annotation["bbox"], record, is_corners=is_corners)
            if problem is None:
                kept.append(annotation)
            else:
                bad[problem].append(f"{annotation['bbox']} in {record['file_name']}")
        if "annotations" in record:
            record["annotations"] = kept
    _report(bad, total, names, "they are left out")
    return records


def check_test_boxes(name: str, content: dict) -> None:
    """
    Args:
        content: of the data set's annotation file, checked as a whole.

    Raises:
        InputError: more than BAD_SHARE of its boxes are bad.
    """
    bad: dict[str, list[str]] = {problem: [] for problem in PROBLEMS}
    images = {image["id"]: image for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        problem = _problem(annotation["bbox"], images[annotation["image_id"]])
        if problem is not None:
            bad[problem].append(f"{annotation['bbox']} of annotations[{number}]")
    _report(bad, len(content["annotations"]), [name], "they are evaluated as they are")


def _problem(box: Sequence[float], image: dict, *, is_corners: bool = False) -> str | None:
    left, top, right, bottom = box
    if not is_corners:  # BoxMode.convert: 20 us a box
        right, bottom = left + right, top + bottom
    if not (right > left and bottom > top):  # NaN too
        return "no area"
    height, width = image.get("height"), image.get("width")
    outside = min(left, top) < -TOLERANCE
    if height is not None and width is not None:
        outside |= right > width + TOLERANCE or bottom > height + TOLERANCE
    return "a part outside its image" if outside else None


def _report(bad: dict[str, list[str]], total: int, names: Sequence[str], then: str) -> None:
    for problem, boxes in bad.items():
        if not boxes:
            continue
        text = (
            f"{len(boxes)} of {total} boxes of {with_file(names)} have {problem}, the first being "
            f"{boxes[0]}"
        )
        if len(boxes) > BAD_SHARE * total:
            raise InputError(
                f"{text}: boxes must be [x, y, width, height] in pixels, inside the image."
            )
        logging.getLogger(__name__).warning("%s: %s.", text, then)


def with_file(names: Sequence[str]) -> str:
    """Data sets, each with its annotation file where it has one."""
    files = {name: MetadataCatalog.get(name).get("json_file") for name in names}
    return ", ".join(f"{name} ({file!r})" if file else name for name, file in files.items())
