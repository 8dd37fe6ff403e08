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

from igam_d2.data.photos import background, load_photos, photo_region, save_jpeg
from igam_d2.errors import InputError

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Images a class occurs in, from head to tail. LVIS: rare 1-10, common 11-100, frequent > 100.
TRAIN_IMAGE_COUNTS = (1500, 1100, 700, 400, 100, 70, 45, 10, 8, 6)
NUM_TRAIN_IMAGES = 1600
NUM_VAL_IMAGES = 300
VAL_IMAGE_COUNT = 90  # of every class

EXTRA_INSTANCE = 0.5  # chance that a class occurs a second time in an image
SAMPLE_SHARE = 0.7  # of a class's digit samples, for training
_PHOTO_SHARE = {"train": (0.0, 0.7), "val": (0.7, 1.0)}  # of a photo's longer side

_VERSION = 1  # raise it when the same parameters shall give other images


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
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            f"Digits-LT needs {error.name}, which `pip install igam_d2[demo]` installs."
        ) from error
    photos = load_photos("Digits-LT", extra="demo")
    bunch = load_digits()
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
        cut = round(SAMPLE_SHARE * len(samples))
        pools["train"].append(samples[:cut])
        pools["val"].append(samples[cut:])

    data = {}
    for split, counts in (("train", train_counts), ("val", val_counts)):
        (target / split).mkdir()
        data[split] = _make_split(
            target / split,
            digits,
            pools[split],
            photos,
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
            "licenses": [{"id": 1, "name": "see scikit-learn and scikit-image", "url": ""}],
            "categories": categories,
            **data[split],
        }
        _paths(target)[path].write_text(json.dumps(content, separators=(",", ":")))
    (target / "parameters.json").write_text(json.dumps(parameters, indent=1) + "\n")


def _assign_classes(
    rng: np.random.Generator, image_counts: np.ndarray, num_images: int
) -> list[list[int]]:
    """Digits (0-9, a class once or twice) of each image; class c is in `image_counts[c]` images."""
    images: list[list[int]] = [[] for _ in range(num_images)]
    # From tail to head; images with few digits so far are preferred.
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
    photos: dict[str, np.ndarray],
    classes_per_image: list[list[int]],
    rng: np.random.Generator,
) -> dict[str, list[dict[str, Any]]]:
    """Write a split's images; its `images` and `annotations` in LVIS's form."""
    # Here, not above: it needs OpenCV, and who only registers the set does not
    from igam_d2.data import digits_lt_images as pictures
    from igam_d2.data.outlines import mask_box, mask_polygons

    images, annotations = [], []
    names = sorted(photos)
    regions = {name: photo_region(photos[name], *_PHOTO_SHARE[folder.name]) for name in names}
    all_ids = set(range(1, len(CLASS_NAMES) + 1))
    for image_id, classes in enumerate(classes_per_image, start=1):
        name = names[rng.integers(len(names))]
        backdrop, crop = background(
            rng,
            *regions[name],
            image_size=pictures.IMAGE_SIZE,
            crop_size=pictures.CROP_SIZE,
        )
        present = [classes[i] for i in rng.permutation(len(classes))]
        samples = [int(rng.choice(pools[digit])) for digit in present]
        image, owner = pictures.compose(
            rng, backdrop, [pictures.enlarge(digits[sample]) for sample in samples]
        )

        file_name = f"{image_id:06d}.jpg"
        save_jpeg(folder / file_name, image)
        images.append(
            {
                "id": image_id,
                "file_name": file_name,
                # load_lvis_json takes the folder and the file from the last two parts
                "coco_url": f"digits_lt/{folder.name}/{file_name}",
                "height": image.shape[0],
                "width": image.shape[1],
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
                    "bbox": mask_box(mask),
                    "area": float(mask.sum()),
                    "segmentation": mask_polygons(mask),
                    "sample": sample,
                }
            )
    return {"images": images, "annotations": annotations}


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
