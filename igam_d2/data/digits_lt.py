"""Digits-LT: real handwritten digits over real photographs, long-tailed, in LVIS v1 format.

The set needs no download: digits and photographs lie inside scikit-learn and scikit-image. It is
small enough to train a detector from scratch on a CPU in minutes.

* Digits: scikit-learn's `load_digits`, split by sample into a training and a validation part.
* Backgrounds: every photograph is cut in two along its longer side; crops for training come from
  the first part, crops for validation from the second, so that no pixel is shared.
* Frequency: a random permutation (by seed) says which digit gets which place in the tail.
* Annotation is complete: every class that is not in an image is in its `neg_category_ids`.

Beside LVIS's keys an annotation has `sample` (the index into `load_digits`), and an image has
`photo` and `crop` (XYWH in that photo), so that the split can be checked.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igam_d2.errors import InputError

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Images a class occurs in, from head to tail. LVIS: rare 1-10, common 11-100, frequent > 100.
TRAIN_IMAGE_COUNTS = (1500, 1100, 700, 400, 100, 70, 45, 10, 8, 6)
NUM_TRAIN_IMAGES = 1600
NUM_VAL_IMAGES = 300
VAL_IMAGE_COUNT = 90  # of every class

IMAGE_SIZE = 128
DIGIT_HEIGHT = (34, 60)  # pixels of the 8x8 cell; the strokes fill most of its height
INK = 0.42  # a glyph's value above which a pixel belongs to the digit
ZOOM = 6  # an 8x8 digit is enlarged by this before it is rotated and scaled
CROP_SIZE = (96, 320)  # pixels of the photo
EXTRA_INSTANCE = 0.5  # chance that a class occurs a second time in an image
MAX_COVERED = 0.12  # of a digit's pixels, by digits above it
TRAIN_SHARE = 0.7  # of a photo's longer side, and of a class's digit samples

_VERSION = 1  # raise it when the same parameters give other images
_SKIMAGE_PHOTOS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass",
    "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket",
    "stereo_motorcycle", "text",
)  # fmt: skip


def frequency_group(image_count: int) -> str:
    """LVIS's group of a class with `image_count` training images: "r", "c" or "f"."""
    return "r" if image_count <= 10 else "c" if image_count <= 100 else "f"


