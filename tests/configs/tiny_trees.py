"""LVIS v1, COCO, COCO-LT and Pascal VOC in their own formats and with all their classes, of a few
very small images, in the place of the data sets that are registered."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import (
    register_all_coco,
    register_all_lvis,
    register_all_pascal_voc,
)
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_CLASSES
from PIL import Image
from pycocotools import mask as mask_utils

from igam_d2.data.coco_lt import coco_lt_path
from igam_d2.data.register import register_coco_lt

__all__ = ["NUM_TEST_IMAGES", "NUM_TRAIN_IMAGES", "make_trees", "registered"]

# With annotations; VOC has them in two halves, of 2007 and 2012
NUM_TRAIN_IMAGES, NUM_TEST_IMAGES = 4, 3
HEIGHT, WIDTH = 48, 64
LVIS_COUNTS = {entry["id"]: entry["image_count"] for entry in LVIS_CATEGORY_IMAGE_COUNT}


def make_trees(root: Path) -> Path:
    """Writes all trees into a folder as $DETECTRON2_DATASETS is; returns it."""
    rng = np.random.default_rng(0)
    _make_lvis(root, rng)
    _make_coco(root, rng)
    _make_voc(root, rng)
    return root


@contextlib.contextmanager
def registered(root: Path) -> Iterator[None]:
    """The data sets below a folder in the place of those of the same names, and of all others."""
    catalogs = DatasetCatalog.data, MetadataCatalog.data
    before = [dict(catalog) for catalog in catalogs]
    for catalog in catalogs:
        catalog.clear()
    try:
        for register in (register_all_coco, register_all_lvis, register_all_pascal_voc):
            register(str(root))
        register_coco_lt(root)
        yield
    finally:
        for catalog, content in zip(catalogs, before, strict=True):
            catalog.clear()
            catalog.update(content)


def _write_image(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=50)


def _outline(rng: np.random.Generator) -> np.ndarray:
    """(8, 2), an ellipse inside the image."""
    radii = rng.uniform(2, 14, size=2)
    center = rng.uniform(radii + 1, (WIDTH - 1, HEIGHT - 1) - radii)
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    return np.round(center + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1), 2)


def _annotation(image_id: int, category_id: int, rng: np.random.Generator) -> dict:
    outline = _outline(rng)
    low, high = outline.min(axis=0), outline.max(axis=0)
    polygon = [outline.ravel().tolist()]
    area = mask_utils.area(mask_utils.frPyObjects(polygon, HEIGHT, WIDTH)[0])
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": float(area),
        "segmentation": polygon,
    }


def _split(
    image_root: Path, folder: str, num_images: int, categories: list[int], rng: np.random.Generator
) -> tuple[list[dict], list[dict]]:
    """Images and annotations: one of every category, one after another over the images, and a last
    image without any."""
    images = []
    for image_id in range(1, num_images + 2):
        name = f"{image_id:012d}.jpg"
        _write_image(image_root / folder / name, rng)
        image = {"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH}
        images.append(image)
    annotations = [
        _annotation(1 + number % num_images, category, rng)
        for number, category in enumerate(categories)
    ]
    return images, annotations


def _write(path: Path, images: list[dict], annotations: list[dict], categories: list[dict]) -> None:
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _make_lvis(root: Path, rng: np.random.Generator) -> None:
    """All 1,203 categories with their true counts, each with one training instance."""
    categories = [
        {
            "id": category["id"],
            "name": category["synonyms"][0],
            "synonyms": category["synonyms"],
            "synset": category["synset"],
            "def": category["def"],
            "frequency": category["frequency"],
            "image_count": LVIS_COUNTS[category["id"]],
            "instance_count": 2 * LVIS_COUNTS[category["id"]],  # about as many as there are
        }
        for category in LVIS_CATEGORIES
    ]
    ids = [category["id"] for category in categories]
    for split, num_images, present in (
        ("train", NUM_TRAIN_IMAGES, ids),
        ("val", NUM_TEST_IMAGES, ids[:30]),
    ):
        folder = f"{split}2017"
        images, annotations = _split(root / "coco", folder, num_images, present, rng)
        for image in images:
            name = image.pop("file_name")
            image["coco_url"] = f"http://images.cocodataset.org/{folder}/{name}"
            shown = {a["category_id"] for a in annotations if a["image_id"] == image["id"]}
            image["neg_category_ids"] = [i for i in ids[:60] if i not in shown][:5]
            image["not_exhaustive_category_ids"] = sorted(shown)[:1]
        _write(root / "lvis" / f"lvis_v1_{split}.json", images, annotations, categories)


def _make_coco(root: Path, rng: np.random.Generator) -> None:
    """COCO's 80 categories with their own ids, which have gaps; a crowd in each part."""
    categories = [
        {"id": category["id"], "name": category["name"], "supercategory": "none"}
        for category in COCO_CATEGORIES
        if category["isthing"]
    ]
    ids = [category["id"] for category in categories]
    for split, num_images, file in (
        ("train", NUM_TRAIN_IMAGES, coco_lt_path(root=root)),
        ("val", NUM_TEST_IMAGES, root / "coco" / "annotations" / "instances_val2017.json"),
    ):
        images, annotations = _split(root / "coco", f"{split}2017", num_images, ids, rng)
        for annotation in annotations:
            annotation["iscrowd"] = 0
        annotations.append(_crowd(1, ids[0]))
        _write(file, images, annotations, categories)


