"""Puts cut-outs of Meshes-LT over a photograph, the later ones before the earlier."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from igam_d2.data.meshes_lt_render import Cutout
from igam_d2.errors import InputError

__all__ = ["Picture", "compose"]

OBJECT_SIZE = (0.2, 0.55)  # an object's longer side, of the image's
MIN_VISIBLE = 0.6  # of an object's pixels, when all others lie before it

_TRIES = 20  # places for a cut-out before a smaller one is asked for
_LEAST_PIXELS = 12  # that an object shows


@dataclass
class Picture:
    """An image, and what can be seen of each object in it.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        owner: (S, S) the index of the object seen at a pixel; -1 is the photograph.
        areas: pixels of each object, with those that others cover.
    """

    image: np.ndarray
    owner: np.ndarray
    areas: list[int]


def compose(
    rng: np.random.Generator,
    backdrop: np.ndarray,
    objects: list[Callable[[np.random.Generator, float], Cutout]],
) -> Picture:
    """Put objects, first to last, wholly inside an image; each may cover those before it.

    Args:
        backdrop: float32 RGB (S, S, 3) in 0-255.
        objects: what draws a new view of an object with so many pixels on its longer side.

    Returns:
        picture: S pixels wide and high.

    Raises:
        InputError: there is no room for so many, or one is too thin to show at this size.
    """
    side = len(backdrop)
    image = backdrop.copy()
    owner = np.full((side, side), -1, dtype=np.int64)
    areas: list[int] = []
    for index, draw in enumerate(objects):
        size = float(np.exp(rng.uniform(*np.log(OBJECT_SIZE)))) * side
        for _ in range(12):
            rgb, alpha = draw(rng, size)
            place = _free_place(rng, alpha > 0.5, owner, areas)
            if place is not None:
                break
            size *= 0.85
        else:
            raise InputError(
                f"There is no room for {len(objects)} objects that each show {_LEAST_PIXELS} "
                f"pixels in an image of {side} pixels: give a larger --image-size or fewer "
                "--classes-per-image."
            )
        part = tuple(slice(start, start + n) for start, n in zip(place, alpha.shape, strict=True))
        image[part] = image[part] * (1 - alpha[..., None]) + rgb
        owner[part][alpha > 0.5] = index
        areas.append(int((alpha > 0.5).sum()))
    return Picture(np.clip(np.rint(image), 0, 255).astype(np.uint8), owner, areas)


def _free_place(
    rng: np.random.Generator, mask: np.ndarray, owner: np.ndarray, areas: list[int]
) -> tuple[int, int] | None:
    """The row and column of a random place for a mask that leaves enough of all others, if any."""
    rows, columns = np.subtract(owner.shape, mask.shape) + 1
    if min(rows, columns) < 1 or mask.sum() < _LEAST_PIXELS:
        return None
    seen = np.bincount(owner[owner >= 0], minlength=len(areas))
    least = np.maximum(np.multiply(MIN_VISIBLE, areas), _LEAST_PIXELS)
    for _ in range(_TRIES):
        row, column = int(rng.integers(rows)), int(rng.integers(columns))
        below = owner[row : row + mask.shape[0], column : column + mask.shape[1]][mask]
        covered = np.bincount(below[below >= 0], minlength=len(areas))
        if np.all(seen - covered >= least):
            return row, column
    return None
