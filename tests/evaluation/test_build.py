"""Which evaluator a data set gets, and what it is told."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from random_data import evaluate, random_annotations

from igam_d2.config import add_igam_config
from igam_d2.errors import InputError
from igam_d2.evaluation import (
    COCOEvaluator,
    LVISEvaluator,
    PascalVOCEvaluator,
    build_evaluator,
    information_of,
)
from igam_d2.evaluation.lvis import METRICS


@pytest.fixture
def names(tmp_path):
    """A data set of each type, registered."""
    data = random_annotations(np.random.default_rng(3))
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    for kind in ("lvis", "coco"):
        metadata = MetadataCatalog.get(f"some_{kind}")
        metadata.set(json_file=str(tmp_path / "annotations.json"), evaluator_type=kind)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").touch()
    voc = {"dirname": str(tmp_path), "split": "val", "year": 2007, "thing_classes": ["x"]}
    MetadataCatalog.get("some_pascal_voc").set(evaluator_type="pascal_voc", **voc)
    yield data
    for kind in ("lvis", "coco", "pascal_voc"):
        MetadataCatalog.remove(f"some_{kind}")


def test_the_metadata_chooses(names, tmp_path, caplog):
    cfg = get_cfg()  # without this project's keys too
    cfg.OUTPUT_DIR = str(tmp_path)
    assert type(build_evaluator(cfg, "some_lvis")) is LVISEvaluator
    assert type(build_evaluator(cfg, "some_pascal_voc")) is PascalVOCEvaluator
    assert type(build_evaluator(cfg, "some_coco")) is COCOEvaluator
    assert "goes without training counts" in caplog.text  # DATASETS.TRAIN is empty
    with pytest.raises(InputError, match=r"None.*'lvis', 'coco', 'pascal_voc'"):
        build_evaluator(cfg, "unknown_val")
    MetadataCatalog.remove("unknown_val")
    evaluate(build_evaluator(cfg, "some_lvis"), names, [])
    assert (tmp_path / "inference" / "some_lvis" / "results.json").is_file()


def test_the_backend_of_the_config(names, tmp_path, monkeypatch):
    cfg = get_cfg()
    add_igam_config(cfg)
    cfg.TEST.LVIS_BACKEND = "lvis"
    asked = []
    monkeypatch.setattr(
        "igam_d2.evaluation.lvis_package.evaluate",
        lambda *_: asked.append(True) or (dict.fromkeys(METRICS, 12.5), np.zeros(7)),
    )
    one = {"image_id": 2, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}
    result = evaluate(build_evaluator(cfg, "some_lvis", str(tmp_path)), names, [one])
    assert asked == [True] and result["bbox"]["APs"] == 12.5


def test_the_information_of_the_model(cfg, names, tmp_path):
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    cfg.OUTPUT_DIR = str(tmp_path)
    model = build_model(cfg)
    assert information_of(model) is None
    bits = [0.0, 1.0, 2.0, math.nan, 4.0, 5.0, 6.0]
    model.roi_heads.box_predictor.set_information(torch.tensor(bits))
    evaluator = build_evaluator(cfg, "some_lvis")
    evaluator.information = information_of(model)
    evaluate(evaluator, names, [])
    written = json.loads((tmp_path / "inference" / "some_lvis" / "results.json").read_text())
    assert [record["information"] for record in written["classes"]] == [0, 1, 2, None, 4, 5, 6]


def test_counts_of_the_training_set(cfg, names, tmp_path):
    train = random_annotations(np.random.default_rng(5))
    (tmp_path / "train.json").write_text(json.dumps(train))
    metadata = MetadataCatalog.get("some_train")
    metadata.set(json_file=str(tmp_path / "train.json"), evaluator_type="coco")
    DatasetCatalog.register("some_train", list)
    try:
        cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = ("some_train",), str(tmp_path)
        evaluate(build_evaluator(cfg, "some_coco"), names, [])
    finally:
        DatasetCatalog.remove("some_train")
        MetadataCatalog.remove("some_train")
    written = json.loads((tmp_path / "inference" / "some_coco" / "results.json").read_text())
    instances = [a["category_id"] - 1 for a in train["annotations"] if not a["iscrowd"]]
    assert [record["instance_count"] for record in written["classes"]] == np.bincount(
        instances, minlength=7
    ).tolist()
    assert len(written["groups"]) == 4
