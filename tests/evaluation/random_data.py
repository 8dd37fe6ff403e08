"""Random annotations and detections in LVIS's format, and a model that returns them."""

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils

NUM_CLASSES = 7  # the last without ground truth
EMPTY_CLASS = NUM_CLASSES - 1
IMAGE_SIZE = 160


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    """A polygon (12, 2) inside the image, small, medium or large, on a grid so that IoUs tie."""
    radii = rng.choice([6, 20, 55]) * rng.uniform(0.6, 1.3, size=2)
    center = rng.uniform(60, IMAGE_SIZE - 60, size=2)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.clip(np.round(center + radii * circle), 0, IMAGE_SIZE)


def _rle(polygon: np.ndarray) -> dict:
    return mask_utils.frPyObjects([polygon.ravel().tolist()], IMAGE_SIZE, IMAGE_SIZE)[0]


def _box(polygon: np.ndarray) -> list[float]:
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def random_annotations(rng: np.random.Generator, num_images: int = 14) -> dict:
    """LVIS annotations: federated, the first image without any, areas by mask, some of them zero,
    some annotations marked as ignored or, what means nothing in LVIS, as a crowd."""
    images, annotations = [], []
    for image_id in range(1, num_images + 1):
        num_objects = 0 if image_id == 1 else rng.integers(1, 7)
        present = rng.integers(0, EMPTY_CLASS, size=num_objects)
        absent = [c for c in range(NUM_CLASSES) if c not in present]
        negative = rng.choice(absent, size=min(2, len(absent)), replace=False)
        images.append(
            {
                "id": image_id,
                "height": IMAGE_SIZE,
                "width": IMAGE_SIZE,
                "coco_url": f"http://images/val/{image_id:03d}.png",
                "neg_category_ids": [int(c) + 1 for c in negative],
                "not_exhaustive_category_ids": [int(c) + 1 for c in present[:1] if image_id % 2],
            }
        )
        for class_id in present:
            polygon = _ellipse(rng)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(class_id) + 1,
                    "bbox": _box(polygon),
                    "area": float(rng.random() > 0.05) * float(mask_utils.area(_rle(polygon))),
                    "ignore": int(rng.random() < 0.1),
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": [polygon.ravel().tolist()],
                }
            )
    categories = [
        {
            "id": c + 1,
            "name": f"thing-{c}",
            "frequency": "rrccfff"[c],
            "image_count": 3**c,
            "instance_count": 2 * 3**c,
        }
        for c in range(NUM_CLASSES)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_detections(rng: np.random.Generator, data: dict) -> list[dict]:
    """Moved objects and noise of every class, scores in steps of .05; the second image has 420.
    Some boxes and some masks are empty."""
    detections = []
    for image in data["images"]:
        objects = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        num_noise = 420 if image["id"] == 2 else 25
        shapes = [
            (a["category_id"] - 1, np.reshape(a["segmentation"][0], (-1, 2))) for a in objects
        ]
        shapes = [(c, np.clip(p + rng.integers(-3, 4, 2), 0, IMAGE_SIZE)) for c, p in 2 * shapes]
        shapes += [(int(rng.integers(NUM_CLASSES)), _ellipse(rng)) for _ in range(num_noise)]
        for class_id, polygon in shapes:
            rle = _rle(polygon if rng.random() > 0.1 else np.zeros((12, 2)))
            polygon = polygon * (1, rng.random() > 0.1)
            detections.append(
                {
                    "image_id": image["id"],
                    "category_id": class_id + 1,
                    "bbox": _box(polygon),
                    "score": float(np.round(rng.uniform() * 20) / 20),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    rng.shuffle(detections)
    return detections


def evaluate(evaluator, data: dict, detections: list[dict]) -> dict:
    """Feed the detections the way a model does, with contiguous class ids."""
    evaluator.reset()
    for image in data["images"]:
        mine = [d for d in detections if d["image_id"] == image["id"]]
        instances = Instances((IMAGE_SIZE, IMAGE_SIZE))
        xywh = torch.tensor([d["bbox"] for d in mine], dtype=torch.float64).reshape(-1, 4)
        instances.pred_boxes = Boxes(torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1))
        instances.scores = torch.tensor([d["score"] for d in mine], dtype=torch.float64)
        instances.pred_classes = torch.tensor([d["category_id"] - 1 for d in mine]).long()
        if mine and "segmentation" in mine[0]:
            masks = np.stack([mask_utils.decode(d["segmentation"]) for d in mine])
            instances.pred_masks = torch.from_numpy(masks).bool()
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    return evaluator.evaluate()