def make_digits_lt(
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_train_images: int = NUM_TRAIN_IMAGES,
    train_image_counts: Sequence[int] = TRAIN_IMAGE_COUNTS,
    num_val_images: int = NUM_VAL_IMAGES,
    val_image_count: int = VAL_IMAGE_COUNT,
) -> dict[str, Path]:
    """Make the set under `<root>/digits_lt`, unless it is there with the same parameters.

    The same parameters give the same bytes. A set that was left incomplete is made again.

    Args:
        root: the folder of all data sets ($DETECTRON2_DATASETS).
        seed: of everything random, the order of the classes in the tail included.
        num_train_images, num_val_images: images per split.
        train_image_counts: training images per class, head first; the seed shuffles the digits.
        val_image_count: validation images per class.

    Returns:
        paths: "root", "train", "val" (image folders), "train_json", "val_json".

    Raises:
        InputError: a package is missing, or more images of a class are asked for than there are.
    """
    parameters = {
        "version": _VERSION,
        "seed": seed,
        "num_train_images": num_train_images,
        "train_image_counts": list(train_image_counts),
        "num_val_images": num_val_images,
        "val_image_count": val_image_count,
    }
    if len(train_image_counts) != len(CLASS_NAMES):
        raise InputError(f"train_image_counts needs {len(CLASS_NAMES)} numbers.")
    if max(train_image_counts) > num_train_images or val_image_count > num_val_images:
        raise InputError("A class cannot occur in more images than its split has.")

    target = Path(root) / "digits_lt"
    if _made_with(target, parameters):
        return _paths(target)
    digits, labels, photos = _load_sources()
    target.parent.mkdir(parents=True, exist_ok=True)
    # The set appears under its name only when complete: an interrupted run leaves no half of it.
    temporary = Path(tempfile.mkdtemp(prefix=".digits_lt-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        _make(temporary, digits, labels, photos, parameters)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _paths(target)


def _paths(target: Path) -> dict[str, Path]:
    annotations = target / "annotations"
    return {
        "root": target,
        "train": target / "train",
        "val": target / "val",
        "train_json": annotations / "digits_lt_train.json",
        "val_json": annotations / "digits_lt_val.json",
    }


def _made_with(target: Path, parameters: dict[str, Any]) -> bool:
    """Whether `target` holds the complete set of these parameters."""
    paths = _paths(target)
    try:
        made_with = json.loads((target / "parameters.json").read_text())
    except (OSError, ValueError):
        return False
    return (
        made_with == parameters
        and all(paths[f"{split}_json"].is_file() for split in ("train", "val"))
        and all(
            sum(1 for _ in paths[split].glob("*.jpg")) == parameters[f"num_{split}_images"]
            for split in ("train", "val")
        )
    )


def _load_sources() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Digits (N, 8, 8) in [0, 1], their labels (N,), and photos by name, (H, W, 3) uint8 RGB."""
    try:
        import cv2  # noqa: F401
        import skimage.data
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError as error:
        raise InputError(
            f"Digits-LT needs {error.name}, which `pip install igam_d2[demo]` installs."
        ) from error
    bunch = load_digits()
    samples = load_sample_images()
    photos = {
        Path(name).stem: image
        for name, image in zip(samples.filenames, samples.images, strict=True)
    }
    for name in _SKIMAGE_PHOTOS:
        photo = getattr(skimage.data, name)()
        photo = photo[0] if isinstance(photo, tuple) else photo  # the left eye of a stereo pair
        photos[name] = photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)
    return bunch.images / 16.0, bunch.target, photos


def _make(
    target: Path,
    digits: np.ndarray,
    labels: np.ndarray,
    photos: dict[str, np.ndarray],
    parameters: dict[str, Any],
) -> None:
    """Write images and annotations of both splits, then the parameters, into `target`."""
    rng = np.random.default_rng(parameters["seed"])
    order = rng.permutation(len(CLASS_NAMES))
    train_counts = np.empty(len(CLASS_NAMES), dtype=int)
    train_counts[order] = parameters["train_image_counts"]
    val_counts = np.full(len(CLASS_NAMES), parameters["val_image_count"])

    pools: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    for digit in range(len(CLASS_NAMES)):
        samples = rng.permutation(np.flatnonzero(labels == digit))
        cut = round(TRAIN_SHARE * len(samples))
        pools["train"].append(samples[:cut])
        pools["val"].append(samples[cut:])

    data = {}
    for split, counts in (("train", train_counts), ("val", val_counts)):
        (target / split).mkdir()
        data[split] = _make_split(
            target / split,
            digits,
            pools[split],
            {name: _photo_region(photo, split) for name, photo in photos.items()},
            _assign_classes(rng, counts, parameters[f"num_{split}_images"]),
            rng,
        )
    categories = _categories(data["train"]["annotations"])
    (target / "annotations").mkdir()
    for split, path in (("train", "train_json"), ("val", "val_json")):
        content = {
            "info": {
                "description": f"Digits-LT {split}: handwritten digits over photographs",
                "version": str(_VERSION),
                "parameters": parameters,
            },
            "licenses": [
                {"id": 1, "name": "see scikit-learn and scikit-image", "url": ""},
            ],
            "categories": categories,
            **data[split],
        }
        _paths(target)[path].write_text(json.dumps(content, separators=(",", ":")))
    (target / "parameters.json").write_text(json.dumps(parameters, indent=1) + "\n")


def _photo_region(photo: np.ndarray, split: str) -> tuple[np.ndarray, int, int]:
    """The part of a photo that belongs to a split, and the (x, y) of its corner in the photo."""
    height, width = photo.shape[:2]
    axis = 0 if height > width else 1
    cut = round(TRAIN_SHARE * photo.shape[axis])
    if split == "train":
        return (photo[:cut] if axis == 0 else photo[:, :cut]), 0, 0
    return (photo[cut:], 0, cut) if axis == 0 else (photo[:, cut:], cut, 0)


def _assign_classes(
    rng: np.random.Generator, image_counts: np.ndarray, num_images: int
) -> list[list[int]]:
    """Digits (0-9, a class once or twice) of each image; class c is in `image_counts[c]` images."""
    images: list[list[int]] = [[] for _ in range(num_images)]
    # The most frequent class comes last and takes images without a digit first.
    for digit in np.argsort(image_counts, kind="stable"):
        load = np.array([len(image) for image in images])
        chosen = np.argsort(load + rng.uniform(0, 6, num_images), kind="stable")
        for index in chosen[: image_counts[digit]]:
            images[index] += [int(digit)] * (1 + int(rng.random() < EXTRA_INSTANCE))
    return images


def _make_split(
    folder: Path,
    digits: np.ndarray,
    pools: list[np.ndarray],
    regions: dict[str, tuple[np.ndarray, int, int]],
    classes_per_image: list[list[int]],
    rng: np.random.Generator,
) -> dict[str, list[dict[str, Any]]]:
    """Write a split's images; its `images` and `annotations` in LVIS's form."""
    import cv2

    images, annotations = [], []
    names = sorted(regions)
    all_ids = set(range(1, len(CLASS_NAMES) + 1))
    for image_id, classes in enumerate(classes_per_image, start=1):
        name = names[rng.integers(len(names))]
        background, crop = _background(rng, *regions[name])
        present = [classes[i] for i in rng.permutation(len(classes))]
        samples = [int(rng.choice(pools[digit])) for digit in present]
        image, owner = _compose(rng, background, [_enlarge(digits[sample]) for sample in samples])

        file_name = f"{image_id:06d}.jpg"
        cv2.imwrite(str(folder / file_name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        images.append(
            {
                "id": image_id,
                "file_name": file_name,
                # load_lvis_json takes the folder and the file from the last two parts
                "coco_url": f"digits_lt/{folder.name}/{file_name}",
                "height": IMAGE_SIZE,
                "width": IMAGE_SIZE,
                "license": 1,
                "neg_category_ids": sorted(all_ids - {digit + 1 for digit in present}),
                "not_exhaustive_category_ids": [],
                "photo": name,
                "crop": crop,
            }
        )
        for index, (digit, sample) in enumerate(zip(present, samples, strict=True)):
            mask = owner == index
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": digit + 1,
                    "bbox": _box(mask),
                    "area": float(mask.sum()),
                    "segmentation": _polygons(mask),
                    "sample": sample,
                }
            )
    return {"images": images, "annotations": annotations}


def _background(
    rng: np.random.Generator, region: np.ndarray, x0: int, y0: int
) -> tuple[np.ndarray, list[int]]:
    """A crop of a photo's region, resized and jittered, float32 RGB; and its XYWH in the photo."""
    import cv2

    height, width = region.shape[:2]
    largest = min(height, width, CROP_SIZE[1])
    size = int(rng.integers(min(CROP_SIZE[0], largest), largest + 1))
    x, y = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
    crop = region[y : y + size, x : x + size]
    # INTER_AREA averages what it shrinks; it is plain interpolation where it enlarges
    image = cv2.resize(crop, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
    image = np.rot90(image, int(rng.integers(4)))
    image = image[:, ::-1] if rng.random() < 0.5 else image
    image = image.astype(np.float32)
    image = (image - image.mean()) * rng.uniform(0.4, 1.0) + image.mean() * rng.uniform(0.7, 1.2)
    image *= rng.uniform(0.8, 1.2, 3)  # a colour cast
    return np.clip(image, 0, 255).astype(np.float32), [x0 + x, y0 + y, size, size]


def _compose(
    rng: np.random.Generator, image: np.ndarray, glyphs: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Put glyphs over an image: uint8 RGB, and the index of the digit seen at a pixel (-1: none).

    Placement avoids covering more than `MAX_COVERED` of a digit; digits shrink until all fit.
    """
    image = image.copy()
    owner = np.full(image.shape[:2], -1, dtype=np.int64)
    areas: list[int] = []
    shrink = 1.0
    for index, glyph in enumerate(glyphs):
        for attempt in range(1000):
            if attempt % 20 == 19:
                shrink = max(shrink * 0.9, 0.4)
            alpha = _render(rng, glyph, shrink)
            mask = alpha > 0.5
            covered = np.bincount(owner[mask & (owner >= 0)], minlength=index)
            left = np.bincount(owner[owner >= 0], minlength=index) - covered
            if all(left[i] >= (1 - MAX_COVERED) * areas[i] for i in range(index)):
                break
        else:
            raise RuntimeError("no room for a digit: fewer digits per image are needed")
        owner[mask] = index
        areas.append(int(mask.sum()))
        colour = _contrasting_colour(rng, image[mask].mean(axis=0))
        image += alpha[..., None] * (colour - image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), owner


def _enlarge(digit: np.ndarray) -> np.ndarray:
    """An 8x8 digit as a smooth (10 * ZOOM)^2 image, with an empty cell around it."""
    import cv2

    size = (digit.shape[1] + 2) * ZOOM, (digit.shape[0] + 2) * ZOOM
    enlarged = cv2.resize(np.pad(digit, 1), size, interpolation=cv2.INTER_CUBIC)
    return enlarged.astype(np.float32)


def _render(rng: np.random.Generator, glyph: np.ndarray, shrink: float) -> np.ndarray:
    """The opacity (IMAGE_SIZE, IMAGE_SIZE) in [0, 1] of a glyph put wholly inside at random."""
    import cv2

    scale = np.exp(rng.uniform(*np.log(DIGIT_HEIGHT))) * shrink / (8 * ZOOM)
    angle, shear = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(-0.15, 0.15)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, shear], [0.0, 1.0]])
    matrix = matrix * scale * np.array([[rng.uniform(0.85, 1.15)], [1.0]])
    ys, xs = np.nonzero(glyph > INK)
    extent = matrix @ np.stack([xs, ys])  # (2, N)
    low, high = 1 - extent.min(axis=1), IMAGE_SIZE - 2 - extent.max(axis=1)
    placed = np.column_stack([matrix, rng.uniform(low, high)])
    warped = cv2.warpAffine(glyph, placed, (IMAGE_SIZE, IMAGE_SIZE), flags=cv2.INTER_LINEAR)
    # an enlarged 8x8 digit is a blur: a steep ramp gives strokes an edge of about a pixel
    return np.clip((warped - INK) * scale * ZOOM * 0.5 + 0.5, 0, 1)


def _contrasting_colour(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A colour (3,) whose brightness is far from that of what lies behind."""
    luma = np.array([0.299, 0.587, 0.114])
    behind = background @ luma
    while True:
        colour = rng.uniform(0, 255, 3)
        if abs(colour @ luma - behind) > 90:
            return colour.astype(np.float32)


def _box(mask: np.ndarray) -> list[float]:
    """The XYWH box of a mask's pixels."""
    ys, xs = np.nonzero(mask)
    x, y = xs.min(), ys.min()
    return [float(x), float(y), float(xs.max() + 1 - x), float(ys.max() + 1 - y)]


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons along the pixel edges of a mask; a hole is joined to its outline by a bridge.

    LVIS's polygons have no holes, and a filled 0 or 8 would claim the background inside.
    """
    import cv2

    ys, xs = np.nonzero(mask)
    x0, y0 = xs.min(), ys.min()
    part = mask[y0 : ys.max() + 1, x0 : xs.max() + 1].astype(np.uint8)
    zoom = 4  # findContours runs through pixel centres: half a pixel off, here an eighth
    part = np.repeat(np.repeat(part, zoom, axis=0), zoom, axis=1)
    contours, hierarchy = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for index, contour in enumerate(contours):
        if hierarchy[0][index][3] >= 0:  # a hole, taken up with its parent
            continue
        outline = contour[:, 0]  # (P, 2)
        hole = hierarchy[0][index][2]
        while hole >= 0:
            inner = contours[hole][:, 0]
            distance = np.abs(outline[:, None] - inner[None]).sum(axis=2)
            i, j = np.unravel_index(distance.argmin(), distance.shape)
            outline = np.concatenate([outline[: i + 1], inner[j:], inner[: j + 1], outline[i:]])
            hole = hierarchy[0][hole][0]
        if len(outline) >= 3:
            points = (outline + 0.5) / zoom + [x0, y0]
            polygons.append([round(float(value), 2) for value in points.ravel()])
    return polygons


def _categories(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """LVIS's categories with the counts of the training split."""
    categories = []
    for category_id, name in enumerate(CLASS_NAMES, start=1):
        mine = [a["image_id"] for a in annotations if a["category_id"] == category_id]
        image_count = len(set(mine))
        categories.append(
            {
                "id": category_id,
                "name": name,
                "synset": f"{name}.n.01",
                "synonyms": [name, str(category_id - 1)],
                "def": f"the handwritten digit {category_id - 1}",
                "frequency": frequency_group(image_count),
                "image_count": image_count,
                "instance_count": len(mine),
            }
        )
    return categories
