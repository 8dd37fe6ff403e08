"""What the evaluators of all formats share: collecting, saving, per-class results, tables."""

import logging
import math
from abc import abstractmethod
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..class_statistics import class_correlations, model_bias
from ..detections import Detections, Masks
from ..errors import InputError
from ..files import write_json, write_whole
from .collector import DetectionCollector
from .structures import GroundTruth, Group, TaskResult
from .tables import class_table, metrics_table, statistics_table

__all__ = ["ClassEvaluator"]


class ClassEvaluator(DatasetEvaluator):
    """Evaluates boxes, and masks where there are some, class by class.

    ``evaluate()`` returns ``{task: {metric: %}}`` for the tasks "bbox" and "segm": the metrics of
    the format, ``AP-<class name>``, the model bias as ``bias_variance`` and ``bias_std``, and
    ``pearson_<x>`` and ``spearman_<x>`` of the classes' AP with x, which is ``information``,
    ``instance_count`` or ``log_instance_count``, each of these where it is known. What has no
    ground truth is NaN, and enters no mean.

    Into ``output_dir`` go, before anything is evaluated, ``detections.npz`` (see
    :class:`igam_d2.detections.Detections`), and ``results.json``: the metrics and every class with
    its counts, information amount and AP.
    """

    # (K,) bits, NaN for a class without an estimate: to be set for a model that has them
    information: np.ndarray | None = None

    format: str  # "lvis", "coco" or "pascal_voc"
    class_metric = "AP"  # what the APs of the classes are

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        tasks: tuple[str, ...] | None = None,
        distributed: bool = True,
        image_count: np.ndarray | None = None,
        instance_count: np.ndarray | None = None,
    ):
        """
        Args:
            dataset_name: a registered data set.
            output_dir: where the results are written; None writes nothing.
            tasks: of "bbox" and "segm"; None takes them from the detections.
            distributed: gather the detections of all processes.
            image_count, instance_count: (K,) of training; None if they are not known.

        Raises:
            InputError: if the annotations do not exist.
        """
        self._dataset_name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        self._output_dir = Path(output_dir) if output_dir else None
        self._tasks, self._distributed = tasks, distributed
        self._image_count, self._instance_count = image_count, instance_count
        self._logger = logging.getLogger(__name__)
        self.collector = DetectionCollector()
        self._truth: GroundTruth | None = None

    # --- what a format says

    @abstractmethod
    def _load_ground_truth(self) -> GroundTruth: ...

    @abstractmethod
    def _evaluate_task(
        self, ground_truth: GroundTruth, detections: Detections, task: str
    ) -> TaskResult: ...

    def _select(self, ground_truth: GroundTruth, detections: Detections) -> Detections:
        """Those that count at all; the others are let go before the tasks are evaluated."""
        return detections

    def _groups(self, ground_truth: GroundTruth) -> tuple[list[Group], list[str | None]]:
        """The groups, the rarest first, and the key of each class's."""
        return [], [None] * len(ground_truth.categories)

    def _image_id(self, image_id: int | str) -> int:
        """The id that the ground truth has for what the data loader calls an image."""
        return int(image_id)

    # --- DatasetEvaluator

    def reset(self):
        """Also reads the annotations, so that a mistake in them is found before the inference."""
        self.collector = DetectionCollector()
        if self._truth is None and (comm.is_main_process() or not self._distributed):
            self._truth = self._load_ground_truth()
            self._check_lengths(self._truth)

    def process(self, inputs, outputs):
        for record, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                raise InputError(
                    f"The model returned {', '.join(output) or 'nothing'} for image "
                    f"{record['image_id']} of {self._dataset_name!r}, where its evaluation needs "
                    "'instances': evaluate a model that detects, not its proposals alone."
                )
            found = output["instances"]
            if record.get("unreadable"):  # the model has seen another image
                found = found[:0]
            self.collector.add(self._image_id(record["image_id"]), found)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        gathered = self.collector.gather(distributed=self._distributed)
        if gathered is None:
            return None
        truth = self._truth
        detections, num_images = gathered
        if num_images == 0:
            self._logger.warning("No image of %s was given to the model.", self._dataset_name)
            return {}
        self._map_categories(detections, truth)
        if self._output_dir:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_whole(self._output_dir / "detections.npz", detections.save)
        self._check_images(detections, truth)
        if not truth.val_instances.any():
            return self._without_annotations(detections)
        tasks = self._tasks or (("bbox", "segm") if detections.masks is not None else ("bbox",))
        if "segm" in tasks and detections.masks is None:
            if len(detections):
                raise InputError(
                    f"The masks of {self._dataset_name!r} cannot be evaluated: the model detects "
                    "boxes alone; set MODEL.MASK_ON, or evaluate the task 'bbox'."
                )
            detections.masks = Masks.pack([])
        num_detections = len(detections)
        del gathered
        detections = self._select(truth, detections)
        results = {}
        for task in tasks:
            self._logger.info(
                "Evaluating %s of %s detections in %s images ...",
                *(task, f"{num_detections:,}", f"{num_images:,}"),
            )
            results[task] = self._evaluate_task(truth, detections, task)
        return self._report(truth, results, num_images, num_detections)

    def _check_lengths(self, truth: GroundTruth) -> None:
        for name, values in (
            ("information amounts", self.information),
            ("image counts", self._image_count),
            ("instance counts", self._instance_count),
        ):
            if values is not None and len(values) != len(truth.categories):
                raise InputError(
                    f"There are {name} of {len(values)} classes, but {self._dataset_name!r} has "
                    f"{len(truth.categories)}: model, training set and test set must have the same."
                )

    def _map_categories(self, detections: Detections, truth: GroundTruth) -> None:
        """Contiguous classes to the ids of the annotation file, in place."""
        ids = np.array([category["id"] for category in truth.categories], dtype=np.int32)
        if len(detections) and detections.category_id.max() >= len(ids):
            raise InputError(
                f"The model detects class {detections.category_id.max()}, but "
                f"{truth.json_file} of {self._dataset_name!r} has {len(ids)} categories, 0 to "
                f"{len(ids) - 1}: evaluate a model of as many classes."
            )
        detections.category_id = ids[detections.category_id]

    def _check_images(self, detections: Detections, truth: GroundTruth) -> None:
        images = np.unique(detections.image_id)
        unknown = images[~np.isin(images, truth.image_ids)]
        if len(unknown):
            raise InputError(
                f"There are detections for image {unknown[0]}, which {truth.json_file} of "
                f"{self._dataset_name!r} does not have ({len(unknown)} of {len(images)} images): "
                "evaluate on the images of that file."
            )

    def _without_annotations(self, detections: Detections) -> dict:
        """For a test set whose annotations only a server has, which takes COCO's JSON."""
        if self._output_dir:
            path = self._output_dir / f"{self.format}_instances_results.json"
            detections.save_json(path)
            self._logger.info(
                "%s has no annotations: nothing is evaluated, the detections are in %s.",
                *(self._dataset_name, path),
            )
        return {}

    # --- results

    def _report(
        self,
        truth: GroundTruth,
        results: dict[str, TaskResult],
        num_images: int,
        num_detections: int,
    ) -> dict[str, dict[str, float]]:
        num_classes = len(truth.categories)
        groups, keys = self._groups(truth)
        unknown = np.full(num_classes, np.nan)
        information, image_count, instance_count = (
            unknown if values is None else np.asarray(values, dtype=np.float64)
            for values in (
                self.information,
                self._image_count if truth.image_count is None else truth.image_count,
                self._instance_count if truth.instance_count is None else truth.instance_count,
            )
        )
        records = [
            {
                "id": category["id"],
                "name": category["name"],
                "group": keys[i],
                "image_count": _count(image_count[i]),
                "instance_count": _count(instance_count[i]),
                "val_instances": int(truth.val_instances[i]),
                "information": float(information[i]),
                "AP": {task: float(result.class_ap[i]) for task, result in results.items()},
            }
            for i, category in enumerate(truth.categories)
        ]
        bias = {task: model_bias(result.class_ap) for task, result in results.items()}
        correlations = {
            task: class_correlations(result.class_ap, information, instance_count)
            for task, result in results.items()
        }
        for task, result in results.items():
            self._logger.info(
                "%s of %s (%%):\n%s", task, self._dataset_name, metrics_table(result.metrics)
            )
        self._logger.info(statistics_table(bias, correlations))
        self._logger.info(class_table(records, self.class_metric))
        if self._output_dir:
            content = {
                "format": self.format,
                "dataset": self._dataset_name,
                "json_file": truth.json_file,
                "image_root": truth.image_root,
                "num_images": num_images,
                "num_detections": num_detections,
                "class_metric": self.class_metric,
                "metrics": {task: result.metrics for task, result in results.items()},
                "groups": [vars(group) for group in groups],
                "classes": records,
                "bias": bias,
                "correlation": correlations,
                "tide": {task: result.tide for task, result in results.items() if result.tide},
            }
            path = self._output_dir / "results.json"
            write_json(path, content)
            self._logger.info("Metrics, and the AP of every class, are in %s", path)
        return {
            task: {
                **result.metrics,
                "bias_variance": bias[task]["variance"],
                "bias_std": bias[task]["std"],
                **{
                    f"{name}_{variable}": values[name][0]
                    for variable, values in correlations[task].items()
                    for name in ("pearson", "spearman")
                },
                **{f"AP-{record['name']}": record["AP"][task] for record in records},
            }
            for task, result in results.items()
        }


def _count(value: float) -> int | None:
    return None if math.isnan(value) else int(value)
