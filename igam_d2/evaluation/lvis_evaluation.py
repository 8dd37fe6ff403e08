"""AP by the LVIS rules (federated annotation, 300 detections an image), overall and per class.

Detectron2's evaluator gathers the predictions, maps their category ids and saves them. hotcoco
takes the place of the ``lvis`` package's evaluation, which is slow and fails on current numpy; what
it counts otherwise is evened out below. A metric without any ground truth is NaN here and null in
``results.json``.
"""

import contextlib
import io
import itertools
import json
import math
import os
from collections import Counter, defaultdict
from typing import Any

import hotcoco
from detectron2 import evaluation as d2_evaluation
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools import mask as mask_utils
from tabulate import tabulate

from igam_d2.errors import InputError

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
DEFAULT_MAX_DETS = 300
NO_SIZE = 1e11  # square pixels; above the range of "all" sizes, which ends at 1e10
# A per-class table longer than this hides what one looks for: only the worst classes are printed.
MAX_TABLE_CLASSES = 60
NUM_WORST_CLASSES = 20


class LVISEvaluator(d2_evaluation.LVISEvaluator):
    """Detectron2's ``LVISEvaluator`` with hotcoco as its engine.

    ``evaluate()`` returns ``{task: {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf",
    "AR@300", "AP-<class name>", ...}}`` in percent, for the task ``"bbox"`` and, where predictions
    have masks, ``"segm"``. A class with ground truth and no detection has AP 0, and so has a model
    that detects nothing; a metric without any ground truth (an empty frequency group) is NaN.

    Into ``output_dir`` go Detectron2's ``lvis_instances_results.json`` and ``results.json``: the
    metrics and, in contiguous class order, every class with its counts and AP.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: tuple[str, ...] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
    ):
        """
        Args:
            dataset_name: a registered dataset whose metadata has ``json_file``, in LVIS format.
            tasks: of "bbox" and "segm"; None takes them from the predictions.
            distributed: gather the predictions of all processes.
            output_dir: where the results are written; None writes nothing.
            max_dets_per_image: the best detections of an image that count; None is 300, as in LVIS.

        Raises:
            InputError: if the annotation file does not exist.
        """
        json_file = MetadataCatalog.get(dataset_name).json_file
        if not PathManager.isfile(json_file):
            raise InputError(
                f"The annotations of {dataset_name} are missing: put them at {json_file}, or set "
                "$DETECTRON2_DATASETS to the folder that holds the datasets (default ./datasets)."
            )
        super().__init__(
            dataset_name,
            tasks,
            distributed,
            output_dir,
            max_dets_per_image=max_dets_per_image or DEFAULT_MAX_DETS,
        )
        self._dataset_name = dataset_name
        # The parent evaluates self._tasks with the lvis package; it is left nothing to do.
        self._requested_tasks, self._tasks = self._tasks, None

    def _tasks_from_predictions(self, predictions: list[dict]) -> tuple[str, ...]:
        return ()  # what the parent is to evaluate

    def _eval_predictions(self, predictions: list[dict]) -> None:
        """Fill ``self._results``, log both tables and write ``results.json``."""
        # This maps the category ids in place and saves the detections.
        super()._eval_predictions(predictions)
        if not self._do_evaluation:
            return
        detections = list(itertools.chain(*[p["instances"] for p in predictions]))
        tasks = self._requested_tasks or super()._tasks_from_predictions(detections)
        ground_truth = load_ground_truth(self._lvis_api.dataset)
        classes = self._class_records()
        for task in sorted(tasks):
            metrics, class_ap = evaluate_detections(
                ground_truth, detections, task, max_dets_per_image=self._max_dets_per_image
            )
            for record in classes:
                record["AP"][task] = class_ap[record["id"]]
            per_class = {f"AP-{record['name']}": record["AP"][task] for record in classes}
            self._results[task] = {**metrics, **per_class}
            self._logger.info(f"LVIS evaluation of {task} (%):\n" + create_small_table(metrics))
        self._logger.info(class_table(classes))
        if self._output_dir:
            self._write_results(classes)

    def _class_records(self) -> list[dict[str, Any]]:
        """One record a class, in contiguous order; counts are of training images and instances."""
        contiguous_ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if contiguous_ids is None:  # LVIS numbers its categories from 1 without a gap
            contiguous_ids = {category_id: category_id - 1 for category_id in self._lvis_api.cats}
        names = self._metadata.get("thing_classes") or []
        num_instances = Counter(ann["category_id"] for ann in self._lvis_api.dataset["annotations"])
        known = [cat for cat in self._lvis_api.cats.values() if cat["id"] in contiguous_ids]
        records = []
        for category in sorted(known, key=lambda cat: contiguous_ids[cat["id"]]):
            index = contiguous_ids[category["id"]]
            records.append(
                {
                    "id": category["id"],
                    "name": names[index] if index < len(names) else category["name"],
                    "frequency": category.get("frequency"),
                    "image_count": category.get("image_count"),
                    "instance_count": category.get("instance_count"),
                    "val_instances": num_instances[category["id"]],
                    "AP": {},
                }
            )
        return records

    def _write_results(self, classes: list[dict[str, Any]]) -> None:
        metrics = {
            task: {name: value for name, value in result.items() if not name.startswith("AP-")}
            for task, result in self._results.items()
        }
        content = {
            "dataset": self._dataset_name,
            "json_file": str(self._metadata.json_file),
            "image_root": str(self._metadata.get("image_root", "")),
            "metrics": metrics,
            "classes": classes,
        }
        path = os.path.join(self._output_dir, "results.json")
        with PathManager.open(path, "w") as f:
            json.dump(_nan_to_none(content), f, indent=1, allow_nan=False)
        self._logger.info(f"Metrics and class APs are in {path}")


def load_ground_truth(dataset: dict[str, Any]) -> hotcoco.COCO:
    """The annotations (a loaded LVIS file) such that hotcoco sees what the ``lvis`` package sees.

    By the LVIS rules nothing is a crowd, an annotation without area is not there, and one with
    ``ignore`` set is of no size that counts; hotcoco knows COCO's rules for these three.
    """
    annotations = [
        {**ann, "iscrowd": 0, "ignore": 0, "area": NO_SIZE if ann.get("ignore") else ann["area"]}
        for ann in dataset["annotations"]
        if ann["area"] > 0
    ]
    return hotcoco.LVIS({**dataset, "annotations": annotations})


def evaluate_detections(
    ground_truth: hotcoco.COCO,
    detections: list[dict],
    task: str,
    *,
    max_dets_per_image: int = DEFAULT_MAX_DETS,
) -> tuple[dict[str, float], dict[int, float]]:
    """Evaluate detections with dataset category ids by the LVIS rules.

    Args:
        ground_truth: of :func:`load_ground_truth`.
        detections: dicts of ``image_id``, ``category_id``, ``score``, ``bbox`` (x, y, w, h in
            pixels) and, for "segm", ``segmentation`` (RLE).
        task: "bbox" or "segm".
        max_dets_per_image: the highest-scoring detections of an image that count.

    Returns:
        The metrics, and the AP of every category id; both in %, NaN without ground truth.
    """
    if task == "segm":
        # With a box there, its area and not the mask's would decide small, medium or large.
        detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    detections = _best_of_each_image(detections, max_dets_per_image)
    loaded = hotcoco.LVISResults(ground_truth, _with_area(detections, task), max_dets=-1)
    evaluation = hotcoco.LVISEval(ground_truth, loaded, task)
    with contextlib.redirect_stdout(io.StringIO()):  # its own table goes to stdout, ours to the log
        evaluation.run()
    results = evaluation.get_results()
    metrics = {name: _percent(results[name]) for name in AP_METRICS}
    # The engine calls it AR@300 whatever the limit was.
    metrics[f"AR@{max_dets_per_image}"] = _percent(results["AR@300"])
    # (T, R, K, areas, limits): IoU thresholds, recalls, categories; -1 without ground truth
    class_means = evaluation.eval["precision"][:, :, :, 0, 0].mean(axis=(0, 1))  # (K,)
    category_ids = evaluation.params.cat_ids
    class_ap = {i: _percent(ap) for i, ap in zip(category_ids, class_means, strict=True)}
    return metrics, class_ap


def _best_of_each_image(detections: list[dict], max_dets: int) -> list[dict]:
    per_image = defaultdict(list)
    for detection in detections:
        per_image[detection["image_id"]].append(detection)
    best = (sorted(group, key=lambda d: -d["score"])[:max_dets] for group in per_image.values())
    return list(itertools.chain.from_iterable(best))


def _with_area(detections: list[dict], task: str) -> list[dict]:
    """Without the empty boxes and masks, which the ``lvis`` package drops after limiting their
    number; hotcoco would count them as false positives."""
    if task == "bbox":
        return [d for d in detections if d["bbox"][2] * d["bbox"][3] > 0]
    # One at a time: pycocotools fails on a list of more than 255 with numpy 2.
    return [d for d in detections if mask_utils.area(d["segmentation"]) > 0]


def class_table(classes: list[dict[str, Any]]) -> str:
    """The APs of all classes as a table, or of the worst ones where there are too many to read."""
    tasks = list(classes[0]["AP"]) if classes else []
    title = "AP (%) of every class:"
    if len(classes) > MAX_TABLE_CLASSES:
        evaluated = [record for record in classes if not math.isnan(record["AP"][tasks[0]])]
        classes = sorted(evaluated, key=lambda record: record["AP"][tasks[0]])[:NUM_WORST_CLASSES]
        title = f"AP (%) of the {len(classes)} worst of {len(evaluated)} classes with ground truth:"
    headers = ["class", "frequency", "training images", "training instances", "instances"]
    headers += [f"AP {task}" for task in tasks]
    keys = ("name", "frequency", "image_count", "instance_count", "val_instances")
    rows = [[record[key] for key in keys] + list(record["AP"].values()) for record in classes]
    return f"{title}\n" + tabulate(
        rows, headers, tablefmt="pipe", floatfmt=".2f", numalign="right", missingval="-"
    )


def _percent(value: float) -> float:
    """LVIS says -1 where there is no ground truth."""
    return float("nan") if value < 0 else 100 * float(value)


def _nan_to_none(value: Any) -> Any:
    """The same nested dicts and lists with None for NaN, which strict JSON does not know."""
    if isinstance(value, dict):
        return {k: _nan_to_none(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
