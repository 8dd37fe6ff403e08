"""The LVIS evaluator against the ``lvis`` package, and what it writes."""

import json
import logging

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.data import MetadataCatalog
from random_data import (
    EMPTY_CLASS,
    NUM_CLASSES,
    evaluate,
    random_annotations,
    random_detections,
)

from igam_d2.class_statistics import class_correlations, model_bias
from igam_d2.detections import Detections
from igam_d2.errors import InputError
from igam_d2.evaluation import LVISEvaluator
from igam_d2.evaluation.lvis import METRICS, CheckedPairs
from igam_d2.evaluation.tables import class_table

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:The 'warn' method is deprecated:DeprecationWarning",  # lvis
)


@pytest.fixture
def dataset(tmp_path):
    """The name of a registered random data set, and its annotations."""
    name = "random_lvis_val"
    data = random_annotations(np.random.default_rng(3))
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    MetadataCatalog.get(name).set(
        json_file=str(path), image_root=str(tmp_path), evaluator_type="lvis"
    )
    yield name, data
    MetadataCatalog.remove(name)


def _reference(monkeypatch, name: str, folder, task: str, max_dets: int = 300) -> dict:
    """Metrics and class APs of the ``lvis`` package, in %, from the detections that were saved."""
    from lvis import LVIS, LVISEval, LVISResults

    monkeypatch.setattr(np, "float", float, raising=False)  # lvis uses an alias numpy has dropped
    Detections.load(folder / "detections.npz").save_json(folder / "results_list.json")
    detections = json.loads((folder / "results_list.json").read_text())
    if task == "segm":
        for detection in detections:
            del detection["bbox"]
    ground_truth = LVIS(MetadataCatalog.get(name).json_file)
    results = LVISResults(ground_truth, detections, max_dets=max_dets)
    evaluation = LVISEval(ground_truth, results, task)
    evaluation.run()
    metrics = {key: float(evaluation.get_results()[key]) for key in METRICS}
    class_ap = evaluation.eval["precision"][:, :, :, 0].mean(axis=(0, 1))
    metrics |= {f"AP-thing-{c}": float(ap) for c, ap in enumerate(class_ap)}
    return {key: 100 * v if v >= 0 else float("nan") for key, v in metrics.items()}


def _only(metrics: dict, keys) -> dict:
    return {key: metrics[key] for key in keys}


@pytest.mark.parametrize("plain", [False, True])
def test_all_metrics_equal_the_reference(dataset, tmp_path, monkeypatch, plain):
    """Plain annotations are read by the engine itself; others are evened out before."""
    name, data = dataset
    if plain:
        for annotation in data["annotations"]:
            annotation |= {"area": max(annotation["area"], 1.0), "ignore": 0, "iscrowd": 0}
        (tmp_path / "annotations.json").write_text(json.dumps(data))
    detections = random_detections(np.random.default_rng(4), data)
    assert sum(d["image_id"] == 2 for d in detections) > 300
    result = evaluate(LVISEvaluator(name, tmp_path / "out"), data, detections)
    assert set(result) == {"bbox", "segm"}
    for task, metrics in result.items():
        expected = _reference(monkeypatch, name, tmp_path / "out", task)
        assert _only(metrics, expected) == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert 5 < metrics["AP"] < 95 and metrics["APs"] >= 0 and metrics["ARl@300"] >= 0


@pytest.mark.parametrize("max_dets", [4, 1000])
def test_another_limit_of_detections(dataset, tmp_path, monkeypatch, max_dets):
    name, data = dataset
    detections = random_detections(np.random.default_rng(5), data)
    evaluator = LVISEvaluator(name, tmp_path, tasks=("bbox",), max_dets_per_image=max_dets)
    metrics = evaluate(evaluator, data, detections)["bbox"]
    expected = _reference(monkeypatch, name, tmp_path, "bbox", max_dets)
    expected = {key.replace("@300", f"@{max_dets}"): value for key, value in expected.items()}
    assert _only(metrics, expected) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_more_than_300_of_a_class_count_where_they_may(dataset, tmp_path, monkeypatch):
    """The engine has limits of its own; the hit is the 400th detection of its class."""
    name, data = dataset
    found = next(a for a in data["annotations"] if a["area"] > 0 and not a["ignore"])
    miss = {"image_id": found["image_id"], "category_id": found["category_id"]}
    detections = [miss | {"bbox": [0, 0, 2, 2], "score": 1 - i / 1000} for i in range(500)]
    detections[400] |= {"bbox": found["bbox"]}
    for limit, is_seen in ((1000, True), (300, False)):
        evaluator = LVISEvaluator(name, tmp_path, max_dets_per_image=limit)
        metrics = evaluate(evaluator, data, detections)["bbox"]
        expected = _reference(monkeypatch, name, tmp_path, "bbox", limit)
        assert metrics["AP"] == pytest.approx(expected["AP"], abs=1e-9)
        assert (metrics[f"AR@{limit}"] > 0) == is_seen


