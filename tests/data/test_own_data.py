"""Data sets registered by a config alone: entries, formats, groups, and whole runs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from own_sets import BROKEN, CATEGORIES, CROWD, EMPTY, NAMES, NUM_IMAGES, write_set

from igam_d2.config import load_config
from igam_d2.data import annotation_file, check_test_datasets, class_counts, load_training_set
from igam_d2.data.annotation_file import read_categories
from igam_d2.engine import Trainer
from igam_d2.errors import InputError
from igam_d2.evaluation import build_evaluator
from igam_d2.report.ground_truth import load_ground_truth
from igam_d2.report.run_folder import load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def configured(cfg, tmp_path, monkeypatch):
    """Loads a config of text over the tiny detector's; the data sets are below `tmp_path`."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CATEGORIES)
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    (tmp_path / "base.yaml").write_text(cfg.dump())
    (tmp_path / "output").mkdir()
    before = set(DatasetCatalog.list())

    def load(text: str = "", *opts: str):
        (tmp_path / "own.yaml").write_text(f"_BASE_: base.yaml\n{text}")
        return load_config(str(tmp_path / "own.yaml"), list(opts))

    yield load
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def own(kind: str) -> str:
    """A training and a test set, and their training for two iterations."""
    return f"""
DATASETS:
  REGISTER:
    - {{name: own_train, json: tools/train.json, image_root: tools, format: {kind}}}
    - {{name: own_val, json: tools/val.json, image_root: tools, format: {kind}}}
  TRAIN: ("own_train",)
  TEST: ("own_val",)
DATALOADER: {{MAX_BAD_IMAGES: 1}}
SOLVER: {{MAX_ITER: 2}}
VIS_PERIOD: 2
"""


def refused(call, *args) -> str:
    with pytest.raises(InputError) as info:
        call(*args)
    assert "\n" not in str(info.value)
    return str(info.value)


ENTRY = "{name: own, json: a.json, image_root: images, format: coco}"


@pytest.mark.parametrize(
    "entries, parts",
    [
        ("own", ["REGISTER[0] is 'own'", "a mapping", "write {name:"]),
        (ENTRY.replace("json", "jsn"), ["REGISTER[0]", "'jsn' (did you mean 'json'?)"]),
        ("{name: own, json: a.json, format: coco}", ["REGISTER[0] has no 'image_root'"]),
        (ENTRY.replace("own", "7"), ["'name' of", "is 7", "in quotes"]),
        (ENTRY.replace("own", "a/b"), ["'a/b'", "without '/'"]),
        (ENTRY.replace(": coco", ": cocoo"), ["'cocoo' (did you mean 'coco'?)", "coco or lvis"]),
        (ENTRY.replace("own", "coco_2017_val"), ["'coco_2017_val'", "is taken"]),
        (f"{ENTRY}, {ENTRY.replace('a.json', 'b.json')}", ["'own'", "a.json'", "b.json'"]),
    ],
)
def test_mistakes_in_an_entry(configured, entries, parts):
    message = refused(configured, f"DATASETS: {{REGISTER: [{entries}]}}")
    assert all(part in message for part in parts), message


def test_a_config_registers_as_often_as_it_is_loaded(configured, tmp_path):
    write_set(tmp_path / "tools", "coco", "train", broken=False)
    cfg = configured(own("coco"))
    metadata = MetadataCatalog.get("own_train")
    assert metadata.thing_classes == NAMES and metadata.image_root == str(tmp_path / "tools")
    assert metadata.thing_dataset_id_to_contiguous_id == {0: 0, 3: 1, 12: 2, 40: 3}
    (tmp_path / "dumped.yaml").write_text(cfg.dump())  # as Detectron2 writes config.yaml
    assert load_config(str(tmp_path / "dumped.yaml"), []).DATASETS == cfg.DATASETS
    assert len(load_training_set(cfg)) == NUM_IMAGES - 2  # neither empty nor a crowd alone
    entry = {"name": "own_more", "json": "~/a.json", "image_root": "/images", "format": "lvis"}
    configured("", "DATASETS.REGISTER", str([entry]))
    metadata = MetadataCatalog.get("own_more")
    assert metadata.json_file == os.path.expanduser("~/a.json")
    assert metadata.image_root == "/images"
    assert configured("DATASETS: {REGISTER: }").DATASETS.REGISTER is None


