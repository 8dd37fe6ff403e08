"""Draws the pictures of Digits-LT, and turns masks into LVIS's boxes and polygons."""

from pathlib import Path

import cv2
import numpy as np

IMAGE_SIZE = 128
DIGIT_HEIGHT = (34, 60)  # pixels of the 8x8 cell; the strokes fill most of its height
INK = 0.42  # a glyph's value above which a pixel belongs to the digit
ZOOM = 6  # an 8x8 digit is enlarged by this before it is rotated and scaled
PHOTO_SHARE = 0.7  # of a photo's longer side, for training
CROP_SIZE = (96, 320)  # pixels of the photo
MAX_COVERED = 0.12  # of a digit's pixels, by digits above it


def photo_region(photo: np.ndarray, split: str) -> tuple[np.ndarray, int, int]:
    """The part of a photo that belongs to a split, and the (x, y) of its corner in the photo."""
    height, width = photo.shape[:2]
    axis = 0 if height > width else 1
    cut = round(PHOTO_SHARE * photo.shape[axis])
    if split == "train":
        return (photo[:cut] if axis == 0 else photo[:, :cut]), 0, 0
    return (photo[cut:], 0, cut) if axis == 0 else (photo[:, cut:], cut, 0)


def background(
    rng: np.random.Generator, region: np.ndarray, x0: int, y0: int
) -> tuple[np.ndarray, list[int]]:
    """A crop of a photo's region, resized and jittered, float32 RGB; and its XYWH in the photo."""
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


def mask_box(mask: np.ndarray) -> list[float]:
    """The XYWH box of a mask's pixels."""
    ys, xs = np.nonzero(mask)
    x, y = xs.min(), ys.min()
    return [float(x), float(y), float(xs.max() + 1 - x), float(ys.max() + 1 - y)]


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons along the pixel edges of a mask; a hole is joined to its outline by a bridge.

    LVIS's polygons have no holes, and a filled 0 or 8 would claim the background inside.
    """
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


def save(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) uint8 as JPEG."""
    cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