@pytest.mark.parametrize("seed", range(2))
def test_equal_scores_everywhere(dataset, tmp_path, monkeypatch, seed):
    """The order of ties, which no definition gives, is that of the reference too."""
    name, data = dataset
    detections = random_detections(np.random.default_rng(seed), data)
    for detection in detections:
        detection["score"] = 0.5 if seed == 0 else round(detection["score"])
    result = evaluate(LVISEvaluator(name, tmp_path), data, detections)
    for task, metrics in result.items():
        expected = _reference(monkeypatch, name, tmp_path, task)
        assert _only(metrics, expected) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_the_reference_can_be_chosen(dataset, tmp_path):
    """It runs on this numpy, which is left as it was, and agrees."""
    name, data = dataset
    detections = random_detections(np.random.default_rng(6), data)
    ours, theirs = (
        evaluate(LVISEvaluator(name, tmp_path / backend, backend=backend), data, detections)
        for backend in ("hotcoco", "lvis")
    )
    assert not hasattr(np, "float")
    assert "tide" in (tmp_path / "hotcoco" / "results.json").read_text()
    for task in ("bbox", "segm"):
        assert theirs[task] == pytest.approx(ours[task], abs=1e-9, nan_ok=True)
    nothing = evaluate(LVISEvaluator(name, backend="lvis"), data, [])
    assert nothing["bbox"]["AP"] == 0


def test_what_nobody_looked_for_does_not_count(dataset, tmp_path, monkeypatch):
    """Leaving it out before the engine sees it changes nothing, TIDE's errors included."""
    name, data = dataset
    detections = random_detections(np.random.default_rng(7), data)
    evaluate(LVISEvaluator(name, tmp_path / "few"), data, detections)
    saved = Detections.load(tmp_path / "few" / "detections.npz")
    assert 0.1 < CheckedPairs(data).contain(saved).mean() < 0.9
    monkeypatch.setattr(CheckedPairs, "contain", lambda _, d: np.ones(len(d), bool))
    evaluate(LVISEvaluator(name, tmp_path / "all"), data, detections)
    few, every = (
        json.loads((tmp_path / folder / "results.json").read_text()) for folder in ("few", "all")
    )
    assert few == every
    assert few["tide"]["bbox"]["Loc"] > 0 and few["tide"]["segm"]["Dupe"] > 0


def test_no_detections(dataset, tmp_path, caplog, monkeypatch):
    name, data = dataset
    monkeypatch.setattr(logging.getLogger("igam_d2"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="igam_d2"):
        result = evaluate(LVISEvaluator(name, tmp_path), data, [])["bbox"]
    assert all(result[metric] == 0 for metric in METRICS)
    assert result["AP-thing-0"] == 0 and np.isnan(result[f"AP-thing-{EMPTY_CLASS}"])
    assert len(Detections.load(tmp_path / "detections.npz")) == 0
    with_masks = evaluate(LVISEvaluator(name, tasks=("bbox", "segm")), data, [])
    assert with_masks["segm"]["AP"] == 0
    assert "APr" in caplog.text and "| thing-3" in caplog.text  # both tables
    assert "6 classes, 1 without ground truth left out" in caplog.text


def test_results_file(dataset, tmp_path, capfd):
    name, data = dataset
    for category in data["categories"]:
        category["frequency"] = "f" if category["frequency"] == "r" else category["frequency"]
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    detections = random_detections(np.random.default_rng(6), data)
    information = np.array([3.0, 1.0, np.nan, 2.0, 5.0, 4.0, 6.0])
    evaluator = LVISEvaluator(name, str(tmp_path))
    evaluator.information = information
    returned = evaluate(evaluator, data, detections)

    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    written = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert (written["format"], written["dataset"]) == ("lvis", name)
    assert written["json_file"] == MetadataCatalog.get(name).json_file
    assert written["image_root"] == str(tmp_path)
    assert written["num_images"] == 14 and written["num_detections"] == len(detections)
    assert tuple(written["metrics"]["bbox"]) == METRICS
    assert written["metrics"]["bbox"]["AP"] == returned["bbox"]["AP"]
    assert written["metrics"]["bbox"]["APr"] is None and np.isnan(returned["bbox"]["APr"])
    assert [group["metric"] for group in written["groups"]] == ["APr", "APc", "APf"]
    counts = [sum(a["category_id"] == c + 1 for a in data["annotations"]) for c in range(7)]
    assert [c["val_instances"] for c in written["classes"]] == counts
    assert [c["id"] for c in written["classes"]] == list(range(1, 8))
    assert written["classes"][EMPTY_CLASS]["AP"] == {"bbox": None, "segm": None}
    assert written["classes"][1] | {"AP": None, "val_instances": None} == {
        "id": 2,
        "name": "thing-1",
        "group": "f",
        "image_count": 3,
        "instance_count": 6,
        "val_instances": None,
        "information": 1.0,
        "AP": None,
    }
    assert written["classes"][2]["information"] is None
    class_ap = np.array([returned["bbox"][f"AP-thing-{c}"] for c in range(7)])
    assert written["bias"]["bbox"] == model_bias(class_ap)
    instances = np.array([category["instance_count"] for category in data["categories"]])
    expected = class_correlations(class_ap, information, instances)
    assert written["correlation"]["bbox"] == json.loads(json.dumps(expected))
    assert written["correlation"]["bbox"]["information"]["num_classes"] == 5
    assert returned["bbox"]["bias_std"] == np.nanstd(class_ap)
    assert returned["bbox"]["spearman_information"] == expected["information"]["spearman"][0]
    assert "Average Precision" not in capfd.readouterr().out  # one table, in the log


def test_contiguous_ids_of_the_metadata(dataset, tmp_path):
    """With a map, classes are in its order; without, LVIS category 1 is class 0."""
    name, data = dataset
    detections = random_detections(np.random.default_rng(7), data)
    plain = evaluate(LVISEvaluator(name, tasks=("bbox",)), data, detections)["bbox"]
    mirrored = {c + 1: EMPTY_CLASS - c for c in range(NUM_CLASSES)}
    MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id=mirrored,
        thing_classes=[f"thing-{c}" for c in reversed(range(NUM_CLASSES))],
    )
    for detection in detections:
        detection["category_id"] = mirrored[detection["category_id"]] + 1
    evaluator = LVISEvaluator(name, str(tmp_path), tasks=("bbox",))
    mapped = evaluate(evaluator, data, detections)["bbox"]
    assert mapped == pytest.approx(plain, abs=1e-12, nan_ok=True)
    classes = json.loads((tmp_path / "results.json").read_text())["classes"]
    assert [c["id"] for c in classes] == list(reversed(range(1, NUM_CLASSES + 1)))
    assert [c["name"] for c in classes] == MetadataCatalog.get(name).thing_classes


