"""The command that measures a detector: what it writes and prints, and bad input."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import build_model
from scipy import stats

from igam_d2.data.digits_lt import CLASS_NAMES
from igam_d2.engine.measure import DetectorMoments

ROOT = Path(__file__).parents[1]


@pytest.fixture
def model(cfg):
    """A detector of Detectron2, of images that make embeddings of moderate size."""
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.PIXEL_STD = "StandardROIHeads", [60.0] * 3
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.fixture(scope="module")
def command():
    path = ROOT / "tools/measure_information.py"
    spec = importlib.util.spec_from_file_location("measure_information", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(command, cfg, digits, model, tmp_path, capsys):
    """Runs the command with a config that has no key of this project; returns what it printed."""
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = ("digits_lt_train",), str(tmp_path / "run")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (32,), "horizontal"  # not for measuring
    content = yaml.safe_load(cfg.dump())
    del content["MODEL"]["IGAM"], content["MODEL"]["ROI_BOX_HEAD"]["CLS_LOSS"]
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(content))

    def run(*options: object, opts: tuple = ("MODEL.WEIGHTS", tmp_path / "weights.pth")) -> str:
        arguments = ["--config-file", tmp_path / "plain.yaml", *options, *opts]
        command.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def results_file(tmp_path):
    def write(**changes) -> Path:
        classes = [
            {"name": name, "group": "rcf"[i // 4], "AP": {"bbox": 10.0 * i, "segm": 5.0}}
            for i, name in enumerate(CLASS_NAMES)
        ]
        classes[3]["AP"]["bbox"] = None
        path = tmp_path / "results.json"
        path.write_text(json.dumps({"classes": classes} | changes))
        return path

    return write


def read(path: Path) -> tuple[dict, list[dict[str, str]]]:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    with path.with_suffix(".csv").open(newline="") as f:
        return json.loads(path.read_text(), parse_constant=refuse), list(csv.DictReader(f))


def test_files_and_table_without_ap(run, cfg, model, tmp_path):
    output = run("--batch-size", 4)
    path = tmp_path / "run" / "information_digits_lt_train.json"
    assert output.endswith(f"\n{path}\n{path.with_suffix('.csv')}\n")
    content, rows = read(path)
    entry = content["predictors"]["roi_heads.box_predictor"]
    mapper = DatasetMapper(
        is_train=True, augmentations=build_augmentation(cfg, False), image_format="BGR"
    )
    data = [[mapper(r)] for r in DatasetCatalog.get("digits_lt_train") if r["annotations"]]
    expected = DetectorMoments(model).measure(data, len(data))["roi_heads.box_predictor"]
    bits = expected.information_amount(shrinkage="none").tolist()
    assert [r["num_instances"] for r in entry["classes"]] == expected.count.tolist()
    assert [r["information"] for r in entry["classes"]] == pytest.approx(bits, rel=1e-4)
    assert [r["name"] for r in entry["classes"]] == list(CLASS_NAMES)
    assert entry["width"] == entry["embedding_dim"] == 16 and entry["num_nonfinite"] == 0
    assert "correlation" not in entry and "AP" not in entry["classes"][0]
    assert content["datasets"] == ["digits_lt_train"] and content["shrinkage"] == "none"
    assert content["weights"] == str(tmp_path / "weights.pth")
    assert list(rows[0]) == ["predictor", "class", "num_instances", "information_bits"]
    assert [float(r["information_bits"]) for r in rows] == pytest.approx(bits, rel=1e-4)
    assert f"{min(bits):.2f} / {np.mean(bits):.2f} / {max(bits):.2f} bits" in output


def test_ap_of_a_run_some_of_it_unknown(run, results_file, tmp_path):
    output = run(
        *("--results", results_file(), "--shrinkage", "oas", "--embedding-dim", 8),
        *("--max-images", 3, "--output", tmp_path / "new" / "table.json"),
    )
    content, rows = read(tmp_path / "new" / "table.json")
    entry = content["predictors"]["roi_heads.box_predictor"]
    assert content["num_images"] == 3 and entry["embedding_dim"] == 8
    few = [r for r in entry["classes"] if r["num_instances"] < 2]
    assert few and all(r["information"] is None for r in few)
    assert f"{len(few)} have fewer than two instances" in output
    assert "embeddings of 16 numbers projected to 8" in output
    assert [r["information_bits"] == "" for r in rows] == [r in few for r in entry["classes"]]
    assert [r["bbox_AP"] for r in rows][2:5] == ["20.0", "", "40.0"]
    assert [r["segm_AP"] for r in rows] == ["5.0"] * 10
    assert [r["group"] for r in rows] == list("rrrrccccff")

    usable = [r for r in entry["classes"] if r not in few and r["AP"]["bbox"] is not None]
    correlation = entry["correlation"]["bbox"]["information"]
    ap, bits = [r["AP"]["bbox"] for r in usable], [r["information"] for r in usable]
    pearson, spearman = stats.pearsonr(ap, bits)[0], stats.spearmanr(ap, bits)[0]
    assert correlation["num_classes"] == len(usable) > 3
    assert correlation["pearson"][0] == pytest.approx(pearson)
    assert f"bbox AP with information: Pearson {pearson:.2f} [" in output
    assert f", Spearman {spearman:.2f} [" in output
    counts = entry["correlation"]["bbox"]["instance_count"]
    assert counts["num_classes"] == 9
    assert entry["correlation"]["segm"]["information"]["pearson"] == [None] * 3  # a constant


def test_crowds_and_masks_stay_out_and_images_are_evenly_spaced(command, cfg, tmp_path):
    records = [
        {
            "file_name": str(tmp_path / f"{i}.png"),
            "height": 64,
            "width": 64,
            "sem_seg_file_name": "never read",
            "annotations": [
                {"bbox": [1, 1, 9, 9], "bbox_mode": 1, "category_id": 2, "iscrowd": crowd,
                 "segmentation": [[1, 1, 9, 1, 9, 9]]}
                for crowd in ((1,) if i == 0 else (0, 1))
            ],
        }
        for i in range(11)
    ]  # fmt: skip
    for record in records:
        Path(record["file_name"]).touch()
    DatasetCatalog.register("measure_crowd", lambda: records)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    try:
        found = command.load_records(cfg, ("measure_crowd",), 10, 5)
        assert [Path(r["file_name"]).stem for r in found] == ["1", "3", "5", "7", "9"]
        assert len(command.load_records(cfg, ("measure_crowd",), 10, 99)) == 10
        assert found[0].keys() == {"file_name", "height", "width", "annotations"}
        assert "segmentation" not in found[0]["annotations"][0]
        instances = DatasetMapper(is_train=True, augmentations=[], image_format="BGR")
        image = np.zeros((64, 64, 3), np.uint8)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("detectron2.data.detection_utils.read_image", lambda *_, **__: image)
            assert len(instances(found[0])["instances"]) == 1
    finally:
        DatasetCatalog.remove("measure_crowd")
        MetadataCatalog.remove("measure_crowd")


def test_mistakes_end_in_a_sentence_before_the_pass(run, results_file, tmp_path, capsys):
    def sentence(*options, **kwargs) -> str:
        with pytest.raises(SystemExit) as end:
            run(*options, **kwargs)
        captured = capsys.readouterr()
        assert end.value.code == 2 and captured.out == ""
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err

    assert "have 16 numbers: it must be from 1 to 16" in sentence("--embedding-dim", 17)
    assert "did you mean 'digits_lt_train'" in sentence("--dataset", "digits_lt_trian")
    assert "No weights to evaluate" in sentence(opts=())
    igam = ("MODEL.ROI_HEADS.NAME", "IGAMROIHeads", "MODEL.WEIGHTS", tmp_path / "weights.pth")
    assert "set MODEL.ROI_HEADS.NAME to what it was trained with" in sentence(opts=igam)
    retinanet = ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", 9)
    assert "MODEL.RETINANET.NUM_CLASSES is 9, but" in sentence(
        opts=(*retinanet, "MODEL.RETINANET.IN_FEATURES", "['p3']")
    )
    assert "must end in .json" in sentence("--output", tmp_path / "table.csv")
    assert "cannot be made" in sentence("--output", tmp_path / "weights.pth" / "table.json")

    path = results_file()
    text = path.read_text()
    assert "may have been cut short" in sentence("--results", path.write_text(text[:-9]) and path)
    assert "cannot be read" in sentence("--results", tmp_path)
    for classes in ([{"name": "zero"}], [{"name": "zero", "AP": {"bbox": "high"}}], [], {"a": 1}):
        assert "is not the results.json of" in sentence("--results", results_file(classes=classes))
    classes = json.loads(text)["classes"]
    fewer = results_file(classes=classes[:9])
    assert "of other classes than the data set: it has 9 of them, not 10" in sentence(
        "--results", fewer
    )
    classes[1]["name"] = "uno"
    assert "class 1 is 'uno', not 'one'" in sentence("--results", results_file(classes=classes))
