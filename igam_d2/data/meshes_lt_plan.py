"""What Meshes-LT is made of: its parameters, the count of each class, the classes of each image."""

import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT

from igam_d2.errors import InputError

__all__ = ["SPLITS", "Parameters", "class_name", "long_tail", "plan", "spread", "stream"]

SPLITS = ("train", "selection", "test")
EXTRA_INSTANCE = 0.3  # chance that a class occurs a second time in an image
NUM_MESHES = 1000  # that pybullet ships
BROKEN_MESHES = (168,)  # with coordinates that are not numbers

VERSION = 1  # raise it when the same parameters shall give other bytes


@dataclass(frozen=True)
class Parameters:
    """What the bytes of a set depend on, beside the versions of the packages that draw it.

    Attributes:
        name: of the set, its folder and its files.
        num_classes: 10 to 999, the meshes that can be drawn.
        num_train_images: images of the split "train".
        image_size: side of the images in pixels.
        classes_per_image: on average.
        eval_images: images of "selection" and of "test" that each class is in.
        seed: of everything random.

    Raises:
        InputError: one is out of its range, or there is no room for an image of each class.
    """

    name: str = "meshes_lt"
    num_classes: int = 100
    num_train_images: int = 2000
    image_size: int = 160
    classes_per_image: int = 4
    eval_images: int = 40
    seed: int = 0

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", str(self.name)):
            raise InputError(
                f"--name is {self.name!r}: it must be of letters, digits, '_' and '-' alone."
            )
        for key, low, high in (
            ("num_classes", 10, NUM_MESHES - len(BROKEN_MESHES)),
            ("num_train_images", 1, 999_999),
            ("image_size", 64, 1024),
            ("classes_per_image", 1, 8),
            ("eval_images", 1, 1000),
            ("seed", 0, 2**32 - 1),
        ):
            value = getattr(self, key)
            if type(value) is not int or not low <= value <= high:
                raise InputError(
                    f"--{key.replace('_', '-')} is {value!r}: it must be a whole number from "
                    f"{low} to {high}."
                )
        if self.num_classes > self.num_train_images * self.classes_per_image:
            raise InputError(
                f"--num-classes is {self.num_classes}: {self.num_train_images} training images of "
                f"{self.classes_per_image} classes have no room for one image of each."
            )

    def num_images(self, split: str) -> int:
        """Images of a split."""
        if split == "train":
            return self.num_train_images
        return -(-self.num_classes * self.eval_images // self.classes_per_image)

    def as_json(self) -> dict[str, Any]:
        """What `parameters.json` of the set holds."""
        return {"version": VERSION, **asdict(self)}


def stream(parameters: Parameters, *path: str | int) -> np.random.Generator:
    """The random numbers of one thing, which depend on nothing else that is drawn.

    Args:
        path: "classes"; "spread", split; "image", split, image id; "views", mesh. Its first word
            says its length: numpy takes a list of numbers for the same as one with zeros after it.
    """
    words = ("classes", "spread", "image", "views")
    numbers = [
        part if isinstance(part, int) else (SPLITS if part in SPLITS else words).index(part)
        for part in path
    ]
    return np.random.default_rng([parameters.seed, *numbers])


def plan(parameters: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """The meshes that are the classes (K,), ascending, and the training images of each (K,)."""
    rng = stream(parameters, "classes")
    meshes = rng.permutation(NUM_MESHES)
    meshes = np.sort(meshes[~np.isin(meshes, BROKEN_MESHES)][: parameters.num_classes])
    return meshes, rng.permutation(long_tail(parameters))


def long_tail(parameters: Parameters) -> np.ndarray:
    """Training images per class (K,), ascending: LVIS v1's quantiles, scaled.

    Their sum is that of the classes of all training images, but for rounding, for the class that
    is left with one image, and for the one that would be in more images than there are.
    """
    lvis = np.sort([entry["image_count"] for entry in LVIS_CATEGORY_IMAGE_COUNT])
    places = (np.arange(parameters.num_classes) + 0.5) * len(lvis) / parameters.num_classes
    counts = lvis[places.astype(int)]
    total = parameters.classes_per_image * parameters.num_train_images
    scaled = np.rint(counts * (total / counts.sum())).astype(int)
    return np.clip(scaled, 1, parameters.num_train_images)


def spread(rng: np.random.Generator, image_counts: np.ndarray, num_images: int) -> list[list[int]]:
    """Classes (0 to K - 1, each once or twice) of each image; class k is in `image_counts[k]`.

    Args:
        image_counts: (K,), none greater than `num_images`.
    """
    images: list[list[int]] = [[] for _ in range(num_images)]
    load = np.zeros(num_images)
    # From tail to head; images with few objects so far are preferred.
    for k in np.argsort(image_counts, kind="stable"):
        chosen = np.argsort(load + rng.uniform(0, 4, num_images), kind="stable")
        for index in chosen[: image_counts[k]]:
            images[index] += [int(k)] * (1 + int(rng.random() < EXTRA_INSTANCE))
            load[index] = len(images[index])
    return images


def class_name(mesh: int) -> str:
    """The class of pybullet's mesh `mesh`."""
    return f"mesh_{mesh:03d}"
