"""A picture of what is in a Meshes-LT: images, and beside each its objects."""

import colorsys
import json
import os
from pathlib import Path

import cv2
import numpy as np

from igam_d2.data.meshes_lt import annotation_file
from igam_d2.data.photos import save_jpeg
from igam_d2.errors import InputError

__all__ = ["draw_sheet"]

COLUMNS, ROWS = 4, 3
ZOOM = 2


def draw_sheet(
    folder: str | os.PathLike[str], file: str | os.PathLike[str], *, split: str = "train"
) -> None:
    """Draw images of a set, evenly chosen, each with its outlines, boxes, meshes and groups.

    Args:
        folder: of the set, whose name is that of its annotation files.
        file: JPEG to be written.
        split: "train", "selection" or "test".

    Raises:
        InputError: the set or an image of it cannot be read.
        OSError: `file` cannot be written.
    """
    folder = Path(folder).resolve()
    path = folder / annotation_file(folder.name, split)
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}.") from error
    images = content["images"]
    number = min(COLUMNS * ROWS, len(images))
    categories = {category["id"]: category for category in content["categories"]}
    tiles = []
    for image in (images[i * len(images) // number] for i in range(number)):
        pixels = cv2.imread(str(folder / split / image["file_name"]))
        if pixels is None:
            raise InputError(f"{str(folder / split / image['file_name'])!r} cannot be read.")
        plain = cv2.resize(pixels[..., ::-1], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
        drawn = plain.copy()
        objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        for place, annotation in enumerate(objects):
            # The golden ratio keeps the hues of any number of objects apart
            colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(place * 0.618 % 1, 1, 1))
            _draw(drawn, annotation, categories[annotation["category_id"]], colour)
        tiles.append(np.hstack([plain, drawn]))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    save_jpeg(Path(file), np.vstack(rows))


def _draw(picture: np.ndarray, annotation: dict, category: dict, colour: tuple[int, ...]) -> None:
    x, y, width, height = (round(ZOOM * value) for value in annotation["bbox"])
    cv2.rectangle(picture, (x, y), (x + width, y + height), colour, 1)
    for polygon in annotation["segmentation"]:
        points = np.round(ZOOM * np.reshape(polygon, (-1, 1, 2))).astype(np.int32)
        cv2.polylines(picture, [points], True, colour, 1)
    text = f"{category['name'].removeprefix('mesh_')} {category['frequency']}"
    cv2.putText(picture, text, (x + 1, y + 9), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1)
