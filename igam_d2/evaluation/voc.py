"""AP by the rules of Pascal VOC, by Detectron2's implementation of them."""

import json
import os
import tempfile
from pathlib import Path

import hotcoco
import numpy as np
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_eval
from detectron2.utils.file_io import PathManager

from ..detections import Detections
from ..errors import InputError
from ..files import write_whole
from .coco_format import load_detections, run, tide_errors
from .evaluator import ClassEvaluator
from .structures import GroundTruth, TaskResult

__all__ = ["PascalVOCEvaluator"]

NUM_HARDEST = 5
THRESHOLDS = range(50, 100, 5)  # IoU in %


class PascalVOCEvaluator(ClassEvaluator):
    """AP, AP50 and AP75 as Detectron2's ``PascalVOCDetectionEvaluator`` gives them (11 points for
    VOC 2007, else the area under the curve), the AP50 of every class, and as ``AP50_hardest`` its
    mean over the five hardest. Boxes alone; a "difficult" object does not count.
    """

    format = "pascal_voc"
    class_metric = "AP50"

    def __init__(self, dataset_name: str, output_dir: str | None = None, **kwargs):
        super().__init__(dataset_name, output_dir, **kwargs)
        self._tasks = ("bbox",)
        root = self._metadata.dirname
        self._image_set = os.path.join(root, "ImageSets", "Main", f"{self._metadata.split}.txt")
        if not PathManager.isfile(self._image_set):
            raise InputError(
                f"The annotations of {dataset_name} are missing: {self._image_set} should list its "
                "images; set $DETECTRON2_DATASETS to the folder that holds the datasets (default "
                "./datasets)."
            )
        with PathManager.open(self._image_set) as f:
            self._names = f.read().split()
        self._ids = {name: number for number, name in enumerate(self._names, start=1)}
        annotations = PathManager.get_local_path(os.path.join(root, "Annotations/"))
        self._annotation_template = os.path.join(annotations, "{}.xml")

    def _image_id(self, image_id):
        """VOC's names are text, as "2008_000002"; here they are numbered from 1."""
        if image_id not in self._ids:
            raise InputError(
                f"There are detections for image {image_id!r}, which {self._image_set} does not "
                "list: evaluate on the images of that split."
            )
        return self._ids[image_id]

    def _load_ground_truth(self) -> GroundTruth:
        """From the XML files; written as a COCO file too, which the report reads."""
        classes = list(self._metadata.thing_classes)
        root = Path(self._metadata.dirname)
        images, annotations = [], []
        for name, number in self._ids.items():
            try:
                objects = parse_rec(self._annotation_template.format(name))
            except (OSError, ValueError, AttributeError, SyntaxError) as error:  # the last: no XML
                raise InputError(
                    f"{self._annotation_template.format(name)} of {self._dataset_name!r} is "
                    f"missing or no annotation of Pascal VOC ({error}): get the set again."
                ) from error
            images.append({"id": number, "file_name": f"JPEGImages/{name}.jpg"})
            for found in objects:
                left, top, right, bottom = found["bbox"]  # pixels from 1, both ends included
                width, height = right - left + 1, bottom - top + 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1 + classes.index(found["name"]),
                        "bbox": [left - 1, top - 1, width, height],
                        "area": width * height,
                        "iscrowd": found["difficult"],
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        json_file = ""
        if self._output_dir:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            json_file = str(self._output_dir / "ground_truth.json")
            write_whole(json_file, lambda f: f.write(json.dumps(content).encode()))
        counted = [a["category_id"] - 1 for a in annotations if not a["iscrowd"]]
        return GroundTruth(
            image_ids=np.arange(1, len(images) + 1),
            categories=categories,
            val_instances=np.bincount(counted, minlength=len(classes)),
            json_file=json_file,
            image_root=str(root),
            data=content,
        )

    def _evaluate_task(
        self, ground_truth: GroundTruth, detections: Detections, task: str
    ) -> TaskResult:
        class_ap = self._average_precisions(ground_truth, detections)  # (K, IoU thresholds) in %
        known = ground_truth.val_instances > 0
        class_ap[~known] = np.nan
        means = class_ap[known].mean(axis=0)
        metrics = {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[5])}
        hardest = np.argsort(class_ap[:, 0])[: min(NUM_HARDEST, known.sum())]  # NaN is the last
        metrics["AP50_hardest"] = float(class_ap[hardest, 0].mean())
        names = [f"{ground_truth.categories[i]['name']} {class_ap[i, 0]:.1f}" for i in hardest]
        self._logger.info("The hardest classes by AP50 (%%): %s", ", ".join(names))
        loaded = hotcoco.COCO(ground_truth.data)
        evaluation = hotcoco.COCOeval(loaded, load_detections(loaded, detections, task), task)
        run(evaluation)
        return TaskResult(metrics, class_ap[:, 0], tide_errors(evaluation))

    def _average_precisions(self, truth: GroundTruth, detections: Detections) -> np.ndarray:
        """(K, 10) by Detectron2's function, which reads detections from files of text."""
        names = np.array(["", *self._names])
        with tempfile.TemporaryDirectory(prefix="pascal_voc_eval_") as folder:
            template = os.path.join(folder, "{}.txt")
            rows = []
            for category in truth.categories:
                mine = detections[detections.category_id == category["id"]]
                corners = mine.box.astype(np.float64)
                corners[:, 2:] += corners[:, :2]
                corners[:, :2] += 1  # pixels from 1
                with open(template.format(category["name"]), "w") as f:
                    for name, score, box in zip(
                        names[mine.image_id], mine.score, corners, strict=True
                    ):
                        x1, y1, x2, y2 = box
                        f.write(f"{name} {score:.3f} {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}\n")
                if not len(mine):
                    rows.append([0.0] * len(THRESHOLDS))
                    continue
                rows.append(
                    [
                        100
                        * voc_eval(
                            template,
                            self._annotation_template,
                            self._image_set,
                            category["name"],
                            ovthresh=threshold / 100,
                            use_07_metric=self._metadata.year == 2007,
                        )[2]
                        for threshold in THRESHOLDS
                    ]
                )
        return np.array(rows)
