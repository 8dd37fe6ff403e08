"""The COCO evaluator against pycocotools, and COCO-LT's groups."""

import contextlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_data import NUM_CLASSES, evaluate, random_annotations, random_detections

from igam_d2.detections import Detections
from igam_d2.evaluation import COCOEvaluator
from igam_d2.evaluation.coco import METRICS, instance_count_groups

NAME = "random_coco_val"


@pytest.fixture
def data(tmp_path):
    """Random annotations with crowds, registered; no area is zero, as in COCO."""
    data = random_annotations(np.random.default_rng(3))
    data["annotations"] = [a for a in data["annotations"] if a["area"] > 0]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    MetadataCatalog.get(NAME).set(json_file=str(path), evaluator_type="coco")
    yield data
    MetadataCatalog.remove(NAME)


def _reference(folder, task: str) -> tuple[list[float], np.ndarray]:
    """The 12 metrics, and the APs of the classes, of pycocotools; NaN for its -1."""
    Detections.load(folder / "detections.npz").save_json(folder / "list.json")
    detections = json.loads((folder / "list.json").read_text())
    if task == "segm":
        for detection in detections:
            del detection["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(MetadataCatalog.get(NAME).json_file)
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(detections), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    class_ap = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    both = (np.asarray(evaluation.stats), class_ap)
    return tuple(np.where(values < 0, np.nan, 100 * values) for values in both)


def test_all_metrics_equal_pycocotools(data, tmp_path):
    detections = random_detections(np.random.default_rng(4), data)
    result = evaluate(COCOEvaluator(NAME, tmp_path), data, detections)
    assert set(result) == {"bbox", "segm"}
    for task, metrics in result.items():
        stats, class_ap = _reference(tmp_path, task)
        ours = [metrics[name] for name in METRICS.values()]
        assert ours == pytest.approx(stats.tolist(), abs=1e-9, nan_ok=True)
        ours = [metrics[f"AP-thing-{c}"] for c in range(NUM_CLASSES)]
        assert ours == pytest.approx(class_ap.tolist(), abs=1e-9, nan_ok=True)
        assert 5 < metrics["AP"] < 95


def test_groups_by_training_instances(data, tmp_path):
    counts = np.array([19, 20, 399, 400, 7999, 8000, 9000])
    groups, keys = instance_count_groups(counts)
    assert keys == ["1", "2", "2", "3", "3", "4", "4"]
    assert [group.metric for group in groups] == ["AP1", "AP2", "AP3", "AP4"]
    assert groups[1].rule == "20 to 399 training instances"
    detections = random_detections(np.random.default_rng(4), data)
    evaluator = COCOEvaluator(NAME, tmp_path, tasks=("bbox",), instance_count=counts)
    result = evaluate(evaluator, data, detections)["bbox"]
    class_ap = [result[f"AP-thing-{c}"] for c in range(NUM_CLASSES)]
    assert np.isnan(class_ap[6])  # without ground truth: left out of its group
    expected = [class_ap[0], np.mean(class_ap[1:3]), np.mean(class_ap[3:5]), class_ap[5]]
    assert [result[f"AP{i}"] for i in range(1, 5)] == pytest.approx(expected, abs=1e-12)
    written = json.loads((tmp_path / "results.json").read_text())
    assert [record["group"] for record in written["classes"]] == keys
    assert written["correlation"]["bbox"]["instance_count"]["num_classes"] == 6
    crowds = sum(a["iscrowd"] for a in data["annotations"])
    assert crowds and sum(r["val_instances"] for r in written["classes"]) == (
        len(data["annotations"]) - crowds
    )
    without = evaluate(COCOEvaluator(NAME, tasks=("bbox",)), data, detections)["bbox"]
    assert "AP1" not in without and without["AP"] == result["AP"]


def test_groups_of_the_file_for_data_of_ones_own(data, tmp_path):
    """As LVIS's evaluator; where a class has none, or another, the training images decide."""
    detections = random_detections(np.random.default_rng(4), data)
    MetadataCatalog.get(NAME).set(frequency_groups="image_count")
    counts = np.full(NUM_CLASSES, 50)

    def groups() -> list[str]:
        (tmp_path / "annotations.json").write_text(json.dumps(data))
        evaluator = COCOEvaluator(NAME, tmp_path, tasks=("bbox",), image_count=counts)
        result = evaluate(evaluator, data, detections)["bbox"]
        written = json.loads((tmp_path / "results.json").read_text())["classes"]
        rare = [c["AP"]["bbox"] for c in written if c["group"] == "r"]
        rare = [ap for ap in rare if ap is not None and np.isfinite(ap)]
        assert result["APr"] == pytest.approx(np.mean(rare) if rare else np.nan, nan_ok=True)
        return [c["group"] for c in written]

    keys = ["r", "f", *"c" * (NUM_CLASSES - 2)]
    in_order = sorted(data["categories"], key=lambda category: category["id"])
    for category, key in zip(in_order, keys, strict=True):
        category["frequency"] = key
    assert groups() == keys
    for other in ("rare", None):
        in_order[0]["frequency"] = other
        assert groups() == ["c"] * NUM_CLASSES
