"""Small data sets as somebody may have them: ids with gaps, crowds, empty and broken images."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
CATEGORIES = {12: "nail", 0: "bolt", 3: "nut", 40: "washer"}  # not in the order of their ids
NAMES = [CATEGORIES[i] for i in sorted(CATEGORIES)]
EMPTY, CROWD, BROKEN = 1, 2, 6  # numbers of such images
NUM_IMAGES = 14


def write_set(folder: Path, kind: str, split: str, *, broken: bool = True) -> dict:
    """Writes `<split>.json` in COCO's or LVIS's format and `<split>/`, and returns the content.

    "bolt" is in every image with objects, "nut" in every other one, "nail" in three, and "washer"
    in none but as a crowd. Objects have outlines; of crowds these are run lengths, of both kinds.
    """
    rng = np.random.default_rng(len(split))
    (folder / split).mkdir(parents=True)
    images, annotations = [], []

    def annotate(category: int, box: list[int], **more) -> None:
        x, y, w, h = box
        annotations.append(
            {
                "id": len(annotations),  # from 0, as some tools number them
                "image_id": images[-1]["id"],
                "category_id": category,
                "bbox": box,
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                **more,
            }
        )

    for number in range(NUM_IMAGES):
        image = {"id": 10 * number, "height": HEIGHT, "width": WIDTH}
        image["file_name"] = f"{split}/{number}.png"
        images.append(image)
        pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        if number == CROWD:
            counts = [HEIGHT * 10, HEIGHT * 20, HEIGHT * (WIDTH - 30)]
            outline = {"size": [HEIGHT, WIDTH], "counts": counts}
            annotate(40, [10, 0, 20, HEIGHT], iscrowd=1, segmentation=outline)
        elif number != EMPTY:
            present = [0] + [3] * (number % 2 == 0) + [12] * (number in (5, 6, 7))
            for place, category in enumerate(present):
                box = [2 + 20 * place, int(rng.integers(2, 10)), 18, int(rng.integers(20, 35))]
                annotate(category, box)
                x, y, w, h = box
                pixels[y : y + h, x : x + w] = 80 + 40 * place
        if kind == "lvis":
            seen = {a["category_id"] for a in annotations if a["image_id"] == image["id"]}
            image["neg_category_ids"] = sorted(set(CATEGORIES) - seen)
            image["not_exhaustive_category_ids"] = []
        path = folder / image["file_name"]
        if number == BROKEN and broken:
            path.write_bytes(b"no image")
        else:
            Image.fromarray(pixels).save(path)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    (folder / f"{split}.json").write_text(json.dumps(content))
    return content
