"""Every config of Digits-LT is built, trains some iterations on a small copy, and evaluates."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from igam_d2.config import load_config
from igam_d2.engine import Trainer
from igam_d2.losses import CLS_LOSS_REGISTRY

CONFIGS = Path(__file__).parents[2] / "configs" / "Digits-LT"
NAMES = sorted(path.stem for path in CONFIGS.glob("[!B]*.yaml"))


def config(name: str, folder: Path, *opts: str):
    # A quarter of the width and of the pixels
    small = """SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.WARMUP_ITERS 1
        MODEL.IGAM.REFRESH_PERIOD 2
        MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 16
        MODEL.RESNETS.WIDTH_PER_GROUP 4 MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 32
        INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 TEST.DETECTIONS_PER_IMAGE 20"""
    opts = [*small.split(), "OUTPUT_DIR", str(folder), *opts]
    return load_config(str(CONFIGS / f"{name}.yaml"), opts)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Where the weights of a trained softmax classifier are put, for those that need some."""
    return tmp_path_factory.mktemp("detector")


def trained(detector: Path) -> Path:
    weights = detector / "model_final.pth"
    if not weights.is_file():
        trainer = Trainer(config("softmax_ce", detector))
        trainer.train()
    return weights


@pytest.mark.parametrize("name", NAMES)
def test_config_trains_and_evaluates(name, tmp_path, digits, detector):
    cfg = config(name, tmp_path)
    loss = CLS_LOSS_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME)
    calibrates = any(value > 0 for value in cfg.TEST.CALIBRATION.values())
    if loss.second_stage or calibrates:
        cfg = config(name, tmp_path, "MODEL.WEIGHTS", str(trained(detector)))
    if calibrates:
        Trainer.evaluate(cfg, Trainer.build_model(cfg))
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load()
        trainer.train()
        assert trainer.iter == 2 and trainer.storage.latest()["total_loss"][0] > 0
    results = json.loads((tmp_path / "inference" / "digits_lt_val" / "results.json").read_text())
    assert results["num_images"] == 12 and 0 <= results["metrics"]["bbox"]["AP"] <= 100


def test_two_processes_train_it(tmp_path, digits):
    """Its detector has levels that no loss depends on; Seesaw and IGAM's hook have a state."""
    cfg = config("seesaw", tmp_path, "MODEL.DEVICE", "cpu")
    command = [sys.executable, str(CONFIGS.parents[1] / "train_net.py"), "--num-gpus", "2"]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    run = subprocess.run(
        [*command, "--config-file", str(tmp_path / "config.yaml")],
        env={**os.environ, "DETECTRON2_DATASETS": str(digits), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    model = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    rois = 2 * 2 * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE  # iterations, images
    assert model["roi_heads.box_predictor.cls_loss.class_count"].sum() == rois


def test_every_loss_has_a_config(tmp_path):
    chosen = {config(name, tmp_path).MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME for name in NAMES}
    assert chosen == {name for name, _ in CLS_LOSS_REGISTRY}
