"""The evaluator against the ``lvis`` package, and what it writes."""

import copy
import json
import logging

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils

from igam_d2.errors import InputError
from igam_d2.evaluation import LVISEvaluator, build_evaluator
from igam_d2.evaluation.lvis_evaluation import class_table, evaluate_detections, load_ground_truth

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:The 'warn' method is deprecated:DeprecationWarning",  # lvis
)

NUM_CLASSES = 7  # the last without ground truth
EMPTY_CLASS = NUM_CLASSES - 1
IMAGE_SIZE = 160
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300")


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


def _annotations(rng: np.random.Generator, num_images: int = 14) -> dict:
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


def _detections(rng: np.random.Generator, data: dict) -> list[dict]:
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


@pytest.fixture
def dataset(tmp_path):
    """The name of a registered random dataset, and its annotations."""
    name = "random_lvis_val"
    data = _annotations(np.random.default_rng(3))
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    MetadataCatalog.get(name).set(
        json_file=str(path), image_root=str(tmp_path), evaluator_type="lvis"
    )
    yield name, data
    MetadataCatalog.remove(name)


def _evaluate(evaluator: LVISEvaluator, data: dict, detections: list[dict]) -> dict:
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


def _reference(monkeypatch, json_file: str, detections: list[dict], task: str, max_dets: int = 300):
    """Metrics and class APs of the ``lvis`` package, in %, NaN for its -1."""
    from lvis import LVIS, LVISEval, LVISResults

    monkeypatch.setattr(np, "float", float, raising=False)  # lvis uses an alias numpy has dropped
    detections = copy.deepcopy(detections)
    if task == "segm":
        for detection in detections:
            del detection["bbox"]
    ground_truth = LVIS(json_file)
    results = LVISResults(ground_truth, detections, max_dets=max_dets)
    evaluation = LVISEval(ground_truth, results, task)
    evaluation.run()
    metrics = {name: float(evaluation.get_results()[name]) for name in METRICS}
    class_ap = evaluation.eval["precision"][:, :, :, 0].mean(axis=(0, 1))
    metrics |= {f"AP-thing-{c}": float(ap) for c, ap in enumerate(class_ap)}
    return {name: 100 * v if v >= 0 else float("nan") for name, v in metrics.items()}


def test_all_metrics_equal_the_reference(dataset, tmp_path, monkeypatch):
    name, data = dataset
    detections = _detections(np.random.default_rng(4), data)
    assert sum(d["image_id"] == 2 for d in detections) > 300
    result = _evaluate(LVISEvaluator(name, output_dir=str(tmp_path / "out")), data, detections)
    assert set(result) == {"bbox", "segm"}
    json_file = MetadataCatalog.get(name).json_file
    saved = json.loads((tmp_path / "out" / "lvis_instances_results.json").read_text())
    for task, metrics in result.items():
        expected = _reference(monkeypatch, json_file, saved, task)
        assert metrics == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert 5 < metrics["AP"] < 95 and metrics["APs"] >= 0 and metrics["APl"] >= 0


@pytest.mark.parametrize("max_dets", [4, 1000])
def test_another_limit_of_detections(dataset, monkeypatch, max_dets):
    name, data = dataset
    detections = _detections(np.random.default_rng(5), data)
    evaluator = LVISEvaluator(name, ("bbox",), max_dets_per_image=max_dets)
    metrics = _evaluate(evaluator, data, detections)["bbox"]
    json_file = MetadataCatalog.get(name).json_file
    expected = _reference(monkeypatch, json_file, detections, "bbox", max_dets)
    expected[f"AR@{max_dets}"] = expected.pop("AR@300")
    assert metrics == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("seed", range(2))
def test_equal_scores_everywhere(dataset, monkeypatch, seed):
    """The order of ties, which no definition gives, is that of the reference too."""
    name, data = dataset
    detections = _detections(np.random.default_rng(seed), data)
    for detection in detections:
        detection["score"] = 0.5 if seed == 0 else round(detection["score"])
    json_file = MetadataCatalog.get(name).json_file
    for task in ("bbox", "segm"):
        metrics, class_ap = evaluate_detections(load_ground_truth(data), detections, task)
        metrics |= {f"AP-thing-{i - 1}": ap for i, ap in class_ap.items()}
        expected = _reference(monkeypatch, json_file, detections, task)
        assert metrics == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_no_detections(dataset, tmp_path, caplog, monkeypatch):
    name, data = dataset
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    with caplog.at_level(logging.INFO):
        result = _evaluate(LVISEvaluator(name, output_dir=str(tmp_path)), data, [])["bbox"]
    assert all(result[metric] == 0 for metric in METRICS)
    assert result["AP-thing-0"] == 0 and np.isnan(result[f"AP-thing-{EMPTY_CLASS}"])
    assert json.loads((tmp_path / "lvis_instances_results.json").read_text()) == []
    assert "APr" in caplog.text and "| thing-3" in caplog.text  # both tables


