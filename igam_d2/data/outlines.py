"""Turns masks into LVIS's boxes and polygons."""

import cv2
import numpy as np


def mask_box(mask: np.ndarray) -> list[float]:
    """The XYWH box of a mask's pixels."""
    ys, xs = np.nonzero(mask)
    x, y = xs.min(), ys.min()
    return [float(x), float(y), float(xs.max() + 1 - x), float(ys.max() + 1 - y)]


def mask_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons along the pixel edges of a mask; a hole is joined to its outline by a bridge.

    LVIS's polygons have no holes, and a filled ring would claim the background inside.
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
