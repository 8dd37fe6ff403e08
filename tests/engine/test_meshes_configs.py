"""The configs of Meshes-LT train some iterations on a small one, and evaluate both splits."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from igam_d2.config import load_config
from igam_d2.data.meshes_lt import make_meshes_lt
from igam_d2.engine import Trainer
from igam_d2.loss_config import cls_loss_class

CONFIGS = Path(__file__).parents[2] / "configs" / "Meshes-LT"
LOSSES = {"softmax_ce": "SoftmaxCELoss", "cosine_ce": "CosineCELoss", "igam": "IGAMLoss"}
SPLITS = ("meshes_lt_train", "meshes_lt_selection", "meshes_lt_test")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    pytest.importorskip("pybullet")
    root = tmp_path_factory.mktemp("meshes")
    make_meshes_lt(
        root, num_classes=10, num_train_images=16, image_size=64, classes_per_image=3, eval_images=2
    )
    return root


@pytest.fixture
def meshes(root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    forget()  # other tests read these configs too
    yield
    forget()


def forget() -> None:
    for name in SPLITS:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_all_are_here():
    assert {path.stem for path in CONFIGS.glob("[!B]*.yaml")} == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_config_trains_and_evaluates(name, meshes, tmp_path):
    small = """MODEL.DEVICE cpu MODEL.ROI_HEADS.NUM_CLASSES 10 SOLVER.IMS_PER_BATCH 4
        SOLVER.MAX_ITER 4 SOLVER.WARMUP_ITERS 1 MODEL.IGAM.REFRESH_PERIOD 2
        MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 16
        MODEL.RESNETS.WIDTH_PER_GROUP 4 MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 32
        INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 TEST.DETECTIONS_PER_IMAGE 20"""
    opts = [*small.split(), "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), opts)
    assert cls_loss_class(cfg).__name__ == LOSSES[name]
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    for split in SPLITS[1:]:
        results = json.loads((tmp_path / "inference" / split / "results.json").read_text())
        assert len(results["classes"]) == 10 and results["num_images"] == 7
        assert 0 <= results["metrics"]["bbox"]["AP"] <= 100
    # The tail is random by seed, but its groups are LVIS's
    counts = {c["name"]: c["image_count"] for c in results["classes"]}
    assert max(counts.values()) <= 16 and min(counts.values()) == 1