def test_a_long_table_has_the_worst_classes():
    record = {"group": "r", "image_count": 1, "instance_count": 1, "val_instances": 1}
    record["information"] = float("nan")
    classes = [record | {"name": f"c{i:03d}.", "AP": {"bbox": 99.0 - i}} for i in range(99)]
    classes[98]["AP"]["bbox"] = float("nan")
    table = class_table(classes)
    assert "20 worst of 98" in table and len(table.splitlines()) == 1 + 2 + 20
    assert "c097." in table and "c078." in table and "c077." not in table and "c098." not in table
    assert "information" not in table and "training images" in table


def test_input_that_does_not_fit(dataset, tmp_path):
    name, data = dataset
    detection = {"image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"detects class 7, but .*annotations\.json.* 0 to 6"):
        evaluate(LVISEvaluator(name, out), data, [detection | {"category_id": 8}])
    with pytest.raises(InputError, match=r"detections for image 99, .*\(1 of 1 images\)"):
        more = {**data, "images": [{"id": 99}]}
        evaluate(LVISEvaluator(name, out), more, [detection | {"image_id": 99}])
    assert len(Detections.load(out / "detections.npz")) == 1  # what was computed is kept
    with pytest.raises(InputError, match=r"returned proposals for image 4.*'instances'"):
        LVISEvaluator(name).process([{"image_id": 4}], [{"proposals": None}])
    text = (tmp_path / "annotations.json").read_text()
    (tmp_path / "annotations.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"annotations\.json' is not a JSON object with the lists"):
        LVISEvaluator(name).reset()  # before the inference
    without = {**data, "images": [{"id": 1, "height": 1, "width": 1}]}
    (tmp_path / "annotations.json").write_text(json.dumps(without))
    with pytest.raises(InputError, match=r"images\[0\] has no 'neg_category_ids'"):
        LVISEvaluator(name).reset()
    (tmp_path / "annotations.json").write_text(text)
    evaluator = LVISEvaluator(name)
    evaluator.information = np.zeros(5)
    with pytest.raises(InputError, match=r"information amounts of 5 classes, but .* has 7"):
        evaluator.reset()
    with pytest.raises(InputError, match=r"The masks of .*boxes alone; set MODEL\.MASK_ON"):
        evaluate(LVISEvaluator(name, tasks=("segm",)), data, [detection])
    with pytest.raises(InputError, match=r"The backend is 'lvsi'"):
        LVISEvaluator(name, backend="lvsi")
    metadata = MetadataCatalog.get(name)
    metadata.thing_dataset_id_to_contiguous_id = {c + 1: c for c in range(6)}
    with pytest.raises(InputError, match=r"of other classes .*category 7 is in it alone"):
        LVISEvaluator(name).reset()
    MetadataCatalog.get("nowhere_val").set(json_file="datasets/x.json", evaluator_type="lvis")
    with pytest.raises(InputError, match=r"datasets/x\.json.*DETECTRON2_DATASETS.*\./datasets"):
        LVISEvaluator("nowhere_val")
    MetadataCatalog.remove("nowhere_val")


def test_a_test_set_without_annotations(dataset, tmp_path):
    """Its detections are written as an evaluation server takes them."""
    name, data = dataset
    (tmp_path / "annotations.json").write_text(json.dumps({**data, "annotations": []}))
    detections = [{"image_id": 2, "category_id": 2, "bbox": [1.0, 2, 3, 4], "score": 0.5}]
    assert evaluate(LVISEvaluator(name, tmp_path), data, detections) == {}
    assert json.loads((tmp_path / "lvis_instances_results.json").read_text()) == detections