def test_files_are_missed_when_they_are_used(configured, tmp_path):
    cfg = configured(own("coco"))
    message = refused(check_test_datasets, cfg)
    assert "tools/val.json" in message and "correct its json in DATASETS.REGISTER" in message
    for split in ("train", "val"):
        write_set(tmp_path / "tools", "coco", split)
    (tmp_path / "tools/val").rename(tmp_path / "tools/valid")
    assert "Image folder" in refused(check_test_datasets, configured(own("coco")))
    cfg = configured(own("coco"), "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    assert "has 4 categories: set it to 4" in refused(check_test_datasets, cfg)


def test_a_file_of_the_other_format_says_so(configured, tmp_path):
    for split in ("train", "val"):
        content = write_set(tmp_path / "tools", "coco", split)
    cfg = configured(own("lvis"))
    for call in (load_training_set, check_test_datasets):
        message = refused(call, cfg)
        assert "images[0] has no 'neg_category_ids'" in message
        assert "it looks like COCO format: set format: coco" in message
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        image["coco_url"] = "http://somewhere/" + image.pop("file_name")
    for split in ("train", "val"):
        (tmp_path / f"tools/{split}.json").write_text(json.dumps(content))
    DatasetCatalog.remove("own_train")
    DatasetCatalog.remove("own_val")
    MetadataCatalog.remove("own_train")
    MetadataCatalog.remove("own_val")
    cfg = configured(own("coco"))
    for call in (load_training_set, check_test_datasets):
        message = refused(call, cfg)
        assert "it looks like LVIS format: set format: lvis" in message


def test_categories_are_read_without_the_rest(tmp_path, monkeypatch):
    content = write_set(tmp_path, "coco", "train")
    path, found = tmp_path / "train.json", content["categories"]
    many = [{"id": i, "name": f"{i} é" + 200 * "x"} for i in range(3000)]
    whole = annotation_file.check_annotation_file
    monkeypatch.setattr(annotation_file, "check_annotation_file", pytest.fail)
    for categories in (found, many):
        path.write_text(json.dumps({"categories": categories, "images": [{"categories": [1]}]}))
        assert read_categories(str(path)) == categories
        path.write_text(json.dumps(content | {"categories": categories}, indent=2))
        assert read_categories(str(path)) == categories
    monkeypatch.setattr(annotation_file, "check_annotation_file", whole)
    info = {"categories": [{"id": 1, "name": "not these"}]}
    path.write_text(json.dumps({"info": info, **content}))
    assert read_categories(str(path)) == found
    path.write_text("")
    assert "is not a JSON object" in refused(read_categories, str(path))
    path.write_text(json.dumps({**content, "categories": 2 * found}))
    assert "two of its categories have the id 12" in refused(read_categories, str(path))


def test_lvis_format_with_addresses_gaps_and_run_lengths(configured, tmp_path):
    """As COCO's files are where somebody added what LVIS's images have."""
    content = write_set(tmp_path / "tools", "lvis", "train")
    for image in content["images"]:
        image["coco_url"] = "http://images/tools/" + image["file_name"]
        image["file_name"] = "elsewhere.png"
    (tmp_path / "tools/train.json").write_text(json.dumps(content))
    records = DatasetCatalog.get("own_train") if configured(own("lvis")) else []
    assert records[3]["file_name"] == str(tmp_path / "tools/train/3.png")
    assert records[CROWD]["annotations"][0]["iscrowd"] == 1 and not records[EMPTY]["annotations"]
    assert records[0]["neg_category_ids"] == [12, 40]
    assert {a["category_id"] for r in records for a in r["annotations"]} == {0, 1, 2, 3}


@pytest.mark.parametrize("kind, backends", [("coco", [""]), ("lvis", ["hotcoco", "lvis"])])
def test_groups_follow_from_the_training_images(configured, tmp_path, kind, backends):
    """The reference package, which asks for groups in the file, gives the same."""
    for split in ("train", "val"):
        write_set(tmp_path / "tools", kind, split)
    configured(own(kind))
    counts = class_counts(["own_train"])
    assert counts.image_count.tolist() == [12, 6, 3, 0] and counts.num_images == NUM_IMAGES

    def evaluate(*opts: str) -> dict[str, float]:
        evaluator = build_evaluator(configured(own(kind), *opts), "own_val")
        evaluator.reset()
        for record in DatasetCatalog.get("own_val"):
            evaluator.process([record], [{"instances": _perfect(record)}])
        return evaluator.evaluate()["bbox"]

    results = []
    for backend in backends:
        opts = ["TEST.LVIS_BACKEND", backend or "hotcoco"]
        without = evaluate(*opts, "DATASETS.TRAIN", "()")
        assert np.isnan(without.get("APf", np.nan)) and np.isnan(without.get("APr", np.nan))
        results.append(evaluate(*opts))
        assert without["AP"] == results[-1]["AP"]
        written = json.loads((tmp_path / "output/inference/own_val/results.json").read_text())
        assert [c["group"] for c in written["classes"]] == list("crrr")
        assert [group["metric"] for group in written["groups"]] == ["APr", "APc", "APf"]
    for name in ("AP", "APr", "APc"):
        assert all(result[name] == pytest.approx(results[0][name]) for result in results)
    assert results[0]["AP-bolt"] == pytest.approx(100) and results[0]["APc"] == pytest.approx(100)
    assert 0 < results[0]["APr"] <= 100 and np.isnan(results[0]["APf"])


def _perfect(record: dict):
    """What a detector finds that sees every object but crowds, and half of the nuts."""
    found = [a for a in record["annotations"] if not a["iscrowd"]]
    found = [a for a in found if a["category_id"] != 1 or record["image_id"] % 40]
    box = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).reshape(-1, 4)
    box[:, 2:] += box[:, :2]
    classes = torch.tensor([a["category_id"] for a in found])
    fields = {"pred_boxes": Boxes(box), "pred_classes": classes, "scores": torch.ones(len(found))}
    return Instances((record["height"], record["width"]), **fields)


