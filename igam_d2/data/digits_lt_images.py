"""Draws the pictures of Digits-LT: enlarged digits in contrasting colours over photographs."""

import cv2
import numpy as np

IMAGE_SIZE = 128
DIGIT_HEIGHT = (34, 60)  # pixels of the 8x8 cell; the strokes fill most of its height
INK = 0.42  # a glyph's value above which a pixel belongs to the digit
ZOOM = 6  # an 8x8 digit is enlarged by this before it is rotated and scaled
CROP_SIZE = (96, 320)  # pixels of the photo
MAX_COVERED = 0.12  # of a digit's pixels, by digits above it


def compose(
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


def enlarge(digit: np.ndarray) -> np.ndarray:
    """An 8x8 digit as a smooth (10 * ZOOM)^2 image, with an empty cell around it."""
    size = (digit.shape[1] + 2) * ZOOM, (digit.shape[0] + 2) * ZOOM
    enlarged = cv2.resize(np.pad(digit, 1), size, interpolation=cv2.INTER_CUBIC)
    return enlarged.astype(np.float32)


def _render(rng: np.random.Generator, glyph: np.ndarray, shrink: float) -> np.ndarray:
    """The opacity (IMAGE_SIZE, IMAGE_SIZE) in [0, 1] of a glyph put wholly inside at random."""
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