def test_results_file(dataset, tmp_path, capfd):
    name, data = dataset
    for category in data["categories"]:
        category["frequency"] = "f" if category["frequency"] == "r" else category["frequency"]
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    detections = _detections(np.random.default_rng(6), data)
    returned = _evaluate(LVISEvaluator(name, output_dir=str(tmp_path)), data, detections)

    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert written["dataset"] == name
    assert written["json_file"] == MetadataCatalog.get(name).json_file
    assert written["image_root"] == str(tmp_path)
    assert tuple(written["metrics"]["bbox"]) == METRICS
    assert written["metrics"]["bbox"]["AP"] == returned["bbox"]["AP"]
    assert written["metrics"]["bbox"]["APr"] is None and np.isnan(returned["bbox"]["APr"])
    counts = [sum(a["category_id"] == c + 1 for a in data["annotations"]) for c in range(7)]
    assert [c["val_instances"] for c in written["classes"]] == counts
    assert [c["id"] for c in written["classes"]] == list(range(1, 8))
    assert written["classes"][EMPTY_CLASS]["AP"] == {"bbox": None, "segm": None}
    assert written["classes"][2] | {"AP": None} == {
        "id": 3,
        "name": "thing-2",
        "frequency": "c",
        "image_count": 9,
        "instance_count": 18,
        "val_instances": counts[2],
        "AP": None,
    }
    assert "Average Precision" not in capfd.readouterr().out  # one table, in the log


def test_contiguous_ids_of_the_metadata(dataset, tmp_path):
    """With a map, classes are in its order; without, LVIS category 1 is class 0."""
    name, data = dataset
    detections = _detections(np.random.default_rng(7), data)
    plain = _evaluate(LVISEvaluator(name, ("bbox",)), data, detections)["bbox"]
    mirrored = {c + 1: EMPTY_CLASS - c for c in range(NUM_CLASSES)}
    MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id=mirrored,
        thing_classes=[f"thing-{c}" for c in reversed(range(NUM_CLASSES))],
    )
    for detection in detections:
        detection["category_id"] = mirrored[detection["category_id"]] + 1
    evaluator = LVISEvaluator(name, ("bbox",), output_dir=str(tmp_path))
    mapped = _evaluate(evaluator, data, detections)["bbox"]
    assert mapped == pytest.approx(plain, abs=1e-12, nan_ok=True)
    classes = json.loads((tmp_path / "results.json").read_text())["classes"]
    assert [c["id"] for c in classes] == list(reversed(range(1, NUM_CLASSES + 1)))
    assert [c["name"] for c in classes] == MetadataCatalog.get(name).thing_classes


def test_a_long_table_has_the_worst_classes():
    record = {"frequency": "r", "image_count": 1, "instance_count": 1, "val_instances": 1}
    classes = [record | {"name": f"c{i:03d}.", "AP": {"bbox": 99.0 - i}} for i in range(99)]
    classes[98]["AP"]["bbox"] = float("nan")
    table = class_table(classes)
    assert "20 worst of 98" in table and len(table.splitlines()) == 1 + 2 + 20
    assert "c097." in table and "c078." in table and "c077." not in table and "c098." not in table


def test_annotations_that_are_missing():
    MetadataCatalog.get("nowhere_val").set(json_file="datasets/x.json", evaluator_type="lvis")
    with pytest.raises(InputError, match=r"datasets/x\.json.*DETECTRON2_DATASETS.*\./datasets"):
        LVISEvaluator("nowhere_val")
    MetadataCatalog.remove("nowhere_val")


def test_build_evaluator(dataset, tmp_path):
    name, data = dataset
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    assert isinstance(build_evaluator(cfg, name), LVISEvaluator)
    coco = MetadataCatalog.get("random_coco_val")
    coco.set(json_file=MetadataCatalog.get(name).json_file, evaluator_type="coco")
    voc = MetadataCatalog.get("random_voc_val")
    voc.set(dirname=str(tmp_path), split="val", year=2007, thing_classes=["x"])
    voc.set(evaluator_type="pascal_voc")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").touch()
    assert isinstance(build_evaluator(cfg, "random_coco_val"), COCOEvaluator)
    assert isinstance(build_evaluator(cfg, "random_voc_val"), PascalVOCDetectionEvaluator)
    with pytest.raises(InputError, match=r"None.*'lvis', 'coco', 'pascal_voc'"):
        build_evaluator(cfg, "unknown_val")
    for registered in ("random_coco_val", "random_voc_val", "unknown_val"):
        MetadataCatalog.remove(registered)
    _evaluate(build_evaluator(cfg, name), data, [])
    assert (tmp_path / "inference" / name / "results.json").is_file()