@pytest.mark.parametrize(
    "kind, masks, filter_empty", [("coco", True, False), ("lvis", False, True)]
)
def test_trains_evaluates_and_evaluates_again(
    configured, tmp_path, caplog, kind, masks, filter_empty
):
    for split in ("train", "val"):
        write_set(tmp_path / "tools", kind, split)
    opts = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(filter_empty), "MODEL.MASK_ON", str(masks)]
    cfg = configured(own(kind), *opts, "SOLVER.IMS_PER_BATCH", "7")
    trainer = Trainer(cfg)
    trainer.train()
    for name in (f"train/{BROKEN}.png", f"val/{BROKEN}.png"):
        lines = [record.getMessage() for record in caplog.records]
        lines = [line for line in lines if name in line and "1 of at most 1 such" in line]
        assert len(lines) == 1, name
    run = load_run(tmp_path / "output")
    assert [(c["id"], c["name"]) for c in run.classes] == sorted(CATEGORIES.items())
    assert [group["name"] for group in run.groups] == ["rare", "common", "frequent"]
    assert [c["group"] for c in run.classes] == list("crrr")
    assert run.results["num_images"] == NUM_IMAGES
    assert all(path.is_file() for path in load_ground_truth(run).paths)

    (tmp_path / "output/config.yaml").write_text(cfg.dump())  # as train_net.py does
    opts = ["MODEL.WEIGHTS", cfg.OUTPUT_DIR + "/model_final.pth", "OUTPUT_DIR"]
    again = load_config(str(tmp_path / "output/config.yaml"), [*opts, str(tmp_path / "again")])
    Trainer.evaluate(again, Trainer.build_model(again))
    assert load_run(tmp_path / "again").metrics == run.metrics


def test_the_information_of_own_data_is_measured(configured, tmp_path, capsys):
    path = ROOT / "tools/measure_information.py"
    spec = importlib.util.spec_from_file_location("measure_information", path)
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    write_set(tmp_path / "tools", "coco", "train")
    model = Trainer.build_model(configured(own("coco")))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    arguments = ["--config-file", str(tmp_path / "own.yaml"), "MODEL.WEIGHTS"]
    arguments += [str(tmp_path / "weights.pth"), "DATALOADER.MAX_BAD_IMAGES"]
    command.main([*arguments, "1"])
    measured = json.loads((tmp_path / "output/information_own_train.json").read_text())
    classes = next(iter(measured["predictors"].values()))["classes"]
    assert [c["num_instances"] for c in classes] == [11, 5, 2, 0]  # without the broken image
    with pytest.raises(SystemExit):
        command.main([*arguments, "0"])
    assert f"train/{BROKEN}.png' cannot be read" in capsys.readouterr().err


def test_two_processes_train_on_it(configured, tmp_path):
    """Which have catalogs of their own; their config.yaml is enough to evaluate again."""
    for split in ("train", "val"):
        write_set(tmp_path / "tools", "lvis", split)
    configured(own("lvis"))
    command = [sys.executable, "-W", "ignore", str(ROOT / "train_net.py"), "--num-gpus", "2"]
    run = subprocess.run(
        [*command, "--config-file", str(tmp_path / "own.yaml")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    written = yaml.safe_load((tmp_path / "output/config.yaml").read_text())
    assert written["DATASETS"]["REGISTER"][0]["json"] == "tools/train.json"
    assert load_run(tmp_path / "output").results["num_images"] == NUM_IMAGES