def _crowd(image_id: int, category_id: int) -> dict:
    """A region of many objects: the upper half of the image, as an uncompressed RLE."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[: HEIGHT // 2] = 1
    column = [HEIGHT // 2, HEIGHT // 2]  # pixels in and out of it, after the column's none before
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [0, 0, WIDTH, HEIGHT // 2],
        "area": int(mask.sum()),
        "iscrowd": 1,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, *column * WIDTH]},
    }


def _make_voc(root: Path, rng: np.random.Generator) -> None:
    """The twenty classes; every fifth object is a difficult one."""
    for year, splits in (
        (2007, {"trainval": NUM_TRAIN_IMAGES // 2, "test": NUM_TEST_IMAGES}),
        (2012, {"trainval": NUM_TRAIN_IMAGES // 2}),
    ):
        folder = root / f"VOC{year}"
        for split, num_images in splits.items():
            names = [f"{year}_{split}_{number:03d}" for number in range(num_images)]
            (folder / "Annotations").mkdir(parents=True, exist_ok=True)
            (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
            for number, name in enumerate(names):
                _write_image(folder / "JPEGImages" / f"{name}.jpg", rng)
                _write_voc_objects(folder, name, VOC_CLASSES[number::num_images], rng)


def _write_voc_objects(folder: Path, name: str, classes: tuple[str, ...], rng) -> None:
    tree = ElementTree.Element("annotation")
    ElementTree.SubElement(tree, "filename").text = f"{name}.jpg"
    size = ElementTree.SubElement(tree, "size")
    for key, value in (("width", WIDTH), ("height", HEIGHT), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for number, class_name in enumerate(classes):
        outline = _outline(rng)
        # Pixels from 1, the last one belongs to the object
        low, high = np.floor(outline.min(axis=0)) + 1, np.ceil(outline.max(axis=0))
        found = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(found, "name").text = class_name
        ElementTree.SubElement(found, "pose").text = "Unspecified"
        ElementTree.SubElement(found, "truncated").text = "0"
        ElementTree.SubElement(found, "difficult").text = str(int(number % 5 == 4))
        box = ElementTree.SubElement(found, "bndbox")
        for key, value in (
            ("xmin", low[0]),
            ("ymin", low[1]),
            ("xmax", high[0]),
            ("ymax", high[1]),
        ):
            ElementTree.SubElement(box, key).text = str(int(value))
    ElementTree.ElementTree(tree).write(folder / "Annotations" / f"{name}.xml")
