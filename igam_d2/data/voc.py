"""Checks of Pascal VOC's trees, which are many small files, before anything expensive begins."""

import os
import xml.etree.ElementTree as ET

from detectron2.data import Metadata, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import InputError

__all__ = ["check_voc_annotations", "check_voc_tree", "is_voc"]

HOW_TO_GET = (
    "get it as datasets/README.md says, or set DETECTRON2_DATASETS to the folder that holds "
    "VOC2007 and VOC2012"
)


def is_voc(metadata: Metadata) -> bool:
    """Whether a data set was registered as one of Pascal VOC, so that its files are known."""
    return all(metadata.get(key) is not None for key in ("dirname", "year", "split"))


def check_voc_tree(name: str) -> None:
    """Checks that a split of VOC has its year's folder, its list, annotations and images.

    Raises:
        InputError: one of them is missing: of which year, and where it should be.
    """
    metadata = MetadataCatalog.get(name)
    root, year, split = metadata.dirname, metadata.year, metadata.split
    places = (
        (f"the folder of VOC {year}", root, PathManager.isdir),
        (f"the list of the {split} images", _list_of(metadata), PathManager.isfile),
        ("the folder of the annotations", os.path.join(root, "Annotations"), PathManager.isdir),
        ("the folder of the images", os.path.join(root, "JPEGImages"), PathManager.isdir),
    )
    for what, path, exists in places:
        if not exists(path):
            raise InputError(
                f"{name!r} could not be read: {what}, {path!r}, is missing: {HOW_TO_GET}."
            )


def check_voc_annotations(name: str, *, evaluated: bool = False) -> None:
    """Checks every annotation file of a split of VOC.

    Images without an object, or with "difficult" ones alone, are as good as others.

    Args:
        evaluated: with what Detectron2's evaluation needs beside the training.

    Raises:
        InputError: as :func:`check_voc_tree`, a list of fewer than two images, or the first file
            that is missing, broken, or has an object of an unknown class.
    """
    check_voc_tree(name)
    metadata = MetadataCatalog.get(name)
    with PathManager.open(_list_of(metadata)) as f:
        images = f.read().split()
    if len(images) < 2:
        raise InputError(
            f"{_list_of(metadata)!r} of {name!r} lists {len(images)} images: Detectron2 reads two "
            "or more, one a line."
        )
    folder = PathManager.get_local_path(os.path.join(metadata.dirname, "Annotations/"))
    for image in images:
        path = os.path.join(folder, f"{image}.xml")
        problem = _problem(path, metadata.thing_classes, evaluated)
        if problem:
            raise InputError(f"{path!r} of {name!r} {problem}: {HOW_TO_GET}.")


def _list_of(metadata: Metadata) -> str:
    return os.path.join(metadata.dirname, "ImageSets", "Main", f"{metadata.split}.txt")


def _problem(path: str, classes: list[str], evaluated: bool) -> str:
    """What is wrong with an annotation file, as the rest of a sentence; "" for a good one."""
    try:
        tree = ET.parse(path)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ET.ParseError) as error:
        return f"is no XML file that can be read ({error})"
    numbers = [(tree, tag, int) for tag in ("size/height", "size/width")]
    for found in tree.findall("object"):
        kind = found.findtext("name")
        if kind not in classes:
            return f"has an object of the class {kind!r}, which is not one of {len(classes)} of VOC"
        corners = [f"bndbox/{tag}" for tag in ("xmin", "ymin", "xmax", "ymax")]
        numbers += [(found, tag, int if evaluated else float) for tag in corners]
        if evaluated:
            numbers += [(found, tag, int) for tag in ("truncated", "difficult")]
            numbers.append((found, "pose", str))
    for parent, tag, read in numbers:
        text = parent.findtext(tag)
        if text is None:
            return f"is no annotation of VOC: it has no {tag}"
        try:
            read(text)
        except ValueError:
            should = "a whole number" if read is int else "a number"
            return f"is no annotation of VOC: {tag} is {text!r}, where {should} should be"
    return ""
