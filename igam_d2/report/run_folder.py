"""What a run left in its folder, read without Detectron2 and without torch."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igam_d2.errors import InputError

# A class that is new in the picture is worth more, the rarer it is.
CLASS_WORTH = {"r": 4, "c": 2}
# With more boxes an image in a report cannot be read.
MAX_BOXES_PER_SAMPLE = 12
MAX_MISSING_IMAGES = 20


@dataclass(frozen=True)
class LabeledBox:
    """A box (x, y, width, height in pixels) of a contiguous class; ground truth has no score."""

    xywh: tuple[float, float, float, float]
    class_index: int
    score: float | None = None


@dataclass(frozen=True)
class Sample:
    """A validation image with its ground truth and its detections, the best first."""

    path: Path
    ground_truth: list[LabeledBox]
    detections: list[LabeledBox]


@dataclass(frozen=True)
class LearningCurve:
    """Training scalars (N,), NaN where one was not logged; the accuracy is in [0, 1]."""

    iterations: np.ndarray
    total_loss: np.ndarray
    foreground_accuracy: np.ndarray


@dataclass(frozen=True)
class Run:
    """A run that was evaluated.

    Attributes:
        metrics: task -> metric -> value in %, None where there is no ground truth.
        classes: the records of ``results.json`` in contiguous order: ``name``, ``frequency``,
            ``image_count`` and ``instance_count`` of training, ``val_instances``, ``AP`` per task.
        information: (K,) bits, NaN for a class without an estimate; None for a run that has none.
        missing: what of the images could not be found, in words; empty if nothing.
    """

    name: str
    dataset: str
    metrics: dict[str, dict[str, float | None]]
    classes: list[dict[str, Any]]
    samples: list[Sample]
    information: np.ndarray | None
    curve: LearningCurve | None
    missing: str = ""


def load_run(run_dir: str | Path, dataset: str | None = None, *, num_samples: int = 4) -> Run:
    """Read a run folder.

    Args:
        run_dir: the ``OUTPUT_DIR`` of training or evaluation.
        dataset: of the evaluated ones; None is the one evaluated last.
        num_samples: validation images to choose, so that they show as many classes as possible.

    Raises:
        InputError: if the folder holds no evaluation by the LVIS rules.
    """
    run_dir = Path(run_dir)
    results_file = _find_results(run_dir, dataset)
    results = json.loads(results_file.read_text())
    annotation_file = Path(results["json_file"])
    samples, missing = [], f"annotations {annotation_file} not found"
    if annotation_file.is_file():
        detection_file = results_file.with_name("lvis_instances_results.json")
        samples, missing = _load_samples(results, annotation_file, detection_file, num_samples)
    return Run(
        name=run_dir.resolve().name,
        dataset=results["dataset"],
        metrics=results["metrics"],
        classes=results["classes"],
        samples=samples,
        information=_load_information(run_dir / "information.jsonl", len(results["classes"])),
        curve=_load_curve(run_dir / "metrics.json"),
        missing=missing,
    )


def _find_results(run_dir: Path, dataset: str | None) -> Path:
    wanted = run_dir / "inference" / (dataset or "<dataset>") / "results.json"
    found = list(run_dir.glob(f"inference/{dataset or '*'}/results.json"))
    if not found:
        raise InputError(
            f"No evaluation in {run_dir}: {wanted} is missing, which `python train_net.py "
            f"--config-file {run_dir}/config.yaml --eval-only MODEL.WEIGHTS "
            f"{run_dir}/model_final.pth` makes for a dataset in LVIS format."
        )
    return max(found, key=lambda path: (path.stat().st_mtime, path))


def _load_samples(
    results: dict, annotation_file: Path, detection_file: Path, num_samples: int
) -> tuple[list[Sample], str]:
    """Choose images; returns them, and in words what was missing."""
    class_index = {record["id"]: i for i, record in enumerate(results["classes"])}
    worth = [CLASS_WORTH.get(record["frequency"], 1) for record in results["classes"]]
    data = json.loads(annotation_file.read_text())
    boxes = defaultdict(list)
    for ann in data["annotations"]:
        if ann["category_id"] in class_index:
            box = LabeledBox(tuple(ann["bbox"]), class_index[ann["category_id"]])
            boxes[ann["image_id"]].append(box)
    # The folder of a split is part of the address, not of the file name, as in Detectron2.
    root = Path(results["image_root"])
    paths = {i["id"]: root.joinpath(*i["coco_url"].split("/")[-2:]) for i in data["images"]}
    chosen = _choose_images(boxes, paths, worth, num_samples)
    detections = _read_detections(detection_file, set(chosen), class_index)
    samples = [Sample(paths[i], boxes[i], detections[i]) for i in chosen]
    return samples, "" if samples else f"images in {root} not found"


def _choose_images(
    boxes: dict[int, list[LabeledBox]], paths: dict[int, Path], worth: list[int], num_images: int
) -> list[int]:
    """Greedily the image ids that add most to the classes seen so far; the same ones every time."""
    readable = {i for i in boxes if len(boxes[i]) <= MAX_BOXES_PER_SAMPLE}
    left = readable if len(readable) >= num_images else set(boxes)
    classes = {i: {box.class_index for box in boxes[i]} for i in left}
    chosen, seen, num_missing = [], set(), 0

    def value(image_id: int) -> tuple[float, ...]:
        new = sum(worth[c] for c in classes[image_id] - seen)
        total = sum(worth[c] for c in classes[image_id])
        return new, total, -len(boxes[image_id]), -image_id

    while left and len(chosen) < num_images and num_missing < MAX_MISSING_IMAGES:
        best = max(left, key=value)
        left = left - {best}
        if not paths[best].is_file():
            num_missing += 1
            continue
        chosen.append(best)
        seen |= classes[best]
    return chosen


def _read_detections(
    path: Path, image_ids: set[int], class_index: dict[int, int]
) -> dict[int, list[LabeledBox]]:
    """The detections of a few images, the best first.

    A file of LVIS has millions: they are decoded one by one and only those needed are kept.
    """
    kept = defaultdict(list)
    if not image_ids:
        return kept
    if not path.is_file():
        raise InputError(
            f"The detections {path} are missing: evaluate again with `python train_net.py "
            "--config-file ... --eval-only MODEL.WEIGHTS ...`."
        )
    text, decoder = path.read_text(), json.JSONDecoder()
    position = text.find("{")
    while position >= 0:
        item, end = decoder.raw_decode(text, position)
        if item["image_id"] in image_ids and item["category_id"] in class_index:
            index = class_index[item["category_id"]]
            box = LabeledBox(tuple(item["bbox"]), index, item["score"])
            kept[item["image_id"]].append(box)
        position = text.find("{", end)
    for detections in kept.values():
        detections.sort(key=lambda box: -box.score)
    return kept


def _load_information(path: Path, num_classes: int) -> np.ndarray | None:
    """(K,) bits: the last refresh of the last predictor, which for a cascade decides most."""
    lines = [line for line in _read_lines(path) if len(line["information"]) == num_classes]
    if not lines:
        return None
    last = max((line["predictor"] for line in lines), key=_natural_key)
    latest = [line for line in lines if line["predictor"] == last][-1]
    return np.array(latest["information"], dtype=np.float64)  # null becomes NaN


def _natural_key(name: str) -> list[tuple[int, str]]:
    """Predictor 10 comes after predictor 9."""
    return [
        (int(part or 0), "") if i % 2 else (0, part)
        for i, part in enumerate(re.split(r"(\d+)", name))
    ]


def _load_curve(path: Path) -> LearningCurve | None:
    rows = {}
    for line in _read_lines(path):
        if "total_loss" in line:  # an evaluation between two logs has a line of its own
            rows[line["iteration"]] = line  # after resuming, the later line counts
    if len(rows) < 2:
        return None
    lines = [rows[i] for i in sorted(rows)]
    # A cascade logs one accuracy a stage: the last stage's.
    keys = {key for line in lines for key in line if key.endswith("fast_rcnn/fg_cls_accuracy")}
    accuracy = max(keys, default="")
    return LearningCurve(
        iterations=np.array([line["iteration"] for line in lines]),
        total_loss=np.array([line["total_loss"] for line in lines], dtype=np.float64),
        foreground_accuracy=np.array([line.get(accuracy) for line in lines], dtype=np.float64),
    )


def _read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The objects of a file with one a line; a line cut off by the end of a process is left out."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
