#!/usr/bin/env python
"""Time and peak memory of an LVIS evaluation, ours beside the lvis package's, in one run.

    python benchmarks/lvis_eval.py [--images N] [--detections M] [--masks] [--no-reference]

Makes annotations of N images with 1,203 classes, whose frequencies fall off as LVIS's do, and M
detections. Each evaluation is a process of its own; timed is all from the collected detections on,
which are arrays (ours) or dictionaries (the package's), the reading of annotations included. The
memory is the most that the whole process had, with torch and the detections in it.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import machine

from igam_d2.evaluation.lvis import METRICS

NUM_CLASSES = 1203
WIDTH, HEIGHT = 640, 480
INSTANCES_PER_IMAGE = 12.35  # LVIS v1's validation set: 244,707 in 19,809
NUM_NEGATIVE = 10  # categories that annotators looked for and did not find


def make_annotations(num_images: int, rng: np.random.Generator, masks: bool) -> dict:
    """In LVIS's format; objects are octagons."""
    number = round(INSTANCES_PER_IMAGE * num_images)
    image_ids = rng.integers(1, num_images + 1, number)
    boxes = make_boxes(number, rng)
    annotations = []
    for i, (image_id, category, box) in enumerate(
        zip(image_ids.tolist(), make_categories(number, rng).tolist(), boxes.tolist(), strict=True)
    ):
        annotation = {"id": i + 1, "image_id": image_id, "category_id": category, "bbox": box}
        annotation["area"] = box[2] * box[3]
        if masks:
            annotation["segmentation"] = [octagon(box)]
        annotations.append(annotation)
    negative = make_categories(num_images * NUM_NEGATIVE, rng).reshape(num_images, -1)
    images = [
        {
            "id": i + 1,
            "width": WIDTH,
            "height": HEIGHT,
            "neg_category_ids": sorted(set(negative[i].tolist())),
            "not_exhaustive_category_ids": [],
        }
        for i in range(num_images)
    ]
    categories = [
        {"id": c, "name": f"class {c}", "frequency": "fcr"[min(c // 405, 2)]}
        for c in range(1, NUM_CLASSES + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_categories(number: int, rng: np.random.Generator) -> np.ndarray:
    return 1 + np.minimum(rng.pareto(0.6, number) * 3, NUM_CLASSES - 1).astype(np.int64)


def make_boxes(number: int, rng: np.random.Generator) -> np.ndarray:
    size = np.exp(rng.uniform(np.log(8), np.log(300), (number, 2)))
    corner = rng.random((number, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    return np.concatenate([corner, size], axis=1).round(2).astype(np.float32)


def octagon(box: list[float]) -> list[float]:
    x, y, w, h = box
    angles = np.arange(8) * np.pi / 4
    points = np.stack([x + w * (1 + np.cos(angles)) / 2, y + h * (1 + np.sin(angles)) / 2], axis=1)
    return points.round(2).ravel().tolist()


def make_detections(json_file: str, number: int, rng: np.random.Generator):
    """Yields of each image id, boxes, scores and categories: its objects found roughly, as well as
    many that are none."""
    with open(json_file) as f:
        annotations = json.load(f, object_hook=_no_outline)
    objects = {image["id"]: ([], []) for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        boxes, categories = objects[annotation["image_id"]]
        boxes.append(annotation["bbox"])
        categories.append(annotation["category_id"])
    del annotations
    per_image = np.diff(np.linspace(0, number, len(objects) + 1).astype(int)).tolist()
    for image_id, n in zip(list(objects), per_image, strict=True):
        exact, kinds = (np.array(values)[:n] for values in objects.pop(image_id))
        boxes, categories = make_boxes(n, rng), make_categories(n, rng)
        if len(exact):
            boxes[: len(exact)] = exact * rng.uniform(0.85, 1.15, exact.shape)
            categories[: len(exact)] = kinds
        yield image_id, boxes, rng.random(n, np.float32), categories


def _no_outline(record: dict) -> dict:
    record.pop("segmentation", None)
    return record


def masks_of(boxes: np.ndarray) -> list[dict]:
    """RLE octagons."""
    from pycocotools import mask as mask_utils

    # One after the other: pycocotools fails on more than 255 of them with numpy 2
    return [mask_utils.frPyObjects([octagon(b)], HEIGHT, WIDTH)[0] for b in boxes.tolist()]


def ours(json_file: str, images, masks: bool) -> tuple[float, dict[str, float]]:
    """Seconds and metrics of the evaluator, from the arrays that it collects on."""
    from detectron2.data import MetadataCatalog

    from igam_d2.detections import Detections, Masks
    from igam_d2.evaluation import LVISEvaluator

    MetadataCatalog.get("benchmark").set(json_file=json_file, image_root="")
    evaluator = LVISEvaluator("benchmark", distributed=False)
    seconds = -time.perf_counter()
    evaluator.reset()  # reads the annotations
    seconds += time.perf_counter()
    for image_id, boxes, scores, categories in images:
        rles = Masks.pack(masks_of(boxes)) if masks else None
        image_ids, classes = np.full(len(boxes), image_id), (categories - 1).astype(np.int32)
        evaluator.collector.append(Detections(image_ids, classes, boxes, scores, rles))
    seconds -= time.perf_counter()
    results = evaluator.evaluate()
    seconds += time.perf_counter()
    return seconds, {f"{task} {k}": m[k] for task, m in results.items() for k in METRICS}


def reference(json_file: str, images, masks: bool) -> tuple[float, dict[str, float]]:
    """Seconds and metrics of the lvis package, from a dictionary a detection on."""
    from igam_d2.evaluation import lvis_package

    records = []
    for image_id, boxes, scores, categories in images:
        for i, rle in enumerate(masks_of(boxes) if masks else [None] * len(boxes)):
            record = {"image_id": image_id, "category_id": int(categories[i])}
            record |= {"bbox": boxes[i].tolist(), "score": float(scores[i])}
            if masks:
                record["segmentation"] = {**rle, "counts": rle["counts"].decode()}
            records.append(record)
    seconds, metrics = 0.0, {}
    ids = list(range(1, NUM_CLASSES + 1))
    for task in ("bbox", "segm") if masks else ("bbox",):
        mine = [dict(record) for record in records]
        start = time.perf_counter()
        result, _ = lvis_package.evaluate(json_file, mine, task, ids)
        seconds += time.perf_counter() - start
        metrics |= {f"{task} {name}": result[name] for name in METRICS}
    return seconds, metrics


def peak_memory() -> int:
    """Bytes that this process had at most. Linux: what getrusage says includes the parent's."""
    with open("/proc/self/status") as f:
        line = next(line for line in f if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def measure(connection, function, json_file: str, args) -> None:
    """In a process of its own: seconds, metrics, and the peak of its memory in bytes."""
    images = make_detections(json_file, args.detections, np.random.default_rng(1))
    seconds, metrics = function(json_file, images, args.masks)
    connection.send((seconds, metrics, peak_memory()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--detections", type=int, default=180000, help="default: %(default)s")
    parser.add_argument("--masks", action="store_true", help="evaluate masks too")
    parser.add_argument("--no-reference", action="store_true", help="ours alone")
    args = parser.parse_args(argv)
    print(f"{machine('cpu')}, numpy {np.__version__}")
    print(f"{args.images:,} images, {args.detections:,} detections, {NUM_CLASSES:,} classes")
    context = multiprocessing.get_context("spawn")
    rows, metrics = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        json_file = str(Path(folder) / "annotations.json")
        content = make_annotations(args.images, np.random.default_rng(0), args.masks)
        Path(json_file).write_text(json.dumps(content))
        del content
        functions = [ours] if args.no_reference else [ours, reference]
        for function in functions:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=measure, args=(sender, function, json_file, args))
            process.start()
            sender.close()
            *rows[function.__name__], metrics[function.__name__] = _reorder(receiver.recv())
            process.join()
    for name, (seconds, peak) in rows.items():
        ratio = f", {seconds / rows['ours'][0]:.1f} x ours" if name != "ours" else ""
        print(f"{name:10s} {seconds:8.2f} s{ratio}   peak memory {peak / 2**30:.2f} GiB")
    if "reference" in metrics:
        difference = max(
            abs(value - metrics["reference"][name])
            for name, value in metrics["ours"].items()
            if value == value or metrics["reference"][name] == metrics["reference"][name]
        )
        print(f"largest difference of {len(metrics['ours'])} metrics: {difference:.1e} %")
    print(", ".join(f"{name} {value:.2f}" for name, value in list(metrics["ours"].items())[:3]))
    return 0


def _reorder(answer: tuple) -> tuple:
    seconds, metrics, peak = answer
    return seconds, peak, metrics


if __name__ == "__main__":
    sys.exit(main())
