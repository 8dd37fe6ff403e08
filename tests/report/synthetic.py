"""Folders of runs and a data set as training and evaluation leave them, from random numbers."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from igam_d2.class_statistics import class_correlations, model_bias
from igam_d2.detections import Detections

GROUPS = [
    {"key": "r", "name": "rare", "rule": "1 to 10 training images", "metric": "APr"},
    {"key": "c", "name": "common", "rule": "11 to 100 training images", "metric": "APc"},
    {"key": "f", "name": "frequent", "rule": "more than 100 training images", "metric": "APf"},
]
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300")


def write_dataset(
    root: Path,
    num_classes: int = 10,
    num_images: int = 30,
    *,
    names: list[str] | None = None,
    photos: bool = True,
    size: tuple[int, int] = (160, 120),
    seed: int = 0,
) -> dict:
    """Annotations and pictures under `root`; returns what results.json says of the data set.

    Class k has the id 3 k + 2 and is the rarer, the larger k is; the last has no object.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    names = names or [f"class_{k}" for k in range(num_classes)]
    images, annotations = [], []
    for i in range(num_images):
        image_id = 100 + 7 * i
        images.append({"id": image_id, "coco_url": f"coco/val/{image_id}.jpg"})
        classes = [(3 * i + j) % (num_classes - 1) for j in range(3)]
        classes += rng.integers(0, num_classes - 1, rng.integers(0, 4)).tolist()
        boxes = []
        for k in classes:
            w, h = (
                rng.integers(size[0] // 8, size[0] // 3),
                rng.integers(size[1] // 8, size[1] // 3),
            )
            x, y = rng.integers(0, size[0] - w), rng.integers(0, size[1] - h)
            boxes.append([int(v) for v in (x, y, w, h)])
            annotations.append({"image_id": image_id, "category_id": 3 * k + 2, "bbox": boxes[-1]})
        if photos:
            (root / "val").mkdir(exist_ok=True)
            noise = rng.integers(90, 160, (size[1] // 20 + 1, size[0] // 20 + 1, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
            draw = ImageDraw.Draw(picture)
            for k, (x, y, w, h) in zip(classes, boxes, strict=True):
                draw.ellipse([x, y, x + w, y + h], fill=((37 * k) % 256, (91 * k) % 256, 120))
            picture.save(root / "val" / f"{image_id}.jpg")
    (root / "val.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    instances = np.bincount(
        [(a["category_id"] - 2) // 3 for a in annotations], minlength=num_classes
    )
    image_count = np.maximum(1, (1500 * np.exp(-7 * np.arange(num_classes) / num_classes))).round()
    classes = [
        {
            "id": 3 * k + 2,
            "name": names[k],
            "group": "r" if image_count[k] <= 10 else "c" if image_count[k] <= 100 else "f",
            "image_count": int(image_count[k]),
            "instance_count": int(image_count[k] * (1.5 + k % 3)),
            "val_instances": int(instances[k]),
        }
        for k in range(num_classes)
    ]
    return {
        "format": "lvis",
        "dataset": "synthetic_val",
        "json_file": str(root / "val.json"),
        "image_root": str(root),
        "num_images": num_images,
        "groups": GROUPS,
        "class_metric": "AP",
        "classes": classes,
        "annotations": annotations,
    }


def write_run(
    folder: Path,
    dataset: dict,
    *,
    skill: float = 0.6,
    seed: int = 1,
    tasks: tuple[str, ...] = ("bbox",),
    refreshes: int = 8,
    margins: bool = True,
    curve: bool = True,
    extra: int = 6,
    size: tuple[int, int] = (160, 120),
) -> Path:
    """A run folder; the larger `skill` is, the more objects are found. Returns the folder."""
    rng = np.random.default_rng(seed)
    inference = folder / "inference" / dataset["dataset"]
    inference.mkdir(parents=True)
    num_classes = len(dataset["classes"])
    k = np.arange(num_classes)
    ap = np.clip(75 * skill * (1 - 0.6 * k / num_classes) + rng.normal(0, 9, num_classes), 0, 99)
    ap[[c["val_instances"] == 0 for c in dataset["classes"]]] = np.nan
    bits = 8 + 14 * k / num_classes + rng.normal(0, 2, num_classes)
    counts = np.array([c["instance_count"] for c in dataset["classes"]])
    keys = np.array([c["group"] for c in dataset["classes"]])
    metrics = {"AP": float(np.nanmean(ap))}
    for name in METRICS[1:]:
        of = keys == name[-1]
        metrics[name] = float(np.nanmean(ap[of])) if np.isfinite(ap[of]).any() else 60 * skill
    metrics["APl"] = None
    classes = [
        record
        | {"information": float(b), "AP": {t: None if np.isnan(a) else float(a) for t in tasks}}
        for record, b, a in zip(dataset["classes"], bits, ap, strict=True)
    ]
    kinds = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
    results = {key: value for key, value in dataset.items() if key != "annotations"} | {
        "classes": classes,
        "metrics": {task: metrics for task in tasks},
        "bias": {task: model_bias(ap) for task in tasks},
        "correlation": {task: class_correlations(ap, bits, counts) for task in tasks},
        "tide": {task: dict(zip(kinds, rng.uniform(0, 12, 6), strict=True)) for task in tasks},
    }
    found = _detections(rng, dataset, skill, extra, size)
    results["num_detections"] = len(found)
    (inference / "results.json").write_text(json.dumps(results))
    with open(inference / "detections.npz", "wb") as f:
        found.save(f)
    _write_logs(folder, rng, bits, counts, refreshes, margins, curve)
    return folder


def _detections(rng, dataset: dict, skill: float, extra: int, size: tuple[int, int]) -> Detections:
    ids = np.array([c["id"] for c in dataset["classes"]])
    rows = []
    for ann in dataset["annotations"]:
        jitter = rng.normal(0, 2.5, 4)
        box = [max(v + j, 1) for v, j in zip(ann["bbox"], jitter, strict=True)]
        right = rng.uniform() < skill
        category = ann["category_id"] if right else ids[rng.integers(len(ids))]
        rows.append((ann["image_id"], category, *box, rng.uniform(0.1, 1)))
    for image_id in sorted({ann["image_id"] for ann in dataset["annotations"]}):
        for _ in range(rng.integers(0, extra + 1)):
            box = rng.uniform(0, 0.6, 2) * size, rng.uniform(0.1, 0.4, 2) * size
            rows.append((image_id, rng.choice(ids), *box[0], *box[1], rng.uniform(0, 0.5)))
    rows.sort(key=lambda row: row[0])
    table = np.array(rows)
    return Detections(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int32),
        table[:, 2:6].astype(np.float32),
        table[:, 6].astype(np.float32),
    )


def _write_logs(folder, rng, bits, counts, refreshes, margins, curve) -> None:
    if refreshes:
        with open(folder / "information.jsonl", "w") as f:
            for refresh in range(1, refreshes + 1):
                now = bits - 6 * np.exp(-refresh / 2) + rng.normal(0, 0.4, len(bits))
                potentials = np.log(np.maximum(now, 0.5) / now.mean()) / np.pi if margins else None
                line = {
                    "iteration": 150 * refresh - 1,
                    "predictor": "roi_heads.box_predictor",
                    "information": [None, *now[1:].tolist()],
                    "count": counts.tolist(),
                    "potentials": None if potentials is None else [None, *potentials[1:].tolist()],
                    "margin_sign": 1,
                }
                f.write(json.dumps(line) + "\n")
            f.write('{"iteration": 9999, "predic')  # ended here
    if curve:
        with open(folder / "metrics.json", "w") as f:
            for i in range(1, 61):
                loss = 2.4 * np.exp(-i / 25) + 0.3 + rng.normal(0, 0.04)
                row = {"iteration": 20 * i - 1, "total_loss": loss if i != 7 else float("nan")}
                row["fast_rcnn/fg_cls_accuracy"] = 0.9 - 0.8 * np.exp(-i / 20)
                f.write(json.dumps(row) + "\n")
                if i % 20 == 0:
                    ap = {"bbox/AP": 30 + i / 3, "bbox/APr": float("nan")}
                    f.write(json.dumps({"iteration": 20 * i} | ap) + "\n")
